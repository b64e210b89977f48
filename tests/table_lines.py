"""What the tests of the tables share: lines of a ledger, and how their rendering is read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import ledger, tables
from benchmarks.experiments import EXPERIMENTS
from benchmarks.scales import SCALES
from benchmarks.tasks import GYM
from benchmarks.units import Unit, units_of

VERSIONS = {"gta-datasets": "0.1.0", "torch": "2.13.0", "numpy": "2.4.6", "mujoco": "3.11.0"}


def line(unit: Unit, points: float, **changes: Any) -> dict[str, Any]:
    """A line whose policy ends at some points, having been at half of them before."""
    low, high = unit.task.reference or (0, 100)
    returns = {
        str(updates): {"mean": low + (high - low) * share * points / 100, "std": 1.0}
        for updates, share in ((30_000, 0.5), (300_000, 1.0))
    }
    return {
        "id": unit.id, "unit": unit.identity, "returns": returns, "versions": VERSIONS, "trainer": "stack",
        "environment": "Any-v5", "source": unit.task.dataset, "transitions": {"source": 200_000, "all": 400_000},
        "config": unit.config, "revision": "a", "recording": "o",
    } | changes  # fmt: skip


def write(results: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    results.mkdir(exist_ok=True)
    with (results / ledger.RUNS).open("a") as file:
        file.writelines(json.dumps(each) + "\n" for each in lines)


def gym_units(*methods: str, datasets: int = 1) -> list[Unit]:
    """Of table 1 by TD3+BC: three seeds."""
    names = [task.dataset for task in GYM[:datasets]]
    return [
        unit
        for unit in units_of([EXPERIMENTS["1-gym"]], SCALES["cpu"])
        if unit.algorithm == "TD3BC" and unit.method.name in methods and unit.task.dataset in names
    ]


def render(results: Path, *arguments: str) -> str:
    tables.main(["--results", str(results), *arguments])
    return (results / "tables" / ("-".join(["cpu", *arguments[1::2]]) + ".md")).read_text()


def row(text: str, label: str, table: str = "1-gym") -> dict[str, str]:
    """Cells of the first row with this label."""
    _, _, part = text.partition(f"## Table {table}:")
    rows = [each.strip("| ").split(" | ") for each in part.splitlines() if each.startswith("|")]
    found = next(cells for cells in rows if cells[0] == label)
    return dict(zip(["algorithm", *(name.strip() for name in rows[0] if name.strip())], found[1:], strict=False))
