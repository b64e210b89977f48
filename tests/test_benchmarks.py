"""The benchmark scripts run end to end at small size and record what they claim to."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import core, memory, record
from tests.builders import linear_dataset


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


def test_core_records_times_quality_and_how_to_repeat_it(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    linear_dataset("bench/linear-v0", lengths=[30, 30])
    arguments = ["bench/linear-v0", "--preset", "smoke", "--num-transitions", "40", "--set", "alpha=1.3"]
    monkeypatch.setattr(sys, "argv", ["core", *arguments, "--cache-dir", str(tmp_path / "cache")])
    core.main()
    found = json.loads((results / "core" / "bench-linear-v0-smoke.json").read_text())
    assert found["command"].startswith("python -m benchmarks.core bench/linear-v0 --preset smoke")
    assert found["config"]["sampling"]["alpha"] == 1.3
    assert found["transitions"] >= 40
    assert all(seconds >= 0 for seconds in found["seconds"].values())
    assert found["quality"]["generated"]["reward"] is not None
    assert {"machine", "versions", "revision"} <= set(found)


@pytest.mark.slow
def test_memory_compares_the_peak_with_the_raw_arrays(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["memory", "--episodes", "5", "--steps", "40"])
    memory.main()
    found = json.loads((results / "memory.json").read_text())
    assert found["transitions"] == 200
    assert found["raw_bytes"] == 4 * (17 * 205 + 7 * 200) + 400
    assert found["peak_bytes"] > found["raw_bytes"]
