"""Episodes read from wherever they lie."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gta_datasets.data.episodes import Episodes, concatenate
from gta_datasets.data.table import EpisodeTable
from gta_datasets.errors import DatasetError
from tests.builders import linear_episodes

lengths = st.lists(st.integers(1, 6), min_size=1, max_size=5)


def scattered(parts: list[list[int]]) -> list[Episodes]:
    """One `Episodes` per list of lengths, each in arrays of its own; every second episode terminates."""
    return [
        linear_episodes(part, terminated=range(0, len(part), 2), seed=seed) for seed, part in enumerate(parts, start=1)
    ]


@given(st.lists(lengths, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_transitions_are_those_of_the_joined_episodes(parts: list[list[int]], random: object) -> None:
    episodes = scattered(parts)
    joined, table = concatenate(episodes), EpisodeTable.of(episodes)
    assert table.num_transitions == joined.num_transitions
    assert table.num_episodes == joined.num_episodes
    numbers = np.random.default_rng(random.randrange(2**32)).integers(joined.num_transitions, size=20)
    found = table.transitions(table.locate(numbers))
    np.testing.assert_array_equal(found.observations, joined.observations[joined.transition_rows][numbers])
    np.testing.assert_array_equal(found.next_observations, joined.next_observations[numbers])
    np.testing.assert_array_equal(found.actions, joined.actions[numbers])
    np.testing.assert_array_equal(found.rewards, joined.rewards[numbers])
    np.testing.assert_array_equal(found.terminated, joined.terminations[numbers])
    np.testing.assert_array_equal(found.truncated, joined.truncations[numbers])


@given(st.lists(lengths, min_size=1, max_size=3))
def test_an_episode_comes_out_whole(parts: list[list[int]]) -> None:
    episodes = scattered(parts)
    joined, table = concatenate(episodes), EpisodeTable.of(episodes)
    for number in range(joined.num_episodes):
        expected = joined.slice(number, number + 1)
        for name, array in table.episode(number).arrays().items():
            np.testing.assert_array_equal(array, expected.arrays()[name], err_msg=name)


def test_next_actions_stop_at_the_end_of_an_episode() -> None:
    (episodes,) = scattered([[3, 2]])
    table = EpisodeTable.of([episodes])
    found = table.next_actions(table.locate(np.arange(5)))
    np.testing.assert_array_equal(found[[0, 1, 3]], episodes.actions[[1, 2, 4]])
    assert not found[[2, 4]].any()


def test_a_selection_is_numbered_anew() -> None:
    joined = concatenate(scattered([[3, 2], [4]]))
    table = EpisodeTable.of(scattered([[3, 2], [4]])).select(np.array([2, 0]))
    np.testing.assert_array_equal(table.lengths, [4, 3])
    found = table.transitions(table.locate(np.array([0, 4])))
    np.testing.assert_array_equal(found.rewards, joined.rewards[[5, 0]])
    np.testing.assert_array_equal(table.terminated, [True, True])


def test_observations_have_one_step_more() -> None:
    (episodes,) = scattered([[3]])
    table = EpisodeTable.of([episodes])
    found = table.observations(table.locate(np.array([1])), np.array([[0, 3]]))
    np.testing.assert_array_equal(found, episodes.observations[[0, 3]][None])


def test_arrays_that_are_not_contiguous_are_copied() -> None:
    (episodes,) = scattered([[4]])
    wide = np.repeat(episodes.actions, 2, axis=1)
    strided = Episodes(**{**episodes.arrays(), "actions": wide[:, ::2]})
    table = EpisodeTable.of([strided])
    np.testing.assert_array_equal(table.transitions(table.locate(np.arange(4))).actions, episodes.actions)


def test_the_arrays_stay_alive() -> None:
    table = EpisodeTable.of(scattered([[50], [50]]))
    expected = concatenate(scattered([[50], [50]]))
    np.testing.assert_array_equal(table.transitions(table.locate(np.arange(100))).rewards, expected.rewards)


def test_a_transition_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(IndexError):
        EpisodeTable.of(scattered([[3]])).locate(np.array([3]))


def test_parts_of_different_types_are_refused() -> None:
    first, second = scattered([[3], [3]])
    wider = Episodes(**{**second.arrays(), "rewards": second.rewards.astype(np.float64)})
    with pytest.raises(DatasetError, match="rewards"):
        EpisodeTable.of([first, wider])
