"""Normalised generated rows back into episodes that obey the dataset's contract."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gta_datasets.data.bank import Columns
from gta_datasets.data.endings import Limits
from gta_datasets.data.episodes import Episodes, FloatArray, concatenate, end_flags, offsets_of
from gta_datasets.data.reading import Source
from gta_datasets.data.windows import Windows, cut, take
from gta_datasets.errors import DivergenceError
from gta_datasets.methods.base import Shard

__all__ = ["assemble_shard", "check_finite", "decoded", "finite_as", "stored_returns", "valid_episodes"]


def assemble_shard(
    rows: NDArray[np.float32],
    windows: Windows,
    source: Source,
    columns: Columns,
    *,
    limits: Limits | None,
    source_return: NDArray[np.floating[Any]],
    asked_return: NDArray[np.floating[Any]],
) -> Shard:
    """One episode per window: values in their own units, valid in the dataset's spaces, with flags.

    An episode ends in a termination where its last state has passed the limits of the task. One that goes on behind
    them is no episode of this task: the recording of its window takes its place, and the shard says so in `recorded`.
    Where there are no limits, or they do not explain it, a termination is kept where the source window had one. Every
    other window ends in a truncation, so that no algorithm takes the cut for the end of the task or reads across it.

    Args:
        rows: generated normalised rows, (B, H + 1, F).
        windows: their source windows.
        source: the source dataset.
        columns: its columns.
        limits: beyond which the task ends; None if they are not known.
        source_return: return-to-go of the source windows, (B,).
        asked_return: return-to-go that was asked for, (B,).

    Raises:
        DivergenceError: a generated value is not finite.
    """
    first_rows = source.episodes.observation_offsets[windows.episode]
    observations, actions, rewards = decoded(rows, windows.length, source.episodes.observations[first_rows], columns)
    first_transition = source.episodes.offsets[windows.episode] + windows.start
    generated = valid_episodes(
        source,
        observations=observations,
        actions=actions,
        rewards=rewards,
        terminated=source.episodes.terminations[first_transition + windows.length - 1],
        lengths=windows.length,
        remedy="train longer or lower guidance, alpha or mu",
    )
    recorded = np.zeros(len(windows), np.bool_)
    if limits is not None:
        original, recorded = cut(source.episodes, windows), limits.overrun(generated)
        if recorded.any():
            both = concatenate([generated, source.within_spaces(original)])
            generated = take(both, np.arange(len(windows)) + len(windows) * recorded)
        unexplained = original.terminated & ~limits.reached(original)
        generated = generated.ending(limits.reached(generated) | unexplained)
    return {
        **generated.arrays(),
        "recorded": recorded,
        "source_episode": windows.episode,
        "source_start": windows.start,
        "source_return": stored_returns(source_return),
        "asked_return": stored_returns(np.where(recorded & ~np.isnan(asked_return), source_return, asked_return)),
    }


def decoded(
    rows: NDArray[np.float32], lengths: NDArray[np.int64], constants: FloatArray, columns: Columns
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Normalised windows in their own units, the first `lengths` transitions of each, one window after the other.

    Args:
        rows: normalised rows, (B, H + 1, F).
        lengths: transitions of every window, `N` in total, (B,).
        constants: an observation of every window's episode, for what is constant within it, (B, obs_dim).
        columns: of the rows.

    Returns:
        Flat observations (N + B, obs_dim), actions (N, act_dim) and rewards (N,).
    """
    step = np.arange(rows.shape[1])
    observed, acted = rows[step <= lengths[:, None]], rows[step < lengths[:, None]]
    split = columns.num_observed + columns.num_actions
    return (
        columns.with_states(np.repeat(constants, lengths + 1, axis=0), observed[:, : columns.num_observed]),
        columns.action.inverse(acted[:, columns.num_observed : split]),
        columns.reward.inverse(acted[:, split:])[:, 0],
    )


def valid_episodes(
    source: Source,
    *,
    observations: NDArray[np.float64],
    actions: NDArray[np.float64],
    rewards: NDArray[np.float64],
    terminated: NDArray[np.bool_],
    lengths: NDArray[np.int64],
    remedy: str,
) -> Episodes:
    """Generated values as episodes in the source's spaces and dtypes; one that does not terminate is truncated.

    Args:
        source: the source dataset.
        observations: flat, in their own units, (N + B, obs_dim).
        actions: flat, (N, act_dim).
        rewards: (N,).
        terminated: whether each episode ends in a termination, (B,).
        lengths: transitions of every episode, (B,).
        remedy: what to do about values that are not finite.

    Raises:
        DivergenceError: a generated value is not finite in its dtype.
    """
    recorded = source.episodes
    offsets = offsets_of(lengths)
    terminations, truncations = end_flags(offsets, terminated)
    return source.within_spaces(
        Episodes(
            observations=finite_as(recorded.observations.dtype, "observation", observations, remedy=remedy),
            actions=finite_as(recorded.actions.dtype, "action", actions, remedy=remedy),
            rewards=finite_as(recorded.rewards.dtype, "reward", rewards, remedy=remedy),
            terminations=terminations,
            truncations=truncations,
            offsets=offsets,
        )
    )


def finite_as(dtype: np.dtype[Any], name: str, values: NDArray[np.floating[Any]], *, remedy: str) -> FloatArray:
    """Generated values in the dtype they are kept in; DivergenceError, with what to do about it, if any is not finite.

    One beyond the range of float32 is finite only as long as it is float64.
    """
    with np.errstate(over="ignore"):
        kept: FloatArray = values.astype(dtype)
    check_finite(name, kept, remedy=remedy)
    return kept


def check_finite(name: str, values: NDArray[np.floating[Any]], *, remedy: str) -> None:
    """Raise DivergenceError, with what to do about it, if any generated value is not finite."""
    if not np.isfinite(values).all():
        raise DivergenceError(f"a generated {name} is not finite; {remedy}")


def stored_returns(returns: FloatArray) -> FloatArray:
    """Returns (B,) as shards hold them: in float32, or as they are if one lies beyond its range."""
    with np.errstate(over="ignore"):
        short = returns.astype(np.float32)
    return returns if np.isinf(short).any() else short
