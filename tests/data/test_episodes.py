from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gta_datasets.data.episodes import Episodes, concatenate, end_flags, offsets_of
from gta_datasets.errors import DatasetError
from tests.builders import linear_episodes

lengths_of = st.lists(st.integers(1, 6), min_size=1, max_size=6)


def by_loop(episodes: Episodes) -> list[dict[str, np.ndarray]]:
    """The episodes one by one, cut with two running counters."""
    parts = []
    step = row = 0
    for episode in range(len(episodes.offsets) - 1):
        count = int(episodes.offsets[episode + 1] - episodes.offsets[episode])
        parts.append(
            {
                "observations": episodes.observations[row : row + count + 1],
                "actions": episodes.actions[step : step + count],
                "rewards": episodes.rewards[step : step + count],
                "terminations": episodes.terminations[step : step + count],
                "truncations": episodes.truncations[step : step + count],
            }
        )
        step, row = step + count, row + count + 1
    assert row == len(episodes.observations)
    return parts


@settings(max_examples=40, deadline=None)
@given(lengths=lengths_of)
def test_layout_agrees_with_cutting_episode_by_episode(lengths: list[int]) -> None:
    episodes = linear_episodes(lengths, terminated=range(0, len(lengths), 2))
    parts = by_loop(episodes)
    assert episodes.num_episodes == len(lengths)
    assert episodes.num_transitions == sum(lengths)
    assert episodes.lengths.tolist() == lengths
    assert episodes.observation_offsets.tolist() == [0, *np.cumsum([length + 1 for length in lengths])]
    states = np.concatenate([part["observations"][:-1] for part in parts])
    following = np.concatenate([part["observations"][1:] for part in parts])
    np.testing.assert_array_equal(episodes.observations[episodes.transition_rows], states)
    np.testing.assert_array_equal(episodes.next_observations, following)


@pytest.mark.parametrize("lengths", [[], [3], [2, 1, 4], [0, 2, 0]])
def test_offsets_are_the_sums_of_the_lengths_before(lengths: list[int]) -> None:
    offsets = offsets_of(np.array(lengths, np.int64))
    assert offsets.dtype == np.int64
    assert offsets.tolist() == [sum(lengths[:place]) for place in range(len(lengths) + 1)]


@settings(max_examples=40, deadline=None)
@given(lengths=lengths_of, data=st.data())
def test_every_episode_ends_in_one_flag_at_its_last_step(lengths: list[int], data: st.DataObject) -> None:
    terminated = data.draw(st.lists(st.booleans(), min_size=len(lengths), max_size=len(lengths)))
    terminations, truncations = end_flags(offsets_of(np.array(lengths)), np.array(terminated))
    for flags, wanted in ((terminations, terminated), (truncations, [not ended for ended in terminated])):
        expected = [
            flag for length, end in zip(lengths, wanted, strict=True) for flag in [False] * (length - 1) + [end]
        ]
        assert flags.dtype == np.bool_
        assert flags.tolist() == expected


@settings(max_examples=40, deadline=None)
@given(lengths=lengths_of, data=st.data())
def test_slices_are_views_on_the_same_episodes(lengths: list[int], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(lengths)))
    stop = data.draw(st.integers(start, len(lengths)))
    episodes = linear_episodes(lengths)
    part = episodes.slice(start, stop)
    expected = by_loop(episodes)[start:stop]
    found = by_loop(part)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
            assert np.shares_memory(one[name], other[name])


@settings(max_examples=40, deadline=None)
@given(cuts=st.lists(lengths_of, min_size=1, max_size=4))
def test_concatenating_what_was_cut_gives_the_whole_back(cuts: list[list[int]]) -> None:
    whole = linear_episodes([length for lengths in cuts for length in lengths])
    ends = np.cumsum([len(lengths) for lengths in cuts])
    parts = [whole.slice(end - len(lengths), end) for end, lengths in zip(ends, cuts, strict=True)]
    joined = concatenate(iter(parts))
    for name, array in whole.arrays().items():
        np.testing.assert_array_equal(joined.arrays()[name], array)
        assert joined.arrays()[name].dtype == array.dtype
        assert not np.shares_memory(joined.arrays()[name], array)


def test_concatenating_nothing_is_an_error() -> None:
    with pytest.raises(DatasetError, match="no episodes were given"):
        concatenate([])


def test_arrays_round_trip_without_copies() -> None:
    episodes = linear_episodes((3, 1, 4))
    arrays = episodes.arrays()
    again = Episodes.from_arrays({**arrays, "asked_return": np.zeros(3)})
    assert all(again.arrays()[name] is array for name, array in arrays.items())
    assert episodes.nbytes == sum(array.size * array.itemsize for array in arrays.values())


@pytest.mark.parametrize(
    ("name", "needed"), [("observations", 11), ("actions", 8), ("rewards", 8), ("terminations", 8), ("truncations", 8)]
)
def test_fields_that_disagree_with_the_offsets_are_refused(name: str, needed: int) -> None:
    episodes = linear_episodes((3, 1, 4))
    short = getattr(episodes, name)[:-1]
    with pytest.raises(DatasetError, match=f"{name} has {needed - 1} rows where {needed} are needed for 8 transitions"):
        dataclasses.replace(episodes, **{name: short})
