"""Gymnasium spaces as flat float vectors and back.

Box elements are copied, Discrete and MultiDiscrete become one-hot blocks, MultiBinary becomes zeros and ones; Dict and
Tuple are walked in their own order. This is the only module that turns values of spaces into vectors and back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from gymnasium import Space, spaces
from minari.serialization import serialize_space
from numpy.typing import NDArray

from gta_datasets.data.episodes import FloatArray
from gta_datasets.errors import DatasetError, UnsupportedSpaceError

__all__ = ["Leaf", "SpaceCodec"]

Keys = tuple[str | int, ...]

MAX_CATEGORIES = 4096  # beyond this a one-hot block says nothing that a model could learn
SMALLEST_IMAGE = 64 * 64  # elements of a Box of several axes from which it is an image, whatever its numbers are
LARGEST_EXACT_INTEGER = 2**53 - 1  # in float64; 2**53 itself is also what 2**53 + 1 rounds to


class Leaf(NamedTuple):
    """An elementary space, and where it lies in the whole one and in the flat vector."""

    keys: Keys  # ("observation", 0): of Dict and Tuple spaces on the way; none when the whole space is one leaf
    start: int
    stop: int
    space: Space[Any]


# One class per kind of elementary space. `encode` writes values (n, *shape) into a block of columns (n, width);
# `restrict` gives the nearest block that stands for a member of the space; `decode` reads a restricted block.


class _Box:
    def __init__(self, space: spaces.Box, dtype: np.dtype[Any]) -> None:
        self.shape, self.dtype = space.shape, space.dtype
        self.width = int(np.prod(space.shape, dtype=np.int64))
        self._is_integer = space.dtype.kind != "f"
        self._lowest, self._highest = _dtype_range(space.dtype)
        self._low = np.maximum(space.low.ravel().astype(dtype), self._lowest)
        self._high = np.minimum(space.high.ravel().astype(dtype), self._highest)
        if np.any(self._low > self._high):
            raise ValueError("a Box of integers beyond 2**53 - 1, which floats do not hold exactly")

    def encode(self, values: NDArray[Any], out: FloatArray) -> None:
        if values.dtype.kind not in "fiub":
            raise ValueError(f"has dtype {values.dtype}, where numbers are needed")
        if self._is_integer and values.dtype.kind == "f":
            values = _integers(values)
        with np.errstate(over="ignore"):  # the reader reports the infinity
            out[:] = values.reshape(out.shape)
        if self._is_integer and np.any(np.abs(out) > LARGEST_EXACT_INTEGER):
            raise ValueError("holds integers beyond 2**53 - 1, which floats do not hold exactly")

    def restrict(self, block: FloatArray, clip: bool) -> FloatArray:
        limits = (self._low, self._high) if clip else (self._lowest, self._highest)
        block = np.clip(block, *limits).astype(block.dtype, copy=False)
        if self._is_integer:
            return np.rint(block)
        return block.astype(self.dtype).astype(block.dtype)

    def decode(self, block: FloatArray) -> NDArray[Any]:
        return block.astype(self.dtype).reshape(len(block), *self.shape)


class _Categorical:
    def __init__(self, space: spaces.Discrete[Any] | spaces.MultiDiscrete[Any]) -> None:
        counts = np.atleast_1d(np.asarray(space.n if isinstance(space, spaces.Discrete) else space.nvec)).ravel()
        self._counts = counts.astype(np.int64)
        self._start = np.atleast_1d(np.asarray(space.start)).ravel().astype(np.int64)
        if np.any(self._counts > MAX_CATEGORIES):
            raise ValueError(f"a choice among {self._counts.max()} categories (the one-hot limit is {MAX_CATEGORIES})")
        self._offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(self._counts)])
        self.width = int(self._offsets[-1])
        self.shape, self.dtype = space.shape or (), np.dtype(space.dtype)

    def encode(self, values: NDArray[Any], out: FloatArray) -> None:
        choices = _integers(values).reshape(len(out), len(self._counts)) - self._start
        if np.any((choices < 0) | (choices >= self._counts)):
            raise ValueError("holds values outside of the space")
        out[:] = 0.0
        np.put_along_axis(out, choices + self._offsets[:-1], 1.0, axis=1)

    def restrict(self, block: FloatArray, _clip: bool) -> FloatArray:
        result = np.zeros_like(block)
        np.put_along_axis(result, self._choices(block) + self._offsets[:-1], 1.0, axis=1)
        return result

    def decode(self, block: FloatArray) -> NDArray[Any]:
        return (self._choices(block) + self._start).astype(self.dtype).reshape(len(block), *self.shape)

    def _choices(self, block: FloatArray) -> NDArray[np.int64]:
        bounds = zip(self._offsets[:-1], self._offsets[1:], strict=True)
        columns = [block[:, start:stop].argmax(axis=1) for start, stop in bounds]
        return np.stack(columns, axis=1) if columns else np.zeros((len(block), 0), np.int64)


class _Binary:
    def __init__(self, space: spaces.MultiBinary) -> None:
        self.shape, self.dtype = space.shape, np.dtype(np.int8)
        self.width = int(np.prod(space.shape, dtype=np.int64))

    def encode(self, values: NDArray[Any], out: FloatArray) -> None:
        bits = _integers(values)
        if np.any((bits != 0) & (bits != 1)):
            raise ValueError("holds values other than 0 and 1")
        out[:] = bits.reshape(out.shape)

    def restrict(self, block: FloatArray, _clip: bool) -> FloatArray:
        return (block > 0.5).astype(block.dtype)

    def decode(self, block: FloatArray) -> NDArray[Any]:
        return block.astype(self.dtype).reshape(len(block), *self.shape)


_Part = _Box | _Categorical | _Binary


@dataclass(frozen=True, eq=False)
class SpaceCodec:
    """Batches of one space as `(n, size)` float arrays, exactly and both ways.

    Make it with `SpaceCodec.of`. A batch is what Minari gives in an `EpisodeData`: an array, or nested dicts and tuples
    of arrays, with a leading `n`.
    """

    space: Space[Any]
    name: str  # what the space is for; used in messages
    leaves: tuple[Leaf, ...]
    size: int  # columns of the flat array
    dtype: np.dtype[Any]  # float32, or float64 where float32 would lose digits
    _parts: tuple[_Part, ...] = field(repr=False)

    @classmethod
    def of(cls, space: Space[Any], *, name: str = "observation") -> SpaceCodec:
        """The codec of `space`; UnsupportedSpaceError names the part that has no float form (images, text, ...)."""
        found = list(_walk(space, ()))
        dtype = np.result_type(np.float32, *(_flat_dtype(leaf) for _, leaf in found))
        leaves, parts, start = [], [], 0
        for keys, leaf in found:
            part = _part(leaf, dtype, _where(name, keys))
            leaves.append(Leaf(keys, start, start + part.width, leaf))
            parts.append(part)
            start += part.width
        if start == 0:
            raise UnsupportedSpaceError(f"the {name} space {space} has no elements; there is nothing to model in it")
        return cls(space, name, tuple(leaves), start, dtype, tuple(parts))

    @property
    def identity(self) -> str:
        """The space in full, every bound with all its digits (`repr` shortens them)."""
        return str(serialize_space(self.space))

    def count(self, batch: Any) -> int:
        """Rows of `batch`, by its first leaf."""
        return len(self._pick(batch, self.leaves[0]))

    def flatten(self, batch: Any, out: FloatArray | None = None) -> FloatArray:
        """`batch` as `(n, size)` of `dtype`, in `out` if given; DatasetError names the part that does not fit."""
        arrays = [self._pick(batch, leaf) for leaf in self.leaves]
        if out is None:
            out = np.empty((len(arrays[0]), self.size), self.dtype)
        rows = len(out)
        for values, leaf, part in zip(arrays, self.leaves, self._parts, strict=True):
            if len(values) != rows or values.size != rows * int(np.prod(part.shape, dtype=np.int64)):
                raise DatasetError(f"{self._where(leaf)} has shape {values.shape}; expected {(rows, *part.shape)}")
            try:
                part.encode(values, out[:, leaf.start : leaf.stop])
            except ValueError as error:
                raise DatasetError(f"{self._where(leaf)} {error}") from error
        return out

    def unflatten(self, flat: FloatArray, *, clip: bool = True) -> Any:
        """The nested batch that `flat (n, size)` stands for, in the space's own dtypes.

        Every sample lies in the space: Box values are clipped to its finite bounds, integers rounded, categories taken
        by argmax, bits by the threshold 0.5. With `clip=False` Box values outside of the bounds stay as they are, so
        that recorded data come back unchanged. DatasetError if `flat` has another width or is not finite.
        """
        blocks = zip(self._parts, self._blocks(flat), strict=True)
        return _nest(self.space, iter([part.decode(part.restrict(block, clip)) for part, block in blocks]))

    def project(self, flat: FloatArray) -> FloatArray:
        """The flat form of `unflatten(flat)`, without leaving flat form; idempotent."""
        blocks = [part.restrict(block, True) for part, block in zip(self._parts, self._blocks(flat), strict=True)]
        return np.concatenate(blocks, axis=1)

    def column_name(self, column: int) -> str:
        """The part of the space that a flat column belongs to, for messages."""
        return next(self._where(leaf) for leaf in self.leaves if leaf.start <= column < leaf.stop)

    def _where(self, leaf: Leaf) -> str:
        return _where(self.name, leaf.keys)

    def _pick(self, batch: Any, leaf: Leaf) -> NDArray[Any]:
        for key in leaf.keys:
            held = key in batch if isinstance(batch, Mapping) else isinstance(key, int) and key < len(batch)
            if not held:
                raise DatasetError(f"{self._where(leaf)} is in the space but not in the data: no entry {key!r}")
            batch = batch[key]
        return np.atleast_1d(np.asarray(batch))

    def _blocks(self, flat: FloatArray) -> list[FloatArray]:
        flat = np.asarray(flat, self.dtype)
        if flat.ndim != 2 or flat.shape[1] != self.size:
            raise DatasetError(f"flat {self.name} has shape {flat.shape}; expected (n, {self.size})")
        if not np.isfinite(flat).all():
            row, column = np.argwhere(~np.isfinite(flat))[0]
            raise DatasetError(f"{self.column_name(column)} is {flat[row, column]} in row {row}; it must be finite")
        return [flat[:, leaf.start : leaf.stop] for leaf in self.leaves]


def _where(name: str, keys: Keys) -> str:
    """A part of a space, for messages: "observation/goal/0"."""
    return "/".join((name, *map(str, keys)))


def _walk(space: Space[Any], keys: Keys) -> Iterator[tuple[Keys, Space[Any]]]:
    if isinstance(space, spaces.Dict | spaces.Tuple):
        for key, child in space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces):
            yield from _walk(child, (*keys, key))
    else:
        yield keys, space


def _nest(space: Space[Any], arrays: Iterator[NDArray[Any]]) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: _nest(child, arrays) for key, child in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_nest(child, arrays) for child in space.spaces)
    return next(arrays)


def _part(space: Space[Any], dtype: np.dtype[Any], where: str) -> _Part:
    try:
        if isinstance(space, spaces.Box):
            if _is_image(space):
                raise ValueError(f"an image of shape {space.shape}")
            if space.dtype.itemsize > 8:
                raise ValueError(f"a Box of {space.dtype}, which is wider than float64")
            return _Box(space, dtype)
        if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
            return _Categorical(space)
        if isinstance(space, spaces.MultiBinary):
            return _Binary(space)
        raise ValueError(f"a {type(space).__name__} space")
    except ValueError as error:
        raise UnsupportedSpaceError(
            f"{where} is {error}; supported are Box, Discrete, MultiDiscrete, MultiBinary and Dict or Tuple of these. "
            f"Rebuild the dataset without it, or with its features as a Box of one axis in its place."
        ) from error


def _is_image(space: spaces.Box) -> bool:
    bytes_of_full_range = space.dtype == np.uint8 and bool(np.all(space.low == 0) and np.all(space.high == 255))
    large = np.prod(space.shape, dtype=np.int64) >= SMALLEST_IMAGE
    return sum(size > 1 for size in space.shape) >= 2 and bool(bytes_of_full_range or large)


def _flat_dtype(space: Space[Any]) -> np.dtype[Any]:
    wide = isinstance(space, spaces.Box) and space.dtype.itemsize > (4 if space.dtype.kind == "f" else 2)
    return np.dtype(np.float64 if wide else np.float32)


def _dtype_range(dtype: np.dtype[Any]) -> tuple[float, float]:
    if dtype.kind == "f":
        return float(np.finfo(dtype).min), float(np.finfo(dtype).max)
    info = np.iinfo(np.uint8 if dtype.kind == "b" else dtype)
    highest = 1 if dtype.kind == "b" else info.max
    return float(max(info.min, -LARGEST_EXACT_INTEGER)), float(min(highest, LARGEST_EXACT_INTEGER))


def _integers(values: NDArray[Any]) -> NDArray[np.int64]:
    """`values` as int64; ValueError for fractions, NaN and what is not a number."""
    if values.dtype.kind not in "fiub":
        raise ValueError(f"has dtype {values.dtype}, where integers are needed")
    if values.dtype.kind == "f" and not (np.isfinite(values).all() and np.array_equal(values, np.rint(values))):
        raise ValueError("holds values that are not integers")
    return values.astype(np.int64)
