"""Files that are published whole or not at all, and read without following links.

The shard store and the training checkpoints both stand on these few functions.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
import time
from contextlib import suppress
from pathlib import Path

from gta_datasets.errors import CacheError

__all__ = [
    "atomic_write",
    "check_no_link",
    "is_file",
    "make_folders",
    "open_regular",
    "read_bytes",
    "remove_leftovers",
    "sync_folder",
    "write_error",
]

# Windows lacks O_NOFOLLOW; it alone has O_BINARY, without which it would change line ends.
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)  # opening a planted FIFO must not hang

_ADVICE = {
    errno.ENOSPC: "free some space or choose another folder",
    errno.EDQUOT: "free some space, raise the quota or choose another folder",
    errno.EFBIG: "raise the limit on file sizes (`ulimit -f`) or choose another folder",
    errno.EROFS: "choose a folder on a writable file system",
    errno.EACCES: "make the folder writable for this user or choose another",
    errno.EPERM: "make the folder writable for this user or choose another",
}


def atomic_write(path: Path, *buffers: bytes | bytearray | memoryview, make_folder: bool = False) -> None:
    """Make the concatenation of `buffers` (contiguous bytes) the content of the file `path`.

    The bytes go to a private temporary file in the same folder, which is synced and renamed; then the folder is synced.
    After a crash at any moment `path` has its old content (or is absent) or the new, never a part of it. The temporary
    file is gone after every exception; only a killed process leaves one behind (`.tmp-*`).

    With `make_folder` the folder is made if it is not there: somebody may clear a cache at any moment.

    Raises:
        CacheError: the folder or `path` is a link or not an ordinary file, or the file cannot be written. The message
            names the path, the bytes needed and the reason; `errno` is that of the failed call.
    """
    try:
        _write(path, buffers)
    except CacheError as error:
        if not make_folder or error.errno != errno.ENOENT:
            raise
        make_folders(path.parent)
        _write(path, buffers)


def _write(path: Path, buffers: tuple[bytes | bytearray | memoryview, ...]) -> None:
    needed = sum(memoryview(buffer).nbytes for buffer in buffers)
    check_no_link(path.parent)
    status = check_no_link(path)
    if status is not None and not stat.S_ISREG(status.st_mode):
        raise CacheError(f"cannot replace {path}: it is not an ordinary file; remove it")
    temporary = path.with_name(f".tmp-{secrets.token_hex(8)}-{path.name}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW, 0o666)
        try:
            _fill(descriptor, buffers)
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        sync_folder(path.parent)
    except OSError as error:
        raise write_error(path, needed, error) from error


def make_folders(folder: Path) -> None:
    """Make a folder and those above it, where they are missing.

    Raises:
        CacheError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CacheError(error.errno, f"cannot make the folder {folder}: {error.strerror}; choose another") from error


def remove_leftovers(folder: Path, name: str, *, older: float) -> None:
    """Remove what killed processes left behind of writing the file `name`, where it is older than some seconds."""
    for path in folder.glob(f".tmp-*-{name}"):
        with suppress(OSError):
            if time.time() - os.lstat(path).st_mtime > older:
                os.unlink(path)


def read_bytes(path: Path, *, limit: int) -> bytes:
    """The content of the ordinary file `path`, at most `limit` bytes.

    Raises:
        FileNotFoundError: there is no such file.
        CacheError: it is a link, not an ordinary file, larger than `limit`, or cannot be read.
    """
    descriptor = open_regular(path)
    try:
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise CacheError(error.errno, f"cannot read {path}: {error.strerror}") from error
    finally:
        os.close(descriptor)
    if len(data) > limit:
        raise CacheError(f"{path} is larger than the {limit:,} bytes allowed for it; remove it if it is not yours")
    return data


def open_regular(path: Path) -> int:
    """A read-only descriptor of the ordinary file `path`, which the caller closes.

    Raises:
        FileNotFoundError: there is no such file.
        CacheError: it is a link, not an ordinary file, or cannot be opened.
    """
    check_no_link(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | _NO_FOLLOW | _NO_WAIT)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise CacheError(error.errno, f"cannot open {path}: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise CacheError(f"{path} is not an ordinary file; remove it")
    return descriptor


def check_no_link(path: Path) -> os.stat_result | None:
    """The status of `path` itself, or None if nothing is there.

    Raises:
        CacheError: `path` is a symbolic link or cannot be looked up.
    """
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CacheError(error.errno, f"cannot look up {path}: {error.strerror}") from error
    if stat.S_ISLNK(status.st_mode):
        raise CacheError(f"{path} is a symbolic link; links are not followed here: remove it")
    return status


def is_file(path: Path) -> bool:
    """Whether `path` is an ordinary file. Raises CacheError if it is a link or cannot be looked up."""
    status = check_no_link(path)
    return status is not None and stat.S_ISREG(status.st_mode)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a power cut; does nothing where a folder cannot be synced.

    Raises:
        OSError: the folder cannot be opened or synced.
    """
    if os.name == "nt":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:
        return  # a folder that may be written but not read
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _fill(descriptor: int, buffers: tuple[bytes | bytearray | memoryview, ...]) -> None:
    """Write and sync the buffers, and close the descriptor in every case."""
    try:
        for buffer in buffers:
            rest = memoryview(buffer).cast("B")
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_error(path: Path, needed: int, error: OSError) -> CacheError:
    """What to raise where a file of so many bytes cannot be written: path, bytes, reason and what to do."""
    try:
        free = f", {shutil.disk_usage(path.parent).free:,} free"
    except OSError:
        free = ""
    advice = _ADVICE.get(error.errno or 0, "check the folder or choose another")
    return CacheError(error.errno, f"cannot write {path} ({needed:,} bytes needed{free}): {error.strerror}; {advice}")
