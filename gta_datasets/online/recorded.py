"""What an agent recorded, as windows that a model can learn from; spaces are those of `opening`."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from gta_datasets.data.episodes import Episodes, end_flags, offsets_of
from gta_datasets.data.reading import Source
from gta_datasets.errors import requires_extra

with requires_extra("sb3", "stable-baselines3", "gta_datasets.online needs"):
    from stable_baselines3.common.buffers import ReplayBuffer

__all__ = ["Recorded", "unscaled"]


def unscaled(actions: NDArray[Any], space: spaces.Box) -> NDArray[Any]:
    """Actions between -1 and 1, as Stable-Baselines3 keeps them, in the space's own units."""
    return space.low + 0.5 * (actions + 1.0) * (space.high - space.low)


class Recorded:
    """The transitions in a replay buffer of one environment, by their numbers: 0 was added first.

    A window ends where its episode does, or where the environment was reset without the buffer being told. Only what
    windows need is read from the buffer's arrays.

    Args:
        buffer: the replay buffer; it must not change while this is used.
        added: transitions that were ever added to it.
        source: a dataset with the environment's spaces.
    """

    def __init__(self, buffer: ReplayBuffer, added: int, source: Source) -> None:
        self._buffer, self._added, self._source = buffer, added, source
        self.oldest = added - buffer.size()

    def lengths(self, numbers: NDArray[np.int64], horizon: int) -> NDArray[np.int64]:
        """Transitions of the windows that begin with the given ones, at most `horizon`, (B,)."""
        lengths, going = np.zeros(len(numbers), np.int64), np.arange(len(numbers))
        for step in range(horizon):
            lengths[going] += 1
            going = going[~self._ends(numbers[going] + step)]
        return lengths

    def windows(self, numbers: NDArray[np.int64], horizon: int) -> Episodes:
        """The windows as episodes, in the units of the source."""
        lengths, buffer = self.lengths(numbers, horizon), self._buffer
        offsets = offsets_of(lengths)
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        rows = self._rows(np.repeat(numbers, lengths) + within)
        last = rows[offsets[1:] - 1]
        observations = np.insert(buffer.observations[rows, 0], offsets[1:], buffer.next_observations[last, 0], axis=0)
        terminated = (buffer.dones[last, 0] * (1 - buffer.timeouts[last, 0])).astype(np.bool_)
        terminations, truncations = end_flags(offsets, terminated)
        space = cast(spaces.Box, self._source.action_codec.space)
        return Episodes(
            observations=self._source.observation_codec.flatten(observations),
            actions=self._source.action_codec.flatten(
                unscaled(buffer.actions[rows, 0].reshape(len(rows), *space.shape), space)
            ),
            rewards=buffer.rewards[rows, 0],
            terminations=terminations,
            truncations=truncations,
            offsets=offsets,
        )

    def rewards(self, numbers: NDArray[np.int64], horizon: int) -> NDArray[np.float64]:
        """Sum of the rewards of every window, (B,)."""
        lengths, sums = self.lengths(numbers, horizon), np.zeros(len(numbers))
        for step in range(horizon):
            within = lengths > step
            sums[within] += self._buffer.rewards[self._rows(numbers[within] + step), 0]
        return sums

    def _ends(self, numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether no window goes on after the given transitions, (n,)."""
        buffer, rows = self._buffer, self._rows(numbers)
        elsewhere = buffer.next_observations[rows, 0] != buffer.observations[self._rows(numbers + 1), 0]
        left = elsewhere.any(axis=tuple(range(1, elsewhere.ndim)))
        return np.asarray(buffer.dones[rows, 0].astype(np.bool_) | left | (numbers == self._added - 1))

    def _rows(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the given transitions are in the buffer, (n,)."""
        return numbers % self._buffer.buffer_size
