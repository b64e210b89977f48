"""Returns-to-go and their amplification: pure functions on arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gta_datasets.config import SamplingConfig
from gta_datasets.data.episodes import Episodes, FloatArray

__all__ = ["amplify", "asked_returns", "n_step_returns", "penalise_terminals", "returns_to_go"]


def penalise_terminals(rewards: FloatArray, terminations: NDArray[np.bool_], penalty: float) -> NDArray[np.float64]:
    """A copy of `rewards` (N,) with `penalty` subtracted where an episode terminated (GTA, appendix C)."""
    return rewards.astype(np.float64) - penalty * terminations


def returns_to_go(episodes: Episodes, *, discount: float, terminal_penalty: float = 0.0) -> NDArray[np.float64]:
    """Discounted return from every transition to the end of its episode.

    Args:
        episodes: `E` episodes with `N` transitions.
        discount: gamma, in [0, 1].
        terminal_penalty: subtracted from the reward of every terminal transition, here only: the rewards themselves
            stay as they are.

    Returns:
        (N,), in units of reward.
    """
    totals = penalise_terminals(episodes.rewards, episodes.terminations, terminal_penalty)
    lengths, starts = episodes.lengths, episodes.offsets[:-1]
    longest_first = np.argsort(-lengths, kind="stable")
    starts, ascending = starts[longest_first], np.sort(lengths)
    for step in range(int(lengths.max(initial=0)) - 2, -1, -1):
        longer = len(lengths) - np.searchsorted(ascending, step + 1, side="right")
        rows = starts[:longer] + step
        totals[rows] += discount * totals[rows + 1]
    return totals


def n_step_returns(
    episodes: Episodes, values: NDArray[np.float64], *, steps: int, discount: float, terminal_penalty: float = 0.0
) -> NDArray[np.float64]:
    """Discounted rewards of some transitions and the value of the state after them (Sutton and Barto 2018, eq. 7.1).

    Fewer transitions where an episode ends before; after a termination nothing follows.

    Args:
        episodes: `E` episodes with `N` transitions.
        values: of every observation, (N + E,), in units of reward.
        steps: transitions whose rewards count as they are.
        discount: gamma, in [0, 1].
        terminal_penalty: subtracted from the reward of every terminal transition.

    Returns:
        (N,), in units of reward.
    """
    to_go = returns_to_go(episodes, discount=discount, terminal_penalty=terminal_penalty)
    taken = np.minimum(steps, episodes.remaining)
    goes_on = taken < episodes.remaining
    recorded = np.where(goes_on, to_go[np.where(goes_on, np.arange(len(to_go)) + taken, 0)], 0.0)
    ended = ~goes_on & np.repeat(episodes.terminated, episodes.lengths)
    expected = np.where(ended, 0.0, values[episodes.transition_rows + taken])
    returns: NDArray[np.float64] = to_go + discount**taken * (expected - recorded)
    return returns


def amplify(returns: NDArray[np.floating[Any]], alpha: float) -> NDArray[np.floating[Any]]:
    """`c + (alpha - 1) |c|`: `alpha * c` for positive returns; negative ones move up, never down."""
    amplified: NDArray[np.floating[Any]] = returns + (alpha - 1) * np.abs(returns)
    return amplified


def asked_returns(
    returns: NDArray[np.floating[Any]], sampling: SamplingConfig, *, best: float
) -> NDArray[np.floating[Any]]:
    """Returns amplified by `alpha`, but to no more than the best one of a window amplified by `return_limit`.

    Far beyond the data a network no longer knows what it is asked for. Returns above the limit stay as they are. Where
    the condition is fixed, everybody is asked for the best; where there is none, for nothing but what is there.
    """
    if sampling.condition == "fixed":
        return np.full_like(returns, best)
    if sampling.condition == "none":
        return returns
    amplified = amplify(returns, sampling.amplification)
    if sampling.return_limit == 0:
        return amplified
    limit = amplify(np.array(best), sampling.return_limit)
    asked: NDArray[np.floating[Any]] = np.minimum(amplified, np.maximum(limit, returns))
    return asked
