"""Processor time of an update of every algorithm of the tables, and the hours of one core that the tables take.

python -m benchmarks.costs

An update is that of a halfcheetah-sized task, trained as the runner does: in a stack where there is one, else by
d3rlpy. Evaluations, and data that have to be generated, are not in it.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import minari

from benchmarks import record
from benchmarks.adapters import DATASET, make_source
from benchmarks.algorithms import ALGORITHMS
from benchmarks.experiments import EXPERIMENTS
from benchmarks.quiet import fit
from benchmarks.scales import SCALES
from benchmarks.units import Unit, units_of
from benchmarks.vectorised.draws import Run
from benchmarks.vectorised.stack import Stack
from benchmarks.vectorised.tables import read_table
from gta_datasets.adapters import to_d3rlpy

__all__ = ["measured_seconds"]

SHOWN = ("cpu", "paper")
"""Scales whose hours are of interest on a CPU."""

ROUNDS = 3
"""Timings, of which the shortest counts: other work on the machine disturbed it least."""


def main() -> None:
    """Write `results/costs.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6.0, help="about, of an algorithm at one size of batches")
    arguments = parser.parse_args()
    units = list(_units())
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MINARI_DATASETS_PATH"] = folder
        make_source()
        source = minari.load_dataset(DATASET)
        kinds = {_key(unit): unit for unit in reversed(units)}  # the first in the order of the tables
        milliseconds = {key: 1e3 * _seconds(_training(kinds[key], source), arguments.seconds) for key in sorted(kinds)}
    measured = {"milliseconds_per_update": {key: round(taken, 2) for key, taken in milliseconds.items()}}
    path = record.write_record(
        "costs", "benchmarks.costs", measured | _hours(units, milliseconds), packages=("d3rlpy",)
    )
    print(json.dumps(measured, indent=2))
    print(path)


def measured_seconds(unit: Unit) -> float | None:
    """That one core takes to train the unit, by `results/costs.json`; None where an update of its kind is not there."""
    path = record.RESULTS / "costs.json"
    milliseconds = json.loads(path.read_text())["milliseconds_per_update"].get(_key(unit)) if path.exists() else None
    return None if milliseconds is None else unit.identity["updates"] * milliseconds / 1e3


def _units() -> Iterator[Unit]:
    """All units with a policy."""
    for name in SHOWN:
        yield from (unit for unit in units_of(EXPERIMENTS.values(), SCALES[name]) if unit.algorithm is not None)


def _key(unit: Unit) -> str:
    """What the time of an update depends on."""
    trainer = "d3rlpy" if unit.learner is None else "stack"
    name = (unit.algorithm or "").removesuffix("-d3rlpy")
    return f"{name}, {trainer}, batch {unit.identity['batch_size']}"


def _training(unit: Unit, source: minari.MinariDataset) -> Callable[[int], object]:
    """Trains by so many further updates."""
    buffer, known, batch_size = to_d3rlpy(source, seed=0), ALGORITHMS[unit.algorithm or ""], unit.identity["batch_size"]
    if unit.learner is not None:
        table = read_table(source, buffer.observation_scaler(), known.rewards(buffer, unit.task.kind))
        return Stack([Run(table, 0)], unit.learner, batch_size=batch_size).train
    updates = unit.identity["updates"]
    algorithm = known.create(buffer, unit.task.kind, updates=updates, batch_size=batch_size, device="cpu")
    return partial(fit, algorithm, buffer)


def _seconds(train: Callable[[int], object], seconds: float) -> float:
    """Of the processor for one update, after the first one."""

    def timed(updates: int) -> float:
        started = time.process_time()
        train(updates)
        return (time.process_time() - started) / updates

    train(1)
    updates = max(1, round(seconds / ROUNDS / timed(1)))
    return min(timed(updates) for _ in range(ROUNDS))


def _hours(units: list[Unit], milliseconds: dict[str, float]) -> dict[str, Any]:
    """Units and hours by scale, table and algorithm; what several tables share counts in each of them."""
    found: dict[str, Any] = {}
    for unit in units:
        scale = found.setdefault(f"scale {unit.scale.name}", {})
        entry = scale.setdefault(unit.experiment.name, {}).setdefault(unit.algorithm, {"units": 0, "hours": 0.0})
        entry["units"] += 1
        entry["hours"] += unit.identity["updates"] * milliseconds[_key(unit)] / 3.6e6
    for entry in (entry for scale in found.values() for table in scale.values() for entry in table.values()):
        entry["hours"] = round(entry["hours"], 1)
    return found


if __name__ == "__main__":
    main()
