"""What the tests of the benchmarks share: a small dataset of the tables, and units by their names."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks import datasets
from benchmarks.experiments import EXPERIMENTS, SCALES
from benchmarks.units import Unit, units_of

HOPPER = "sim/hopper/medium-v0"


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
