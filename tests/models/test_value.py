"""The learned value function, where values are known."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from gta_datasets.config import DynamicsConfig
from gta_datasets.data.episodes import Episodes
from gta_datasets.models.value import ValueModel
from tests.builders import linear_episodes, linear_source

SMALL = DynamicsConfig(dynamics_members=2, dynamics_width=32, dynamics_depth=1, dynamics_steps=1000)
DISCOUNT = 0.9


def fitted(episodes: Episodes, folder: Path, *, discount: float = DISCOUNT, penalty: float = 0.0) -> ValueModel:
    model = ValueModel(
        linear_source(episodes), SMALL, discount=discount, terminal_penalty=penalty, seed=0, device=torch.device("cpu")
    )
    model.fit(folder, progress=False)
    return model


def test_a_recording_that_was_cut_off_is_worth_as_much_as_one_that_goes_on(tmp_path: Path) -> None:
    """1 per step for ever is worth 1 / (1 - gamma), however few steps were recorded."""
    episodes = linear_episodes((4, 8, 15) * 20)
    episodes = dataclasses.replace(episodes, rewards=np.ones(episodes.num_transitions, np.float32))
    found = fitted(episodes, tmp_path).predict(episodes.observations)
    assert found.shape == (len(episodes.observations),)
    np.testing.assert_allclose(found, 1 / (1 - DISCOUNT), rtol=0.1)


def test_values_need_not_be_what_was_recorded(tmp_path: Path) -> None:
    """All that was recorded is a single reward of 1, and it goes on."""
    episodes = linear_episodes((1,) * 60)
    episodes = dataclasses.replace(episodes, rewards=np.ones(60, np.float32))
    found = fitted(episodes, tmp_path, discount=0.5).predict(episodes.observations)
    np.testing.assert_allclose(found, 2.0, atol=0.5)
    assert abs(found.mean() - 2.0) < 0.1


def countdown(episodes: Episodes) -> Episodes:
    """The first number of a state is the share of the transitions that are left."""
    observations = np.zeros_like(episodes.observations)
    rows = episodes.transition_rows
    observations[rows, 0] = episodes.remaining / 10
    return dataclasses.replace(episodes, observations=observations, rewards=np.ones_like(episodes.rewards))


@pytest.mark.parametrize("penalty", [0.0, 5.0])
def test_nothing_follows_a_termination(tmp_path: Path, penalty: float) -> None:
    episodes = countdown(linear_episodes((10,) * 30, terminated=range(30)))
    left = np.arange(1, 11)
    expected = (1 - DISCOUNT**left) / (1 - DISCOUNT) - penalty * DISCOUNT ** (left - 1)
    states = np.zeros((10, 3), np.float32)
    states[:, 0] = left / 10
    found = fitted(episodes, tmp_path, penalty=penalty).predict(states)
    np.testing.assert_allclose(found, expected, atol=0.05 * np.ptp(expected))


def test_values_of_other_discounts_have_other_keys() -> None:
    episodes = linear_episodes((1,) * 8, terminated=range(8))  # the returns are those of any discount
    one, other, same = (
        ValueModel(
            linear_source(episodes), SMALL, discount=gamma, terminal_penalty=0.0, seed=0, device=torch.device("cpu")
        ).identity
        for gamma in (0.9, 0.99, 0.9)
    )
    assert {**one, "source": None} != {**other, "source": None}
    assert {**one, "source": None} == {**same, "source": None}
