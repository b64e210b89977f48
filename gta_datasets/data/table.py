"""Episodes that lie anywhere in memory, read by the numbers of their transitions.

`Episodes` needs its arrays back to back; those of a source dataset and of hundreds of memory-mapped shards are not. An
`EpisodeTable` notes where every episode lies and gathers a batch from there, so that all of them serve as one dataset
without a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gta_datasets.data.episodes import Episodes, FloatArray, offsets_of
from gta_datasets.errors import DatasetError

__all__ = ["EpisodeTable", "Places", "Transitions"]

# Columns of the directory: where the fields begin, the last step and that of a termination (-1 if there is none), and
# the number of the first transition.
_OBSERVATIONS, _ACTIONS, _REWARDS, _LAST, _TERMINAL, _OFFSET = range(6)


class Transitions(NamedTuple):
    """A batch of transitions."""

    observations: FloatArray  # (B, obs_dim)
    actions: FloatArray  # (B, act_dim)
    rewards: FloatArray  # (B,)
    next_observations: FloatArray  # (B, obs_dim)
    terminated: NDArray[np.bool_]  # (B,)
    truncated: NDArray[np.bool_]  # (B,) the episode was cut after this transition, or goes on somewhere else


class Places(NamedTuple):
    """Where transitions were found."""

    episode: NDArray[np.integer[Any]]  # (B,)
    step: NDArray[np.int64]  # (B,) within the episode
    entry: NDArray[np.int64]  # (B, 6) the episode's line in the directory
    last: NDArray[np.bool_]  # (B,) whether it is the last transition of its episode
    terminated: NDArray[np.bool_]  # (B,) whether it ended the task


class EpisodeTable:
    """`E` episodes with `N` transitions in total, numbered from 0 in the order of the episodes; made by `of`."""

    def __init__(self, columns: Sequence[_Column], directory: NDArray[np.int64]) -> None:
        self._columns = columns
        # One line per episode, so that one access to memory finds all there is to know of it.
        self._directory = directory.copy()
        self._directory[:, _OFFSET] = self.offsets[:-1]

    @classmethod
    def of(cls, parts: Sequence[Episodes]) -> EpisodeTable:
        """The episodes of all parts, one part after the other. The table keeps views of their arrays.

        Raises:
            DatasetError: the parts differ in the type or width of a field.
        """
        columns = [
            _Column("observations", [part.observations for part in parts]),
            _Column("actions", [part.actions for part in parts]),
            _Column("rewards", [part.rewards for part in parts]),
        ]
        directory = np.zeros((sum(part.num_episodes for part in parts), 6), np.int64)
        episodes = 0
        for place, part in enumerate(parts):
            lines = directory[episodes : episodes + part.num_episodes]
            episodes += part.num_episodes
            for number, column in enumerate(columns):
                first_rows = part.observation_offsets if number == _OBSERVATIONS else part.offsets
                lines[:, number] = column.starts[place] + first_rows[:-1] * column.width
            lines[:, _LAST] = part.lengths - 1
            lines[:, _TERMINAL] = np.where(part.terminated, part.lengths - 1, -1)
        return cls(columns, directory)

    @property
    def num_episodes(self) -> int:
        return len(self._directory)

    @property
    def num_transitions(self) -> int:
        return int(self.offsets[-1])

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Transitions of every episode, (E,)."""
        lengths: NDArray[np.int64] = self._directory[:, _LAST] + 1
        return lengths

    @property
    def terminated(self) -> NDArray[np.bool_]:
        """Whether the last transition of every episode ended the task; otherwise the episode was cut. (E,)."""
        found: NDArray[np.bool_] = self._directory[:, _TERMINAL] >= 0
        return found

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Number of the first transition of every episode, and the total, (E + 1,)."""
        return offsets_of(self.lengths)

    @cached_property
    def _episode_of(self) -> NDArray[np.int32]:
        """Episode of every transition, (N,): a lookup is far faster than a search in `offsets`."""
        return np.repeat(np.arange(self.num_episodes, dtype=np.int32), self.lengths)

    def select(self, episodes: NDArray[np.integer[Any]]) -> EpisodeTable:
        """Some of the episodes, in the given order."""
        return EpisodeTable(self._columns, self._directory[episodes])

    def locate(self, numbers: NDArray[np.integer[Any]]) -> Places:
        """The transitions of the given numbers, (B,). Raises IndexError if there is no such transition."""
        # What follows must not be computed from other numbers: it would be read from memory that is not the arrays'.
        if numbers.ndim != 1:
            raise IndexError(f"transition numbers have shape {numbers.shape}; one axis is needed")
        if numbers.size and numbers.min() < 0:
            raise IndexError(f"there is no transition {numbers.min()}; there are {self.num_transitions}")
        episode = self._episode_of[numbers]
        entry = self._directory.take(episode, axis=0)
        step = numbers - entry[:, _OFFSET]
        return Places(episode, step, entry, step == entry[:, _LAST], step == entry[:, _TERMINAL])

    def transitions(self, places: Places) -> Transitions:
        """The transitions at the given places."""
        observations = self._columns[_OBSERVATIONS]
        pairs = observations.rows(places.entry[:, _OBSERVATIONS], places.step, count=2)
        return Transitions(
            observations=pairs[:, : observations.width],
            actions=self.actions(places, places.step),
            rewards=self.rewards(places, places.step),
            next_observations=pairs[:, observations.width :],
            terminated=places.terminated,
            truncated=places.last != places.terminated,
        )

    def next_actions(self, places: Places) -> FloatArray:
        """The actions that follow, (B, act_dim); zeros after the last one of an episode."""
        found = self.actions(places, places.step + ~places.last)
        found[places.last] = 0
        return found

    def observations(self, places: Places, steps: NDArray[np.int64]) -> FloatArray:
        """Observations at `steps` (B, ...) of the episodes found, (B, ..., obs_dim); an episode has one more than
        transitions.
        """
        return self._rows(_OBSERVATIONS, places, steps)

    def actions(self, places: Places, steps: NDArray[np.int64]) -> FloatArray:
        """Actions at `steps` (B, ...) of the episodes found, (B, ..., act_dim)."""
        return self._rows(_ACTIONS, places, steps)

    def rewards(self, places: Places, steps: NDArray[np.int64]) -> FloatArray:
        """Rewards at `steps` (B, ...) of the episodes found, (B, ...)."""
        return self._rows(_REWARDS, places, steps)[..., 0]

    def episode(self, number: int) -> Episodes:
        """One episode in contiguous arrays, copied."""
        length, ended = int(self.lengths[number]), bool(self.terminated[number])
        fields = [
            column.rows(self._directory[[number], field], np.zeros(1, np.int64), count=rows).reshape(rows, column.width)
            for field, (column, rows) in enumerate(zip(self._columns, (length + 1, length, length), strict=True))
        ]
        last = np.arange(length) == length - 1
        return Episodes(
            observations=fields[_OBSERVATIONS],
            actions=fields[_ACTIONS],
            rewards=fields[_REWARDS][:, 0],
            terminations=last & ended,
            truncations=last & (not ended),
            offsets=np.array([0, length]),
        )

    def _rows(self, field: int, places: Places, steps: NDArray[np.int64]) -> FloatArray:
        starts = places.entry[:, field]
        if steps.ndim > 1:
            starts = starts.reshape(-1, *(1,) * (steps.ndim - 1))
        return self._columns[field].rows(starts, steps)


class _Column:
    """One field of all parts: rows of `width` values, those of an episode next to each other.

    The parts' arrays lie anywhere in the memory of the process. They are read through one view that begins at the first
    and ends with the last of them. Between them it spans memory that is not theirs and may not exist, so nothing but
    rows of the arrays may be read through it.
    """

    def __init__(self, name: str, arrays: Sequence[NDArray[Any]]) -> None:
        if len({(array.dtype, array.shape[1:]) for array in arrays}) != 1:
            raise DatasetError(f"the parts of the data differ in the type or width of their {name}")
        arrays = [np.ascontiguousarray(array) for array in arrays]
        dtype = arrays[0].dtype
        self.width = int(np.prod(arrays[0].shape[1:], dtype=np.int64))
        addresses = [_address(array) for array in arrays]
        first = min(addresses)
        if any((address - first) % dtype.itemsize for address in addresses):
            raise DatasetError(f"the {name} do not lie at multiples of their size")  # numpy and the store align them
        end = max(address + array.nbytes for address, array in zip(addresses, arrays, strict=True))
        self.starts = [(address - first) // dtype.itemsize for address in addresses]
        self._values = np.asarray(_Span(first, (end - first) // dtype.itemsize, dtype, arrays))
        self._views: dict[int, Tensor] = {}

    def rows(self, starts: NDArray[np.int64], steps: NDArray[np.int64], *, count: int = 1) -> NDArray[Any]:
        """`count` rows from row `steps` on of the episodes that begin at `starts`; `steps.shape + (count * width,)`."""
        places = steps * self.width
        places += starts
        if self.width == count == 1:
            single: NDArray[Any] = self._values[places][..., None]
            return single
        width = count * self.width
        found: NDArray[Any] = self._view(width).index_select(0, torch.from_numpy(places.reshape(-1))).numpy()
        return found if places.ndim == 1 else found.reshape(*places.shape, width)

    def _view(self, width: int) -> Tensor:
        """Every `width` consecutive values as a row: one lookup then copies a whole row from wherever it lies."""
        if width not in self._views:
            values = torch.from_numpy(self._values)
            self._views[width] = values.as_strided((max(len(values) - width + 1, 0), width), (1, 1))
        return self._views[width]


class _Span:
    """Memory from an address on, for numpy; keeps the arrays alive that lie there."""

    def __init__(self, address: int, size: int, dtype: np.dtype[Any], arrays: Sequence[NDArray[Any]]) -> None:
        self._arrays = arrays
        # Announced as writable, because torch warns of what is not; nothing writes to it.
        self.__array_interface__ = {"data": (address, False), "shape": (size,), "typestr": dtype.str, "version": 3}


def _address(array: NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])
