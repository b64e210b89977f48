"""A learned inverse model: the action that leads from one state to the next (DiffStitch, arXiv 2402.02439, 4.3)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gta_datasets.data.episodes import FloatArray
from gta_datasets.models.ensemble import LearnedModel, NormalisedTransitions

__all__ = ["InverseDynamicsModel"]


class InverseDynamicsModel(LearnedModel):
    """An inverse model of one source dataset."""

    name = "inverse dynamics"
    version = 2

    def predict(self, observations: FloatArray, next_observations: FloatArray) -> NDArray[np.float64]:
        """Actions (n, act_dim) that lead from `observations` (n, obs_dim) to `next_observations` (n, obs_dim).

        In the dataset's own units; whether the action space allows them is not checked.
        """
        statistics = self._columns.action
        actions = np.empty((len(observations), self._columns.num_actions))
        for part, predicted, _ in self._predicted(observations, np.zeros_like(actions), next_observations):
            actions[part] = statistics.inverse(predicted)
        return actions

    def _inputs(self, transitions: NormalisedTransitions) -> NDArray[np.float32]:
        return np.concatenate([transitions.states, transitions.constants, transitions.changes], axis=1)

    def _targets(self, transitions: NormalisedTransitions) -> NDArray[np.float32]:
        return transitions.actions
