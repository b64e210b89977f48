"""How often each window is drawn for training (GTA, section 4.1 and appendix C)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gta_datasets.data.episodes import Episodes
from gta_datasets.data.windows import WindowIndex
from gta_datasets.errors import ConfigError
from gta_datasets.warn import warn

__all__ = ["dense_weights", "reward_of_failure", "sparse_weights"]

RETURN_UNIT = 0.01
"""The paper's temperature applies to returns multiplied by this."""


def dense_weights(
    returns: NDArray[np.floating], *, bins: int, smoothing: float = 0.001, temperature: float = 5.0
) -> NDArray[np.float64]:
    """Probability of every window, for dense rewards.

    Window returns are put into a histogram; a bin of midpoint `y` that holds the fraction `f` of all windows is drawn
    with weight `f / (f + smoothing) * exp(-|y_max - y| / temperature)`, and within it every window equally often
    (Krishnamoorthy et al. 2023, equation 4, as used by GTA).

    Args:
        returns: return of every window, (W,), in units of reward.
        bins: number of bins.
        smoothing: k of the paper; bins that hold much less than this fraction are rarely drawn.
        temperature: tau of the paper, for returns in hundreds.

    Returns:
        Probabilities, (W,), that sum to 1.
    """
    if bins < 1:
        raise ConfigError(f"bins={bins} is not allowed; choose at least 1 (the paper uses 20, 50 or 100)")
    scaled = np.asarray(returns, np.float64) * RETURN_UNIT
    lowest = scaled.min()
    width = (scaled.max() - lowest) / bins or 1.0
    # Not np.histogram, which refuses returns that differ by rounding only.
    of_window = np.minimum((scaled - lowest) / width, bins - 1).astype(np.int64)
    counts = np.bincount(of_window, minlength=bins)
    fraction = counts / len(scaled)
    below_best = width * np.arange(bins - 1, -1, -1)
    weight = fraction / (fraction + smoothing) * np.exp(-below_best / temperature)
    probability = weight[of_window] / counts[of_window]
    return np.asarray(probability / probability.sum(), np.float64)


def sparse_weights(episodes: Episodes, index: WindowIndex, *, success_weight: float) -> NDArray[np.float64]:
    """Probability of every window, for sparse rewards.

    Successful episodes, those with any reward above `reward_of_failure`, are drawn `success_weight` times as often as
    the others, then a window of the episode uniformly. A warning says so where all succeed or none does: then all
    episodes are drawn equally often.

    Args:
        episodes: the dataset.
        index: its windows.
        success_weight: 10 or 30 in the paper.

    Returns:
        Probabilities, (W,), that sum to 1.
    """
    if success_weight <= 0:
        raise ConfigError(f"success_weight={success_weight} is not allowed; choose a positive number (10 in the paper)")
    owner = np.repeat(np.arange(episodes.num_episodes), episodes.lengths)
    better = episodes.rewards > reward_of_failure(episodes.rewards)
    success = np.bincount(owner, weights=better, minlength=episodes.num_episodes) > 0
    counts = np.diff(index.first)
    used = success[counts > 0]
    if used.all() or not used.any():
        warn(
            f'reweighting="sparse" has no effect: {np.count_nonzero(used)} of {len(used)} episodes have a reward that '
            'stands for success; choose "dense", or "none"'
        )
    per_episode = np.where(success, success_weight, 1.0) * (counts > 0)
    per_window = per_episode / np.maximum(counts, 1) / per_episode.sum()
    return np.repeat(per_window, counts)


def reward_of_failure(rewards: NDArray[np.floating]) -> float:
    """The largest reward that stands for no success: the lowest one, or 0 if that is more and some are positive.

    Args:
        rewards: all of a dataset, (N,): 0 or 1, -1 or 0, or others.
    """
    lowest = float(rewards.min())
    return max(lowest, 0.0) if rewards.max() > 0 else lowest
