"""A learned estimate of how long an episode goes on (ATraDiff, arXiv 2406.04323: the length estimator)."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray

from gta_datasets.config import DynamicsConfig
from gta_datasets.data.episodes import FloatArray
from gta_datasets.data.reading import Source
from gta_datasets.models.ensemble import LearnedModel, NormalisedTransitions

__all__ = ["LengthModel"]


class LengthModel(LearnedModel):
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
        left = np.empty(len(observations))
        actions = np.zeros((len(observations), self._columns.num_actions), np.float32)
        for part, predicted, _ in self._predicted(observations, actions, observations):
            left[part] = np.exp(self._columns.reward.inverse(predicted)[:, 0])
        return np.maximum(left, 1.0)

    def _inputs(self, transitions: NormalisedTransitions) -> NDArray[np.float32]:
        return np.concatenate([transitions.states, transitions.constants], axis=1)

    def _targets(self, transitions: NormalisedTransitions) -> NDArray[np.float32]:
        return transitions.labels
