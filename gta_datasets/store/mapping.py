"""Read-only memory maps that hold no file descriptor."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["map_file"]


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
    address = _mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
    if address is None or address == _MAP_FAILED:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return np.asarray(_Map(address, size))


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
