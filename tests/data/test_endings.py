"""Limits of the state, from recorded terminations."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from gta_datasets.data.endings import Limits
from gta_datasets.data.episodes import Episodes
from tests.builders import WALK_HIGH, WALK_LOW, linear_episodes, walks


def without_flags(episodes: Episodes) -> Episodes:
    nothing = np.zeros(episodes.num_transitions, np.bool_)
    return dataclasses.replace(episodes, terminations=nothing)


def test_limits_are_found_where_they_are() -> None:
    limits = Limits.of(walks())
    assert limits is not None
    assert limits.low[0] == pytest.approx(WALK_LOW, abs=0.01)
    assert limits.high[1] == pytest.approx(WALK_HIGH, abs=0.01)
    assert np.isinf([*limits.low[1:], limits.high[0], limits.high[2]]).all()


def test_a_limit_lies_between_what_ended_and_what_went_on() -> None:
    """Few walks: the gap is wide, and its middle nearer to the true limit than the worse of its borders."""
    few = walks(30)
    limits = Limits.of(few)
    assert limits is not None
    last = few.observation_offsets[1:][few.terminations[few.offsets[1:] - 1]] - 1
    at_end = few.observations[last, 0]
    went_on = np.delete(few.observations[:, 0], last).min()
    assert limits.low[0] == pytest.approx((at_end[at_end < went_on].max() + went_on) / 2)


def test_flags_follow_from_limits() -> None:
    """What the limits of some walks say of others is what ended those."""
    limits, others = Limits.of(walks(2_000)), walks(seed=1)
    assert limits is not None
    flagged = limits.flagged(without_flags(others))
    assert 0 < others.terminations.sum() < others.num_episodes
    agree = flagged.terminations == others.terminations
    assert agree.mean() > 0.9995
    np.testing.assert_array_equal(flagged.truncations | flagged.terminations, others.truncations | others.terminations)
    np.testing.assert_array_equal(limits.flagged(walks(2_000)).terminations, walks(2_000).terminations)


def test_episodes_that_go_on_are_found() -> None:
    """None of the recorded; of copies whose second state lies beyond a limit, all with more than one transition."""
    recorded = walks()
    limits = Limits.of(recorded)
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
    assert Limits.of(episodes) is None


def test_one_termination_within_the_limits_is_enough_for_there_to_be_none() -> None:
    episodes = walks()
    first = np.flatnonzero(~episodes.terminations[episodes.offsets[1:] - 1])[0]
    terminations = episodes.terminations.copy()
    terminations[episodes.offsets[first + 1] - 1] = True
    assert Limits.of(dataclasses.replace(episodes, terminations=terminations)) is None
