"""A learned estimate of how long an episode goes on (ATraDiff, arXiv 2406.04323: the length estimator)."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray

from gta_datasets.config import DynamicsConfig
from gta_datasets.data.episodes import FloatArray
from gta_datasets.data.reading import Source
from gta_datasets.models.ensemble import StateModel

__all__ = ["LengthModel"]


class LengthModel(StateModel):
    """A model of the transitions that are left of an episode, of one source dataset.

    It predicts the logarithm: what matters is the share by which an estimate is off. Episodes that were cut count as if
    they had ended there.

    Args:
        source: the dataset's arrays.
        config: size and training.
        seed: of weights and batches.
        device: where the networks run.
    """

    name = "length"
    version = 1

    def __init__(self, source: Source, config: DynamicsConfig, *, seed: int, device: torch.device) -> None:
        episodes = source.episodes
        # What the other models call rewards is what this one predicts.
        timed = dataclasses.replace(episodes, rewards=np.log(episodes.remaining).astype(np.float32))
        super().__init__(dataclasses.replace(source, episodes=timed), config, seed=seed, device=device)

    def predict(self, observations: FloatArray) -> NDArray[np.float64]:
        """Transitions from `observations` (n, obs_dim) to the end of the episode, (n,), at least 1."""
        return np.maximum(np.exp(self._found_for(observations)), 1.0)
