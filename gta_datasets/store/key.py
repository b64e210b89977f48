"""The key of a cache folder: a hash of everything that the data in it depend on."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gta_datasets.errors import ConfigError

__all__ = ["KeyPart", "content_key"]

KeyPart: TypeAlias = "Mapping[str, KeyPart] | Sequence[KeyPart] | NDArray[np.generic] | str | int | float | bool | None"

_BLOCK = 1 << 24  # bytes copied at a time from arrays that are not contiguous


def content_key(parts: Mapping[str, KeyPart]) -> str:
    """32 hexadecimal digits (blake2b) that identify the content of `parts`.

    The encoding hashed is canonical and unambiguous: every value carries a type tag and its length, the order of a
    mapping's entries does not matter, tuples equal lists, and 1, 1.0 and True differ. Arrays count with dtype, shape
    and values; contiguous ones are not copied. The key is the same in every process and on every machine.

    Raises:
        ConfigError: a value of another type, or a mapping key that is not a string; the message names its place.
    """
    digest = hashlib.blake2b(digest_size=16, person=b"gta-datasets key")
    _add(digest, parts, "parts")
    return digest.hexdigest()


def _add(digest: hashlib.blake2b, value: object, where: str) -> None:
    if value is None:
        digest.update(b"N")
    elif isinstance(value, bool):
        digest.update(b"T" if value else b"F")
    elif isinstance(value, int):
        _add_bytes(digest, b"I", b"%d" % value)
    elif isinstance(value, float):
        digest.update(b"D" + struct.pack("<d", value))
    elif isinstance(value, str):
        _add_bytes(digest, b"S", value.encode("utf-8", "surrogatepass"))
    elif isinstance(value, np.ndarray):
        _add_array(digest, value, where)
    elif isinstance(value, Mapping):
        _add_mapping(digest, value, where)
    elif isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        digest.update(b"L" + struct.pack("<Q", len(value)))
        for position, item in enumerate(value):
            _add(digest, item, f"{where}[{position}]")
    else:
        raise ConfigError(
            f"{where} is a {type(value).__name__}, which cannot be part of a cache key; allowed are mappings, "
            "sequences, numpy arrays, str, int, float, bool and None (.item() turns a numpy scalar into one of these)"
        )


def _add_bytes(digest: hashlib.blake2b, tag: bytes, data: bytes) -> None:
    digest.update(tag + struct.pack("<Q", len(data)) + data)


def _add_mapping(digest: hashlib.blake2b, value: Mapping[Any, object], where: str) -> None:
    for name in value:
        if not isinstance(name, str):
            raise ConfigError(f"{where} has the key {name!r}; only strings are allowed as keys")
    digest.update(b"M" + struct.pack("<Q", len(value)))
    for name in sorted(value):
        _add(digest, name, where)
        _add(digest, value[name], f"{where}[{name!r}]")


def _add_array(digest: hashlib.blake2b, array: NDArray[Any], where: str) -> None:
    if array.dtype.kind not in "biufc" or array.dtype.char in "gG":
        raise ConfigError(
            f"{where} is an array of dtype {array.dtype}, which cannot be part of a cache key; allowed are bool, "
            "integer, float and complex arrays of fixed width"
        )
    little = array.dtype.newbyteorder("<")
    _add_bytes(digest, b"A", little.str.encode())
    digest.update(struct.pack(f"<{array.ndim + 1}Q", array.ndim, *array.shape))
    if array.flags.c_contiguous and array.dtype == little:
        digest.update(array.data)
        return
    rows = np.atleast_1d(array)
    step = max(1, _BLOCK // max(1, rows[:1].nbytes))
    for start in range(0, len(rows), step):
        digest.update(np.ascontiguousarray(rows[start : start + step], dtype=little).data)
