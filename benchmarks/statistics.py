"""What can be said about a few seeds: means, interquartile means with bootstrap intervals, Welch's test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

__all__ = ["Summary", "Test", "deviation", "share_above", "spread", "summarise", "welch"]

RESAMPLES = 2_000
CONFIDENCE = 0.95
FEWEST = 5
"""Seeds for an interval: that of three covers the truth in three of four cases, and on several datasets in about
four of five."""


class Summary(NamedTuple):
    """Scores of one method."""

    mean: float  # of the datasets' means
    std: float | None  # between seeds, of the mean over datasets, whichever seeds are taken; None for a single seed
    number: int  # of seeds, or runs where there are several datasets
    iqm: float  # mean of the middle half of all runs
    interval: tuple[float, float] | None  # of the interquartile mean; None where there are too few seeds


class Test(NamedTuple):
    """How far the means of two methods are apart."""

    p: float  # two-sided
    difference: float  # ours less theirs
    interval: tuple[float, float]  # of the difference

    def __str__(self) -> str:
        p_value = "< 0.001" if self.p < 0.001 else f"{self.p:.3f}"
        return f"{p_value} ({self.difference:+.1f} [{self.interval[0]:.1f}, {self.interval[1]:.1f}])"


def summarise(samples: Sequence[Sequence[float]]) -> Summary:
    """Of the scores of the same seeds on every dataset.

    The bootstrap draws seeds within each dataset (Agarwal et al. 2021, "Deep RL at the edge of the statistical
    precipice").
    """
    arrays = [np.asarray(sample, np.float64) for sample in samples]
    together = np.concatenate(arrays)
    interval = None
    if min(map(len, arrays)) >= FEWEST:
        drawn = stats.bootstrap(
            arrays,
            _interquartile_mean,
            n_resamples=RESAMPLES,
            confidence_level=CONFIDENCE,
            method="percentile",
            vectorized=True,
            rng=np.random.default_rng(0),
        )
        interval = float(drawn.confidence_interval.low), float(drawn.confidence_interval.high)
    means = float(np.mean([array.mean() for array in arrays]))
    std = float(np.sqrt(sum(array.var(ddof=1) for array in arrays)) / len(arrays)) if len(arrays[0]) > 1 else None
    return Summary(means, std, len(together), float(stats.trim_mean(together, 0.25)), interval)


def welch(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> Test | None:
    """Whether both have the same mean over datasets, without assuming equal spreads; the interval is of 95 %.

    Both are scores of seeds by dataset. Seeds of different datasets have nothing in common, so the variances of the
    means add up, and degrees of freedom are Satterthwaite's; of one dataset this is Welch's test. None where there are
    too few seeds or no spread.
    """
    first, second = ([np.asarray(sample, np.float64) for sample in samples] for samples in (ours, theirs))
    if min(map(len, first + second)) < 2:
        return None
    variances = np.array([sample.var(ddof=1) / len(sample) for sample in first + second])
    if not variances.any():
        return None
    difference = np.mean([sample.mean() for sample in first]) - np.mean([sample.mean() for sample in second])
    error = np.sqrt(variances.sum()) / len(first)
    freedom = variances.sum() ** 2 / sum(variances**2 / [len(sample) - 1 for sample in first + second])
    margin = stats.t.ppf(0.5 + CONFIDENCE / 2, freedom) * error
    p_value = float(2 * stats.t.sf(abs(difference) / error, freedom))
    return Test(p_value, float(difference), (float(difference - margin), float(difference + margin)))


def deviation(values: Sequence[float]) -> float:
    """Standard deviation of a sample; 0 of a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def spread(values: Sequence[float], digits: int) -> str:
    """Mean and, of several values, their standard deviation, in words."""
    more = f" ± {deviation(values):,.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):,.{digits}f}{more}"


def share_above(scores: Sequence[float], levels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of the runs that score more than each level."""
    shares: NDArray[np.float64] = (np.asarray(scores)[:, None] > levels).mean(axis=0)
    return shares


def _interquartile_mean(*samples: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    found: NDArray[np.float64] = stats.trim_mean(np.concatenate(samples, axis=axis), 0.25, axis=axis)
    return found
