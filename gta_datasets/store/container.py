"""The bytes of a shard: named arrays in a safetensors file, read with strict bounds.

Format (https://github.com/huggingface/safetensors#format): an unsigned 64-bit little-endian length, a JSON header of
that length, then the arrays back to back. Stock safetensors reads what `encode` writes. `decode` accepts nothing that
stock safetensors refuses, bounds everything before it is used, and makes views instead of copies.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gta_datasets.errors import CacheError

__all__ = ["ContainerError", "decode", "encode", "parse_json_object"]

_DTYPES = {
    "BOOL": np.dtype("?"),
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "F16": np.dtype("<f2"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "F32": np.dtype("<f4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F64": np.dtype("<f8"),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_METADATA = "__metadata__"
_MAX_HEADER = 1 << 20  # bytes
_MAX_DIMS = 8
_MAX_BYTES = 1 << 48  # of an array, counting empty axes as 1: far from where numpy's index arithmetic overflows
_ALIGNMENT = 8  # bytes: the widest dtype


class ContainerError(ValueError):
    """Bytes in another form than that of `encode`; the message says what is wrong with them."""


def encode(arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> list[bytes | memoryview]:
    """The file's content as buffers to be written one after the other; contiguous arrays are not copied.

    Raises:
        CacheError: a name, dtype or shape that a shard cannot hold.
    """
    columns = {name: _column(name, array) for name, array in arrays.items()}
    # Widest first, so that every array lies at a multiple of its item size.
    names = sorted(columns, key=lambda name: (-columns[name].itemsize, name))
    header: dict[str, object] = {_METADATA: dict(metadata)}
    stop = 0
    for name in names:
        column = columns[name]
        start, stop = stop, stop + column.nbytes
        header[name] = {"dtype": _CODES[column.dtype], "shape": column.shape, "data_offsets": (start, stop)}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    if len(text) > _MAX_HEADER:
        raise CacheError(
            f"{len(columns)} arrays need a header of {len(text):,} bytes; at most {_MAX_HEADER:,} are allowed"
        )
    filled = [columns[name] for name in names if columns[name].size]
    return [struct.pack("<Q", len(text)) + text, *(column.reshape(-1).view(np.uint8).data for column in filled)]


def decode(data: NDArray[np.uint8]) -> tuple[dict[str, str], dict[str, NDArray[Any]]]:
    """Metadata and arrays of a file's content (size,); the arrays are views of `data`.

    Raises:
        ContainerError: any other form than that of `encode`.
    """
    start = 8
    if len(data) < start:
        raise ContainerError(f"{len(data)} bytes are too few for a header")
    (length,) = struct.unpack("<Q", data[:start].tobytes())
    if length > min(_MAX_HEADER, len(data) - start):
        raise ContainerError(f"a header of {length:,} bytes does not fit in the file or the limit of {_MAX_HEADER:,}")
    if length % _ALIGNMENT:
        raise ContainerError(f"a header of {length:,} bytes leaves the arrays unaligned")
    header = parse_json_object(data[start : start + length].tobytes())
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ContainerError("the metadata are not a mapping of strings")
    return metadata, _views(header, data[start + length :])


def parse_json_object(text: bytes) -> dict[str, Any]:
    """Strict JSON: one object, no repeated names, no NaN or infinity, nested no deeper than Python's parser can go.

    Raises:
        ContainerError: anything else.
    """
    if not text.startswith(b"{"):
        raise ContainerError("the text does not start a JSON object")
    try:
        parsed = json.loads(text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ContainerError(f"the text is not strict JSON: {error}") from error
    result: dict[str, Any] = parsed
    return result


def _column(name: str, array: NDArray[Any]) -> NDArray[Any]:
    """`array` as it lies in the file: C order, little-endian."""
    if not _NAME.fullmatch(name) or name == _METADATA:
        raise CacheError(f"{name!r} cannot name an array; allowed are 1 to 128 of the characters A-Z a-z 0-9 _ . -")
    dtype = array.dtype.newbyteorder("<")
    if dtype not in _CODES:
        allowed = ", ".join(sorted(str(known) for known in _CODES))
        raise CacheError(f"array {name!r} has dtype {array.dtype}; allowed are {allowed}")
    if array.ndim > _MAX_DIMS or _spread(array.shape) * dtype.itemsize > _MAX_BYTES:
        raise CacheError(
            f"array {name!r} of shape {array.shape} is too large; allowed are {_MAX_DIMS} axes, 2^48 bytes"
        )
    return np.asarray(array, dtype=dtype, order="C")


def _views(entries: dict[str, Any], data: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    parsed = sorted((_entry(name, entry) for name, entry in entries.items()), key=lambda item: item[3:])
    views = {}
    expected = 0
    for name, dtype, shape, start, stop in parsed:
        if start != expected:
            raise ContainerError(f"array {name!r} starts at byte {start:,} where byte {expected:,} is next")
        if stop > len(data) or stop - start != math.prod(shape) * dtype.itemsize or start % dtype.itemsize:
            raise ContainerError(f"array {name!r} of {dtype} {shape} does not lie at bytes {start:,} to {stop:,}")
        if dtype.kind == "b" and stop > start and data[start:stop].max() > 1:
            raise ContainerError(f"array {name!r} holds bytes that are no booleans")
        views[name] = data[start:stop].view(dtype).reshape(shape)
        expected = stop
    if expected != len(data):
        raise ContainerError(f"the file holds {len(data):,} bytes of arrays where {expected:,} are described")
    return views


def _entry(name: str, entry: object) -> tuple[str, np.dtype[Any], tuple[int, ...], int, int]:
    """Name, dtype, shape, first byte and end of one array, each checked by itself."""
    if not _NAME.fullmatch(name) or not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ContainerError(f"array {name[:128]!r} is not described by a name, dtype, shape and data_offsets")
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(code, str) or code not in _DTYPES:
        raise ContainerError(f"array {name!r} has a dtype that is not allowed")
    if not _naturals(shape) or len(shape) > _MAX_DIMS or not _naturals(offsets) or len(offsets) != 2:
        raise ContainerError(f"array {name!r} has a shape or data_offsets that are not lists of sizes")
    dtype = _DTYPES[code]
    if _spread(tuple(shape)) * dtype.itemsize > _MAX_BYTES:
        raise ContainerError(f"array {name!r} has a shape beyond 2^48 bytes")
    return name, dtype, tuple(shape), offsets[0], offsets[1]


def _naturals(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _spread(shape: tuple[int, ...]) -> int:
    return math.prod(max(axis, 1) for axis in shape)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name is repeated")
    return result


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
