"""Episodes that lie anywhere in memory, read by the numbers of their transitions.

`Episodes` needs its arrays back to back; the shards of a cache are not. An `EpisodeTable` notes where every episode
starts and gathers a batch from there, so that hundreds of memory-mapped files serve as one dataset without a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from gta_datasets.data.episodes import Episodes, FloatArray
from gta_datasets.errors import DatasetError

__all__ = ["Column", "EpisodeTable", "Transitions"]


@dataclass(frozen=True)
class Column:
    """One field of all episodes: rows of `width` values, consecutive within an episode."""

    values: NDArray[Any]  # (any,) holds the rows, perhaps among other things
    starts: NDArray[np.int64]  # (E,) place of the first row of every episode
    width: int

    def rows(self, episode: NDArray[np.integer], step: NDArray[np.integer], count: int = 1) -> NDArray[Any]:
        """`count` rows of every episode from `step` on, `episode.shape + (count * width,)`."""
        width = count * self.width
        # A view in which a row starts at every value, so that one lookup copies whole rows from any place.
        item = self.values.itemsize
        anywhere = as_strided(self.values, (max(len(self.values) - width + 1, 0), width), (item, item), writeable=False)
        found: NDArray[Any] = anywhere[self.starts[episode] + step * self.width]
        return found

    def select(self, episodes: NDArray[np.integer]) -> Column:
        return replace(self, starts=self.starts[episodes])


class Transitions(NamedTuple):
    """A batch of transitions."""

    observations: FloatArray  # (B, obs_dim)
    actions: FloatArray  # (B, act_dim)
    rewards: FloatArray  # (B,)
    next_observations: FloatArray  # (B, obs_dim)
    terminated: NDArray[np.bool_]  # (B,)
    truncated: NDArray[np.bool_]  # (B,) the episode was cut after this transition, or goes on somewhere else


@dataclass(frozen=True)
class EpisodeTable:
    """`E` episodes with `N` transitions in total, numbered from 0 in the order of the episodes."""

    observations: Column  # T + 1 rows of obs_dim values in an episode of T transitions
    actions: Column  # T rows of act_dim values
    rewards: Column  # T rows of 1 value
    lengths: NDArray[np.int64]  # (E,) transitions per episode
    terminated: NDArray[np.bool_]  # (E,) whether the last transition ended the task; otherwise the episode was cut

    @classmethod
    def of(cls, episodes: Episodes) -> EpisodeTable:
        """The episodes of contiguous arrays, as views."""
        return cls._of_parts([episodes], lambda array: array.reshape(-1))

    @classmethod
    def within(cls, block: NDArray[np.uint8], parts: Sequence[Episodes]) -> EpisodeTable:
        """The episodes of `parts` one after the other; all their arrays are contiguous views of `block` (bytes,).

        Raises:
            DatasetError: the parts differ in the type or width of a field.
        """
        return cls._of_parts(parts, lambda array: block.view(array.dtype))

    @classmethod
    def _of_parts(
        cls, parts: Sequence[Episodes], values_around: Callable[[NDArray[Any]], NDArray[Any]]
    ) -> EpisodeTable:
        def column(name: str) -> Column:
            arrays = [getattr(part, name) for part in parts]
            if len({(array.dtype, array.shape[1:]) for array in arrays}) != 1:
                raise DatasetError(f"the parts of the data differ in the type or width of their {name}")
            values = values_around(arrays[0])
            width = int(np.prod(arrays[0].shape[1:], dtype=np.int64))
            starts = []
            for part, array in zip(parts, arrays, strict=True):
                rows = part.observation_offsets if name == "observations" else part.offsets
                starts.append((_address(array) - _address(values)) // values.itemsize + rows[:-1] * width)
            return Column(values, np.concatenate(starts), width)

        return cls(
            observations=column("observations"),
            actions=column("actions"),
            rewards=column("rewards"),
            lengths=np.concatenate([part.lengths for part in parts]),
            terminated=np.concatenate([part.terminations[part.offsets[1:] - 1] for part in parts]),
        )

    @property
    def num_episodes(self) -> int:
        return len(self.lengths)

    @property
    def num_transitions(self) -> int:
        return int(self.offsets[-1])

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Number of the first transition of every episode, and the total, (E + 1,)."""
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(self.lengths)])

    @cached_property
    def _episode_of(self) -> NDArray[np.int32]:
        """Episode of every transition, (N,): a lookup is far faster than a search in `offsets`."""
        return np.repeat(np.arange(self.num_episodes, dtype=np.int32), self.lengths)

    def locate(self, transitions: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Episodes of the transitions and their steps within them, each of the shape of `transitions`."""
        episode = self._episode_of[transitions].astype(np.int64)
        return episode, transitions - self.offsets[episode]

    def select(self, episodes: NDArray[np.integer]) -> EpisodeTable:
        """Some of the episodes, in the given order."""
        return EpisodeTable(
            self.observations.select(episodes),
            self.actions.select(episodes),
            self.rewards.select(episodes),
            self.lengths[episodes],
            self.terminated[episodes],
        )

    def transitions(self, numbers: NDArray[np.integer]) -> Transitions:
        """The transitions of the given numbers, (B,)."""
        episode, step = self.locate(numbers)
        pairs = self.observations.rows(episode, step, count=2)
        last = step == self.lengths[episode] - 1
        terminated = last & self.terminated[episode]
        return Transitions(
            observations=pairs[:, : self.observations.width],
            actions=self.actions.rows(episode, step),
            rewards=self.rewards.rows(episode, step)[:, 0],
            next_observations=pairs[:, self.observations.width :],
            terminated=terminated,
            truncated=last & ~terminated,
        )


def _address(array: NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])
