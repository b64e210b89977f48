"""Means, intervals and tests of a few seeds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from benchmarks.statistics import share_above, summarise, welch


def test_summaries_of_several_datasets() -> None:
    samples = [[1.0, 2.0, 6.0], [10.0, 12.0, 20.0]]
    found = summarise(samples)
    assert found.mean == pytest.approx((3 + 14) / 2)
    assert found.std == pytest.approx(np.sqrt(np.var(samples[0], ddof=1) + np.var(samples[1], ddof=1)) / 2)
    assert summarise([samples[0], samples[1][::-1]]).std == pytest.approx(found.std), (
        "whichever seeds are taken together"
    )
    assert found.number == 6
    assert found.iqm == pytest.approx(np.mean([2, 6, 10, 12]))  # one of six cut off at each end
    assert found.interval is None, "of three seeds it would be too narrow"


def test_intervals_draw_seeds_within_datasets() -> None:
    samples = [[1.0, 2.0, 3.0, 5.0, 9.0], [21.0, 22.0, 24.0, 25.0, 30.0]]
    rng = np.random.default_rng(1)
    drawn = np.concatenate([rng.choice(sample, (20_000, 5)) for sample in samples], axis=1)
    expected = np.quantile(np.sort(drawn, axis=1)[:, 2:-2].mean(axis=1), [0.025, 0.975])
    assert summarise(samples).interval == pytest.approx(expected, abs=0.4)
    assert summarise([sample[:4] for sample in samples]).interval is None


def test_one_seed_has_neither_spread_nor_interval() -> None:
    found = summarise([[3.0], [5.0]])
    assert (found.mean, found.std, found.interval) == (4.0, None, None)


def test_welchs_test() -> None:
    ours, theirs = np.array([50.0, 51.0, 53.0]), np.array([44.0, 49.0, 47.0, 42.0])
    variances = ours.var(ddof=1) / 3, theirs.var(ddof=1) / 4
    statistic = (ours.mean() - theirs.mean()) / np.sqrt(sum(variances))
    freedom = sum(variances) ** 2 / (variances[0] ** 2 / 2 + variances[1] ** 2 / 3)
    found = welch([ours], [theirs])
    assert found.p == pytest.approx(2 * stats.t.sf(statistic, freedom))
    known = stats.ttest_ind(ours, theirs, equal_var=False)
    assert found.p == pytest.approx(known.pvalue)
    assert found.difference == pytest.approx(ours.mean() - theirs.mean())
    assert found.interval == pytest.approx(tuple(known.confidence_interval(0.95)))
    other = np.array([10.0, 10.0, 13.0])
    variances = *variances, other.var(ddof=1) / 3, other.var(ddof=1) / 3
    statistic = (ours.mean() - theirs.mean()) / np.sqrt(sum(variances))
    freedom = sum(variances) ** 2 / sum(each**2 / size for each, size in zip(variances, (2, 3, 2, 2), strict=True))
    together = welch([ours, other], [theirs, other[::-1]])
    assert together.p == pytest.approx(2 * stats.t.sf(statistic, freedom))
    margin = stats.t.ppf(0.975, freedom) * np.sqrt(sum(variances)) / 2
    assert together.difference == pytest.approx(found.difference / 2), "of the mean of both datasets"
    assert together.interval == pytest.approx((together.difference - margin, together.difference + margin))
    assert welch([[1.0]], [theirs]) is None
    assert welch([[1.0, 1.0]], [[1.0, 1.0]]) is None


def test_shares_of_runs_above_levels() -> None:
    np.testing.assert_array_equal(share_above([1.0, 2.0, 3.0], np.array([0.0, 1.0, 2.5, 9.0])), [1, 2 / 3, 1 / 3, 0])
