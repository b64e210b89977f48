from __future__ import annotations

import dataclasses
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gta_datasets.config import DataConfig
from gta_datasets.data.draws import TrainingDraws
from gta_datasets.data.episodes import Episodes
from gta_datasets.data.reweighting import dense_weights, sparse_weights
from gta_datasets.data.windows import WindowIndex
from gta_datasets.errors import ConfigError
from tests.builders import linear_episodes


def paper_weights(returns: np.ndarray, bins: int) -> np.ndarray:
    """Bin by bin: f / (f + 0.001) * exp(-|y_max - y| / 5) of returns times 0.01, shared out within the bin."""
    y = [float(value) * 0.01 for value in returns]
    low, high = min(y), max(y)
    probability = np.zeros(len(y))
    for number in range(bins):
        left, right = low + (high - low) * number / bins, low + (high - low) * (number + 1) / bins
        last = number == bins - 1
        inside = [i for i, value in enumerate(y) if left <= value < right or (last and value >= right)]
        if not inside:
            continue
        fraction = len(inside) / len(y)
        weight = fraction / (fraction + 0.001) * math.exp(-abs(high - (left + right) / 2) / 5.0)
        for i in inside:
            probability[i] = weight / len(inside)
    return probability / probability.sum()


@pytest.mark.parametrize("bins", [1, 2, 20, 50, 100])
@pytest.mark.parametrize("spread", [1.0, 300.0, 5_000.0])
def test_dense_weights_follow_the_paper(bins: int, spread: float) -> None:
    returns = np.random.default_rng(bins).gamma(2.0, spread, size=1_500) - spread
    found = dense_weights(returns, bins=bins)
    np.testing.assert_allclose(found, paper_weights(returns, bins), rtol=1e-9)
    assert found.sum() == pytest.approx(1, abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(
    returns=st.lists(st.floats(-1e7, 1e7), min_size=1, max_size=30),
    bins=st.integers(1, 100),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_dense_weights_are_a_distribution_that_never_prefers_a_worse_bin_of_equal_size(
    returns: list[float], bins: int, dtype: type[np.floating]
) -> None:
    values = np.array(returns, dtype)
    before = values.copy()
    found = dense_weights(values, bins=bins)
    np.testing.assert_array_equal(values, before)
    assert found.shape == values.shape
    assert (found >= 0).all()
    assert found.sum() == pytest.approx(1, abs=1e-9)
    assert found[values.argmax()] > 0


def test_bins_are_drawn_by_their_weight_not_by_their_size() -> None:
    """900 mediocre windows and 100 good ones that lie ln 2 times the temperature above: both bins hold enough."""
    gap = 100 * 5.0 * math.log(2)
    returns = np.concatenate([np.zeros(900), np.full(100, 2 * gap)])
    found = dense_weights(returns, bins=2)
    bad, good = 0.9 / 0.901, 0.1 / 0.101 * 2
    assert found[900:].sum() == pytest.approx(good / (good + bad), rel=1e-12)


@pytest.mark.parametrize(
    "returns", [[5.0, 5.0, 5.0], [1.0, 1.0 + 2.3e-16], [1e9, 1e9 + 1.2e-7, 1e9], [0.0, 5e-324], [3.0]]
)
def test_returns_that_are_equal_up_to_rounding(returns: list[float]) -> None:
    """np.histogram refuses them: 'Too many bins for data range'."""
    found = dense_weights(np.array(returns), bins=50)
    assert np.isfinite(found).all()
    assert found.sum() == pytest.approx(1)


def test_equal_returns_are_drawn_equally() -> None:
    assert dense_weights(np.full(8, -3.0), bins=20).tolist() == [1 / 8] * 8


@pytest.mark.parametrize("smoothing", [0.001, 0.5])
def test_rare_returns_are_smoothed_as_the_configuration_says(smoothing: float) -> None:
    """18 poor transitions and 2 good ones, at a temperature that tells no returns apart."""
    episodes = linear_episodes([18, 2])
    returns = np.repeat([0.0, 1.0], [18, 2])
    config = DataConfig(horizon=1, reweighting="dense", bins=2, smoothing=smoothing, temperature=1e9)
    drawn = TrainingDraws(episodes, WindowIndex.of(episodes, 1), returns, config, 0).draw(0, 20_000)
    poor, good = (share / (share + smoothing) for share in (0.9, 0.1))
    assert drawn.episode.mean() == pytest.approx(good / (good + poor), abs=0.01)


@pytest.mark.parametrize("bins", [0, -1])
def test_no_bins(bins: int) -> None:
    with pytest.raises(ConfigError, match=f"bins={bins} is not allowed; choose at least 1"):
        dense_weights(np.ones(3), bins=bins)


def successful(lengths: list[int], episodes: set[int]) -> tuple[Episodes, np.ndarray]:
    """Episodes with reward 0, but 1 at the last step of those named."""
    source = linear_episodes(lengths)
    rewards = np.zeros(source.num_transitions, np.float32)
    rewards[[source.offsets[e + 1] - 1 for e in episodes]] = 1
    return dataclasses.replace(source, rewards=rewards), rewards


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=2, max_size=8),
    success=st.sets(st.integers(0, 1)),
    weight=st.sampled_from([10.0, 30.0, 1.0, 0.5]),
    horizon=st.integers(1, 6),
)
def test_sparse_weights_prefer_successful_episodes_exactly_by_the_weight(
    lengths: list[int], success: set[int], weight: float, horizon: int
) -> None:
    episodes, _ = successful(lengths, success)
    index = WindowIndex.of(episodes, horizon)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", 'reweighting="sparse" has no effect', UserWarning)  # no episode, or both
        found = sparse_weights(episodes, index, success_weight=weight)
    owner = index.locate(np.arange(len(index))).episode
    assert found.shape == (len(index),)
    assert found.sum() == pytest.approx(1, abs=1e-12)
    total = sum(weight if e in success else 1.0 for e in range(len(lengths)))
    for episode in range(len(lengths)):
        own = found[owner == episode]
        assert own.sum() == pytest.approx((weight if episode in success else 1.0) / total, rel=1e-12)
        np.testing.assert_allclose(own, own[0], rtol=1e-12)


def test_sparse_weights_leave_out_skipped_episodes() -> None:
    episodes, _ = successful([2, 6, 6, 1], {0, 1})
    index = WindowIndex.of(episodes, 4, short_episodes="skip")
    found = sparse_weights(episodes, index, success_weight=10.0)
    np.testing.assert_allclose(found, [10 / 33] * 3 + [1 / 33] * 3)


def test_success_is_any_positive_reward_of_the_episode_not_of_the_window() -> None:
    episodes, rewards = successful([8, 8], {1})
    rewards[0] = -1
    index = WindowIndex.of(episodes, 2)
    found = sparse_weights(episodes, index, success_weight=10.0)
    np.testing.assert_allclose(found[7:] / found[:7], 10.0)


@pytest.mark.parametrize("weight", [0.0, -1.0])
def test_sparse_weight_must_be_positive(weight: float) -> None:
    episodes = linear_episodes([4])
    with pytest.raises(ConfigError, match=f"success_weight={weight} is not allowed; choose a positive number"):
        sparse_weights(episodes, WindowIndex.of(episodes, 2), success_weight=weight)


@pytest.mark.parametrize(("bad", "good"), [(-1.0, 0.0), (0.0, 1.0), (0.5, 2.0), (-3.0, -1.0)])
def test_success_is_told_by_rewards_of_any_sign(bad: float, good: float) -> None:
    episodes, rewards = successful([8, 8, 8], {1})
    episodes = dataclasses.replace(episodes, rewards=np.where(rewards > 0, good, bad).astype(np.float32))
    found = sparse_weights(episodes, WindowIndex.of(episodes, 2), success_weight=10.0).reshape(3, -1)
    np.testing.assert_allclose(found.sum(axis=1), [1 / 12, 10 / 12, 1 / 12])


@pytest.mark.parametrize("success", [set(), {0, 1}])
def test_a_warning_says_that_sparse_weights_are_equal(success: set[int]) -> None:
    episodes, _ = successful([6, 6, 2], success)
    index = WindowIndex.of(episodes, 4, short_episodes="skip")
    with pytest.warns(UserWarning, match=rf"has no effect: {len(success)} of 2 episodes .*; choose \"dense\""):
        found = sparse_weights(episodes, index, success_weight=10.0)
    np.testing.assert_allclose(found, 1 / 6)
