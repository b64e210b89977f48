"""One unit of every kind of experiment end to end, in minutes, in folders that are thrown away: `make bench-smoke`.

python -m benchmarks.smoke
"""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from unittest import mock

from benchmarks import run, tables
from benchmarks.datasets import make
from benchmarks.experiments import EXPERIMENTS, Experiment
from benchmarks.mazes import MAZES

__all__ = ["main"]

DATASETS = (
    "sim/hopper/medium-v0",
    "sim/halfcheetah/medium-v0",
    "sim/pointmaze/umaze-v0",
    "sim/halfcheetah/expert-replay-20-v0",
)
"""In the order in which they are taken: untrained hoppers fall at once, which makes evaluations short."""

SHORT = {"umaze": replace(MAZES["umaze"], horizon=30)}


def main() -> int:
    """0 if no unit failed and every table that can have a result has one."""
    with tempfile.TemporaryDirectory() as folder:
        folders = {"MINARI_DATASETS_PATH": f"{folder}/minari", "GTA_DATASETS_CACHE": f"{folder}/cache"}
        with mock.patch.dict(os.environ, folders):
            return _run_and_render(Path(folder))


def _run_and_render(folder: Path) -> int:
    with mock.patch.dict(MAZES, SHORT):
        for name in DATASETS:
            make(name, steps=3_000)
    options = ["--scale", "smoke", "--results", str(folder / "results")]
    chosen = {experiment.name: _one_of_each(experiment) for experiment in EXPERIMENTS.values()}
    failed = sum(run.main([*options, "--table", name, *only]) for name, filters in chosen.items() for only in filters)
    shown = tables.main([*options, "--output", str(folder / "tables")])
    expected = sum(map(bool, chosen.values()))
    print(f"{failed} units failed; {shown} of {expected} tables that can have results have some")
    return int(failed > 0 or shown < expected)


def _one_of_each(experiment: Experiment) -> list[list[str]]:
    """The filters of `benchmarks.run` that leave one unit for each algorithm; none where there are no data for it."""
    of_tasks = {task.dataset for task in experiment.tasks}
    names = [name for name in DATASETS if name in of_tasks]
    if not names:
        return []
    method = next((each for each in experiment.methods if each.name.startswith("GTA")), experiment.methods[-1])
    only = ["--dataset", names[0], "--method", method.name]
    return [[*only, "--algorithm", name] for name in experiment.algorithms or ("quality",)]


if __name__ == "__main__":
    sys.exit(main())
