"""A dataset as a handful of contiguous arrays.

`Episodes` is the one container that flows through the library: the source dataset, the content of a shard and the
input of the metrics and adapters all have this form.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gta_datasets.errors import DatasetError

__all__ = ["Episodes", "FloatArray", "concatenate", "end_flags", "offsets_of"]

FloatArray = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Episodes:
    """`E` episodes with `N` transitions in total, stored back to back.

    Episode `e` owns transitions `offsets[e]:offsets[e + 1]` and, because every episode keeps its last observation,
    the observations `offsets[e] + e : offsets[e + 1] + e + 1`.
    """

    observations: FloatArray  # (N + E, obs_dim)
    actions: FloatArray  # (N, act_dim)
    rewards: FloatArray  # (N,)
    terminations: NDArray[np.bool_]  # (N,)
    truncations: NDArray[np.bool_]  # (N,)
    offsets: NDArray[np.int64]  # (E + 1,)

    def __post_init__(self) -> None:
        steps, episodes = self.num_transitions, self.num_episodes
        expected = {
            "observations": steps + episodes,
            "actions": steps,
            "rewards": steps,
            "terminations": steps,
            "truncations": steps,
        }
        for name, rows in expected.items():
            given = len(getattr(self, name))
            if given != rows:
                raise DatasetError(
                    f"{name} has {given} rows where {rows} are needed for {steps} transitions in {episodes} episodes"
                )

    @property
    def num_episodes(self) -> int:
        return len(self.offsets) - 1

    @property
    def num_transitions(self) -> int:
        return int(self.offsets[-1])

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Transitions per episode, (E,)."""
        return np.diff(self.offsets)

    @property
    def returns(self) -> NDArray[np.float64]:
        """Undiscounted return of every episode, (E,)."""
        return np.add.reduceat(self.rewards.astype(np.float64), self.offsets[:-1])

    @property
    def remaining(self) -> NDArray[np.int64]:
        """Transitions from every transition to the end of its episode, itself included, (N,)."""
        return np.repeat(self.offsets[1:], self.lengths) - np.arange(self.num_transitions)

    @property
    def observation_offsets(self) -> NDArray[np.int64]:
        """First observation row of every episode, and the total, (E + 1,)."""
        return self.offsets + np.arange(len(self.offsets))

    @property
    def transition_rows(self) -> NDArray[np.int64]:
        """Observation row of every transition's state; the row after it holds the next state, (N,)."""
        return np.arange(self.num_transitions) + np.repeat(np.arange(self.num_episodes), self.lengths)

    @property
    def last_rows(self) -> NDArray[np.int64]:
        """Observation row of every episode's last state, (E,)."""
        return self.observation_offsets[1:] - 1

    @property
    def terminated(self) -> NDArray[np.bool_]:
        """Whether every episode ends in a termination, (E,)."""
        return self.terminations[self.offsets[1:] - 1]

    @property
    def next_observations(self) -> FloatArray:
        """Next observation of every transition, (N, obs_dim)."""
        return self.observations[self.transition_rows + 1]

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays().values())

    def ending(self, terminated: NDArray[np.bool_]) -> Episodes:
        """The same episodes, terminated at their ends where `terminated` (E,) is set, and else truncated."""
        terminations, truncations = end_flags(self.offsets, terminated)
        return replace(self, terminations=terminations, truncations=truncations)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays by field name; no copies."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Episodes:
        """The inverse of `arrays`; other names in the mapping are ignored."""
        return cls(**{field.name: arrays[field.name] for field in fields(cls)})

    def slice(self, start: int, stop: int) -> Episodes:
        """Episodes `start` to `stop` as views on the same arrays."""
        first, last = int(self.offsets[start]), int(self.offsets[stop])
        return Episodes(
            observations=self.observations[first + start : last + stop],
            actions=self.actions[first:last],
            rewards=self.rewards[first:last],
            terminations=self.terminations[first:last],
            truncations=self.truncations[first:last],
            offsets=self.offsets[start : stop + 1] - first,
        )


def offsets_of(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where parts of the given lengths (n,) begin when they lie back to back, and where the last one ends, (n + 1,)."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])


def end_flags(offsets: NDArray[np.int64], terminated: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Terminations and truncations, (N,) each, of episodes that end in a termination where `terminated` (E,) is set.

    All others end in a truncation. No episode may be empty.
    """
    last = offsets[1:] - 1
    terminations, truncations = np.zeros((2, offsets[-1]), np.bool_)
    terminations[last], truncations[last] = terminated, ~terminated
    return terminations, truncations


def concatenate(parts: Iterable[Episodes]) -> Episodes:
    """The episodes of `parts` one after the other, in a new `Episodes`."""
    items = list(parts)
    if not items:
        raise DatasetError("nothing to concatenate: no episodes were given")
    offsets = [np.zeros(1, np.int64)]
    total = 0
    for item in items:
        offsets.append(item.offsets[1:] + total)
        total += item.num_transitions
    joined = {
        name: np.concatenate([item.arrays()[name] for item in items]) for name in items[0].arrays() if name != "offsets"
    }
    return Episodes(**joined, offsets=np.concatenate(offsets))
