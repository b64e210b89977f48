"""The folder of one cache key: its names, what may be touched in it, and its locks."""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from gta_datasets.atomic import check_no_link, remove_leftovers, sync_folder
from gta_datasets.errors import CacheError
from gta_datasets.store.files import shard_index

__all__ = ["KeyFolder", "is_key"]

_KEY = re.compile(r"[0-9a-f]{32}")
_ATTEMPTS = 5  # against another process that clears the cache or writes to it meanwhile
_LEFTOVER_AGE = 3600.0  # seconds after which half a shard has no writer any more; one that has, writes it again

_logger = logging.getLogger(__name__)


def is_key(name: str) -> bool:
    """Whether `name` has the form of a key: 32 lower-case hexadecimal digits."""
    return _KEY.fullmatch(name) is not None


class KeyFolder:
    """`root/key`; the root is resolved once, and no link below it is followed."""

    def __init__(self, root: Path, key: str) -> None:
        if not is_key(key):
            raise CacheError(
                f"key={key!r} is not allowed; a key is 32 lower-case hexadecimal digits, as content_key gives"
            )
        self.path = Path(os.path.realpath(root)) / key

    def exists(self) -> bool:
        """Whether the folder is there. Raises CacheError if something else is in its place, or in that of the cache."""
        try:
            status = check_no_link(self.path)
        except CacheError as error:
            if error.errno is None:  # a link, which is to be removed
                raise
            raise CacheError(error.errno, f"{error.strerror}; choose another cache_dir") from error
        if status is not None and not stat.S_ISDIR(status.st_mode):
            raise CacheError(f"{self.path} is not a folder; remove it or choose another cache_dir")
        return status is not None

    def make(self) -> None:
        """Create the folder and what is missing above it, durably. Raises CacheError."""
        if self.exists():
            return
        try:
            missing = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
            self.path.mkdir(parents=True, exist_ok=True)
            for folder in missing:
                sync_folder(folder.parent)
        except OSError as error:
            raise CacheError(
                error.errno,
                f"cannot create the cache folder {self.path}: {error.strerror}; choose another cache_dir",
            ) from error
        self.exists()

    def make_writable(self) -> None:
        """As `make`, and raise CacheError now rather than after the work of making a shard if it cannot be stored."""
        for _ in range(_ATTEMPTS):  # somebody may clear the cache between the two calls
            self.make()
            if os.access(self.path, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
                return
        if self.exists():
            raise CacheError(
                errno.EACCES,
                f"cannot write {self.path}: the cache is read-only for this user and what was asked for is not in it; "
                "make the folder writable or choose another cache_dir",
            )

    def shard_names(self) -> dict[int, list[str]]:
        """Names of the committed files of every shard, ascending; the files are not opened.

        A shard has one file; if it has several, they are to be tried in the order given.
        """
        names: dict[int, list[str]] = {}
        for name in sorted(self._names()):
            index = shard_index(name)
            if index is not None:
                names.setdefault(index, []).append(name)
        return dict(sorted(names.items()))

    def files(self) -> Iterator[os.stat_result]:
        """The status of every ordinary file in the folder and below."""
        if not self.exists():
            return
        for folder, _, names in os.walk(self.path):
            for name in names:
                with suppress(FileNotFoundError):
                    status = os.lstat(os.path.join(folder, name))
                    if stat.S_ISREG(status.st_mode):
                        yield status

    def remove_leftovers(self) -> None:
        """Remove what processes left behind that were killed, an hour ago or more, while they wrote a shard."""
        with suppress(OSError):  # somebody may clear the cache meanwhile
            remove_leftovers(self.path, "shard-*", older=_LEFTOVER_AGE)

    def remove(self) -> None:
        """Delete the folder with all that is in it, also while others write to it. Raises CacheError."""
        for attempt in range(_ATTEMPTS):
            if not self.exists():
                return
            try:
                shutil.rmtree(self.path)
            except OSError as error:
                # Another process may have removed a file first (ENOENT) or added one meanwhile (ENOTEMPTY).
                passing = error.errno in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST)
                if not passing or attempt == _ATTEMPTS - 1:
                    raise CacheError(error.errno, f"cannot remove {self.path}: {error.strerror}") from error

    @contextmanager
    def lock(self, name: str, timeout: float, progress: str | None = None) -> Iterator[None]:
        """Keep others from doing the same work, where locks work; after `timeout` seconds go on without.

        Nothing but double work depends on this lock. A holder that died has lost it already; one that hangs is
        overtaken, which shows in that a file here, `progress`, has not changed for `timeout` seconds.
        """
        path = self.path / f".lock-{name}"
        status = check_no_link(path)
        if status is not None and (not stat.S_ISREG(status.st_mode) or status.st_nlink > 1):
            raise CacheError(f"{path} is not a lock file of this library; remove it")
        lock = _acquire(path, timeout, None if progress is None else self.path / progress)
        try:
            yield
        finally:
            if lock is not None:
                with suppress(OSError):
                    os.unlink(path)
                lock.release()

    def _names(self) -> list[str]:
        if not self.exists():
            return []
        try:
            return os.listdir(self.path)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise CacheError(
                error.errno, f"cannot list {self.path}: {error.strerror}; choose another cache_dir"
            ) from error


def _acquire(path: Path, timeout: float, progress: Path | None) -> FileLock | None:
    # Where locks do not work, a file that marks one would outlive its owner, and stop everybody else for `timeout`.
    lock = FileLock(path, fallback_to_soft=False)
    while True:
        before = _last_change(progress)
        try:
            lock.acquire(timeout=timeout)
        except Timeout:
            if _last_change(progress) != before:
                continue
            _logger.warning("%s has been held for %.1f s; going on without it (work may be done twice)", path, timeout)
            return None
        except (OSError, NotImplementedError) as error:
            _logger.info("no lock on %s (%s); going on without it (work may be done twice)", path, error)
            return None
        return lock


def _last_change(path: Path | None) -> int | None:
    try:
        return None if path is None else os.lstat(path).st_mtime_ns
    except FileNotFoundError:
        return None
