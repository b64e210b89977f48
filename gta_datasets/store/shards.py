"""Numbered sets of arrays on disk: written once, verified on first open, memory-mapped."""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gta_datasets.atomic import atomic_write, read_bytes
from gta_datasets.errors import CacheError
from gta_datasets.store.container import ContainerError, parse_json_object
from gta_datasets.store.files import Arrays, encode_shard, open_shard, shard_stem
from gta_datasets.store.folder import KeyFolder, is_key

__all__ = ["MANIFEST_FILE", "ShardStore", "list_stores"]

MANIFEST_FILE = "manifest.json"
_MAX_MANIFEST = 1 << 20  # bytes
_MAX_MAPS = 1024  # verified maps kept open; they hold no file descriptors
_WRITE_ATTEMPTS = 3

_logger = logging.getLogger(__name__)


class ShardStore:
    """The shards of one key, in the folder `root/key`.

    A shard is a file `shard-<index>.<blake2b of the file>.safetensors`. It is renamed into place, so that data and
    checksum appear together and processes that write the same shard write the same name. `get` checks the checksum when
    a process first opens a shard; one that fails is renamed to `<name>.bad`, reported with a warning and treated as
    missing. Shards are written once: the content of an index never changes while it is valid. If processes that raced
    without working locks left different valid files for one index, the smallest name counts, for everyone.

    Any number of processes and threads may use one folder. Opening a store touches nothing on disk; pickling it carries
    root, key and timeout, no maps. `clear` in one process leaves the arrays that others hold intact (on a local file
    system; NFS drops pages of files deleted by another machine).

    Args:
        root: the cache; resolved once, may be a link itself. Links below it are refused with CacheError.
        key: 32 hexadecimal digits from `content_key`.
        lock_timeout: seconds after which `get_or_make` stops waiting for another process that makes the same shard, and
            makes it itself.
    """

    def __init__(self, root: Path | str, key: str, *, lock_timeout: float = 600.0) -> None:
        self._folder = KeyFolder(Path(root), key)
        self._lock_timeout = lock_timeout
        # Index to verified arrays, least recently used first. Only atomic dict operations, so that threads need no lock
        # (a lock held during a fork would never be released in the child).
        self._maps: dict[int, Arrays] = {}

    def __reduce__(self) -> tuple[Callable[[Path, str, float], ShardStore], tuple[Path, str, float]]:
        return _reopen, (self.path.parent, self.key, self._lock_timeout)

    def __repr__(self) -> str:
        return f"ShardStore({str(self.path.parent)!r}, {self.key!r})"

    @property
    def path(self) -> Path:
        """The folder `root/key`, resolved; it may not exist yet."""
        return self._folder.path

    @property
    def key(self) -> str:
        return self.path.name

    @property
    def nbytes(self) -> int:
        """Bytes of all files in the folder: shards, manifest, checkpoints, leftovers."""
        return sum(status.st_size for status in self._folder.files())

    def exists(self) -> bool:
        """Whether there is a folder for the key. Raises CacheError if a link or a file is in its place."""
        return self._folder.exists()

    def get(self, index: int) -> Arrays | None:
        """The arrays of a shard, read-only and memory-mapped, or None if it is missing or was found damaged.

        Raises:
            CacheError: the shard cannot be read, is a link, or has a format version that this version does not know.
        """
        return self._get(index, None)

    def get_many(self, indices: Iterable[int]) -> list[Arrays | None]:
        """As `get`, for many shards: the folder is listed once, and several are read and verified at a time."""
        names = self._folder.shard_names()
        with ThreadPoolExecutor() as pool:  # reading and hashing release the interpreter
            return list(pool.map(lambda index: self._get(index, names.get(index, [])), indices))

    def _get(self, index: int, names: Sequence[str] | None) -> Arrays | None:
        # Taken out and put back at the end: the order of the dict is the order of use.
        arrays = self._maps.pop(index, None)
        if arrays is None:
            arrays = self._load(index, self._folder.shard_names().get(index, []) if names is None else names)
        if arrays is None:
            return None
        self._maps[index] = arrays
        while len(self._maps) > _MAX_MAPS:
            oldest = next(iter(list(self._maps)))  # of a copy: another thread may change the dict
            self._maps.pop(oldest, None)
        return dict(arrays)

    def put(self, index: int, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Commit a shard durably; does nothing if the index has a valid one.

        Raises:
            CacheError: the disk is full, the cache read-only or the like (the message names path and bytes needed), or
                an array's name or dtype is not allowed. No part of a shard is left behind.
        """
        if self.get(index) is None:
            self._write(index, arrays)

    def get_or_make(self, index: int, make: Callable[[], Mapping[str, NDArray[Any]]]) -> Arrays:
        """The arrays of a shard as `get` gives them; if it is missing, `make()` is called and its result committed.

        Processes and threads that ask for the same missing shard wait for one of them to make it, up to `lock_timeout`
        seconds, where file locks work. A hit writes nothing.

        Raises:
            CacheError: as `get` and `put`; before `make` is called if the cache is read-only.
        """
        found = self.get(index)
        if found is not None:
            return found
        self._folder.make_writable()
        with self._folder.lock(shard_stem(index), self._lock_timeout):
            found = self.get(index)
            if found is not None:
                return found
            self._folder.remove_leftovers()
            made = make()
            self._write(index, made)
        found = self.get(index)
        # Somebody may have cleared the cache since.
        return found if found is not None else {name: _frozen(array) for name, array in made.items()}

    @contextmanager
    def working(self, name: str, *, timeout: float, progress: str | None = None) -> Iterator[None]:
        """Keep other processes and threads from doing the work `name` on this key meanwhile, where file locks work.

        For work whose results the caller keeps in `path`. Who waited longer than `timeout` seconds, while the file
        `progress` in `path` did not change, goes on with a warning, beside a holder that may only be slow, so the work
        must be safe to do twice at once.

        Raises:
            CacheError: the cache is read-only, or something else is in the lock's place.
        """
        self._folder.make_writable()
        with self._folder.lock(name, timeout, progress):
            yield

    def indices(self) -> list[int]:
        """Indices of the committed shards, ascending; their checksums are not verified here."""
        return list(self._folder.shard_names())

    def verify(self) -> dict[int, bool]:
        """Read every committed shard anew: False where it was damaged (and has been set aside).

        Raises:
            CacheError: as `get`.
        """
        return {index: self.check(index) for index in self.indices()}

    def check(self, index: int) -> bool:
        """Read a shard anew: False if it is missing or was damaged (and has been set aside).

        Raises:
            CacheError: as `get`.
        """
        sound = self._load(index, self._folder.shard_names().get(index, [])) is not None
        if not sound:
            self._maps.pop(index, None)
        return sound

    def clear(self) -> None:
        """Delete the folder with all that is in it. Arrays already handed out stay valid.

        Raises:
            CacheError: something cannot be removed, or the folder is a link.
        """
        self._maps.clear()
        self._folder.remove()

    def write_manifest(self, manifest: Mapping[str, object]) -> None:
        """Store a JSON object of at most 1 MiB that says what the key stands for, replacing an earlier one.

        Raises:
            CacheError: it is not strict JSON, too large, or cannot be written.
        """
        try:
            text = json.dumps(manifest, indent=2, sort_keys=True, allow_nan=False).encode()
        except (TypeError, ValueError) as error:
            raise CacheError(f"the manifest of {self.path} is not strict JSON: {error}") from error
        if len(text) > _MAX_MANIFEST:
            raise CacheError(
                f"the manifest of {self.path} has {len(text):,} bytes; at most {_MAX_MANIFEST:,} are allowed"
            )
        self._publish(MANIFEST_FILE, [text])

    def read_manifest(self) -> dict[str, Any] | None:
        """The JSON object stored by `write_manifest`, or None. The content is untrusted: check types before use.

        Raises:
            CacheError: it is too large, not a JSON object, or a link.
        """
        path = self.path / MANIFEST_FILE
        if not self._folder.exists():
            return None
        try:
            return parse_json_object(read_bytes(path, limit=_MAX_MANIFEST))
        except FileNotFoundError:
            return None
        except ContainerError as error:
            raise CacheError(f"{path} is refused: {error}; remove it") from error

    def _load(self, index: int, names: Sequence[str]) -> Arrays | None:
        for name in names:
            arrays = open_shard(self.path / name, self.key, index)
            if arrays is not None:
                return arrays
        return None

    def _write(self, index: int, arrays: Mapping[str, NDArray[Any]]) -> None:
        name, buffers = encode_shard(self.key, index, arrays)
        self._publish(name, buffers)

    def _publish(self, name: str, buffers: Iterable[bytes | memoryview]) -> None:
        for _ in range(_WRITE_ATTEMPTS):
            self._folder.make()
            try:
                atomic_write(self.path / name, *buffers)
            except CacheError as error:
                if error.errno != errno.ENOENT:
                    raise
            else:
                return
        # As if it had been cleared just after the write.
        _logger.warning("%s is not stored: the cache was cleared every time it was written", self.path / name)


def list_stores(root: Path | str) -> list[ShardStore]:
    """The stores of all keys in a cache, by key; empty if there is no such folder. Other names in it are ignored.

    Raises:
        CacheError: the folder cannot be listed.
    """
    try:
        with os.scandir(os.path.realpath(root)) as entries:
            keys = sorted(entry.name for entry in entries if is_key(entry.name) and entry.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CacheError(
            error.errno, f"cannot list the cache {root}: {error.strerror}; choose another cache_dir"
        ) from error
    return [ShardStore(root, key) for key in keys]


def _reopen(root: Path, key: str, lock_timeout: float) -> ShardStore:
    return ShardStore(root, key, lock_timeout=lock_timeout)


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    copy = np.array(array)
    copy.setflags(write=False)
    return copy
