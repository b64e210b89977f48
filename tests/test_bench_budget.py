"""What a budget allows: how long units are expected to take, and what is left to another run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import ledger, record, run, training, work
from benchmarks.scales import SCALES
from benchmarks.training import Prepared
from benchmarks.units import Unit
from benchmarks.vectorised import training as stack_training
from tests.benches import FOUR, HOPPER, lines, small_hopper, start

_hopper = pytest.fixture(scope="module", autouse=True)(small_hopper)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The only time there is, in seconds."""
    now = [0.0]
    monkeypatch.setattr(stack_training.time, "time", lambda: now[0])
    return now


@pytest.mark.parametrize(("minutes", "made", "read"), [((25, 0), 3, 0), ((5, 15), 4, 3)])
def test_data_are_made_and_read_until_the_deadline(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    clock: list[float],
    minutes: tuple[int, int],
    made: int,
    read: int,
) -> None:
    """Given minutes for making and for reading the data of each of four units."""
    done: list[str] = []

    def slowly(what: str, seconds: float, function: Callable[..., Any]) -> Callable[..., Any]:
        def do(*arguments: Any) -> Any:
            done.append(what)
            clock[0] += seconds
            return function(*arguments)

        return do

    with monkeypatch.context() as patch:
        patch.setattr(work, "Prepared", slowly("made", 60 * minutes[0], work.Prepared))
        patch.setattr(training, "read_table", slowly("read", 60 * minutes[1], training.read_table))
        assert start(tmp_path, *FOUR, "--budget", "1h") == 0
    assert done == ["made"] * made + ["read"] * read
    shown = capsys.readouterr().out
    assert f"time is up with the data of {made} of 4; a later run trains them" in shown
    assert "0 done now, 0 before, 0 failed now, 0 before, 4 left" in shown
    assert start(tmp_path, *FOUR, "--stack", "3", "--budget", "1h") == 0
    assert [line["runs_at_once"] for line in lines(tmp_path)] == [3, 3, 3, 1], "another stack than was begun"


@pytest.mark.parametrize(("budget", "trained"), [("1h", False), ("2h", True)])
def test_what_would_end_too_late_once_its_data_are_made_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: list[float], budget: str, trained: bool
) -> None:
    only = ["--dataset", HOPPER, "--algorithm", "CQL"]
    start(tmp_path, *only, "--method", "None")
    (line,) = lines(tmp_path)
    (tmp_path / ledger.RUNS).write_text(json.dumps(line | {"seconds": 50 * 60}) + "\n")

    def prepare(unit: Unit) -> Prepared:
        clock[0] += 20 * 60
        return Prepared(unit)

    monkeypatch.setattr(work, "Prepared", prepare)
    assert start(tmp_path, *only, "--method", "S4RL", "--budget", budget) == 0
    assert [line["unit"]["settings"] for line in lines(tmp_path)] == [None, *[{"method": "s4rl"}] * trained]


@pytest.mark.parametrize("option", ["--workers=0", "--stack=-1", "--workers=two"])
def test_what_cannot_be_meant_is_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run.main(["--table", "1-gym", option])
    assert "no whole number of at least 1" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["90", "m", "1d", "-3m"])
def test_a_budget_has_a_unit(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.budget("1.5h") == 90 * 60
    with pytest.raises(SystemExit):
        run.main(["--budget=" + text])
    assert "write 90m, 2h or 45s" in capsys.readouterr().err


def test_nothing_is_started_that_does_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    only = ["--dataset", HOPPER, "--algorithm", "CQL"]  # which keeps no checkpoints
    assert start(tmp_path, *only, "--method", "None", "--budget", "0s") == 0
    assert "0 done now, 0 before, 0 failed now, 0 before, 1 left" in capsys.readouterr().out
    start(tmp_path, *only, "--method", "None")
    (line,) = lines(tmp_path)
    (tmp_path / ledger.RUNS).write_text(json.dumps(line | {"seconds": 4_000}) + "\n")
    start(tmp_path, *only, "--method", "S4RL", "--budget", "1h")
    assert len(lines(tmp_path)) == 1
    elsewhere = line | {"seconds": 4_000, "machine": line["machine"] | {"gpu": "of another machine"}}
    (tmp_path / ledger.RUNS).write_text(json.dumps(elsewhere) + "\n")
    start(tmp_path, *only, "--method", "S4RL", "--budget", "1h")
    assert len(lines(tmp_path)) == 2, "what another kind of machine took says nothing"


def test_what_a_stack_took_says_nothing_of_d3rlpy(tmp_path: Path) -> None:
    only = ["--dataset", HOPPER, "--algorithm", "CQL"]
    start(tmp_path, *only, "--method", "None")
    (line,) = lines(tmp_path)
    (tmp_path / ledger.RUNS).write_text(json.dumps(line | {"seconds": 4_000, "trainer": "stack"}) + "\n")
    start(tmp_path, *only, "--method", "S4RL", "--budget", "1h")
    assert len(lines(tmp_path)) == 2


def test_judging_takes_what_it_took_with_the_same_method(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    only = ["--dataset", HOPPER, "--budget", "1h"]
    start(tmp_path, *only, "--method", "S4RL", table="21")
    (line,) = lines(tmp_path)
    line["seconds"]["judge"], line["unit"]["seed"] = 4_000.0, 9  # another unit
    (tmp_path / ledger.RUNS).write_text(json.dumps(line) + "\n")
    start(tmp_path, *only, "--method", "S4RL", "--method", "SynthER", table="21")
    assert "1 not begun, they would not end in time; the shortest takes 1.1 h" in capsys.readouterr().out
    assert [found["unit"]["settings"]["method"] for found in lines(tmp_path)] == ["s4rl", "synther"]


def test_what_was_never_done_takes_as_long_as_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun: list[str | None] = []
    monkeypatch.setattr(work, "do", lambda units, *_: begun.extend(unit.algorithm for unit in units))
    monkeypatch.setitem(SCALES, "cpu", replace(SCALES["cpu"], least_source_steps=0))
    only = ["--scale", "cpu", "--dataset", HOPPER, "--method", "None"]
    algorithms = ["--algorithm", "TD3BC", "--algorithm", "CQL"]

    def begun_within(budget: str) -> list[str | None]:
        begun.clear()
        start(tmp_path, *only, *algorithms, "--budget", budget)
        return sorted(set(begun), key=str)

    assert begun_within("90m") == ["TD3BC"], "which can stop at a checkpoint"
    costs = json.loads((record.RESULTS / "costs.json").read_text())
    hours = 300_000 * costs["milliseconds_per_update"]["CQL, d3rlpy, batch 256"] / 3.6e6
    assert f"3 not begun, they would not end in time; the shortest takes {hours:.1f} h" in capsys.readouterr().out
    assert begun_within("18h") == ["CQL", "TD3BC"]
    assert "not begun" not in capsys.readouterr().out
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    assert begun_within("1s") == ["CQL", "TD3BC"], "nobody knows"
    (tmp_path / "costs.json").write_text(json.dumps({"milliseconds_per_update": {"CQL, d3rlpy, batch 256": 18.1}}))
    assert begun_within("90m") == ["TD3BC"]
    (tmp_path / "costs.json").write_text(json.dumps({"milliseconds_per_update": {"CQL, d3rlpy, batch 256": 17.9}}))
    assert begun_within("90m") == ["CQL", "TD3BC"]
