from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gta_datasets.data import bank as bank_module
from gta_datasets.data.bank import Columns, WindowBank
from gta_datasets.data.episodes import Episodes
from gta_datasets.data.windows import WindowIndex, Windows
from tests.builders import linear_episodes

CPU = torch.device("cpu")

# Columns of the observation below: three that move, a goal per episode, one constant of the whole dataset.
GOAL, CONSTANT = 3, 4


def with_goal(lengths: list[int], seed: int = 0) -> Episodes:
    """Linear-world episodes with a goal that differs between episodes and a column that never changes."""
    episodes = linear_episodes(lengths, seed=seed)
    goals = np.repeat(np.arange(len(lengths), dtype=np.float32) * 0.7 - 1, np.array(lengths) + 1)
    extra = np.stack([goals, np.full(len(goals), 2.5, np.float32)], axis=1)
    return dataclasses.replace(episodes, observations=np.concatenate([episodes.observations, extra], axis=1))


def standardised(values: np.ndarray) -> np.ndarray:
    values = values.astype(np.float64)
    spread = values.std(axis=0)
    return (values - values.mean(axis=0)) / np.where(spread == 0, 1, spread)


def naive_window(episodes: Episodes, episode: int, start: int, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and mask of one window, by slicing the episode and writing into zeros."""
    part = episodes.slice(episode, episode + 1)
    first_row, first_step = episodes.observation_offsets[episode], episodes.offsets[episode]
    observations = standardised(episodes.observations)[first_row : first_row + len(part.observations), :3]
    actions = standardised(episodes.actions)[first_step : first_step + len(part.actions)]
    rewards = standardised(episodes.rewards[:, None])[first_step : first_step + len(part.rewards)]
    rows, mask = np.zeros((horizon + 1, 6)), np.zeros((horizon + 1, 6))
    seen = observations[start : start + horizon + 1]
    done = np.concatenate([actions, rewards], axis=1)[start : start + horizon]
    rows[: len(seen), :3], mask[: len(seen), :3] = seen, 1
    rows[: len(done), 3:], mask[: len(done), 3:] = done, 1
    return rows, mask


def test_columns_are_sorted_into_moving_context_and_constant() -> None:
    columns = Columns.of(with_goal([4, 2, 6]))
    assert columns.static.tolist() == [False, False, False, True, True]
    assert columns.context.tolist() == [False, False, False, True, False]
    assert (columns.num_observed, columns.num_actions, columns.num_generated) == (3, 2, 6)


def test_a_goal_that_is_the_same_in_every_episode_is_no_context() -> None:
    columns = Columns.of(with_goal([7]))
    assert columns.static[GOAL]
    assert columns.static[CONSTANT]
    assert not columns.context.any()


def test_a_column_that_moves_in_one_episode_only_is_generated() -> None:
    episodes = with_goal([3, 3, 3])
    observations = episodes.observations.copy()
    observations[5, GOAL] += 1
    columns = Columns.of(dataclasses.replace(episodes, observations=observations))
    assert not columns.static[GOAL]


@pytest.mark.parametrize("shape", [(14,), (2, 7), (1, 14, 1)])
def test_states_and_context_are_the_standardised_columns_of_their_kind(shape: tuple[int, ...]) -> None:
    episodes = with_goal([4, 2, 5])
    columns, expected = Columns.of(episodes), standardised(episodes.observations).reshape(*shape, 5)
    observations = episodes.observations.reshape(*shape, 5)
    states, context = columns.states(observations), columns.context_of(observations)
    assert states.dtype == context.dtype == np.float32
    np.testing.assert_allclose(states, expected[..., :GOAL], atol=1e-5)
    np.testing.assert_allclose(context, expected[..., [GOAL]], atol=1e-5)


def test_states_go_back_into_observations_of_any_episode() -> None:
    episodes = with_goal([4, 2, 5])
    columns, observations = Columns.of(episodes), episodes.observations
    others = np.roll(observations.astype(np.float64), 6, axis=0)
    before = others.copy()
    made = columns.with_states(others, columns.states(observations))
    assert made.dtype == np.float64
    np.testing.assert_allclose(made[:, :GOAL], observations[:, :GOAL], atol=1e-5)
    np.testing.assert_array_equal(made[:, GOAL:], before[:, GOAL:])
    np.testing.assert_array_equal(others, before)


def test_observations_that_never_change_have_no_states() -> None:
    episodes = dataclasses.replace(linear_episodes([3, 2]), observations=np.full((7, 2), 0.5, np.float32))
    columns = Columns.of(episodes)
    assert columns.states(episodes.observations).shape == columns.context_of(episodes.observations).shape == (7, 0)
    np.testing.assert_array_equal(columns.with_states(episodes.observations, np.zeros((7, 0), np.float32)), 0.5)


def test_changed_columns_have_statistics_of_their_own() -> None:
    episodes = with_goal([4, 2, 5])
    columns = Columns.of(episodes)
    usual, context = columns.states(episodes.observations), columns.context_of(episodes.observations)
    spread = columns.observation
    wider = dataclasses.replace(columns, observation=dataclasses.replace(spread, scale=2 * spread.scale))
    np.testing.assert_allclose(wider.states(episodes.observations), usual / 2, rtol=1e-6)
    np.testing.assert_allclose(wider.context_of(episodes.observations), context / 2, rtol=1e-6)


@pytest.mark.filterwarnings("ignore:horizon=.* is longer than every episode")
@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 7), min_size=2, max_size=5), horizon=st.integers(1, 8), seed=st.integers(0, 99))
def test_gathering_is_slicing_and_masking(lengths: list[int], horizon: int, seed: int) -> None:
    episodes = with_goal(lengths, seed)
    index = WindowIndex.of(episodes, horizon)
    windows = index.locate(np.random.default_rng(seed).permutation(len(index)))
    batch = WindowBank(episodes, Columns.of(episodes), horizon, CPU).gather(windows)
    assert batch.rows.dtype == batch.mask.dtype == batch.context.dtype == torch.float32
    goals = np.repeat(np.arange(len(lengths)) * 0.7 - 1, np.array(lengths) + 1)
    for place, (episode, start) in enumerate(zip(windows.episode, windows.start, strict=True)):
        rows, mask = naive_window(episodes, int(episode), int(start), horizon)
        np.testing.assert_array_equal(batch.mask[place].numpy(), mask)
        np.testing.assert_allclose(batch.rows[place].numpy(), rows, atol=2e-5)
        assert (batch.rows[place].numpy()[mask == 0] == 0).all()
        goal = (episode * 0.7 - 1 - goals.mean()) / goals.std()
        np.testing.assert_allclose(batch.context[place].numpy(), [goal], atol=1e-5)


def test_the_last_row_of_a_window_has_an_observation_and_nothing_else() -> None:
    """The next transition's action and reward lie right there in the bank; they must not leak."""
    episodes = linear_episodes([6])
    bank = WindowBank(episodes, Columns.of(episodes), 3, CPU)
    batch = bank.gather(WindowIndex.of(episodes, 3).locate(np.arange(4)))
    assert (batch.mask[:, -1] == torch.tensor([1.0, 1, 1, 0, 0, 0])).all()
    assert (batch.rows[:, -1, 3:] == 0).all()
    assert (batch.mask[:, :-1] == 1).all()


@pytest.mark.filterwarnings("ignore:horizon=.* is longer than every episode")
def test_episodes_of_one_transition() -> None:
    """Fault row 22: all T = 1, padded."""
    episodes = linear_episodes([1, 1, 1], terminated=[0, 1, 2])
    batch = WindowBank(episodes, Columns.of(episodes), 4, CPU).gather(WindowIndex.of(episodes, 4).locate(np.arange(3)))
    assert batch.mask[:, :, 0].tolist() == [[1, 1, 0, 0, 0]] * 3
    assert batch.mask[:, :, -1].tolist() == [[1, 0, 0, 0, 0]] * 3
    assert torch.isfinite(batch.rows).all()
    assert batch.context.shape == (3, 0)


def test_windows_come_in_any_order_and_repeatedly() -> None:
    episodes = with_goal([5, 4, 6])
    index = WindowIndex.of(episodes, 3)
    bank = WindowBank(episodes, Columns.of(episodes), 3, CPU)
    every = bank.gather(index.locate(np.arange(len(index))))
    numbers = np.array([7, 0, 7, 3])
    some = bank.gather(index.locate(numbers))
    for name in ("rows", "mask", "context"):
        assert torch.equal(getattr(some, name), getattr(every, name)[torch.from_numpy(numbers)])


def test_gathering_leaves_the_bank_and_the_source_alone() -> None:
    episodes = with_goal([5, 4])
    before = {name: array.copy() for name, array in episodes.arrays().items()}
    bank = WindowBank(episodes, Columns.of(episodes), 3, CPU)
    windows = Windows(np.array([1]), np.array([1]), np.array([3]))
    first = bank.gather(windows)
    kept = first.rows.clone()
    first.rows.zero_()
    assert torch.equal(bank.gather(windows).rows, kept)
    for name, array in before.items():
        np.testing.assert_array_equal(episodes.arrays()[name], array)


def test_rows_do_not_depend_on_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    episodes = with_goal([9, 5, 12])
    columns, index = Columns.of(episodes), WindowIndex.of(episodes, 4)
    windows = index.locate(np.arange(len(index)))
    whole = WindowBank(episodes, columns, 4, CPU).gather(windows)
    monkeypatch.setattr(bank_module.chunks, "__defaults__", (3,))
    cut = WindowBank(episodes, columns, 4, CPU).gather(windows)
    assert torch.equal(whole.rows, cut.rows)


def test_nothing_to_observe_but_constants() -> None:
    episodes = linear_episodes([3, 2])
    episodes = dataclasses.replace(episodes, observations=np.ones((7, 2), np.float32))
    columns = Columns.of(episodes)
    assert (columns.num_observed, columns.num_generated) == (0, 3)
    batch = WindowBank(episodes, columns, 2, CPU).gather(WindowIndex.of(episodes, 2).locate(np.arange(3)))
    assert batch.rows.shape == (3, 3, 3)
    assert torch.isfinite(batch.rows).all()


def test_a_large_offset_keeps_its_digits() -> None:
    """Fault row 29: float64 observations at 1e9 with a spread of 1 are normalised before they are rounded."""
    episodes = linear_episodes([30])
    small = episodes.observations.astype(np.float64)
    far = dataclasses.replace(episodes, observations=small + 1e9)
    near = dataclasses.replace(episodes, observations=small)
    windows = WindowIndex.of(episodes, 30).locate(np.arange(1))
    rows = [WindowBank(each, Columns.of(each), 30, CPU).gather(windows).rows for each in (far, near)]
    np.testing.assert_allclose(rows[0].numpy(), rows[1].numpy(), atol=1e-5)
