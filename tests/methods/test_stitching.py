"""Which pieces are joined, after how many steps, and what the joined trajectories hold."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from gta_datasets.data.episodes import Episodes
from gta_datasets.errors import DatasetError
from gta_datasets.methods.pairs import Pairs, Pieces
from gta_datasets.methods.stitching import Plans, estimate_steps, join, window_rows
from tests.builders import linear_episodes

LENGTHS = (9, 4, 12, 7, 10)


def episode_returns(episodes: Episodes) -> np.ndarray:
    return np.add.reduceat(episodes.rewards.astype(np.float64), episodes.offsets[:-1])


def pairs(episodes: Episodes, **changes: float) -> Pairs:
    settings = {"high_quantile": 0.5, "before": 3, "after": 5, **changes}
    return Pairs.of(episodes, episode_returns(episodes), **settings)


def with_goals(episodes: Episodes, goals: tuple[float, ...]) -> Episodes:
    """The episodes with a column more that is constant within each."""
    goal = np.repeat(np.array(goals, np.float32), episodes.lengths + 1)[:, None]
    return dataclasses.replace(episodes, observations=np.concatenate([episodes.observations, goal], axis=1))


def test_every_piece_has_one_number() -> None:
    group = np.array([1, 0, 1, 0, 0])
    pieces = Pieces.of(np.array(LENGTHS), 5, allowed=np.array([1, 1, 1, 0, 1], bool), group=group)
    episode, start = pieces.locate(np.arange(len(pieces)))
    found = set(zip(episode.tolist(), start.tolist(), strict=True))
    assert found == {(e, s) for e in (0, 2, 4) for s in range(LENGTHS[e] - 4)}
    assert len(found) == len(pieces)
    for number in (0, 1):
        of_group = episode[pieces.group_first[number] : pieces.group_first[number + 1]]
        assert set(of_group.tolist()) == set(np.flatnonzero(group == number)) & {0, 2, 4}


def test_starts_are_of_low_and_targets_of_high_episodes() -> None:
    episodes = linear_episodes((20,) * 9)
    found = pairs(episodes, high_quantile=0.75)
    (starts, first), (targets, arrivals) = found.draw(np.random.default_rng(0), 200, 3)
    returns = episode_returns(episodes)
    high = set(np.argsort(returns)[-3:].tolist())
    assert set(targets.ravel().tolist()) == high
    assert set(starts.tolist()) == set(range(9)) - high
    assert first.min() == 0
    assert first.max() == 20 - 3
    assert arrivals.max() == 20 - 5
    assert targets.shape == arrivals.shape == (200, 3)


def test_pieces_are_drawn_uniformly() -> None:
    """A long episode in proportion to its pieces."""
    found = Pairs.of(linear_episodes((5, 14, 7, 8)), np.array([0, 1, 8, 9]), high_quantile=0.5, before=5, after=5)
    (starts, _), (targets, _) = found.draw(np.random.default_rng(0), 5_000, 1)
    assert (starts == 0).mean() == pytest.approx(1 / 11, abs=0.015)
    assert (targets == 2).mean() == pytest.approx(3 / 7, abs=0.025)


def test_only_episodes_with_the_same_goal_are_joined() -> None:
    episodes = with_goals(linear_episodes((20,) * 8), (0, 1, 0, 1, 0, 1, 0, 2))
    found = pairs(episodes)
    (starts, _), (targets, _) = found.draw(np.random.default_rng(0), 500, 4)
    goals = np.array([0, 1, 0, 1, 0, 1, 0, 2])
    np.testing.assert_array_equal(goals[targets], np.repeat(goals[starts][:, None], 4, axis=1))
    assert set(goals[starts].tolist()) == {0, 1}
    assert "has a goal that no episode of" in found.skipped[7]


def test_what_is_too_short_is_named() -> None:
    episodes = linear_episodes(LENGTHS)
    found = pairs(episodes, before=8, after=8)
    short = {number for number, length in enumerate(LENGTHS) if length < 8}
    assert set(found.skipped) == short
    assert found.skipped[1] == "has 4 transitions, fewer than the 8 of a piece"


@pytest.mark.parametrize("side", ["before", "after"])
def test_no_pair_is_an_error_that_says_what_to_change(side: str) -> None:
    with pytest.raises(DatasetError, match=r"no two episodes can be joined: of 4 .* 13.*lower steps_before, steps_aft"):
        pairs(linear_episodes((12,) * 8), **{side: 13})


def test_equal_returns_leave_nothing_to_improve() -> None:
    episodes = linear_episodes((12,) * 4)
    same = dataclasses.replace(episodes, rewards=np.ones_like(episodes.rewards))
    with pytest.raises(DatasetError, match=r"none has a higher return than another \(4 with 12\); another method"):
        pairs(same)


def test_one_episode_cannot_be_joined() -> None:
    with pytest.raises(DatasetError, match=r"none has a higher return than another \(1 with "):
        pairs(linear_episodes((20,)))


def test_where_most_episodes_fail_the_others_are_high() -> None:
    """Sparse rewards: the quantile is what a failure gets."""
    episodes = linear_episodes((20,) * 10)
    returns = np.array([0, 0, 1, 0, 0, 0, 0, 0, 0, 0])
    found = Pairs.of(episodes, returns, high_quantile=0.8, before=3, after=5)
    (starts, _), (targets, _) = found.draw(np.random.default_rng(0), 200, 2)
    assert set(targets.ravel().tolist()) == {2}
    assert set(starts.tolist()) == set(range(10)) - {2}


def test_without_states_nothing_can_be_joined() -> None:
    episodes = linear_episodes((20,) * 4)
    still = dataclasses.replace(episodes, observations=np.zeros_like(episodes.observations))
    with pytest.raises(DatasetError, match="no observation changes within any"):
        pairs(still)


def test_the_planted_step_and_target_are_found() -> None:
    rng = np.random.default_rng(0)
    imagined = rng.normal(size=(50, 9, 6)).astype(np.float32)
    targets = rng.normal(size=(50, 4, 6)).astype(np.float32)
    steps, places = rng.integers(2, 9, size=50), rng.integers(4, size=50)
    numbers = np.arange(50)
    targets[numbers, places] = 3 * imagined[numbers, steps]  # the length of a vector does not count
    found, chosen = estimate_steps(imagined, targets, shortest=2)
    np.testing.assert_array_equal(found, steps)
    np.testing.assert_array_equal(chosen, places)


def test_no_bridge_is_shorter_than_the_shortest() -> None:
    imagined = np.eye(6, dtype=np.float32)[None]
    for shortest in (1, 3, 5):
        steps, _ = estimate_steps(imagined, imagined[:, :1], shortest=shortest)
        assert steps[0] == shortest
    assert estimate_steps(np.zeros((1, 4, 2), np.float32), np.zeros((1, 1, 2), np.float32), shortest=1)[0] == 1


@pytest.fixture
def plans() -> Plans:
    return Plans(
        source_episode=np.array([0, 3]),
        source_start=np.array([2, 1]),
        target_episode=np.array([2, 4]),
        target_start=np.array([1, 4]),
        bridge=np.array([2, 4]),
        before=3,
        length=10,
    )


def test_joined_trajectories_hold_both_pieces(plans: Plans) -> None:
    episodes = linear_episodes(LENGTHS, terminated=(4,))
    joined = join(plans, episodes)
    for place, (source, start, target, arrival, bridge) in enumerate(zip(*plans[:5], strict=True)):
        made, first, second = (
            part.slice(number, number + 1) for part, number in ((joined, place), (episodes, source), (episodes, target))
        )
        rest = 10 - 3 - bridge
        np.testing.assert_array_equal(made.observations[:4], first.observations[start : start + 4])
        np.testing.assert_array_equal(made.observations[3 + bridge :], second.observations[arrival:][: rest + 1])
        for name in ("actions", "rewards"):
            values, before, after = (getattr(part, name) for part in (made, first, second))
            np.testing.assert_array_equal(values[:3], before[start : start + 3])
            np.testing.assert_array_equal(values[3 + bridge :], after[arrival : arrival + rest])
        assert plans.generated_steps()[place].tolist() == [3 <= step < 3 + bridge for step in range(10)]
        assert plans.generated_states()[place].tolist() == [3 < step < 3 + bridge for step in range(11)]
    np.testing.assert_array_equal(joined.lengths, [10, 10])


def test_a_joined_trajectory_ends_as_its_second_piece(plans: Plans) -> None:
    episodes = linear_episodes(LENGTHS, terminated=(0, 2, 4))
    up_to_the_end = plans._replace(target_start=np.array([1, 7]))  # 3 transitions after the longer bridge: 7, 8, 9
    joined = join(up_to_the_end, episodes)
    assert joined.terminations.tolist() == [False] * 19 + [True]
    assert joined.truncations.tolist() == [False] * 9 + [True] + [False] * 10


def test_windows_show_the_start_and_the_target(plans: Plans) -> None:
    episodes = linear_episodes(LENGTHS)
    rows = window_rows(plans, episodes, 5)
    offsets = episodes.observation_offsets
    start, target = offsets[0] + 5, offsets[2] + 1
    assert rows[0].tolist() == [start, start, target, target + 1, target + 2, target + 3]
    start, target = offsets[3] + 4, offsets[4] + 4
    assert rows[1].tolist() == [start, start, start, start, target, target + 1]
