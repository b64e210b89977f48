"""Read-only memory maps that hold no file descriptor."""

from __future__ import annotations

import ctypes
import errno
import itertools
import mmap
import os
import sys
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["MappedFiles", "map_file"]


def map_file(descriptor: int, size: int) -> NDArray[np.uint8]:
    """The first `size` bytes of an open file, (size,), read-only and not copied.

    The descriptor may be closed afterwards. Before Python 3.13 `mmap.mmap` duplicates it for as long as the map lives,
    so that a reader of many shards would run out of descriptors; hence the direct call of the C library.

    Raises:
        OSError: the file cannot be mapped.
    """
    if size == 0:  # what the system refuses to map
        return np.empty(0, np.uint8)
    if sys.platform == "win32":
        return np.frombuffer(mmap.mmap(descriptor, size, access=mmap.ACCESS_READ), np.uint8)
    return np.asarray(_Map(_mapped(None, size, mmap.MAP_SHARED, descriptor), size))


class MappedFiles:
    """Room for several files in one block of memory, one after the other, each starting a page.

    Values of different files are then elements of one array, and a batch is gathered from all of them at once. What is
    not filled yet reads as zeros.

    Args:
        sizes: bytes of every file.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self._starts = list(
            itertools.accumulate((-(-size // mmap.PAGESIZE) * mmap.PAGESIZE for size in sizes), initial=0)
        )
        self._sizes = list(sizes)
        self.block = self._reserve(self._starts[-1])  # (bytes,), read-only

    def fill(self, place: int, descriptor: int, size: int) -> NDArray[np.uint8]:
        """Map the first `size` bytes of an open file, which may be closed afterwards, into its place.

        Raises:
            OSError: the file cannot be mapped, or has another size than announced.
        """
        start = self._starts[place]
        if size != self._sizes[place]:
            raise OSError(errno.ESTALE, "the file was replaced by one of another size")
        if size:
            self._map(start, size, descriptor)
        return self.block[start : start + size]

    if sys.platform == "win32":

        def _reserve(self, size: int) -> NDArray[np.uint8]:
            self._memory = np.zeros(size, np.uint8)
            block = self._memory.view()
            block.flags.writeable = False
            return block

        def _map(self, start: int, size: int, descriptor: int) -> None:
            self._memory[start : start + size] = map_file(descriptor, size)

    else:

        def _reserve(self, size: int) -> NDArray[np.uint8]:
            if size == 0:
                return np.empty(0, np.uint8)
            self._address = _mapped(None, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1)
            return np.asarray(_Map(self._address, size))

        def _map(self, start: int, size: int, descriptor: int) -> None:
            _mapped(self._address + start, size, mmap.MAP_SHARED | _MAP_FIXED, descriptor)


class _Map:
    """Owner of a map; numpy keeps it alive for as long as any view of the array lives."""

    def __init__(self, address: int, size: int) -> None:
        self.__array_interface__: dict[str, Any] = {
            "data": (address, True),  # True: read-only
            "shape": (size,),
            "typestr": "|u1",
            "version": 3,
        }
        # An array that outlives the interpreter's exit handlers must not lose its memory: the system takes it back.
        weakref.finalize(self, _munmap, address, size).atexit = False


if sys.platform != "win32":
    _libc = ctypes.CDLL(None, use_errno=True)
    _mmap = _libc.mmap
    _mmap.restype = ctypes.c_void_p
    _mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    _munmap = _libc.munmap
    _munmap.restype = ctypes.c_int
    _munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    _MAP_FAILED = ctypes.c_void_p(-1).value
    _MAP_FIXED = 0x10  # the same on Linux, macOS and the BSDs; missing in Python's mmap

    def _mapped(address: int | None, size: int, flags: int, descriptor: int) -> int:
        found = _mmap(address, size, mmap.PROT_READ, flags, descriptor, 0)
        if found is None or found == _MAP_FAILED:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return int(found)
