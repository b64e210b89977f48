"""Which windows exist (fault rows 21 and 23)."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gta_datasets.data.episodes import concatenate
from gta_datasets.data.windows import WindowIndex, cut, starting_at, take
from gta_datasets.errors import DatasetError
from tests.builders import linear_episodes

Mode = Literal["pad", "skip"]

lengths_of = st.lists(st.integers(1, 12), min_size=1, max_size=8)
modes: st.SearchStrategy[Mode] = st.sampled_from(["pad", "skip"])


def expected_windows(lengths: list[int], horizon: int, mode: Mode) -> list[tuple[int, int, int]]:
    """(episode, start, length) of every window, by trying every start of every episode."""
    windows = []
    for episode, length in enumerate(lengths):
        windows += [(episode, start, horizon) for start in range(length) if start + horizon <= length]
        if length < horizon and mode == "pad":
            windows.append((episode, 0, length))
    return windows


@pytest.mark.filterwarnings("ignore:horizon=.* is longer than every episode")
@settings(max_examples=100, deadline=None)
@given(lengths=lengths_of, horizon=st.integers(1, 14), mode=modes)
def test_windows_around_transitions(lengths: list[int], horizon: int, mode: Mode) -> None:
    expected: dict[tuple[int, int], float] = {}
    for episode, length in enumerate(lengths):
        if length < horizon and mode == "skip":
            continue
        for transition in range(length):
            for place in range(horizon):
                start = max(0, min(transition - place, length - horizon))
                expected[episode, start] = expected.get((episode, start), 0) + 1 / horizon
    if not expected:
        return
    index = WindowIndex.of(linear_episodes(lengths), horizon, short_episodes=mode)
    windows = index.locate(np.arange(len(index)))
    found = dict(zip(zip(windows.episode.tolist(), windows.start.tolist(), strict=True), index.around(), strict=True))
    assert found == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore:horizon=.* is longer than every episode")
@settings(max_examples=150, deadline=None)
@given(lengths=lengths_of, horizon=st.integers(1, 14), mode=modes)
def test_windows_are_numbered_one_to_one_and_stay_in_their_episode(
    lengths: list[int], horizon: int, mode: Mode
) -> None:
    expected = expected_windows(lengths, horizon, mode)
    episodes = linear_episodes(lengths)
    if not expected:
        with pytest.raises(DatasetError, match=f"horizon={horizon} is longer than every episode"):
            WindowIndex.of(episodes, horizon, short_episodes=mode)
        return
    index = WindowIndex.of(episodes, horizon, short_episodes=mode)
    assert len(index) == len(expected)
    windows = index.locate(np.arange(len(index)))
    assert len(windows) == len(expected)
    found = list(zip(windows.episode.tolist(), windows.start.tolist(), windows.length.tolist(), strict=True))
    assert found == expected
    assert len(set(found)) == len(found)
    ends = windows.start + windows.length
    assert (windows.start >= 0).all()
    assert (windows.length >= 1).all()
    assert (ends <= np.array(lengths)[windows.episode]).all()
    skipped = [episode for episode, length in enumerate(lengths) if length < horizon and mode == "skip"]
    assert index.skipped.tolist() == skipped


@pytest.mark.filterwarnings("ignore:horizon=.* is longer than every episode")
@settings(max_examples=50, deadline=None)
@given(lengths=lengths_of, horizon=st.integers(1, 6), data=st.data())
def test_locating_does_not_depend_on_order_or_repetition(lengths: list[int], horizon: int, data: st.DataObject) -> None:
    index = WindowIndex.of(linear_episodes(lengths), horizon)
    numbers = np.array(data.draw(st.lists(st.integers(0, len(index) - 1), min_size=1, max_size=10)), np.int32)
    every, some = index.locate(np.arange(len(index))), index.locate(numbers)
    for name in ("episode", "start", "length"):
        np.testing.assert_array_equal(getattr(some, name), getattr(every, name)[numbers])
        assert getattr(some, name).dtype == np.int64


@pytest.mark.filterwarnings("ignore:horizon=.* is longer than every episode")
@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("mode", ["pad", "skip"])
def test_one_episode_around_the_horizon(length: int, mode: Mode) -> None:
    """T = 1 .. H + 1 with a single episode."""
    episodes = linear_episodes([length])
    if length < 5 and mode == "skip":
        message = (
            rf"horizon=5 is longer than every episode \(longest: {length} transitions\); choose horizon <= {length} "
        )
        with pytest.raises(DatasetError, match=message + "or short_episodes='pad'"):
            WindowIndex.of(episodes, 5, short_episodes=mode)
        return
    index = WindowIndex.of(episodes, 5, short_episodes=mode)
    assert len(index) == max(length - 4, 1)
    windows = index.locate(np.arange(len(index)))
    assert windows.length.tolist() == [min(length, 5)] * len(index)


def test_a_horizon_that_no_episode_reaches_is_warned_of() -> None:
    message = (
        r"horizon=5000 is longer than every episode \(longest: 12 transitions\).*; horizon=12 gives the same windows"
    )
    with pytest.warns(UserWarning, match=message) as caught:
        padded = WindowIndex.of(linear_episodes([7, 12]), 5_000)
    assert len(caught) == 1
    advised = WindowIndex.of(linear_episodes([7, 12]), 12)  # without a warning
    for name in ("episode", "start", "length"):
        found, same = (getattr(index.locate(np.arange(len(index))), name) for index in (padded, advised))
        np.testing.assert_array_equal(found, same)


def test_skipped_episodes_are_listed_among_others() -> None:
    index = WindowIndex.of(linear_episodes([3, 8, 1, 5, 4]), 5, short_episodes="skip")
    assert index.skipped.tolist() == [0, 2, 4]
    assert set(index.locate(np.arange(len(index))).episode.tolist()) == {1, 3}


def test_indexing_a_large_dataset_holds_no_window() -> None:
    """What the index keeps grows with the episodes, not with their windows."""
    index = WindowIndex.of(linear_episodes([500, 400]), 10)
    assert len(index) == 491 + 391
    held = sum(value.nbytes for value in vars(index).values() if isinstance(value, np.ndarray))
    assert held < 100


def test_windows_that_begin_with_given_transitions_end_with_their_episodes() -> None:
    episodes = linear_episodes((4, 2, 6))
    windows = starting_at(episodes, np.array([0, 2, 3, 4, 5, 6, 11]), 3)
    np.testing.assert_array_equal(windows.episode, [0, 0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(windows.start, [0, 2, 3, 0, 1, 0, 5])
    np.testing.assert_array_equal(windows.length, [3, 2, 1, 2, 1, 3, 1])
    np.testing.assert_array_equal(cut(episodes, windows).rewards[:5], episodes.rewards[[0, 1, 2, 2, 3]])


@settings(max_examples=50, deadline=None)
@given(lengths=lengths_of, data=st.data())
def test_chosen_episodes_are_those_of_their_slices(lengths: list[int], data: st.DataObject) -> None:
    episodes = linear_episodes(lengths)
    chosen = data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=10))
    taken = take(episodes, np.array(chosen, np.int64))
    empty = episodes.slice(0, 0)
    expected = concatenate([empty, *(episodes.slice(number, number + 1) for number in chosen)])
    for name, array in expected.arrays().items():
        found = taken.arrays()[name]
        assert (found.dtype, found.shape, found.tobytes()) == (array.dtype, array.shape, array.tobytes()), name
