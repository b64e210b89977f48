"""Which trajectories there are, shard by shard, and all of them beside the source's episodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gta_datasets.data.episodes import Episodes
from gta_datasets.data.table import EpisodeTable
from gta_datasets.methods.base import Shard

__all__ = ["Combined", "Plan"]


@dataclass(frozen=True)
class Plan:
    """How long every generated trajectory will be, known before any is generated."""

    lengths: NDArray[np.int64]  # (G,) transitions
    shard_sizes: NDArray[np.int64]  # (S,) trajectories taken from every shard

    @classmethod
    def of(cls, lengths_of: Callable[[int], NDArray[np.int64]], wanted: int) -> Plan:
        """The first trajectories that hold `wanted` transitions; `lengths_of` tells a shard's lengths."""
        lengths: list[NDArray[np.int64]] = []
        total = 0
        while total < wanted:
            of_shard = lengths_of(len(lengths))
            needed = int(np.searchsorted(np.cumsum(of_shard), wanted - total)) + 1
            lengths.append(of_shard[:needed])
            total += int(lengths[-1].sum())
        sizes = np.array([len(part) for part in lengths], np.int64)
        return cls(np.concatenate([np.zeros(0, np.int64), *lengths]), sizes)

    @property
    def num_shards(self) -> int:
        return len(self.shard_sizes)

    def locate(self, trajectory: int) -> tuple[int, int]:
        """Shard of a trajectory and its number within it."""
        ends = np.cumsum(self.shard_sizes)
        shard = int(np.searchsorted(ends, trajectory, side="right"))
        return shard, trajectory - int(ends[shard] - self.shard_sizes[shard])


@dataclass(frozen=True)
class Combined:
    """The source's `S` episodes and the `G` generated ones in one table, and what the latter were made from."""

    episodes: EpisodeTable  # S + G
    num_source: int  # S
    source_episode: NDArray[np.int64]  # (G,)
    source_start: NDArray[np.int64]  # (G,) first transition within the source episode
    start_return: NDArray[np.floating[Any]]  # (G,) return-to-go of the first step, NaN where it is not known

    @classmethod
    def of(cls, source: Episodes, shards: Sequence[Shard], plan: Plan) -> Combined:
        """The source's episodes and those of a plan's shards."""
        pairs = list(zip(shards, plan.shard_sizes.tolist(), strict=True))
        parts = [Episodes.from_arrays(shard).slice(0, size) for shard, size in pairs]
        origin = {
            name: np.concatenate([shard[name][:size] for shard, size in pairs])
            for name in ("source_episode", "source_start")
        }
        unknown = np.full(max(plan.shard_sizes, default=0), np.nan, np.float32)
        known = [shard.get("start_return", unknown)[:size] for shard, size in pairs]
        origin["start_return"] = np.concatenate(known)
        return cls(EpisodeTable.of([source, *parts]), source.num_episodes, **origin)
