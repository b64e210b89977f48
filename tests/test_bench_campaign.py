"""Campaigns that are killed, run out of time, and go on."""

from __future__ import annotations

import os
import signal
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import work
from benchmarks.vectorised import training as stack_training
from benchmarks.vectorised.evaluation import evaluate
from benchmarks.vectorised.stack import Stack
from benchmarks.vectorised.tables import Table
from tests.benches import FOUR, HOPPER, lines, small_hopper, start
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


@pytest.mark.parametrize(
    ("why", "said"), [("other data", "is of another kind (data); it begins anew"), ("damage", "; it begins anew")]
)
def test_a_checkpoint_that_does_not_fit_is_not_gone_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], why: str, said: str
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
    assert said in capsys.readouterr().err
