"""Where a task ends, read off the recorded terminations.

Many tasks end where the next state leaves limits, as when a walker's trunk comes too low or leans too far. Then all
recorded terminations lie beyond what any other recorded state reaches, and say where the limits are. A generator knows
nothing of that: its states pass the limits and no flag is set, and its flags are set where nothing has ended. A policy
that learns from these takes a fall for a state of high value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from gta_datasets.data.episodes import Episodes, FloatArray
from gta_datasets.data.reading import Source

__all__ = ["Limits"]

FEWEST = 3
"""Terminations that have to lie beyond a limit and within all others: two may have done so by chance."""

LEFT_OVER = 0.1
"""Share of the terminations that no limit has to explain; up to two never have to be."""


@dataclass(frozen=True)
class Limits:
    """A task ends where an observation is below `low` or above `high` in any column; some of these are infinite."""

    low: NDArray[np.float64]  # (obs_dim,)
    high: NDArray[np.float64]  # (obs_dim,)

    @classmethod
    def of(cls, source: Source) -> Self | None:
        """The fewest limits that tell nearly all terminations of a source from all its other states.

        Each lies halfway between the terminations beyond it and all states from which the task went on.

        Returns:
            None where there are no such limits, or too few terminations to tell; where they lie at the border of the
            observation space, inside of which nothing is beyond them; or where a terminal state is a mere mark, the
            same for all.
        """
        episodes = source.episodes
        ended = np.zeros(len(episodes.observations), np.bool_)
        ended[episodes.last_rows] = episodes.terminated
        if ended.sum() < FEWEST or episodes.terminations.all():
            return None
        terminal = episodes.observations[ended]
        at_end = np.concatenate([-terminal, terminal], axis=1)  # both sides of every column as the upper one
        went_on = ~ended[:, None]
        lowest = episodes.observations.min(axis=0, where=went_on, initial=np.inf)
        highest = episodes.observations.max(axis=0, where=went_on, initial=-np.inf)
        most = np.concatenate([-lowest, highest])
        limits = np.full(len(most), np.inf)
        beyond = np.asarray(at_end > most)
        unexplained = np.ones(len(at_end), np.bool_)
        while (found := beyond[unexplained].sum(axis=0)).max() >= FEWEST:
            side = found.argmax()
            values = at_end[beyond[:, side], side].astype(np.float64)
            if np.ptp(values) == 0:
                return None
            limits[side] = (most[side] + values.min()) / 2
            unexplained[beyond[:, side]] = False
        low, high = np.split(limits, 2)
        made = cls(-low, high)
        seen = source.observation_codec.project(terminal[~unexplained])
        few = unexplained.sum() <= max(FEWEST - 1, LEFT_OVER * len(unexplained))
        return made if few and made.passed(seen).all() else None

    def passed(self, observations: FloatArray) -> NDArray[np.bool_]:
        """Whether the task has ended in observations (n, obs_dim), (n,)."""
        return np.asarray(((observations < self.low) | (observations > self.high)).any(axis=1))

    def overrun(self, episodes: Episodes) -> NDArray[np.bool_]:
        """Which episodes go on after a limit was passed, (E,)."""
        passed = self.passed(episodes.observations)
        passed[episodes.last_rows] = False
        overrun: NDArray[np.bool_] = np.logical_or.reduceat(passed, episodes.observation_offsets[:-1])
        return overrun

    def reached(self, episodes: Episodes) -> NDArray[np.bool_]:
        """Which episodes end behind a limit, (E,)."""
        return self.passed(episodes.observations[episodes.last_rows])
