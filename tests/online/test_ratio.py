"""The proportion of generated to recorded transitions is that of the paper's probability."""

from __future__ import annotations

import numpy as np
import pytest

from gta_datasets.online.ratio import left_missing, trajectories


@pytest.mark.parametrize(("rho", "length"), [(0.5, 5), (0.5, 31), (0.25, 7), (0.9, 3)])
def test_the_probability_is_the_papers(rho: float, length: int) -> None:
    chances = (np.arange(100_000) + 0.5) / 100_000  # every chance alike
    mean = np.mean([trajectories(rho, 0.0, length, chance) for chance in chances])
    assert mean == pytest.approx(rho / ((1 - rho) * length), abs=1e-4)


def test_nothing_is_generated_without_a_share() -> None:
    assert trajectories(0.0, 0.0, 5, 0.0) == 0


@pytest.mark.parametrize("shortfall", [0.0, 0.6, -0.4])
def test_the_proportion_holds_whatever_comes_of_what_was_announced(shortfall: float) -> None:
    rng = np.random.default_rng(0)
    missing, generated, steps, rho = 0.0, 0, 60_000, 0.5
    for _ in range(steps):
        length = int(rng.integers(5, 20))
        for _ in range(trajectories(rho, missing, length, rng.random())):
            made = round(length * (1 - shortfall))
            missing, generated = missing + length - made, generated + made
        missing = left_missing(missing)
    assert generated / steps == pytest.approx(1.0, rel=0.03)


def test_more_is_never_taken_back() -> None:
    assert trajectories(0.5, -1e6, 5, 0.0) == 0
