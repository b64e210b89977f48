"""Which transitions every run sees, and the noise of its updates: functions of its seed and of the update's number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.vectorised.tables import Table
from gta_datasets.adapters.mixing import Mixture
from gta_datasets.device import to_device
from gta_datasets.seeding import numpy_generator, torch_generator

__all__ = ["CHUNK", "Draws", "Run"]

CHUNK = 100
"""Updates that are drawn at once; other numbers give other draws."""


@dataclass(frozen=True, eq=False)
class Run:
    """What one run learns from.

    Raises:
        ConfigError: a share of real data that is not allowed or cannot be had, or a seed.
    """

    table: Table
    seed: int
    real_fraction: float | None = None
    """Share of real data in every batch; None draws from all transitions alike."""

    def __post_init__(self) -> None:
        _mixture(self, 0)  # now, and not when others are trained with it


class Draws:
    """Batches of runs whose tables lie one after the other."""

    def __init__(self, runs: Sequence[Run], starts: Sequence[int], batch_size: int, device: torch.device) -> None:
        self._runs, self._starts, self._batch_size, self._device = runs, starts, batch_size, device

    def numbers(self, chunk: int) -> Tensor:
        """Rows of the batches of a chunk, (CHUNK, R, B)."""
        found = np.empty((CHUNK, len(self._runs), self._batch_size), np.int64)
        for place, (run, start) in enumerate(zip(self._runs, self._starts, strict=True)):
            mixture = _mixture(run, chunk)
            for update in range(CHUNK):
                found[update, place] = start + mixture.draw(self._batch_size)
        return to_device(found, self._device)

    def noise(self, chunk: int, size: int) -> Tensor:
        """Standard normal numbers for a chunk, (CHUNK, R, B, size)."""
        shape = (CHUNK, self._batch_size, size)
        generators = [torch_generator(run.seed, "noise", chunk, self._device) for run in self._runs]
        drawn = [torch.randn(shape, generator=generator, device=self._device) for generator in generators]
        return torch.stack(drawn, dim=1)


def _mixture(run: Run, chunk: int) -> Mixture:
    seed = int(numpy_generator(run.seed, "batches", chunk).integers(2**62))
    table = run.table
    num_generated = len(table.rows) - table.num_real
    return Mixture(table.num_real, num_generated, real_fraction=run.real_fraction, seed=seed)
