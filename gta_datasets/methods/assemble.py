"""Normalised generated rows back into episodes that obey the dataset's contract."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gta_datasets.data.bank import Columns
from gta_datasets.data.episodes import Episodes
from gta_datasets.data.reading import Source
from gta_datasets.data.windows import Windows
from gta_datasets.errors import DivergenceError
from gta_datasets.methods.base import Shard

__all__ = ["assemble_shard"]


def assemble_shard(
    rows: NDArray[np.float32],
    windows: Windows,
    source: Source,
    columns: Columns,
    *,
    source_return: NDArray[np.floating[Any]],
    asked_return: NDArray[np.floating[Any]],
) -> Shard:
    """One episode per window: values in their own units, valid in the dataset's spaces, with flags.

    A termination is kept where the source window had one; every other window ends in a truncation, so that no algorithm
    takes the cut for the end of the task or reads across it.

    Args:
        rows: generated normalised rows, (B, H + 1, F).
        windows: their source windows.
        source: the source dataset.
        columns: its columns.
        source_return: return-to-go of the source windows, (B,).
        asked_return: return-to-go that was asked for, (B,).

    Raises:
        DivergenceError: a generated value is not finite.
    """
    steps = np.arange(rows.shape[1])
    observed = steps <= windows.length[:, None]
    acted = steps < windows.length[:, None]
    observations = _observations(rows[observed], windows, source, columns)
    split = columns.num_observed + columns.num_actions
    actions = columns.action.inverse(rows[acted][:, columns.num_observed : split])
    rewards = columns.reward.inverse(rows[acted][:, split:])[:, 0]
    for name, values in (("observation", observations), ("action", actions), ("reward", rewards)):
        if not np.isfinite(values).all():
            raise DivergenceError(f"a generated {name} is not finite; train longer or lower guidance, alpha or mu")
    offsets = np.concatenate([[0], np.cumsum(windows.length)])
    last = offsets[1:] - 1
    terminations = np.zeros(offsets[-1], np.bool_)
    first_transition = source.episodes.offsets[windows.episode] + windows.start
    terminations[last] = source.episodes.terminations[first_transition + windows.length - 1]
    truncations = np.zeros(offsets[-1], np.bool_)
    truncations[last] = ~terminations[last]
    generated = Episodes(
        observations=source.observation_codec.project(observations.astype(source.episodes.observations.dtype)),
        actions=source.action_codec.project(actions.astype(source.episodes.actions.dtype)),
        rewards=rewards.astype(source.episodes.rewards.dtype),
        terminations=terminations,
        truncations=truncations,
        offsets=offsets,
    )
    return {
        **generated.arrays(),
        "source_episode": windows.episode,
        "source_start": windows.start,
        "source_return": source_return.astype(np.float32),
        "asked_return": asked_return.astype(np.float32),
    }


def _observations(rows: NDArray[np.float32], windows: Windows, source: Source, columns: Columns) -> NDArray[np.float64]:
    """Flat observations (rows, obs_dim); what is constant within an episode comes from the source window."""
    episodes = source.episodes
    values = np.repeat(
        episodes.observations[episodes.observation_offsets[windows.episode]], windows.length + 1, axis=0
    ).astype(np.float64)
    moving = ~columns.static
    values[:, moving] = columns.observation.select(moving).inverse(rows[:, : columns.num_observed])
    return values
