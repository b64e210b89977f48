"""Which recorded windows are learned from."""

from __future__ import annotations

import numpy as np
import pytest

from gta_datasets.online.subset import important, surviving


def test_the_more_important_is_drawn_more_often_but_not_always() -> None:
    scores, counts = np.array([5.0, -3.0, 100.0, 0.0]), np.zeros(4)
    for seed in range(4_000):
        counts[important(scores, 1, np.random.default_rng(seed))] += 1
    by_rank = np.array([1 / 2, 1 / 4, 1, 1 / 3])
    np.testing.assert_allclose(counts / 4_000, by_rank / by_rank.sum(), atol=0.03)


def test_units_of_importance_do_not_matter() -> None:
    scores = np.random.default_rng(0).normal(size=50)
    drawn = [important(values, 10, np.random.default_rng(1)) for values in (scores, 1e6 * scores - 7)]
    np.testing.assert_array_equal(*drawn)
    assert len(np.unique(drawn[0])) == 10


def test_all_are_taken_where_there_is_room() -> None:
    np.testing.assert_array_equal(important(np.array([3.0, 1.0, 2.0]), 5, np.random.default_rng(0)), [0, 1, 2])


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_share_that_is_dropped_leaves_whatever_its_importance(share: float) -> None:
    windows = np.arange(10_000)
    stay = surviving(windows, share, 0, np.random.default_rng(0))
    assert len(stay) / len(windows) == pytest.approx(1 - share, abs=0.02)


def test_what_is_no_longer_recorded_leaves() -> None:
    np.testing.assert_array_equal(surviving(np.arange(10), 0.0, 7, np.random.default_rng(0)), [7, 8, 9])
