"""What an update and a table cost."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import adapters, costs, record
from benchmarks.experiments import EXPERIMENTS
from benchmarks.scales import SCALES
from benchmarks.units import units_of


def test_hours_are_those_of_all_updates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr(adapters, "SOURCE_EPISODES", 2)
    monkeypatch.setenv("MINARI_DATASETS_PATH", "")  # set by the script
    monkeypatch.setattr(costs, "_units", lambda: units_of([EXPERIMENTS["12"], EXPERIMENTS["14"]], SCALES["cpu"]))
    monkeypatch.setattr(sys, "argv", ["costs", "--seconds", "0.01"])
    costs.main()
    found = json.loads((tmp_path / "costs.json").read_text())
    taken = found["milliseconds_per_update"]
    assert list(taken) == ["DT, d3rlpy, batch 64", "TD3BC, stack, batch 256"]
    assert min(taken.values()) > 0
    shares = found["scale cpu"]["12"]["TD3BC"]
    assert shares["units"] == 30
    assert shares["hours"] == pytest.approx(30 * 300_000 * taken["TD3BC, stack, batch 256"] / 3.6e6, abs=0.1, rel=0.01)
    assert found["scale cpu"]["14"]["DT"]["units"] == 27


def test_what_d3rlpy_trains_in_comparisons_costs_what_it_costs_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    (tmp_path / "costs.json").write_text('{"milliseconds_per_update": {"IQL, d3rlpy, batch 256": 17.0}}')
    units = {unit.algorithm: unit for unit in units_of([EXPERIMENTS["trainers"]], SCALES["cpu"])}
    assert costs.measured_seconds(units["IQL-d3rlpy"]) == pytest.approx(60_000 * 0.017)
    assert costs.measured_seconds(units["IQL"]) is None
