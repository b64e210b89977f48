"""A learned forward model: next state and reward from state and action."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gta_datasets.data.episodes import Episodes, FloatArray
from gta_datasets.models.ensemble import LearnedModel, NormalisedTransitions

__all__ = ["DynamicsModel"]


class DynamicsModel(LearnedModel):
    """A forward model of one source dataset."""

    name = "dynamics"
    version = 2

    def errors(self, episodes: Episodes) -> NDArray[np.float64]:
        """Squared difference between predicted and given next observation, (N,).

        The mean over the columns that vary within episodes, in units of the source's standard deviations: the dynamics
        error of GTA, appendix D, with the model in place of the simulator.
        """
        found = np.empty(episodes.num_transitions)
        rows = episodes.transition_rows
        observations, following = episodes.observations[rows], episodes.observations[rows + 1]
        for part, predicted, transitions in self._predicted(observations, episodes.actions, following):
            difference = (predicted[:, :-1] - transitions.changes) * self._change_scale
            # Where nothing varies there is nothing to miss.
            found[part] = np.square(difference, dtype=np.float64).sum(axis=1) / max(1, difference.shape[1])
        return found

    def predict(self, observations: FloatArray, actions: FloatArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Next observations (n, obs_dim) and rewards (n,) for `observations` (n, obs_dim) and `actions` (n, act_dim).

        In the dataset's own units; columns that are constant within every episode stay as they are.
        """
        following, rewards = np.empty(observations.shape), np.empty(len(observations))
        for part, predicted, transitions in self._predicted(observations, actions, observations):
            states = transitions.states + predicted[:, :-1] * self._change_scale
            following[part] = self._columns.with_states(observations[part], states)
            rewards[part] = self._columns.reward.inverse(predicted[:, -1:])[:, 0]
        return following, rewards

    def _inputs(self, transitions: NormalisedTransitions) -> NDArray[np.float32]:
        return np.concatenate([transitions.states, transitions.constants, transitions.actions], axis=1)

    def _targets(self, transitions: NormalisedTransitions) -> NDArray[np.float32]:
        return np.concatenate([transitions.changes, transitions.labels], axis=1)
