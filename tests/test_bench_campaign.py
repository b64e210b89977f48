"""Campaigns that are killed, run out of time, and go on."""

from __future__ import annotations

import json
import os
import signal
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import ledger, record, run, training, work
from benchmarks.scales import SCALES
from benchmarks.training import Prepared
from benchmarks.units import Unit
from benchmarks.vectorised import training as stack_training
from benchmarks.vectorised.evaluation import evaluate
from benchmarks.vectorised.stack import Stack
from benchmarks.vectorised.tables import Table
from tests.benches import HOPPER, lines, small_hopper, start
from tests.smoke import run_script

_hopper = pytest.fixture(scope="module", autouse=True)(small_hopper)


def killed_at_the_end(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the first run be killed when it is evaluated for the last time; the updates at all evaluations that begin."""
    begun: list[int] = []

    def evaluate_or_die(stack: Stack, *arguments: Any, **options: Any) -> Any:
        begun.append(stack.updates)
        if begun == [2, 4]:
            raise KeyboardInterrupt
        return evaluate(stack, *arguments, **options)

    monkeypatch.setattr(stack_training, "evaluate", evaluate_or_die)
    return begun


def test_a_killed_unit_of_iql_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GTA_DATASETS_CACHE", str(tmp_path / "cache"))
    only = ["--dataset", HOPPER, "--algorithm", "IQL", "--method", "None"]
    start(tmp_path / "whole", *only)
    begun = killed_at_the_end(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path / "killed", *only)
    start(tmp_path / "killed", *only)
    assert begun == [2, 4, 4]
    (whole,), (resumed,) = lines(tmp_path / "whole"), lines(tmp_path / "killed")
    assert resumed["returns"] == whole["returns"]
    assert not list((tmp_path / "cache" / "benchmarks").glob("*/*"))


def test_a_unit_goes_on_among_others_and_stops_at_the_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GTA_DATASETS_CACHE", str(tmp_path / "cache"))
    only = ["--dataset", HOPPER, "--algorithm", "TD3BC", "--method", "None"]
    start(tmp_path / "whole", *only, "--method", "S4RL")
    steps: list[tuple[int, int]] = []
    train = Stack.train

    def note(stack: Stack, updates: int) -> None:
        train(stack, updates)
        steps.append((stack.num_runs, stack.updates))
        time_is_up.append(stack.updates == 2 and len(steps) == 1)

    time_is_up = [False]
    monkeypatch.setattr(Stack, "train", note)
    monkeypatch.setattr(stack_training.time, "time", lambda: 1e18 if time_is_up[-1] else 0.0)
    start(tmp_path / "parts", *only, "--budget", "1h")
    assert "0 done now, 0 before, 0 failed now, 0 before, 1 left" in capsys.readouterr().out
    start(tmp_path / "parts", *only, "--method", "S4RL", "--stack", "2", "--budget", "1h")
    assert steps == [(1, 2), (1, 4), (1, 2), (1, 4)], "those that have come equally far are trained together"
    whole, parts = ({line["id"]: line["returns"] for line in lines(tmp_path / name)} for name in ("whole", "parts"))
    assert parts == whole
    assert not list((tmp_path / "cache" / "benchmarks").glob("*/*"))


@pytest.mark.parametrize("last", [1, 2, 3])
def test_time_is_up_between_evaluations_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: int) -> None:
    monkeypatch.setenv("GTA_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(stack_training, "SLICE", 1)
    only = ["--dataset", HOPPER, "--algorithm", "TD3BC", "--method", "None"]
    start(tmp_path / "whole", *only)
    trained, evaluated = [0], []
    train, evaluate = Stack.train, stack_training.evaluate

    def note(stack: Stack, updates: int) -> None:
        train(stack, updates)
        trained.append(stack.updates)

    def look(stack: Stack, *arguments: Any, **others: Any) -> Any:
        evaluated.append(stack.updates)
        return evaluate(stack, *arguments, **others)

    monkeypatch.setattr(Stack, "train", note)
    monkeypatch.setattr(stack_training, "evaluate", look)
    monkeypatch.setattr(stack_training.time, "time", lambda: 1e18 if trained[-1] == last else 0.0)
    start(tmp_path / "parts", *only, "--budget", "1h")
    assert (trained[-1], evaluated) == (last, [2] if last == 3 else []), "nothing is evaluated when time is up"
    monkeypatch.setattr(stack_training.time, "time", lambda: 0.0)
    start(tmp_path / "parts", *only)
    assert trained == [0, 1, 2, 3, 4]
    assert evaluated == [2, 4]
    (whole,), (parts,) = lines(tmp_path / "whole"), lines(tmp_path / "parts")
    assert parts["returns"] == whole["returns"]


def short_of_memory(monkeypatch: pytest.MonkeyPatch, *, most: int) -> list[tuple[int, int]]:
    """Let stacks of more runs fail after the first evaluation; runs and updates at the start of every training."""
    begun: list[tuple[int, int]] = []
    failed: list[weakref.ref[Any]] = []
    train = Stack.train

    def train_if_it_fits(stack: Stack, updates: int) -> None:
        assert not any(lane() for lane in failed), "memory of stacks that failed is free again"
        begun.append((stack.num_runs, stack.updates))
        if stack.updates == 2 and stack.num_runs > most:
            failed.extend(map(weakref.ref, stack._lanes))
            raise torch.OutOfMemoryError("CUDA out of memory")
        train(stack, updates)

    monkeypatch.setattr(Stack, "train", train_if_it_fits)
    return begun


FOUR = [
    *("--dataset", HOPPER, "--algorithm", "TD3BC", "--stack", "4"),
    *("--method", "None", "--method", "S4RL", "--method", "SynthER", "--method", "GTA"),
]


def test_a_stack_that_memory_does_not_suffice_for_is_halved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = short_of_memory(monkeypatch, most=2)
    assert start(tmp_path, *FOUR) == 0
    assert begun == [(4, 0), (4, 2), (2, 2), (2, 2)], "from the checkpoints of all four"
    assert [line["runs_at_once"] for line in lines(tmp_path)] == [2, 2, 2, 2]


def test_what_does_not_fit_into_memory_alone_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = short_of_memory(monkeypatch, most=0)
    assert start(tmp_path, *FOUR) == 4
    assert [runs for runs, _ in begun] == [4, 4, 2, 1, 1, 2, 1, 1]
    assert all("OutOfMemoryError: CUDA out of memory" in line["error"] for line in lines(tmp_path))


DYING = """
import os, signal, sys
from pathlib import Path
from benchmarks.vectorised.stack import Stack
from tests.benches import start

results, *only = sys.argv[1:]
train = Stack.train

def train_or_die(stack, updates):
    if stack.updates == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    train(stack, updates)

Stack.train, died = train_or_die, 0
status = -signal.SIGKILL
while status == -signal.SIGKILL and died < 6:
    child = os.fork()
    if not child:
        os._exit(start(Path(results), *only))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    died += status == -signal.SIGKILL
print("failed", status, "died", died)
"""


def test_what_kills_its_process_again_and_again_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three times; the first death, before which there was a new checkpoint, does not count."""
    monkeypatch.setenv("GTA_DATASETS_CACHE", str(tmp_path / "cache"))
    only = ["--dataset", HOPPER, "--algorithm", "TD3BC", "--method", "None"]
    assert run_script(DYING, tmp_path, *only).endswith("failed 1 died 4\n")
    (line,) = lines(tmp_path)
    assert "WorkerError: 3 processes in a row died while they trained this" in line["error"]
    assert start(tmp_path, *only) == 0
    assert len(lines(tmp_path)) == 1, "it is left alone"
    assert start(tmp_path, *only, "--retry") == 0
    assert "error" not in lines(tmp_path)[-1]
    assert not list((tmp_path / "cache" / "benchmarks").glob("*/*"))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_who_is_asked_to_end_in_a_finalizer_ends_nevertheless(monkeypatch: pytest.MonkeyPatch) -> None:
    class Asked:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    def work_with_it() -> None:
        Asked()
        time.sleep(30)

    monkeypatch.setattr(work, "ASK_AGAIN", 0.2)
    before = signal.signal(signal.SIGTERM, lambda *_: pytest.fail("asked once more, after the end"))
    try:
        with pytest.raises(SystemExit, match="143"), work.asked_to_end():
            work_with_it()
        time.sleep(0.3)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_who_is_asked_to_end_has_not_died(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GTA_DATASETS_CACHE", str(tmp_path / "cache"))
    only = ["--dataset", HOPPER, "--algorithm", "CQL", "--method", "None"]  # which keeps no checkpoints
    before = signal.signal(signal.SIGTERM, lambda *_: pytest.fail("nobody looked after it"))
    try:
        guard = signal.getsignal(signal.SIGTERM)
        with monkeypatch.context() as patch:
            patch.setattr(work, "train_alone", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
            for _ in range(4):
                with pytest.raises(SystemExit):
                    start(tmp_path, *only)
        assert signal.getsignal(signal.SIGTERM) is guard
    finally:
        signal.signal(signal.SIGTERM, before)
    assert start(tmp_path, *only) == 0
    assert [line["unit"]["algorithm"] for line in lines(tmp_path)] == ["CQL"]


@pytest.mark.parametrize("why", ["other data", "damage"])
def test_a_checkpoint_that_does_not_fit_is_not_gone_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], why: str
) -> None:
    monkeypatch.setenv("GTA_DATASETS_CACHE", str(tmp_path / "cache"))
    only = ["--dataset", HOPPER, "--algorithm", "TD3BC", "--method", "None"]
    begun = killed_at_the_end(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path, *only)
    (checkpoint,) = (tmp_path / "cache" / "benchmarks").glob("*/*")
    if why == "other data":
        monkeypatch.setattr(Table, "digest", "of other data")
    else:
        checkpoint.write_bytes(checkpoint.read_bytes()[:-1])
    start(tmp_path, *only)
    assert begun == [2, 4, 2, 4]
    assert ("begins anew" in capsys.readouterr().err) == (why == "damage")


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
