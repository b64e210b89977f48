"""A learned reward model (DiffStitch, arXiv 2402.02439, 4.3; GTA, appendix, reward relabelling)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gta_datasets.data.episodes import FloatArray
from gta_datasets.models.ensemble import LearnedModel, NormalisedTransitions

__all__ = ["RewardModel"]


class RewardModel(LearnedModel):
    """A model of one source dataset's rewards.

    The next state enters beside state and action: where it is known, as in a generated trajectory, a reward for the way
    covered can be read from it.
    """

    name = "reward"
    version = 2

    def predict(
        self, observations: FloatArray, actions: FloatArray, next_observations: FloatArray
    ) -> NDArray[np.float64]:
        """Rewards (n,) of transitions (n, obs_dim), (n, act_dim), (n, obs_dim), in the dataset's own units."""
        rewards = np.empty(len(observations))
        for part, predicted, _ in self._predicted(observations, actions, next_observations):
            rewards[part] = self._columns.reward.inverse(predicted)[:, 0]
        return rewards

    def _inputs(self, transitions: NormalisedTransitions) -> NDArray[np.float32]:
        return np.concatenate(
            [transitions.states, transitions.constants, transitions.actions, transitions.changes], axis=1
        )

    def _targets(self, transitions: NormalisedTransitions) -> NDArray[np.float32]:
        return transitions.labels
