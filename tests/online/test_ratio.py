"""The proportion of generated to recorded transitions is that of the paper's probability."""

from __future__ import annotations

import numpy as np
import pytest

from gta_datasets.online.ratio import left_missing, trajectories, with_failed


@pytest.mark.parametrize(("rho", "length"), [(0.5, 5), (0.5, 31), (0.25, 7), (0.9, 3)])
def test_the_probability_is_the_papers(rho: float, length: int) -> None:
    chances = (np.arange(100_000) + 0.5) / 100_000  # every chance alike
    mean = np.mean([trajectories(rho, 0.0, length, chance) for chance in chances])
    assert mean == pytest.approx(rho / ((1 - rho) * length), abs=1e-4)


def test_nothing_is_generated_without_a_share() -> None:
    assert trajectories(0.0, 0.0, 5, 0.0) == 0


@pytest.mark.parametrize("rho", [0.05, 0.5])
@pytest.mark.parametrize("together", [1, 8])
@pytest.mark.parametrize("shortfall", [0.0, 0.6, -1.5])
def test_the_proportion_holds_whatever_comes_of_what_was_announced(shortfall: float, together: int, rho: float) -> None:
    rng = np.random.default_rng(0)
    missing, generated, steps = 0.0, 0, 200_000
    waiting: list[int] = []
    for _ in range(steps):
        length = int(rng.integers(5, 20))
        waiting += [length] * trajectories(rho, missing, length, rng.random())
        missing = left_missing(rho, missing)
        if len(waiting) >= together:
            made = sum(round(length * (1 - shortfall)) for length in waiting)
            missing, generated = missing + sum(waiting) - made, generated + made
            waiting = []
    assert generated / steps == pytest.approx(rho / (1 - rho), rel=0.03 if rho == 0.5 else 0.1)  # of few, by chance


def test_more_is_never_taken_back() -> None:
    assert trajectories(0.5, -1e6, 5, 0.0) == 0


def test_what_failed_is_made_up_for_within_limits() -> None:
    assert with_failed(0.5, 3.0, 20.0) == 23.0
    assert with_failed(0.5, -5.0, 20.0) == 15.0
    assert with_failed(0.5, 900.0, 20.0) == 900.0, "what is owed for other reasons stays"
    rng, missing, asked = np.random.default_rng(0), 0.0, 0
    for _ in range(20_000):  # nothing ever comes
        number = trajectories(0.5, missing, 10, rng.random())
        missing, asked = left_missing(0.5, with_failed(0.5, missing, 10.0 * number)), asked + number
    assert asked <= 2.1 * 20_000 / 10, "twice as often as without failures"
