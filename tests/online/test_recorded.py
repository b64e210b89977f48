"""Windows of what was recorded, against the transitions as they were added."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer

from gta_datasets.data.reading import Source
from gta_datasets.data.spaces import SpaceCodec
from gta_datasets.online.recorded import Recorded, unscaled
from tests.builders import linear_episodes

ACTIONS = spaces.Box(np.array([0.0, -3.0], np.float32), np.array([2.0, 5.0], np.float32))
STATES = spaces.Box(-np.inf, np.inf, (3,), np.float32)
SOURCE = Source(linear_episodes(), SpaceCodec.of(STATES), SpaceCodec.of(ACTIONS, name="action"), np.arange(8), ())


def filled(lengths: tuple[int, ...], room: int, told: tuple[bool, ...]) -> tuple[ReplayBuffer, int]:
    """Episodes in which state and reward are the number of the transition; the first is cut by a time limit."""
    buffer, number = ReplayBuffer(room, STATES, ACTIONS, "cpu"), 0
    for episode, (steps, known) in enumerate(zip(lengths, told, strict=True)):
        for step in range(steps):
            state, following = (np.full((1, 3), value + 100 * episode, np.float32) for value in (number, number + 1))
            last = known and step == steps - 1
            action, info = np.array([[number % 3 - 1.0, 0.5]], np.float32), {"TimeLimit.truncated": episode == 0}
            buffer.add(state, following, action, np.array([number]), np.array([last]), [info])
            number += 1
    return buffer, number


def test_windows_are_what_was_added() -> None:
    buffer, added = filled((4, 6, 5), 100, (True, True, False))
    recorded = Recorded(buffer, added, SOURCE)
    windows = recorded.windows(np.array([2, 5, 12]), 3)
    np.testing.assert_array_equal(windows.lengths, [2, 3, 3])
    np.testing.assert_array_equal(windows.rewards, [2, 3, 5, 6, 7, 12, 13, 14])
    expected = [2, 3, 4, 105, 106, 107, 108, 212, 213, 214, 215]
    np.testing.assert_array_equal(windows.observations[:, 0], expected)
    assert not windows.terminations.any()  # a time limit is no termination
    low, high = ACTIONS.low, ACTIONS.high
    for row, number in enumerate(windows.rewards.astype(int)):
        scaled = np.array([number % 3 - 1.0, 0.5])
        np.testing.assert_allclose(windows.actions[row], low + (scaled + 1) / 2 * (high - low), rtol=1e-6)
    ended = recorded.windows(np.array([8]), 5)
    np.testing.assert_array_equal(ended.terminations, [False, True])


def test_a_window_ends_where_the_environment_was_reset_unnoticed() -> None:
    buffer, added = filled((4, 6), 100, (False, False))
    recorded = Recorded(buffer, added, SOURCE)
    np.testing.assert_array_equal(recorded.lengths(np.arange(10), 5), [4, 3, 2, 1, 5, 5, 4, 3, 2, 1])


def test_the_oldest_make_way() -> None:
    buffer, added = filled((4, 6, 5), 8, (True, True, True))
    recorded = Recorded(buffer, added, SOURCE)
    assert recorded.oldest == 7
    windows = recorded.windows(np.array([7, 10]), 10)
    np.testing.assert_array_equal(windows.rewards, [7, 8, 9, 10, 11, 12, 13, 14])
    np.testing.assert_array_equal(recorded.rewards(np.array([7, 10, 13]), 4), [24, 10 + 11 + 12 + 13, 27])


def test_memory_does_not_grow_with_the_buffer() -> None:
    rows = 40_000
    buffer, numbers = ReplayBuffer(rows, STATES, ACTIONS, "cpu"), np.arange(0, rows, 4_000)
    buffer.observations[:, 0] = np.arange(rows)[:, None]
    buffer.next_observations[:, 0] = np.arange(1, rows + 1)[:, None]
    buffer.rewards[:], buffer.full = 1.0, True
    tracemalloc.start()
    try:
        recorded = Recorded(buffer, rows, SOURCE)
        windows, rewards = recorded.windows(numbers, 5), recorded.rewards(numbers, 5)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(windows.lengths, [5] * 10)
    np.testing.assert_array_equal(rewards, [5.0] * 10)
    assert peak < rows  # less than a byte for every transition


@pytest.mark.parametrize("value", [-1.0, 0.25, 1.0])
def test_actions_come_back_in_their_own_units(value: float) -> None:
    scaled = np.full((2, 2), value)
    expected = [[(value + 1), -3 + 4 * (value + 1)]] * 2
    np.testing.assert_allclose(unscaled(scaled, ACTIONS), expected)
