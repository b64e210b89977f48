"""Windows: which sub-trajectories exist, and how a batch of them is gathered by index.

Nothing here is ever materialised: the windows of a dataset are the integers `0 .. len(index) - 1`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gta_datasets.data.episodes import Episodes, offsets_of
from gta_datasets.errors import DatasetError
from gta_datasets.warn import warn

__all__ = ["WindowIndex", "Windows", "cut", "starting_at", "take"]


@dataclass(frozen=True)
class Windows:
    """Some windows by their place in the dataset; `horizon` or fewer transitions each."""

    episode: NDArray[np.int64]  # (B,)
    start: NDArray[np.int64]  # (B,) first transition within the episode
    length: NDArray[np.int64]  # (B,) transitions, at most the horizon

    def __len__(self) -> int:
        return len(self.episode)


@dataclass(frozen=True)
class WindowIndex:
    """Every window of `horizon` transitions that lies within one episode, numbered consecutively."""

    horizon: int
    lengths: NDArray[np.int64]  # (E,) transitions per episode
    first: NDArray[np.int64]  # (E + 1,) number of the first window of every episode
    skipped: NDArray[np.int64]  # episodes without any window

    @classmethod
    def of(cls, episodes: Episodes, horizon: int, *, short_episodes: Literal["pad", "skip"] = "pad") -> WindowIndex:
        """Index the windows of `episodes`; a warning says so where all of them are padded.

        Args:
            episodes: the dataset.
            horizon: transitions per window.
            short_episodes: an episode of fewer than `horizon` transitions is one padded window ("pad") or is listed in
                `skipped` ("skip").

        Raises:
            DatasetError: no window is left.
        """
        lengths = episodes.lengths
        short, longest = lengths < horizon, int(lengths.max(initial=0))
        counts = np.where(short, int(short_episodes == "pad"), lengths - horizon + 1)
        too_long = f"horizon={horizon} is longer than every episode (longest: {longest} transitions)"
        if counts.sum() == 0:
            raise DatasetError(f"{too_long}; choose horizon <= {longest} or short_episodes='pad'")
        if short.all():
            warn(
                f"{too_long}: every window is filled up, and the network is larger than it need be; "
                f"horizon={longest} gives the same windows"
            )
        return cls(horizon, lengths, offsets_of(counts), np.flatnonzero(counts == 0))

    def __len__(self) -> int:
        return int(self.first[-1])

    def locate(self, numbers: NDArray[np.integer]) -> Windows:
        """The windows of the given numbers, each in `0 .. len(self) - 1`."""
        episode = np.searchsorted(self.first, numbers, side="right") - 1
        start = numbers - self.first[episode]
        return Windows(episode, start, np.minimum(self.lengths[episode], self.horizon))

    @property
    def first_transitions(self) -> NDArray[np.int64]:
        """With which transition of the dataset every window begins, (W,)."""
        windows = self.locate(np.arange(len(self)))
        found: NDArray[np.int64] = offsets_of(self.lengths)[windows.episode] + windows.start
        return found

    def around(self) -> NDArray[np.float64]:
        """For every window, of how many transitions it is the one, (W,).

        Each transition of an episode has a window that holds it at a place drawn uniformly, and that is moved into the
        episode where it would reach out of it. The first and the last window of an episode are those of
        `(horizon + 1) / 2` transitions, all others of one, an only one of all.
        """
        weights = np.ones(len(self))
        first, last = self.first[:-1], self.first[1:] - 1
        several, only = last > first, last == first
        weights[np.concatenate([first[several], last[several]])] = (self.horizon + 1) / 2
        weights[first[only]] = self.lengths[only]
        return weights


def starting_at(episodes: Episodes, transitions: NDArray[np.integer], horizon: int) -> Windows:
    """The windows that begin with the given transitions (B,): `horizon` long, or up to the end of the episode."""
    episode = np.searchsorted(episodes.offsets, transitions, side="right") - 1
    left = episodes.offsets[episode + 1] - transitions
    return Windows(episode, transitions - episodes.offsets[episode], np.minimum(left, horizon))


def cut(episodes: Episodes, windows: Windows) -> Episodes:
    """The windows as episodes of their own."""
    offsets = offsets_of(windows.length)
    within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], windows.length)
    rows = np.repeat(episodes.offsets[windows.episode] + windows.start, windows.length) + within
    states = windows.length + 1
    state_within = np.arange(states.sum()) - np.repeat(np.cumsum(states) - states, states)
    state_rows = np.repeat(episodes.observation_offsets[windows.episode] + windows.start, states) + state_within
    return Episodes(
        observations=episodes.observations[state_rows],
        actions=episodes.actions[rows],
        rewards=episodes.rewards[rows],
        terminations=episodes.terminations[rows],
        truncations=episodes.truncations[rows],
        offsets=offsets,
    )


def take(episodes: Episodes, chosen: NDArray[np.int64]) -> Episodes:
    """The episodes of the given numbers (B,), in this order, as copies."""
    return cut(episodes, Windows(chosen, np.zeros_like(chosen), episodes.lengths[chosen]))
