"""Where a task ends, read off the recorded terminations.

Many tasks end where the next state leaves limits, as when a walker's trunk comes too low or leans too far. Then all
recorded terminations lie beyond what any other recorded state reaches, and say where the limits are. A generator knows
nothing of that: its states pass the limits and no flag is set, and its flags are set where nothing has ended. A policy
that learns from these takes a fall for a state of high value.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from gta_datasets.data.episodes import Episodes, FloatArray, end_flags

__all__ = ["Limits"]

FEWEST = 3
"""Terminations that have to lie beyond a limit and within all others: two may have done so by chance."""


@dataclass(frozen=True)
class Limits:
    """A task ends where an observation is below `low` or above `high` in any column; some of these are infinite."""

    low: NDArray[np.float64]  # (obs_dim,)
    high: NDArray[np.float64]  # (obs_dim,)

    @classmethod
    def of(cls, episodes: Episodes) -> Self | None:
        """The fewest limits that tell the terminations of some episodes from all other states.

        Each lies halfway between the terminations beyond it and all states from which the task went on.

        Returns:
            None where there are no such limits, or too few terminations to tell.
        """
        last = episodes.observation_offsets[1:] - 1
        ended = np.zeros(len(episodes.observations), np.bool_)
        ended[last] = episodes.terminations[episodes.offsets[1:] - 1]
        if ended.sum() < FEWEST:
            return None
        # Both sides of every column as the upper one, (.., 2 obs_dim).
        at_end = np.concatenate([-episodes.observations[ended], episodes.observations[ended]], axis=1)
        went_on = ~ended[:, None]
        lowest = episodes.observations.min(axis=0, where=went_on, initial=np.inf)
        highest = episodes.observations.max(axis=0, where=went_on, initial=-np.inf)
        most = np.concatenate([-lowest, highest])
        limits = np.full(len(most), np.inf)
        beyond = np.asarray(at_end > most)
        unexplained = np.ones(len(at_end), np.bool_)
        while unexplained.any():
            found = beyond[unexplained].sum(axis=0)
            side = found.argmax()
            if found[side] < FEWEST:
                return None
            limits[side] = (most[side] + at_end[beyond[:, side], side].min().astype(np.float64)) / 2
            unexplained[beyond[:, side]] = False
        low, high = np.split(limits, 2)
        return cls(-low, high)

    def passed(self, observations: FloatArray) -> NDArray[np.bool_]:
        """Whether the task has ended in observations (n, obs_dim), (n,)."""
        found: NDArray[np.bool_] = ((observations < self.low) | (observations > self.high)).any(axis=1)
        return found

    def flagged(self, episodes: Episodes) -> Episodes:
        """The same episodes, each terminated if its last observation has passed a limit, and else truncated."""
        last = episodes.observations[episodes.observation_offsets[1:] - 1]
        terminations, truncations = end_flags(episodes.offsets, self.passed(last))
        return dataclasses.replace(episodes, terminations=terminations, truncations=truncations)

    def overrun(self, episodes: Episodes) -> NDArray[np.bool_]:
        """Which episodes go on after a limit was passed, (E,)."""
        passed = self.passed(episodes.observations)
        passed[episodes.observation_offsets[1:] - 1] = False
        overrun: NDArray[np.bool_] = np.logical_or.reduceat(passed, episodes.observation_offsets[:-1])
        return overrun
