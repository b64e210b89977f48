"""A learned model of which transitions end the task."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from gta_datasets.config import DynamicsConfig
from gta_datasets.data.episodes import FloatArray
from gta_datasets.data.reading import Source
from gta_datasets.models.ensemble import NormalisedTransitions
from gta_datasets.models.reward import RewardModel

__all__ = ["EndingModel"]

SHARE = 0.25
"""Share of the draws of a training step that are among the transitions that end the task."""

CERTAIN = 40.0
"""Log-odds whose probability is 1 in double precision."""

HALVINGS = 32  # of an interval of some hundred at most


class EndingModel(RewardModel):
    """A model of one source dataset's terminations: that of rewards that are 1 where the task ended, and 0 elsewhere.

    It learns log-odds, from batches in which terminations are more frequent than in the dataset. That adds the same
    number to all of them (King and Zeng 2001, Logistic Regression in Rare Events Data). Predictions are without it:
    over the dataset, their mean is the share of transitions that end the task. The number is found from this, because
    the formula for it holds only for a model without errors.

    Args:
        source: the dataset's arrays; some transition ends the task.
        config: size and training.
        seed: of weights and batches.
        device: where the networks run.
    """

    name = "ending"
    version = 2

    def __init__(self, source: Source, config: DynamicsConfig, *, seed: int, device: torch.device) -> None:
        flags = source.episodes.terminations.astype(np.float32)
        flagged = dataclasses.replace(source.episodes, rewards=flags)
        super().__init__(dataclasses.replace(source, episodes=flagged), config, seed=seed, device=device)
        self._endings = np.flatnonzero(flags)
        self._excess = 0.0  # of the learned log-odds

    def fit(self, folder: Path, *, progress: bool) -> str:
        digest = super().fit(folder, progress=progress)
        self._excess = self._found_excess()
        return digest

    def restore(self, weights: Mapping[str, Tensor]) -> None:
        super().restore(weights)
        self._excess = self._found_excess()

    def predict(
        self, observations: FloatArray, actions: FloatArray, next_observations: FloatArray
    ) -> NDArray[np.float64]:
        """How likely transitions (n, obs_dim), (n, act_dim), (n, obs_dim) end the task, (n,)."""
        return _probabilities(self._log_odds(observations, actions, next_observations) - self._excess)

    def _log_odds(
        self, observations: FloatArray, actions: FloatArray, next_observations: FloatArray
    ) -> NDArray[np.float64]:
        """As they were learned, (n,)."""
        log_odds = np.empty(len(observations))
        for part, predicted, _ in self._predicted(observations, actions, next_observations):
            log_odds[part] = predicted[:, 0]
        return log_odds

    def _found_excess(self) -> float:
        """By bisection: the more is taken away, the fewer terminations are predicted."""
        episodes = self._source.episodes
        states = episodes.observations[episodes.transition_rows]
        log_odds = self._log_odds(states, episodes.actions, episodes.next_observations)
        rate = episodes.rewards.mean(dtype=np.float64)
        low, high = log_odds.min() - CERTAIN, log_odds.max() + CERTAIN
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if _probabilities(log_odds - middle).mean() > rate else (low, middle)
        return float(high)

    def _targets(self, transitions: NormalisedTransitions) -> NDArray[np.float32]:
        return self._columns.reward.inverse(transitions.labels).astype(np.float32)

    def _error(self, predicted: Tensor, targets: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(predicted, targets)

    def _draw(self, generator: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.int64]:
        """Some of every batch end the task, however rare they are."""
        rows, often = super()._draw(generator, shape), generator.random(shape) < SHARE
        rows[often] = generator.choice(self._endings, int(often.sum()))
        return rows


def _probabilities(log_odds: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.exp(-np.logaddexp(0.0, -log_odds)))
