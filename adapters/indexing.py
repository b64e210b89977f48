"""Which transitions an index means, as Python's sequences, numpy and torch understand it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["resolve"]


def resolve(index: Any, size: int) -> NDArray[np.int64]:
    """Transition numbers that `index` picks from `size` transitions, in the index's own shape; () for a single number.

    Args:
        index: a number, a slice, or an array, tensor or sequence of numbers, which count from the end if negative, or
            of `size` booleans.
        size: how many transitions there are.

    Raises:
        IndexError: there is no such transition, or the index is neither whole numbers nor booleans.
    """
    if isinstance(index, slice):
        return np.arange(*index.indices(size))
    numbers = index.numpy(force=True) if isinstance(index, torch.Tensor) else np.asarray(index)
    if numbers.dtype.kind == "b" and numbers.shape == (size,):
        return np.flatnonzero(numbers)
    if numbers.dtype.kind not in "iu" and numbers.size:
        raise IndexError(f"an index of {numbers.dtype} and shape {numbers.shape} picks nothing from {size} transitions")
    numbers = numbers.astype(np.int64)
    outside = (numbers < -size) | (numbers >= size)
    if outside.any():
        raise IndexError(f"there is no transition {numbers[outside][0]}; there are {size}")
    return np.where(numbers < 0, numbers + size, numbers)
