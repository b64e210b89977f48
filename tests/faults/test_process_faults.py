"""Rows 8, 15, 33 and 35 of the fault matrix: processes that are stopped anywhere, and several at once on one key.

A run that is stopped ends with the same weights when it is started again, and one that hangs is overtaken.
"""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import minari
import numpy as np
import pytest

from gta_datasets.errors import CacheError
from gta_datasets.store import ShardStore
from tests.builders import linear_dataset
from tests.smoke import run_script, shard_bytes, tiny
from tests.store.helpers import KEY, running


@pytest.fixture(scope="module")
def dataset() -> minari.MinariDataset:
    return linear_dataset("processes/linear-v0", lengths=(1, 3, 7, 8, 20, 20, 30), terminated=(0, 1, 4))


# One process that forks: importing torch takes longer than all that follows. Every child reports through a file.
PROCESSES = """
import json, os, signal, sys, traceback
from pathlib import Path

import minari, torch
import torch._dynamo  # what an optimiser imports
from gta_datasets.methods.gta import GTA
from gta_datasets.training import loop
from tests.smoke import shard_bytes, tiny

torch.set_num_threads(1)
root, dataset = Path(sys.argv[1]), minari.load_dataset("processes/linear-v0")
STEPS = 6
SETTINGS = dict(training_steps=STEPS, checkpoint_seconds=0.0)
steps = []

def forked(work):
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        code = 0
        try:
            work()
        except KeyboardInterrupt:
            code = 3
        except BaseException:
            traceback.print_exc()
            code = 1
        os._exit(code)
    return child

def ended(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def count_steps():
    advance = loop._Run.advance
    def counted(run, loss_of_step):
        steps.append(run.step)
        advance(run, loss_of_step)
    loop._Run.advance = counted

def fit(cache, report, before=lambda: None):
    def work():
        count_steps()
        before()
        augmented = tiny(dataset, cache_dir=cache, **SETTINGS).fit()
        Path(report).write_text(json.dumps({"key": augmented.key, "steps": steps}))
    return work

def at_step(number, act):
    def before():
        advance = loop._Run.advance
        def stopped(run, loss_of_step):
            if run.step == number:
                act()
            advance(run, loss_of_step)
        loop._Run.advance = stopped
    return before

def at_rename(number, act, after):
    # Renames: the manifest, then one checkpoint per step but the last, then the model.
    def before():
        replace, renames = os.replace, []
        def stopped(source, target):
            renames.append(target)
            if len(renames) == number and not after:
                act()
            replace(source, target)
            if len(renames) == number and after:
                act()
        os.replace = stopped
    return before

def kill(number):
    return lambda: os.kill(os.getpid(), number)
"""

STOPS = (
    PROCESSES
    + """
whole = root / "whole.json"
assert ended(forked(fit(root / "whole", whole))) == 0
phases = {
    "first step": lambda act: at_step(0, act),
    "middle step": lambda act: at_step(3, act),
    "before a checkpoint": lambda act: at_rename(4, act, False),
    "after a checkpoint": lambda act: at_rename(4, act, True),
    "before the model": lambda act: at_rename(STEPS + 1, act, False),
    "after the model": lambda act: at_rename(STEPS + 1, act, True),
}
results = {}
for name, phase in json.loads(sys.argv[2]):
    cache, report = root / f"{name} {phase}", root / "resumed.json"
    code = ended(forked(fit(cache, report, phases[phase](kill(getattr(signal, name))))))
    left = sorted(path.name for path in cache.rglob("*") if path.is_file())
    again = ended(forked(fit(cache, report)))
    found = json.loads(report.read_text()) if again == 0 else None
    report.unlink(missing_ok=True)
    results[f"{name} {phase}"] = {"code": code, "left": left, "again": again, "found": found}
print(json.dumps({"whole": json.loads(whole.read_text()), "results": results}))
"""
)

# Steps that a resumed run need not do again.
DONE = {
    "first step": 0,
    "middle step": 3,
    "before a checkpoint": 2,
    "after a checkpoint": 3,
    "before the model": 5,
    "after the model": 6,
}
STOPPED = [("SIGKILL", phase) for phase in DONE]
STOPPED += [("SIGINT", "middle step"), ("SIGINT", "before a checkpoint"), ("SIGTERM", "middle step")]


@pytest.fixture(scope="module")
def stopped(dataset: minari.MinariDataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run that was left alone, and runs that were stopped in every phase and started again."""
    found: dict[str, Any] = json.loads(run_script(STOPS, tmp_path_factory.mktemp("stopped"), json.dumps(STOPPED)))
    assert found["whole"]["steps"] == list(range(6))
    return found


@pytest.mark.parametrize(("name", "phase"), STOPPED)
def test_row_33_a_stopped_run_ends_with_the_same_weights(stopped: dict[str, Any], name: str, phase: str) -> None:
    result = stopped["results"][f"{name} {phase}"]
    expected = {"SIGKILL": -signal.SIGKILL, "SIGINT": 3, "SIGTERM": -signal.SIGTERM}[name]
    assert result["code"] == expected, "the run was not stopped as this test wants it"
    assert result["again"] == 0
    assert result["found"]["key"] == stopped["whole"]["key"]
    done = DONE[phase] + (name == "SIGINT" and phase == "middle step")  # Ctrl-C lets a step end, and keeps it
    assert result["found"]["steps"] == list(range(done, 6)), "what had been done was done again"
    if name == "SIGINT":
        assert not [file for file in result["left"] if file.startswith(".tmp-")]


AT_ONCE = (
    PROCESSES
    + """
ready, start = os.pipe(), os.pipe()

def work(name, order):
    def generate():
        count_steps()
        augmented = tiny(dataset, cache_dir=root / "cache")
        augmented.storage.pipeline.augmenter
        os.write(ready[1], b"x")
        os.read(start[0], 1)
        found = {}
        for number in order:
            shard = augmented.storage.pipeline.shard(number)
            found[number] = {name: array.tobytes().hex() for name, array in shard.items()}
        (root / name).write_text(json.dumps({"found": found, "steps": len(steps)}))
    return generate

children = [forked(work("a", [3, 0, 1])), forked(work("b", [3, 1, 0])), forked(work("c", [0, 3, 1]))]
for _ in children:
    os.read(ready[0], 1)
os.write(start[1], b"xxx")
assert [ended(child) for child in children] == [0, 0, 0]
"""
)


def test_row_35_processes_at_once_train_one_model_and_agree(dataset: minari.MinariDataset, tmp_path: Path) -> None:
    run_script(AT_ONCE, tmp_path)
    reports = [json.loads((tmp_path / name).read_text()) for name in "abc"]
    assert sorted(report["steps"] for report in reports) == [0, 0, 3], "trained once, where locks work"
    alone = tiny(dataset, cache_dir=tmp_path / "alone")
    for number in (0, 1, 3):
        expected = {name: value.hex() for name, value in shard_bytes(alone, number).items()}
        assert [report["found"][str(number)] for report in reports] == [expected] * 3
    cached = tiny(dataset, cache_dir=tmp_path / "cache")
    assert cached.key == alone.key
    assert cached.storage.pipeline.fit().verify() == {0: True, 1: True, 3: True}
    assert not list((tmp_path / "cache").rglob(".*"))


# Works on a key until it reads a line.
WORKER = """
import sys
from gta_datasets.store import ShardStore
from tests.store.helpers import KEY

with ShardStore(sys.argv[1], KEY).working("model", timeout=60):
    print("working", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that trains the model of a key."""
    with running(WORKER, tmp_path, ready="working") as process:
        yield process


def test_row_8_a_killed_worker_is_succeeded_at_once(tmp_path: Path, worker: subprocess.Popen[str]) -> None:
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    start = time.monotonic()
    with ShardStore(tmp_path, KEY).working("model", timeout=60):
        assert time.monotonic() - start < 10


def test_row_8_a_stopped_worker_is_overtaken_with_a_warning(
    tmp_path: Path, worker: subprocess.Popen[str], caplog: pytest.LogCaptureFixture
) -> None:
    worker.send_signal(signal.SIGSTOP)
    start = time.monotonic()
    with ShardStore(tmp_path, KEY).working("model", timeout=0.3):
        assert 0.3 <= time.monotonic() - start < 10
    assert "has been held for 0.3 s; going on without it (work may be done twice)" in caplog.text
    worker.send_signal(signal.SIGCONT)
    worker.communicate("\n", timeout=30)
    assert worker.returncode == 0
    assert list((tmp_path / KEY).iterdir()) == []


def test_row_8_a_worker_that_makes_progress_is_waited_for(tmp_path: Path, worker: subprocess.Popen[str]) -> None:
    progress, changes = tmp_path / KEY / "progress", 15

    def change() -> None:
        for number in range(changes):
            progress.write_text(str(number))
            time.sleep(0.2)

    thread, start = threading.Thread(target=change), time.monotonic()
    thread.start()
    with ShardStore(tmp_path, KEY).working("model", timeout=1.5, progress="progress"):
        assert progress.read_text() == str(changes - 1), "the worker was overtaken while it made progress"
        assert time.monotonic() - start < 30
    thread.join()


@pytest.mark.skipif(sys.platform == "win32", reason="locks of Windows always work")
def test_row_8_where_locks_do_not_work_nobody_waits_for_the_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(_file: int, _operation: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", unsupported)
    store, start = ShardStore(tmp_path, KEY), time.monotonic()
    store.path.mkdir()
    (store.path / ".lock-model").write_text("4711\nanother-machine\n")
    for _ in range(2):
        with store.working("model", timeout=60):
            assert time.monotonic() - start < 10


def test_row_8_other_work_on_the_same_key_need_not_wait(tmp_path: Path, worker: subprocess.Popen[str]) -> None:
    start = time.monotonic()
    store = ShardStore(tmp_path, KEY)
    with store.working("other", timeout=60):
        store.put(0, {"values": np.zeros(3)})
        store.get_or_make(1, lambda: {"values": np.ones(3)})
    assert time.monotonic() - start < 10


def test_row_8_a_hung_trainer_is_overtaken(
    dataset: minari.MinariDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Training goes on beside it and ends with the same weights."""
    monkeypatch.setattr("gta_datasets.shelf.MODEL_LOCK_TIMEOUT", 0.2)
    augmented = tiny(dataset, cache_dir=tmp_path / "cache")
    with augmented.storage.pipeline.model_store.working("model", timeout=60):
        augmented.fit()
    assert "has been held for 0.2 s" in caplog.text
    assert augmented.key == tiny(dataset, cache_dir=tmp_path / "alone").key


@pytest.mark.parametrize("kind", ["link", "folder"])
def test_row_15_what_is_planted_in_place_of_the_lock_is_refused(tmp_path: Path, kind: str) -> None:
    store = ShardStore(tmp_path, KEY)
    store.path.mkdir()
    lock, outside = store.path / ".lock-model", tmp_path / "outside"
    outside.write_text("mine")
    if kind == "link":
        lock.symlink_to(outside)
    else:
        lock.mkdir()
    refused = pytest.raises(CacheError, match=r"\.lock-model is (a symbolic link|not a lock file)")
    with refused, store.working("model", timeout=1):
        pytest.fail("worked all the same")
    assert outside.read_text() == "mine"


def test_working_frees_the_lock_after_an_error(tmp_path: Path) -> None:
    store = ShardStore(tmp_path, KEY)
    with pytest.raises(ZeroDivisionError), store.working("model", timeout=1):
        raise ZeroDivisionError
    with store.working("model", timeout=0.1):
        assert [path.name for path in store.path.iterdir()] == [".lock-model"]
    assert list(store.path.iterdir()) == []
