"""Rows 6 to 8, 14, 19 and 37 of the fault list: many processes, locks, read-only caches, eviction, load."""

from __future__ import annotations

import gc
import logging
import os
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gta_datasets.errors import CacheError
from gta_datasets.store import ShardStore
from tests.store.helpers import KEY, python, run, running, same, sample, shard_files

PROCESSES, SHARDS = 8, 4

# Eight processes ask for the same shards at the same moment. Each call of make() adds a line to a common file.
CROWD = """
import os, sys, time
from pathlib import Path
import gta_datasets.store.folder as folder
from gta_datasets.store import ShardStore
from tests.store.helpers import KEY, same, sample

root, locks, processes, shards = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])

class NoLock:
    def __init__(self, path, fallback_to_soft): pass
    def acquire(self, timeout): pass
    def release(self): pass

class BrokenLock(NoLock):
    def acquire(self, timeout): raise OSError(95, "Operation not supported")

folder.FileLock = {"working": folder.FileLock, "none": NoLock, "broken": BrokenLock}[locks]
log = os.open(root / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
ready, start = os.pipe(), os.pipe()

def work():
    store = ShardStore(root, KEY)
    os.write(ready[1], b"x")
    os.read(start[0], 1)
    for index in range(shards):
        def make():
            os.write(log, b"%d\\n" % index)
            time.sleep(0.02)
            return sample(index, 2000)
        assert same(store.get_or_make(index, make), sample(index, 2000))

children = []
for _ in range(processes):
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            print(error, file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    children.append(child)
for _ in children:
    os.read(ready[0], 1)
os.write(start[1], b"x" * processes)
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


@pytest.mark.parametrize("locks", ["working", "none", "broken"])
def test_many_processes_agree_on_one_result(tmp_path: Path, locks: str) -> None:
    run(CROWD, tmp_path, locks, PROCESSES, SHARDS)
    made = (tmp_path / "log").read_text().split()
    assert set(made) == {str(index) for index in range(SHARDS)}
    if locks == "working":
        assert len(made) == SHARDS, "a shard was made twice although locks work"
    else:
        assert len(made) > SHARDS, "this run did not test what happens without locks"
    store = ShardStore(tmp_path, KEY)
    assert sorted(store.path.iterdir()) == shard_files(store.path)
    assert len(shard_files(store.path)) == SHARDS
    assert all(same(store.get(index), sample(index, 2000)) for index in range(SHARDS))


# Takes the lock of shard 0 and hangs while making it, until it reads a line.
HOLDER = """
import sys
from gta_datasets.store import ShardStore
from tests.store.helpers import KEY, sample

def make():
    print("making", flush=True)
    sys.stdin.readline()
    return sample(0)

ShardStore(sys.argv[1], KEY).get_or_make(0, make)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock of shard 0."""
    with running(HOLDER, tmp_path, ready="making") as process:
        yield process


def test_a_killed_holder_does_not_hold_others_up(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    results: list[Any] = []
    waiting = threading.Thread(
        target=lambda: results.append(ShardStore(tmp_path, KEY).get_or_make(0, lambda: sample(0))), daemon=True
    )
    waiting.start()
    waiting.join(0.3)
    assert waiting.is_alive(), "the lock was not respected"
    holder.send_signal(signal.SIGKILL)
    waiting.join(10)
    assert same(results[0], sample(0))


def test_a_stopped_holder_is_overtaken_after_the_stated_time(
    tmp_path: Path, holder: subprocess.Popen[str], caplog: pytest.LogCaptureFixture
) -> None:
    holder.send_signal(signal.SIGSTOP)
    store, start = ShardStore(tmp_path, KEY, lock_timeout=0.4), time.monotonic()
    with caplog.at_level(logging.WARNING):
        assert same(store.get_or_make(0, lambda: sample(0)), sample(0))
    assert 0.4 <= time.monotonic() - start < 10
    assert "has been held for 0.4 s; going on without it" in caplog.text
    holder.send_signal(signal.SIGCONT)
    holder.communicate("\n", timeout=30)
    assert holder.returncode == 0
    assert len(shard_files(store.path)) == 1
    assert store.verify() == {0: True}


def test_a_lock_file_left_behind_holds_nobody_up(tmp_path: Path) -> None:
    store = ShardStore(tmp_path, KEY)
    store.path.mkdir()
    (store.path / ".lock-shard-000000").write_text("12345\n")
    start = time.monotonic()
    assert same(store.get_or_make(0, lambda: sample(0)), sample(0))
    assert time.monotonic() - start < 5
    assert list(store.path.iterdir()) == shard_files(store.path)


# As a user without rights in the cache: a hit, a miss, and a damaged shard.
STRANGER = """
import logging, os, sys
from pathlib import Path
from gta_datasets.errors import CacheError
from gta_datasets.store import ShardStore
from tests.store.helpers import KEY, same, sample

if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
store = ShardStore(sys.argv[1], KEY)
calls = []
def make():
    calls.append(1)
    return sample(1)

assert same(store.get(0), sample(0))
assert same(store.get_or_make(0, make), sample(0))
assert store.indices() == [0, 2]
assert store.get(1) is None
for action in (lambda: store.get_or_make(1, make), lambda: store.put(1, sample(1)), store.clear,
               lambda: ShardStore(sys.argv[1], "f" * 32).get_or_make(1, make)):
    try:
        action()
    except CacheError as error:
        print(error)
logging.disable()
assert store.get(2) is None
assert store.verify() == {0: True, 2: False}
assert not calls
"""


def filled(root: Path) -> ShardStore:
    """A cache with a good shard 0 and a damaged shard 2."""
    store = ShardStore(root, KEY)
    store.put(0, sample(0))
    store.put(2, sample(2))
    shard_files(store.path)[1].write_bytes(b"garbage")
    return store


def check_messages(output: str) -> None:
    miss, put, clear, new_key = output.splitlines()
    assert "the cache is read-only for this user" in miss
    assert "make the folder writable or choose another cache_dir" in miss
    assert "cannot write" in put
    assert "bytes needed" in put
    assert "cannot remove" in clear
    assert "cannot create the cache folder" in new_key


def test_read_only_folders_serve_hits(open_folder: Path) -> None:
    store = filled(open_folder / "cache")
    before = sorted(os.listdir(store.path))
    for folder in (store.path, store.path.parent):
        folder.chmod(0o555)
    check_messages(run(STRANGER, store.path.parent))
    assert sorted(os.listdir(store.path)) == before


def test_read_only_file_systems_serve_hits(open_folder: Path) -> None:
    disk = open_folder / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "none", disk], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"mounting a tmpfs needs root: {mounted.stderr.strip()}")
    try:
        filled(disk)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        # Still as root, whom file modes do not stop.
        check_messages(run(STRANGER.replace("os.getuid() == 0", "False"), disk))
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_unreadable_shards_are_an_error_not_a_miss(open_folder: Path) -> None:
    store = ShardStore(open_folder, KEY)
    store.put(0, sample(0))
    shard_files(store.path)[0].chmod(0)
    script = STRANGER[: STRANGER.index("store =")] + (
        "try:\n    ShardStore(sys.argv[1], KEY).get(0)\nexcept CacheError as error:\n    print(error)\n"
    )
    assert "Permission denied" in run(script, open_folder)
    assert len(shard_files(store.path)) == 1


def test_readers_keep_their_view_while_the_cache_is_cleared_and_filled_anew(tmp_path: Path) -> None:
    store = ShardStore(tmp_path, KEY)
    store.put(0, sample(0, 50_000))
    held = store.get(0)
    assert held is not None
    rewards = held["actions"][1000:, 1]
    other = ShardStore(tmp_path, KEY)
    other.clear()
    other.put(0, sample(1, 60_000))
    assert same(held, sample(0, 50_000))
    assert same(store.get(0), sample(0, 50_000))
    store.clear()
    del held, store
    gc.collect()
    assert rewards.tobytes() == sample(0, 50_000)["actions"][1000:, 1].tobytes()


# Reads on while another process clears the cache again and again.
READER = """
import logging, sys
from gta_datasets.store import ShardStore
from tests.store.helpers import KEY, same, sample

logging.disable()
print("reading", flush=True)
expected = sample(0, 5000)
for _ in range(30):
    store = ShardStore(sys.argv[1], KEY)
    assert same(store.get_or_make(0, lambda: sample(0, 5000)), expected)
    held = store.get(0)
    assert held is None or same(held, expected)
"""


def test_readers_survive_constant_eviction(tmp_path: Path) -> None:
    reader = python(READER, tmp_path)
    assert reader.stdout is not None
    reader.stdout.readline()
    store = ShardStore(tmp_path, KEY)
    clears = 0
    while reader.poll() is None:
        clears += store.path.exists()
        store.clear()
        time.sleep(0.002)
    _, errors = reader.communicate()
    assert reader.returncode == 0, errors
    assert clears > 10


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors in /proc")


@needs_proc
def test_a_million_lazy_reads_leave_memory_and_descriptors_flat(tmp_path: Path) -> None:
    store = ShardStore(tmp_path, KEY)
    for index in range(4):
        store.put(index, sample(index))
        store.get(index)
    descriptors, memory = open_descriptors(), resident_bytes()
    for number in range(1_000_000):
        store.get(number & 3)
    assert open_descriptors() == descriptors
    assert resident_bytes() - memory < 10 << 20


@needs_proc
def test_opening_shards_over_and_over_leaves_memory_and_descriptors_flat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gta_datasets.store.shards._MAX_MAPS", 2)
    store = ShardStore(tmp_path, KEY)
    for index in range(4):
        store.put(index, sample(index, 5000))
        store.get(index)
    gc.collect()
    descriptors, memory = open_descriptors(), resident_bytes()
    for number in range(1000):
        store.get(number & 3)
    assert open_descriptors() == descriptors
    assert resident_bytes() - memory < 10 << 20  # the maps add up to 145 MB


@needs_proc
def test_held_shards_need_no_descriptors(tmp_path: Path) -> None:
    store = ShardStore(tmp_path, KEY)
    for index in range(100):
        store.put(index, {"index": sample(index)["source_episode"]})
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    descriptors = open_descriptors()
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors + 10, hard))
    try:
        held = [store.get(index) for index in range(100)]
        assert open_descriptors() == descriptors
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [arrays["index"][0] for arrays in held if arrays is not None] == list(range(100))


@needs_proc
def test_running_out_of_descriptors_is_a_clear_error(tmp_path: Path) -> None:
    store = ShardStore(tmp_path, KEY)
    store.put(0, sample(0))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(CacheError, match="Too many open files"):
            store.get(0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert same(store.get(0), sample(0))
