"""Real or generated episodes as adapters read them: with their place in time and their returns-to-go."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gta_datasets.config import SamplingConfig
from gta_datasets.data.episodes import Episodes, FloatArray
from gta_datasets.data.returns import asked_returns, returns_to_go
from gta_datasets.data.table import EpisodeTable
from gta_datasets.pipeline import Generated

__all__ = ["Part", "ReturnToGo", "Subsequences"]

ReturnToGo = Literal["amplified", "source"]
"""Where the return-to-go of a generated trajectory starts: at its source window's, amplified or as it is."""


class Subsequences(NamedTuple):
    """Windows of `L` steps, padded with zeros on the left."""

    observations: FloatArray  # (B, L, obs_dim)
    actions: FloatArray  # (B, L, act_dim)
    rewards: FloatArray  # (B, L)
    returns_to_go: NDArray[np.float32]  # (B, L) undiscounted
    timesteps: NDArray[np.int64]  # (B, L) steps since the start of the (source) episode, from 0
    mask: NDArray[np.bool_]  # (B, L) False where padded
    terminated: NDArray[np.bool_]  # (B,) whether the last step ended the task


class Part:
    """Episodes of one kind.

    Args:
        episodes: where they lie.
        first_timestep: step of the environment's episode at which each begins, (E,).
        start_return: gives the undiscounted return-to-go at the first step of each, (E,).
    """

    def __init__(
        self,
        episodes: EpisodeTable,
        first_timestep: NDArray[np.int64],
        start_return: Callable[[ReturnToGo], NDArray[np.float64]],
    ) -> None:
        self.episodes, self.first_timestep, self.start_return = episodes, first_timestep, start_return
        self._returns_to_go: dict[ReturnToGo, NDArray[np.float32]] = {}

    @classmethod
    def of_real(cls, episodes: EpisodeTable) -> Part:
        """Recorded episodes: each begins at step 0, and its return is the sum of its rewards."""
        part = cls(episodes, np.zeros(episodes.num_episodes, np.int64), lambda _: part.episode_returns)
        return part

    @classmethod
    def of_generated(cls, generated: Generated, source: Episodes, sampling: SamplingConfig) -> Part:
        """Generated trajectories begin where their source windows do, with the source's return-to-go (GTA, E.4)."""

        def start_return(kind: ReturnToGo) -> NDArray[np.float64]:
            every = returns_to_go(source, discount=1.0)
            of_window: NDArray[np.float64] = every[source.offsets[generated.source_episode] + generated.source_start]
            if kind == "source":
                return of_window
            return asked_returns(of_window, sampling, best=float(every.max())).astype(np.float64)

        return cls(generated.episodes, generated.source_start, start_return)

    def next_actions(self, numbers: NDArray[np.integer]) -> FloatArray:
        """Actions that follow the transitions `numbers` (B,), (B, act_dim); zeros after the last of an episode."""
        episode, step = self.episodes.locate(numbers)
        inside = step + 1 < self.episodes.lengths[episode]
        found: FloatArray = self.episodes.actions.rows(episode, step + inside) * inside[:, None]
        return found

    def subsequences(self, numbers: NDArray[np.integer], length: int, kind: ReturnToGo) -> Subsequences:
        """Up to `length` steps of an episode that end with the transitions `numbers` (B,)."""
        last_episode, last_step = self.episodes.locate(numbers)
        steps = last_step[:, None] + np.arange(1 - length, 1)
        mask = steps >= 0
        steps = np.maximum(steps, 0)
        episode = np.broadcast_to(last_episode[:, None], steps.shape)
        every = self.returns_to_go(kind)
        return Subsequences(
            observations=self.episodes.observations.rows(episode, steps) * mask[..., None],
            actions=self.episodes.actions.rows(episode, steps) * mask[..., None],
            rewards=self.episodes.rewards.rows(episode, steps)[..., 0] * mask,
            returns_to_go=every[self.episodes.offsets[episode] + steps] * mask,
            timesteps=(self.first_timestep[episode] + steps) * mask,
            mask=mask,
            terminated=self.episodes.terminated[last_episode] & (last_step == self.episodes.lengths[last_episode] - 1),
        )

    @cached_property
    def rewards(self) -> FloatArray:
        """Reward of every transition, (N,)."""
        everything = np.arange(self.episodes.num_transitions)
        return self.episodes.rewards.rows(*self.episodes.locate(everything))[:, 0]

    @cached_property
    def episode_returns(self) -> NDArray[np.float64]:
        """Sum of the rewards of every episode, (E,)."""
        sums: NDArray[np.float64] = np.add.reduceat(self.rewards.astype(np.float64), self.episodes.offsets[:-1])
        return sums

    def returns_to_go(self, kind: ReturnToGo) -> NDArray[np.float32]:
        """Return-to-go at the first step of an episode, less the rewards since, for every transition, (N,)."""
        if kind not in self._returns_to_go:
            received = np.cumsum(self.rewards, dtype=np.float64) - self.rewards
            offset = self.start_return(kind) + received[self.episodes.offsets[:-1]]
            left = np.repeat(offset, self.episodes.lengths) - received
            self._returns_to_go[kind] = left.astype(np.float32)
        return self._returns_to_go[kind]
