from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from gta_datasets.data.episodes import Episodes
from gta_datasets.data.returns import amplify, n_step_returns, penalise_terminals, returns_to_go
from tests.builders import linear_episodes

lengths_of = st.lists(st.integers(1, 9), min_size=1, max_size=7)
finite = st.floats(-1e9, 1e9)


def with_rewards(lengths: list[int], terminated: set[int], seed: int) -> Episodes:
    episodes = linear_episodes(lengths, terminated=terminated)
    rewards = np.random.default_rng(seed).normal(size=sum(lengths)).astype(np.float32)
    return dataclasses.replace(episodes, rewards=rewards)


def sum_of_discounted_rewards(episodes: Episodes, discount: float, penalty: float) -> list[float]:
    """The definition, term by term: sum over j of gamma^j r_(t+j), up to the episode's last step."""
    totals = []
    for begin, end in zip(episodes.offsets[:-1], episodes.offsets[1:], strict=True):
        for step in range(begin, end):
            total = 0.0
            for later in range(step, end):
                reward = float(episodes.rewards[later]) - (penalty if episodes.terminations[later] else 0.0)
                total += discount ** (later - step) * reward
            totals.append(total)
    return totals


@settings(max_examples=100, deadline=None)
@given(
    lengths=lengths_of,
    terminated=st.sets(st.integers(0, 6)),
    discount=st.one_of(st.sampled_from([0.0, 1.0, 0.99]), st.floats(0, 1)),
    penalty=st.sampled_from([0.0, 100.0, 2.5]),
    seed=st.integers(0, 1000),
)
def test_return_to_go_is_the_discounted_sum(
    lengths: list[int], terminated: set[int], discount: float, penalty: float, seed: int
) -> None:
    episodes = with_rewards(lengths, terminated, seed)
    found = returns_to_go(episodes, discount=discount, terminal_penalty=penalty)
    assert found.dtype == np.float64
    np.testing.assert_allclose(
        found, sum_of_discounted_rewards(episodes, discount, penalty), rtol=1e-12, atol=1e-12 * (1 + penalty)
    )


@settings(max_examples=100, deadline=None)
@given(
    lengths=lengths_of,
    terminated=st.sets(st.integers(0, 6)),
    steps=st.integers(0, 12),
    discount=st.one_of(st.sampled_from([0.0, 1.0, 0.99]), st.floats(0, 1)),
    penalty=st.sampled_from([0.0, 100.0]),
    seed=st.integers(0, 1000),
)
def test_n_step_returns_are_rewards_and_the_value_after_them(
    lengths: list[int], terminated: set[int], steps: int, discount: float, penalty: float, seed: int
) -> None:
    episodes = with_rewards(lengths, terminated, seed)
    values = np.random.default_rng(seed + 1).normal(size=len(episodes.observations))
    expected = []
    for number in range(episodes.num_episodes):
        episode = episodes.slice(number, number + 1)
        own = values[episodes.observation_offsets[number] :]
        for step in range(episode.num_transitions):
            taken = range(step, min(step + steps, episode.num_transitions))
            total = sum(
                discount ** (later - step) * (float(episode.rewards[later]) - penalty * episode.terminations[later])
                for later in taken
            )
            over = any(episode.terminations[later] for later in taken)
            expected.append(total + (0.0 if over else discount ** len(taken) * own[step + len(taken)]))
    found = n_step_returns(episodes, values, steps=steps, discount=discount, terminal_penalty=penalty)
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11 * (1 + penalty))


def test_the_known_return_of_a_constant_reward() -> None:
    """A geometric series, and no leak from the following episode."""
    episodes = linear_episodes((1000, 1, 3))
    episodes = dataclasses.replace(episodes, rewards=np.ones(1004, np.float32))
    found = returns_to_go(episodes, discount=0.99)
    steps_left = np.concatenate([np.arange(1000, 0, -1), [1], [3, 2, 1]])
    np.testing.assert_allclose(found, (1 - 0.99**steps_left) / (1 - 0.99), rtol=1e-11)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_penalty_is_in_the_returns_only(dtype: type[np.floating]) -> None:
    """The released code subtracts it in place, where it stays in what is generated."""
    episodes = linear_episodes((4, 3), terminated=[0])
    episodes = dataclasses.replace(episodes, rewards=episodes.rewards.astype(dtype))
    before = {name: array.copy() for name, array in episodes.arrays().items()}
    plain = returns_to_go(episodes, discount=0.5)
    penalised = returns_to_go(episodes, discount=0.5, terminal_penalty=100.0)
    np.testing.assert_allclose(plain - penalised, [12.5, 25.0, 50.0, 100.0, 0, 0, 0])
    for name, array in before.items():
        np.testing.assert_array_equal(episodes.arrays()[name], array)


def test_penalise_terminals_copies() -> None:
    rewards = np.array([1.0, 2.0, 3.0])
    terminations = np.array([False, True, False])
    rewards.setflags(write=False)
    penalised = penalise_terminals(rewards, terminations, 100.0)
    assert penalised.tolist() == [1.0, -98.0, 3.0]
    assert not np.shares_memory(penalised, rewards)


@settings(max_examples=200, deadline=None)
@given(returns=npst.arrays(np.float64, st.integers(0, 8), elements=finite), alpha=st.floats(1, 5))
def test_amplifying_never_lowers_and_scales_what_is_positive(returns: np.ndarray, alpha: float) -> None:
    before = returns.copy()
    amplified = amplify(returns, alpha)
    np.testing.assert_array_equal(returns, before)
    assert not np.shares_memory(amplified, returns)
    assert (amplified >= returns).all()
    positive = returns >= 0
    np.testing.assert_allclose(amplified[positive], alpha * returns[positive], rtol=1e-12)
    # What is negative moves up by as much as its mirror image does, to the precision of what cancels.
    precision = 1e-15 * alpha * np.abs(returns).max(initial=1e-290)
    np.testing.assert_allclose(amplified[~positive], (2 - alpha) * returns[~positive], rtol=0, atol=precision)


@given(returns=npst.arrays(np.float64, 5, elements=finite))
def test_amplifying_by_one_changes_nothing(returns: np.ndarray) -> None:
    np.testing.assert_array_equal(amplify(returns, 1.0), returns)


@settings(deadline=None)
@given(returns=npst.arrays(np.float64, 5, elements=st.floats(-1e6, 1e6)), alpha=st.floats(1, 2))
def test_amplifying_up_to_twofold_keeps_signs_and_order_among_equals(returns: np.ndarray, alpha: float) -> None:
    """In the released code a negative return gets worse, or, beyond 2, positive."""
    amplified = amplify(returns, alpha)
    assert (amplified[returns < 0] <= 0).all()
    assert (amplified[returns >= 0] >= 0).all()
    assert (np.diff(amplified[np.argsort(returns, kind="stable")]) >= -1e-9).all()
