from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from gta_datasets.atomic import atomic_write, check_no_link, read_bytes, sync_folder
from gta_datasets.errors import CacheError


def test_joins_buffers_and_replaces_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    atomic_write(path, b"old")
    atomic_write(path, b"a", bytearray(b"bc"), memoryview(b"def")[1:], b"")
    assert path.read_bytes() == b"abcef"
    assert os.listdir(tmp_path) == ["file"]


def test_no_buffers_make_an_empty_file(tmp_path: Path) -> None:
    atomic_write(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b""


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, bytes(data)[:7]))
    data = os.urandom(1000)
    atomic_write(tmp_path / "file", data[:500], data[500:])
    assert (tmp_path / "file").read_bytes() == data


def test_file_is_synced_before_the_rename_and_the_folder_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def record(name: str) -> None:
        original = getattr(os, name)

        def wrapper(*arguments: Any) -> Any:
            folder = name == "fsync" and stat.S_ISDIR(os.fstat(arguments[0]).st_mode)
            calls.append("fsync folder" if folder else name)
            return original(*arguments)

        monkeypatch.setattr(os, name, wrapper)

    for name in ("write", "fsync", "replace"):
        record(name)
    atomic_write(tmp_path / "file", b"data")
    assert calls == ["write", "fsync", "replace", "fsync folder"]


def test_the_error_names_path_bytes_needed_and_cause(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "file"
    with pytest.raises(CacheError, match=r"cannot write .*missing/file \(3,000 bytes needed.*No such file") as caught:
        atomic_write(path, bytes(1000), bytes(2000))
    assert caught.value.errno == errno.ENOENT


def test_an_interrupt_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    atomic_write(tmp_path / "file", b"old")

    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        atomic_write(tmp_path / "file", b"new")
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_file_systems_without_folder_sync_are_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def unsupported(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", unsupported)
    sync_folder(tmp_path)


def test_other_sync_failures_are_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        sync_folder(tmp_path)


def test_reading_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    assert read_bytes(tmp_path / "file", limit=5) == b"12345"
    with pytest.raises(CacheError, match="larger than the 4 bytes"):
        read_bytes(tmp_path / "file", limit=4)
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "missing", limit=4)


@pytest.mark.parametrize("plant", ["link", "dangling link", "folder", "fifo"])
def test_only_ordinary_files_are_read_or_replaced(tmp_path: Path, plant: str) -> None:
    target, path = tmp_path / "target", tmp_path / "file"
    if plant == "link":
        target.write_bytes(b"precious")
        path.symlink_to(target)
    elif plant == "dangling link":
        path.symlink_to(target)
    elif plant == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    outcome: list[BaseException] = []

    def attempt() -> None:
        for action in (lambda: read_bytes(path, limit=100), lambda: atomic_write(path, b"new")):
            try:
                action()
            except CacheError as error:
                outcome.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(5)
    assert not thread.is_alive(), "opening a FIFO must not hang"
    expected = "symbolic link" if "link" in plant else "not an ordinary file"
    assert len(outcome) == 2
    assert all(expected in str(error) for error in outcome)
    assert not target.exists() or target.read_bytes() == b"precious"
    assert not list(tmp_path.glob(".tmp-*"))


def test_a_linked_folder_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(CacheError, match="symbolic link"):
        atomic_write(tmp_path / "link" / "file", b"x")
    assert os.listdir(tmp_path / "real") == []


def test_a_planted_temporary_file_is_neither_followed_nor_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secrets.token_hex", lambda size: "guessed")
    (tmp_path / "target").write_bytes(b"precious")
    plant = tmp_path / ".tmp-guessed-file"
    plant.symlink_to("target")
    with pytest.raises(CacheError, match="File exists"):
        atomic_write(tmp_path / "file", b"x")
    assert plant.is_symlink()
    assert (tmp_path / "target").read_bytes() == b"precious"
    assert not (tmp_path / "file").exists()


def test_check_no_link_reports_what_is_there(tmp_path: Path) -> None:
    assert check_no_link(tmp_path / "missing") is None
    status = check_no_link(tmp_path)
    assert status is not None
    assert status.st_ino == os.stat(tmp_path).st_ino
