"""Limits of the state, from recorded terminations."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from gymnasium import spaces

from gta_datasets.data.endings import Limits
from gta_datasets.data.episodes import Episodes
from gta_datasets.data.spaces import SpaceCodec
from gta_datasets.data.windows import cut, starting_at
from tests.builders import WALK_HIGH, WALK_LOW, linear_episodes, linear_source, walks


def without_flags(episodes: Episodes) -> Episodes:
    nothing = np.zeros(episodes.num_transitions, np.bool_)
    return dataclasses.replace(episodes, terminations=nothing)


def test_limits_are_found_where_they_are() -> None:
    limits = Limits.of(linear_source(walks()))
    assert limits is not None
    assert limits.low[0] == pytest.approx(WALK_LOW, abs=0.01)
    assert limits.high[1] == pytest.approx(WALK_HIGH, abs=0.01)
    assert np.isinf([*limits.low[1:], limits.high[0], limits.high[2]]).all()


def test_a_limit_lies_between_what_ended_and_what_went_on() -> None:
    """Few walks: the gap is wide, and its middle nearer to the true limit than the worse of its borders."""
    few = walks(30)
    limits = Limits.of(linear_source(few))
    assert limits is not None
    last = few.observation_offsets[1:][few.terminations[few.offsets[1:] - 1]] - 1
    at_end = few.observations[last, 0]
    went_on = np.delete(few.observations[:, 0], last).min()
    assert limits.low[0] == pytest.approx((at_end[at_end < went_on].max() + went_on) / 2)


def test_what_ends_a_task_is_told_by_where_it_ends() -> None:
    """What the limits of some walks say of others is what ended those."""
    limits, others = Limits.of(linear_source(walks(2_000))), walks(seed=1)
    assert limits is not None
    terminated = others.terminations[others.offsets[1:] - 1]
    assert 0.2 < terminated.mean() < 0.8
    assert (limits.reached(others) == terminated).mean() > 0.98
    ended = without_flags(others).ending(limits.reached(others))
    np.testing.assert_array_equal(ended.terminations | ended.truncations, others.terminations | others.truncations)
    assert not (ended.terminations & ended.truncations).any()


def test_episodes_that_go_on_are_found() -> None:
    """None of the recorded; of copies whose second state lies beyond a limit, all with more than one transition."""
    recorded = walks()
    limits = Limits.of(linear_source(recorded))
    assert limits is not None
    assert not limits.overrun(recorded).any()
    observations = recorded.observations.copy()
    observations[recorded.observation_offsets[:-1] + 1, 1] = WALK_HIGH + 1
    changed = dataclasses.replace(recorded, observations=observations)
    np.testing.assert_array_equal(limits.overrun(changed), recorded.lengths > 1)


@pytest.mark.parametrize(
    "episodes",
    [
        pytest.param(without_flags(walks()), id="no termination"),
        pytest.param(walks(4), id="too few"),
        pytest.param(linear_episodes((20,) * 40, terminated=range(20)), id="anywhere"),
        pytest.param(dataclasses.replace(walks(), observations=np.zeros_like(walks().observations)), id="constant"),
    ],
)
def test_there_may_be_no_limits(episodes: Episodes) -> None:
    assert Limits.of(linear_source(episodes)) is None


def marked(episodes: Episodes) -> Episodes:
    """The same, but every terminal state is the same mark."""
    observations = episodes.observations.copy()
    last = episodes.observation_offsets[1:] - 1
    observations[last[episodes.terminations[episodes.offsets[1:] - 1]]] = 5.0
    return dataclasses.replace(episodes, observations=observations)


def test_a_mark_of_the_end_is_no_state_beyond_a_limit() -> None:
    assert Limits.of(linear_source(marked(walks()))) is None


def test_states_that_the_space_cuts_off_pass_no_limit() -> None:
    """The walks end outside of the space: within it nothing that is generated could."""
    source = linear_source(walks())
    for high, expected in ((WALK_HIGH - 0.02, None), (10.0, WALK_HIGH)):
        space = spaces.Box(np.float32([WALK_LOW - 5, -10, -10]), np.float32([10, high, 10]))
        limits = Limits.of(dataclasses.replace(source, observation_codec=SpaceCodec.of(space)))
        assert (limits and limits.high[1]) == (expected and pytest.approx(expected, abs=0.01))


@pytest.mark.parametrize(("odd", "found"), [(1, True), (2, True), (9, True), (20, False)])
def test_a_tenth_of_the_terminations_may_have_other_reasons(odd: int, found: bool) -> None:
    episodes = walks()
    terminated = episodes.terminations[episodes.offsets[1:] - 1].copy()
    assert 100 < terminated.sum() < 120
    terminated[np.flatnonzero(~terminated)[:odd]] = True
    limits = Limits.of(linear_source(episodes.ending(terminated)))
    assert (limits is not None) is found
    if limits is not None:
        assert limits.low[0] == pytest.approx(WALK_LOW, abs=0.01)


def test_where_every_transition_ends_the_task_there_is_nothing_to_tell() -> None:
    episodes = walks()
    single = cut(episodes, starting_at(episodes, np.flatnonzero(episodes.terminations), 1))
    assert single.terminations.all()
    assert Limits.of(linear_source(single)) is None
