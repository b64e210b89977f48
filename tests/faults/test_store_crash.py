"""Rows 1 to 3 of the fault list: killed while writing, power loss, disk full."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gta_datasets.atomic import atomic_write
from gta_datasets.errors import CacheError
from gta_datasets.store import ShardStore
from tests.store.helpers import KEY, run, running, same, sample, shard_files

SHARDS = 2

# Fills a cache again and again, each time in a fresh folder and a forked child that is killed one call later. Prints
# the number of children that were killed before one came to the end.
KILLER = """
import os, signal, sys
from pathlib import Path
from gta_datasets.store import ShardStore
from tests.store.helpers import KEY, sample

root, moment, shards = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])

def kill_at(number):
    count = 0
    def patch(name):
        original = getattr(os, name)
        def call(*arguments):
            nonlocal count
            count += 1
            if count < number:
                return original(*arguments)
            if moment == "during" and name == "write":
                original(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
            if moment == "after":
                original(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)
        setattr(os, name, call)
    for name in ("write", "fsync", "replace"):
        patch(name)

number = 0
while True:
    number += 1
    child = os.fork()
    if child == 0:
        kill_at(number)
        store = ShardStore(root / str(number), KEY)
        for index in range(shards):
            store.get_or_make(index, lambda: sample(index))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        assert os.waitstatus_to_exitcode(status) == 0
        print(number - 1)
        break
"""


@pytest.mark.parametrize("moment", ["before", "during", "after"])
def test_killed_at_every_write_sync_and_rename(tmp_path: Path, moment: str) -> None:
    kills = int(run(KILLER, tmp_path, moment, SHARDS))
    # Per shard: a header and five arrays, two syncs and a rename; before the first, a sync for each new folder.
    assert kills == SHARDS * (6 + 2 + 1) + 2
    made_again = []
    for number in range(1, kills + 1):
        store = ShardStore(tmp_path / str(number), KEY)
        whole = [index for index in range(SHARDS) if store.get(index) is not None]
        assert whole == store.indices(), "a part of a shard was visible"
        made: list[int] = []

        def make(index: int, made: list[int]) -> dict[str, Any]:
            made.append(index)
            return sample(index)

        for index in range(SHARDS):
            assert same(store.get_or_make(index, partial(make, index, made)), sample(index))
        assert made == [index for index in range(SHARDS) if index not in whole]
        assert len(shard_files(store.path)) == SHARDS
        made_again.append(len(made))
    # The later the kill, the less is missing: work that was committed is kept.
    assert made_again == sorted(made_again, reverse=True)
    assert set(made_again) == set(range(SHARDS + 1))


# Writes shard 0 and comes no further than to its rename, for which it waits for a line.
UNFINISHED = """
import os, sys
from gta_datasets.store import ShardStore
from tests.store.helpers import KEY, sample

replace = os.replace
def wait(*arguments):
    os.replace = replace
    print("written", flush=True)
    sys.stdin.readline()
    replace(*arguments)

os.replace = wait
ShardStore(sys.argv[1], KEY).get_or_make(0, lambda: sample(0))
"""


def aged(path: Path) -> Path:
    """The file as of two hours ago."""
    moment = time.time() - 7200
    os.utime(path, (moment, moment))
    return path


def test_what_a_kill_left_behind_is_removed_when_it_is_old(tmp_path: Path) -> None:
    store = ShardStore(tmp_path, KEY)
    with running(UNFINISHED, tmp_path, ready="written"):
        pass
    (leftover,) = store.path.glob(".tmp-*")
    for index in range(2):
        store.get_or_make(index, partial(sample, index))
        assert leftover.exists(), "a file of this age may still have a writer"
    aged(leftover)
    for path in shard_files(store.path):
        aged(path)
    store.get_or_make(2, lambda: sample(2))
    assert sorted(store.path.iterdir()) == shard_files(store.path)
    assert store.indices() == [0, 1, 2]


def test_a_writer_that_was_given_up_too_early_writes_again(tmp_path: Path) -> None:
    store = ShardStore(tmp_path, KEY, lock_timeout=0.2)
    with running(UNFINISHED, tmp_path, ready="written") as writer:
        leftover = aged(next(store.path.glob(".tmp-*")))
        assert same(store.get_or_make(0, lambda: sample(0)), sample(0))
        assert not leftover.exists()
        shard_files(store.path)[0].unlink()
        writer.communicate("\n", timeout=30)
        assert writer.returncode == 0
    assert sorted(store.path.iterdir()) == shard_files(store.path)
    assert same(ShardStore(tmp_path, KEY).get(0), sample(0))


def lose_entry(path: Path) -> None:
    path.unlink()


def lose_tail(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def lose_tail_but_not_size(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))


def lose_all_but_size(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def lose_content(path: Path) -> None:
    path.write_bytes(b"")


def lose_rename(path: Path) -> None:
    path.rename(path.with_name(f".tmp-0123456789abcdef-{path.name}"))


@pytest.mark.parametrize(
    "loss", [lose_entry, lose_tail, lose_tail_but_not_size, lose_all_but_size, lose_content, lose_rename]
)
def test_power_loss_costs_the_last_shard_only(tmp_path: Path, loss: Any) -> None:
    store = ShardStore(tmp_path, KEY)
    for index in range(3):
        store.put(index, sample(index))
    loss(shard_files(store.path)[-1])
    after = ShardStore(tmp_path, KEY)
    assert [after.get(index) is not None for index in range(3)] == [True, True, False]
    assert all(same(after.get_or_make(index, partial(sample, index)), sample(index)) for index in range(3))
    assert ShardStore(tmp_path, KEY).verify() == dict.fromkeys(range(3), True)


def test_new_folders_are_synced_into_their_parents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced, fsync = [], os.fsync

    def record(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    root = tmp_path / "new" / "cache"
    ShardStore(root, KEY).put(0, sample(0))
    assert {folder.stat().st_ino for folder in (tmp_path, tmp_path / "new", root, root / KEY)} <= set(synced)


@contextmanager
def file_size_limit(limit: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("limit", [0, 1, 100, 600, 50_000])
def test_file_size_limit(tmp_path: Path, limit: int) -> None:
    store = ShardStore(tmp_path, KEY)
    store.put(0, sample(0))
    large = {"observations": np.zeros((10_000, 3), np.float32)}
    with file_size_limit(limit), pytest.raises(CacheError, match=r"cannot write .*shard-000001.* \(120,\d\d\d bytes"):
        store.put(1, large)
    assert sorted(store.path.iterdir()) == shard_files(store.path)
    assert ShardStore(tmp_path, KEY).verify() == {0: True}
    store.put(1, large)
    assert same(store.get(1), large)


FAILURES = [
    (name, number) for name, last in (("write", 6), ("fsync", 2), ("replace", 1)) for number in range(1, last + 1)
]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize(("name", "number"), FAILURES)
def test_failure_of_every_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int, code: int
) -> None:
    store = ShardStore(tmp_path, KEY)
    store.put(0, sample(0))
    original, count = getattr(os, name), 0

    def fail(*arguments: Any) -> Any:
        nonlocal count
        count += 1
        if count == number:
            raise OSError(code, os.strerror(code))
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, name, fail)
        with pytest.raises(
            CacheError, match=rf"cannot write .*shard-000001.* bytes needed.*{os.strerror(code)}"
        ) as caught:
            store.get_or_make(1, lambda: sample(1))
    assert count == number
    assert caught.value.errno == code
    assert sorted(store.path.iterdir()) == shard_files(store.path), "a temporary file was left behind"
    after = ShardStore(tmp_path, KEY)
    assert same(after.get(0), sample(0))
    assert set(after.verify().values()) == {True}
    assert same(after.get_or_make(1, lambda: sample(1)), sample(1))


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "raise the quota"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EROFS, "writable file system"),
        (errno.EACCES, "make the folder writable"),
    ],
)
def test_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, advice: str) -> None:
    def fail(*arguments: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "write", fail)
    with pytest.raises(CacheError, match=rf"\(4 bytes needed, [\d,]+ free\): .*; .*{advice}"):
        atomic_write(tmp_path / "file", b"data")


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", disk], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"mounting a small tmpfs needs root: {mounted.stderr.strip()}")
    try:
        store = ShardStore(disk, KEY)
        fitting = {"values": np.ones(4_000)}

        def fill() -> None:
            for index in range(100):
                store.put(index, fitting)

        with pytest.raises(CacheError, match="No space left on device; free some space") as caught:
            fill()
        committed = len(shard_files(store.path))
        assert caught.value.errno == errno.ENOSPC
        assert committed >= 2
        assert list(store.path.glob(".*")) == []
        assert ShardStore(disk, KEY).verify() == dict.fromkeys(range(committed), True)
    finally:
        subprocess.run(["umount", "-l", disk], check=True)
