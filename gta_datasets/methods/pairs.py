"""Which recorded pieces may be joined: those of low-return episodes, and those of high-return ones to lead them to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from gta_datasets.data.bank import static_columns
from gta_datasets.data.episodes import Episodes, offsets_of
from gta_datasets.errors import DatasetError

__all__ = ["Pairs", "Pieces"]


@dataclass(frozen=True)
class Pieces:
    """Every piece of some transitions that lies within one episode, numbered so that a group's lie side by side."""

    order: NDArray[np.int64]  # (E,) episodes, sorted by group
    first: NDArray[np.int64]  # (E + 1,) number of the first piece of every episode in that order
    group_first: NDArray[np.int64]  # (groups + 1,) number of the first piece of every group

    @classmethod
    def of(
        cls, lengths: NDArray[np.int64], steps: int, *, allowed: NDArray[np.bool_], group: NDArray[np.int64]
    ) -> Self:
        """Number the pieces of `steps` transitions.

        Args:
            lengths: transitions of every episode, (E,).
            steps: transitions of a piece.
            allowed: episodes that may be used, (E,).
            group: of every episode, (E,), counted from 0.
        """
        order = np.argsort(group, kind="stable")
        counts = np.where(allowed, np.maximum(lengths - steps + 1, 0), 0)[order]
        first = offsets_of(counts)
        return cls(order, first, first[np.searchsorted(group[order], np.arange(group.max() + 2))])

    def __len__(self) -> int:
        return int(self.first[-1])

    def locate(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Episode and first transition within it of the pieces of the given numbers, both in their shape."""
        place = np.searchsorted(self.first, numbers, side="right") - 1
        return self.order[place], numbers - self.first[place]


@dataclass(frozen=True)
class Pairs:
    """Pieces to start from and pieces to arrive at; only those of a group can be joined.

    Episodes are of a group where all that is constant within an episode, such as a goal, is the same.
    """

    starts: Pieces
    targets: Pieces
    group: NDArray[np.int64]  # (E,)
    skipped: Mapping[int, str]  # why some episodes are in no pair

    @classmethod
    def of(
        cls,
        episodes: Episodes,
        returns: NDArray[np.floating[Any]],
        *,
        high_quantile: float,
        before: int,
        after: int,
    ) -> Self:
        """All pairs of `episodes`.

        Args:
            episodes: the dataset.
            returns: of every episode, (E,).
            high_quantile: the episodes whose return reaches this quantile are high, all others low. Those of the lowest
                return are low even where most episodes have it, as with sparse rewards.
            before: transitions of a piece to start from.
            after: transitions of a piece to arrive at.

        Raises:
            DatasetError: there is none.
        """
        if static_columns(episodes).all():
            raise DatasetError("no two episodes can be joined: no observation changes within any of them")
        group = _groups(episodes)
        lowest = returns.min()
        high = (returns >= np.quantile(returns, high_quantile)) & (returns > lowest)
        if not high.any():
            raise DatasetError(
                f"no two episodes can be joined: none has a higher return than another ({episodes.num_episodes} with "
                f"{lowest:g}); another method, such as 'gta' or 'synther', needs no better ones"
            )
        needed = np.where(high, after, before)
        long_enough = episodes.lengths >= needed
        reached, left = (np.isin(group, group[long_enough & side]) for side in (high, ~high))
        used = long_enough & reached & left
        if not used.any():
            raise DatasetError(
                f"no two episodes can be joined: of {np.count_nonzero(~high)} of low return "
                f"{np.count_nonzero(long_enough & ~high)} have the {before} transitions that are needed, of "
                f"{np.count_nonzero(high)} of high return {np.count_nonzero(long_enough & high)} the {after}"
                f"{'' if group.max() == 0 else ', and those of a pair must have the same goal'}; change high_quantile "
                f"(now {high_quantile}), or lower steps_before, steps_after or horizon"
            )
        reasons = {
            int(episode): f"has {episodes.lengths[episode]} transitions, fewer than the {needed[episode]} of a piece"
            if not long_enough[episode]
            else f"has a goal that no episode of {'low' if high[episode] else 'high'} return and enough length has"
            for episode in np.flatnonzero(~used)
        }
        return cls(
            starts=Pieces.of(episodes.lengths, before, allowed=used & ~high, group=group),
            targets=Pieces.of(episodes.lengths, after, allowed=used & high, group=group),
            group=group,
            skipped=reasons,
        )

    def draw(
        self, generator: np.random.Generator, count: int, candidates: int
    ) -> tuple[tuple[NDArray[np.int64], NDArray[np.int64]], tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Starts, drawn uniformly, and for each as many uniformly drawn targets of its group as there are candidates.

        Returns:
            Episode and first transition of the starts, (count,), and of the targets, (count, candidates).
        """
        starts = self.starts.locate(generator.integers(len(self.starts), size=count))
        group, first = self.group[starts[0]], self.targets.group_first
        numbers = generator.integers(first[group][:, None], first[group + 1][:, None], size=(count, candidates))
        return starts, self.targets.locate(numbers)


def _groups(episodes: Episodes) -> NDArray[np.int64]:
    """The group of every episode, (E,), counted from 0."""
    constants = episodes.observations[episodes.observation_offsets[:-1]][:, static_columns(episodes)]
    if constants.shape[1] == 0:
        return np.zeros(episodes.num_episodes, np.int64)
    _, group = np.unique(constants, axis=0, return_inverse=True)
    return np.asarray(group, np.int64).reshape(-1)
