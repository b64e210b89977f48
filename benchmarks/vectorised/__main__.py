"""Updates per second of stacks and of d3rlpy, in turn, on the same data, and how far their updates differ.

python -m benchmarks.vectorised --runs 1 --runs 3
python -m benchmarks.vectorised --runs 32 --device cuda --updates 2000
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import minari
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.adapters import DATASET, make_source
from benchmarks.quiet import fit, import_d3rlpy
from benchmarks.record import write_record
from benchmarks.vectorised import ALGORITHMS
from benchmarks.vectorised.agreement import largest_difference
from benchmarks.vectorised.draws import Run
from benchmarks.vectorised.learner import Learner
from benchmarks.vectorised.stack import Stack
from benchmarks.vectorised.tables import read_table
from gta_datasets.adapters import to_d3rlpy


def main() -> None:
    """Write `results/vectorised-<device>.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, action="append", required=True, help="of a stack; may be given again")
    parser.add_argument("--updates", type=int, default=50, help="in one timing, of every run")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MINARI_DATASETS_PATH"] = folder
        make_source()
        dataset = minari.load_dataset(DATASET)
        found: dict[str, Any] = {
            name: getattr(arguments, name) for name in ("updates", "rounds", "batch_size", "device")
        }
        for name, algorithm in ALGORITHMS.items():
            found[name] = measure(algorithm, dataset, arguments)
            path = write_record(  # what there is, in case that the time does not suffice for all
                f"vectorised-{arguments.device}", "benchmarks.vectorised", found, packages=("d3rlpy",)
            )
    print(json.dumps(found, indent=2))
    print(path)


def measure(algorithm: type[Learner], dataset: minari.MinariDataset, arguments: argparse.Namespace) -> dict[str, Any]:
    """Rates of all contestants, and how far their updates differ.

    Rates are those of the best round, which other work on the machine disturbed least; medians of ratios of each round
    to d3rlpy's stand beside them.
    """
    difference = largest_difference(algorithm, updates=4, device=arguments.device)
    scaler = to_d3rlpy(dataset).observation_scaler()
    table = read_table(dataset, scaler)
    contestants = {"d3rlpy": (1, d3rlpy_training(algorithm, dataset, scaler, arguments))}
    for runs in arguments.runs:
        stack = Stack(
            [Run(table, seed) for seed in range(runs)],
            algorithm,
            batch_size=arguments.batch_size,
            device=arguments.device,
        )
        contestants[f"{runs} runs"] = runs, stack.train
    seconds = alternate({name: train for name, (_, train) in contestants.items()}, arguments)
    found: dict[str, Any] = {"largest_difference_after_4_updates": difference}
    for name, (runs, _) in contestants.items():
        clock, processor = runs * arguments.updates / seconds[name].T
        ratios = runs * seconds["d3rlpy"] / seconds[name]
        found[name] = {
            "run_updates_per_second": round(clock.max(), 1),
            "run_updates_per_cpu_second": round(processor.max(), 1),
            "times_d3rlpy_cpu": round(processor.max() * seconds["d3rlpy"].min(axis=0)[1] / arguments.updates, 2),
            "times_d3rlpy_cpu_median": round(float(np.median(ratios, axis=0)[1]), 2),
        }
    return found


def d3rlpy_training(
    algorithm: type[Learner], dataset: minari.MinariDataset, scaler: Any, arguments: argparse.Namespace
) -> Callable[[int], object]:
    """d3rlpy's `fit` with our buffer."""
    d3rlpy = import_d3rlpy()
    config = getattr(d3rlpy.algos, algorithm.config)
    theirs = config(batch_size=arguments.batch_size, observation_scaler=scaler).create(device=arguments.device)
    return partial(fit, theirs, to_d3rlpy(dataset))


def alternate(
    contestants: dict[str, Callable[[int], object]], arguments: argparse.Namespace
) -> dict[str, NDArray[np.float64]]:
    """Seconds of the clock and of the processor that each took, (rounds, 2), after one round to warm up."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for _ in range(arguments.rounds + 1):
        for name, train in contestants.items():
            started = time.perf_counter(), time.process_time()
            train(arguments.updates)
            wait_for(arguments.device)
            seconds[name].append((time.perf_counter() - started[0], time.process_time() - started[1]))
    return {name: np.array(taken[1:]) for name, taken in seconds.items()}


def wait_for(device: str) -> None:
    """Until all that was asked of the device is done."""
    if device != "cpu":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
