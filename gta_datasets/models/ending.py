"""A learned model of which transitions end the task."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray

from gta_datasets.config import DynamicsConfig
from gta_datasets.data.episodes import FloatArray
from gta_datasets.data.reading import Source
from gta_datasets.models.reward import RewardModel

__all__ = ["EndingModel"]


SHARE = 0.25
"""Share of the transitions of a training step that end the task."""


class EndingModel(RewardModel):
    """A model of one source dataset's terminations: that of rewards that are 1 where the task ended, and 0 elsewhere.

    Args:
        source: the dataset's arrays.
        config: size and training.
        seed: of weights and batches.
        device: where the networks run.
    """

    name = "ending"
    version = 1

    def __init__(self, source: Source, config: DynamicsConfig, *, seed: int, device: torch.device) -> None:
        flags = source.episodes.terminations.astype(np.float32)
        flagged = dataclasses.replace(source.episodes, rewards=flags)
        super().__init__(dataclasses.replace(source, episodes=flagged), config, seed=seed, device=device)

    def _draw(self, generator: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.int64]:
        """Some of every batch end the task, however rare they are."""
        rows, often = super()._draw(generator, shape), generator.random(shape) < SHARE
        rows[often] = generator.choice(np.flatnonzero(self._source.episodes.rewards), int(often.sum()))
        return rows

    def ends(self, observations: FloatArray, actions: FloatArray, next_observations: FloatArray) -> NDArray[np.bool_]:
        """Which of some transitions, (n, obs_dim), (n, act_dim), (n, obs_dim), end the task, (n,)."""
        return np.asarray(self.predict(observations, actions, next_observations) > 0.5)
