"""Mean, spread and range of data that are read in chunks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["RunningStatistics"]


class RunningStatistics:
    """Statistics of the columns of all rows added so far, in float64 (Chan et al. 1983, pairwise updating)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: NDArray[np.float64] = np.zeros(0)  # (columns,)
        self._squares: NDArray[np.float64] = np.zeros(0)  # sum of squared deviations
        self.minimum: NDArray[Any] = np.zeros(0)
        self.maximum: NDArray[Any] = np.zeros(0)

    @property
    def std(self) -> NDArray[np.float64]:
        """Standard deviation of the population, (columns,)."""
        return np.sqrt(self._squares / self.count)

    @property
    def ceiling(self) -> NDArray[Any]:
        """`maximum`, or a number above it where it is also the minimum, so that the range can divide, (columns,)."""
        # By more than 1 where that would be lost in rounding.
        above = self.minimum + np.maximum(1, np.abs(self.minimum))
        return np.where(self.maximum > self.minimum, self.maximum, above)

    def add(self, rows: NDArray[Any]) -> None:
        """Add rows, (n, columns), at least one."""
        count, mean = len(rows), rows.mean(axis=0, dtype=np.float64)
        squares = np.square(rows - mean).sum(axis=0)
        lowest, highest = rows.min(axis=0), rows.max(axis=0)
        if self.count == 0:
            self.count, self.mean, self._squares, self.minimum, self.maximum = count, mean, squares, lowest, highest
            return
        total, difference = self.count + count, mean - self.mean
        self._squares = self._squares + squares + difference**2 * (self.count * count / total)
        self.mean = self.mean + difference * (count / total)
        self.minimum, self.maximum = np.minimum(self.minimum, lowest), np.maximum(self.maximum, highest)
        self.count = total
