"""What a generator is told of endings: a penalty that suits tasks in which they are failures."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest
import torch

from gta_datasets.config import GTAConfig
from gta_datasets.data.episodes import Episodes
from gta_datasets.data.windows import WindowIndex
from gta_datasets.methods.asking import Returns, best_of_windows
from gta_datasets.methods.gta import GTA
from tests.builders import linear_episodes, linear_source

LENGTHS, TERMINATED = (12, 20) * 6, range(0, 12, 2)  # every other one terminates, early


def prepare(episodes: Episodes, **overrides: object) -> None:
    GTA(linear_source(episodes), GTAConfig().replace(horizon=12, **overrides), seed=0, device=torch.device("cpu"))


def with_rewards(step: float, last: float, terminated: object = TERMINATED) -> Episodes:
    """Every step earns `step`, that of a termination `last`."""
    episodes = linear_episodes(LENGTHS, terminated=terminated)
    rewards = np.where(episodes.terminations, last, step).astype(np.float32)
    return dataclasses.replace(episodes, rewards=rewards)


def test_a_penalty_on_success_is_warned_of_before_training() -> None:
    found = r"6 episodes that terminate have a higher mean return \(1\) than the 6 that were cut off \(0\)"
    with pytest.warns(UserWarning, match=rf"{found}.*terminal_penalty=100 .*: terminal_penalty=0 is right") as caught:
        prepare(with_rewards(0.0, 1.0))
    assert len(caught) == 1


@pytest.mark.parametrize(
    ("episodes", "penalty"),
    [
        (with_rewards(1.0, 1.0), 100.0),  # as in hopper: who falls earns less
        (with_rewards(0.0, 1.0), 0.0),
        (with_rewards(0.0, 1.0, range(12)), 100.0),
        (with_rewards(0.0, 1.0, ()), 100.0),
        (with_rewards(0.0, 1.0, range(8)), 100.0),
        (with_rewards(0.0, 0.0), 100.0),
    ],
    ids=["failures", "no penalty", "all terminate", "all are cut off", "few are cut off", "all the same"],
)
def test_other_endings_are_not_warned_of(episodes: Episodes, penalty: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prepare(episodes, terminal_penalty=penalty)


def test_the_best_return_is_one_that_a_window_has() -> None:
    episodes = linear_episodes((6, 20, 30))
    index = WindowIndex.of(episodes, 12, short_episodes="skip")
    to_go = -np.concatenate([np.arange(length, 0, -1.0) for length in (6, 20, 30)])  # a reward of -1 for every step
    assert best_of_windows(to_go, index) == -12
    every = Returns(
        dataclasses.replace(episodes, rewards=np.full(56, -1, np.float32)),
        index,
        GTAConfig().replace(discount=1.0, terminal_penalty=0.0).data,
        torch.device("cpu"),
    )
    np.testing.assert_array_equal(every.to_go, to_go)
    assert every.best == -12


def test_ends_of_generated_windows_say_nothing_of_the_task() -> None:
    source = dataclasses.replace(linear_source(with_rewards(0.0, 1.0)), augmented=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GTA(source, GTAConfig().replace(horizon=12), seed=0, device=torch.device("cpu"))


def test_chance_is_not_warned_of() -> None:
    """Returns of random actions do not tell endings apart."""
    higher = 0
    for seed in range(20):
        episodes = linear_episodes((20,) * 8, terminated=(1, 3), seed=seed)
        returns = np.add.reduceat(episodes.rewards, episodes.offsets[:-1])
        higher += returns[[1, 3]].mean() > returns.mean()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            prepare(episodes)
    assert higher > 5
