"""Generated trajectories measured against their source: what is looked at, and who judges it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gta_datasets.data.episodes import Episodes, concatenate
from gta_datasets.metrics import LONGEST, Quality, quality
from gta_datasets.pipeline import Pipeline
from gta_datasets.simulator import StandIn
from gta_datasets.surroundings import plain_torch

__all__ = ["Sample", "measure", "take_sample"]


class Sample(NamedTuple):
    """Whole shards of generated trajectories."""

    generated: Episodes
    asked: NDArray[np.floating[Any]] | None
    """Returns asked for, (trajectories,); None if none were."""
    recorded: float
    """Share of recordings among the trajectories, in [0, 1]."""


def take_sample(pipeline: Pipeline, transitions: int) -> Sample:
    """Of at least `transitions`, or all there are, generated where they are missing.

    Of long trajectories, of which few would do, there are more where they cost no more than reading them.

    Raises:
        DatasetError, DivergenceError, QualificationError, CacheError: as of `GTAAugmentedDataset.generate`.
    """
    parts: list[Episodes] = []
    asked: list[NDArray[np.floating[Any]]] = []
    recorded: list[NDArray[Any]] = []
    for number, part in enumerate(pipeline.generated()):
        parts.append(part)
        shard = pipeline.shard(number)
        asked.append(shard["asked_return"][: part.num_episodes])
        recorded.append(shard.get("recorded", np.zeros(part.num_episodes))[: part.num_episodes])
        lengths = np.concatenate([part.lengths for part in parts])
        varied = np.minimum(lengths, LONGEST).sum() >= transitions
        if varied or (lengths.sum() >= transitions and not pipeline.holds(number + 1)):
            break
    returns, share = np.concatenate(asked), float(np.concatenate(recorded).mean())
    return Sample(concatenate(parts), None if np.isnan(returns).all() else returns, share)


@plain_torch()
def measure(pipeline: Pipeline, taken: Sample, *, sample: int, novelty_sample: int, seed: int) -> Quality:
    """The numbers of `GTAAugmentedDataset.quality`, of so many transitions of what was taken."""
    return quality(
        taken.generated,
        pipeline.source.episodes,
        env_spec=pipeline.dataset.env_spec,
        stand_in=lambda: _stand_in(pipeline),
        asked_returns=taken.asked,
        recorded=taken.recorded,
        sample=sample,
        novelty_sample=novelty_sample,
        discount=pipeline.augmenter.discount,
        seed=seed,
    )


def _stand_in(pipeline: Pipeline) -> StandIn:
    """What judges rewards and dynamics where the environment cannot be set to a state."""
    source = pipeline.source.episodes
    return StandIn(pipeline.fitted_judge(), source.observations.shape[1], source.actions.shape[1])
