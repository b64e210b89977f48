"""What the tests of the benchmarks share: a small dataset of the tables, units by their names, and runs of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import datasets, ledger, record, run
from benchmarks.experiments import EXPERIMENTS
from benchmarks.scales import SCALES
from benchmarks.units import Unit, units_of

HOPPER = "sim/hopper/medium-v0"
FOUR = [
    *("--dataset", HOPPER, "--algorithm", "TD3BC", "--stack", "4"),
    *("--method", "None", "--method", "S4RL", "--method", "SynthER", "--method", "GTA"),
]


def small_hopper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A folder with one small dataset of the tables; modules make a fixture of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(tmp_path_factory.mktemp("minari")))
        datasets.make(HOPPER, steps=600)
        yield


def unit_of(table: str, dataset: str, method: str, scale: str = "smoke", algorithm: str | None = "TD3BC") -> Unit:
    return next(
        unit
        for unit in units_of([EXPERIMENTS[table]], SCALES[scale])
        if (unit.task.dataset, unit.method.name, unit.algorithm) == (dataset, method, algorithm)
    )


def start(results: Path, *arguments: str, table: str = "1-gym") -> int:
    """Run units as a user does; the exit status."""
    return run.main(["--table", table, "--scale", "smoke", "--results", str(results), *arguments])


def lines(results: Path) -> list[dict[str, Any]]:
    """What the ledger holds."""
    return record.read_lines(results / ledger.RUNS)
