"""Planted loops are found and cut out; trajectories without any stay as they are."""

from __future__ import annotations

import numpy as np
import pytest

from gta_datasets.online.pruning import prune

TOLERANCE = 0.3


def straight(steps: int, pace: float = 1.0) -> np.ndarray:
    """`steps` transitions along a line, (steps + 1, 2)."""
    return np.stack([pace * np.arange(steps + 1), np.zeros(steps + 1)], axis=1)


def with_loop(path: np.ndarray, at: int, size: int) -> np.ndarray:
    """The path with `size` transitions around a circle after state `at`."""
    angle = 2 * np.pi * np.arange(1, size + 1) / size
    circle = path[at] + 2 * np.stack([np.sin(angle), 1 - np.cos(angle)], axis=1)
    return np.concatenate([path[: at + 1], circle, path[at + 1 :]])


@pytest.mark.parametrize("pace", [1.0, 0.05, 0.0])
def test_a_straight_trajectory_is_untouched_however_slow_and_long(pace: float) -> None:
    np.testing.assert_array_equal(prune(straight(20, pace), 5, TOLERANCE), np.arange(20))


@pytest.mark.parametrize("at", [0, 4, 10])
def test_a_planted_loop_is_cut_out(at: int) -> None:
    path = straight(10)
    looped = with_loop(path, at, 7)
    kept = prune(looped, 10, TOLERANCE)
    np.testing.assert_array_equal(kept, np.delete(np.arange(17), np.arange(at, at + 7)))


def test_what_is_left_hangs_together() -> None:
    rng = np.random.default_rng(0)
    looped = with_loop(with_loop(straight(12), 8, 6), 3, 9) + 0.02 * rng.normal(size=(28, 2))
    kept = prune(looped, 12, TOLERANCE)
    assert len(kept) == 12
    gaps = np.linalg.norm(looped[kept[:-1] + 1] - looped[kept[1:]], axis=1)
    assert (gaps <= TOLERANCE).all()
    assert (gaps > 0).sum() == 2  # where the two loops were


def test_loops_are_cut_only_as_far_as_needed() -> None:
    looped = with_loop(with_loop(straight(10), 7, 4), 2, 6)
    assert len(prune(looped, 20, TOLERANCE)) == 20
    np.testing.assert_array_equal(prune(looped, 16, TOLERANCE), np.delete(np.arange(20), np.arange(13, 17)))
    assert len(prune(looped, 14, TOLERANCE)) == 14  # the longer one alone
    assert len(prune(looped, 13, TOLERANCE)) == 14  # without both it would be too short
    assert len(prune(looped, 1, TOLERANCE)) == 10


def test_a_loop_has_to_close() -> None:
    looped = with_loop(straight(10), 5, 7)
    looped[6:, 1] += 1.1 * TOLERANCE
    np.testing.assert_array_equal(prune(looped, 10, TOLERANCE), np.arange(17))
    assert len(prune(looped, 10, 1.2 * TOLERANCE)) == 10
