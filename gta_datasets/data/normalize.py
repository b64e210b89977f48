"""Per-column standardisation, fitted in float64 and in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gta_datasets.data.episodes import FloatArray

__all__ = ["Standardizer", "chunks"]

CHUNK_ROWS = 65_536


def chunks(rows: int, size: int = CHUNK_ROWS) -> Iterator[slice]:
    """Slices that cover `rows` rows."""
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


@dataclass(frozen=True)
class Standardizer:
    """`(x - mean) / scale` per column; a constant column maps to 0, and anything maps back to its constant."""

    mean: NDArray[np.float64]  # (D,)
    scale: NDArray[np.float64]  # (D,), 1 where constant
    constant: NDArray[np.bool_]  # (D,)

    @classmethod
    def fit(cls, values: FloatArray) -> Standardizer:
        """Fit to `values` (N, D), N at least 1."""
        width = values.shape[1]
        constant = values.min(axis=0) == values.max(axis=0)
        mean, squares = np.zeros(width), np.zeros(width)
        for part in chunks(len(values)):
            mean += values[part].sum(axis=0, dtype=np.float64)
        mean = np.where(constant, values[0], mean / len(values))
        for part in chunks(len(values)):
            squares += np.square(values[part] - mean).sum(axis=0)
        scale = np.sqrt(squares / len(values))
        return cls(mean, np.where(constant | (scale == 0), 1.0, scale), constant)

    def forward(self, values: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Normalised float32 values (..., D)."""
        return np.asarray((values - self.mean) / self.scale, np.float32)

    def inverse(self, values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Values in their own units (..., D), float64."""
        units = np.asarray(values, np.float64) * self.scale + self.mean
        return np.where(self.constant, self.mean, units)

    def widened(self, values: FloatArray, most: float) -> Standardizer:
        """For columns that may take other values later: nothing is constant, and scales are larger where needed.

        Args:
            values: among which what is to come lies, (N, D).
            most: none of them lies further from the mean, in scales.
        """
        farthest = np.abs(np.stack([values.min(axis=0), values.max(axis=0)]) - self.mean).max(axis=0)
        return Standardizer(self.mean, np.maximum(self.scale, farthest / most), np.zeros_like(self.constant))

    def select(self, columns: NDArray[np.bool_]) -> Standardizer:
        """The statistics of some columns."""
        return Standardizer(self.mean[columns], self.scale[columns], self.constant[columns])
