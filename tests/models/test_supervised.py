"""The learned inverse model and the learned model of rewards, in a world whose physics are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gta_datasets.config import DynamicsConfig
from gta_datasets.data.episodes import Episodes
from gta_datasets.models.dynamics import DynamicsModel
from gta_datasets.models.ensemble import LearnedModel
from gta_datasets.models.inverse import InverseDynamicsModel
from gta_datasets.models.reward import RewardModel
from tests.builders import linear_episodes, linear_source

SMALL = DynamicsConfig(dynamics_members=2, dynamics_width=32, dynamics_depth=1, dynamics_steps=1000)
EPISODES, UNSEEN = linear_episodes((50,) * 40, seed=1), linear_episodes((50,) * 4, seed=9)


def fitted(kind: type[LearnedModel], folder: Path) -> LearnedModel:
    model = kind(linear_source(EPISODES), SMALL, seed=0, device=torch.device("cpu"))
    model.fit(folder, progress=False)
    return model


def states_of(episodes: Episodes) -> tuple[np.ndarray, np.ndarray]:
    return episodes.observations[episodes.transition_rows], episodes.next_observations


def unexplained(predicted: np.ndarray, true: np.ndarray) -> float:
    """Share of the variance that the predictions miss."""
    return float(np.square(predicted - true).mean() / true.var())


def test_the_inverse_model_finds_the_actions_of_unseen_episodes(tmp_path: Path) -> None:
    model = fitted(InverseDynamicsModel, tmp_path)
    states, following = states_of(UNSEEN)
    predicted = model.predict(states, following)
    assert predicted.shape == UNSEEN.actions.shape
    assert unexplained(predicted, UNSEEN.actions) < 0.1
    shuffled = model.predict(states, np.roll(following, 7, axis=0))
    assert unexplained(shuffled, UNSEEN.actions) > 0.5


def test_the_reward_model_finds_the_rewards_of_unseen_episodes(tmp_path: Path) -> None:
    model = fitted(RewardModel, tmp_path)
    states, following = states_of(UNSEEN)
    predicted = model.predict(states, UNSEEN.actions, following)
    assert predicted.shape == UNSEEN.rewards.shape
    # Typical errors: the rare first states far from the origin, where the reward is quadratic, are another matter.
    error = np.abs(predicted - UNSEEN.rewards)
    assert np.median(error) < 0.2 * UNSEEN.rewards.std()


def towards_goals(episodes: Episodes, seed: int) -> Episodes:
    """Rewards for the first state's side that the episode's goal, 0 or 1, names."""
    goals = np.random.default_rng(seed).integers(2, size=episodes.num_episodes)
    column = np.repeat(goals, episodes.lengths + 1).astype(np.float32)[:, None]
    first = episodes.observations[episodes.transition_rows, 0]
    rewards = np.where(np.repeat(goals, episodes.lengths) == 1, first, -first)
    changed = {"observations": np.hstack([episodes.observations, column]), "rewards": rewards}
    return Episodes(**{**episodes.arrays(), **changed})


def test_rewards_may_depend_on_a_goal(tmp_path: Path) -> None:
    model = RewardModel(linear_source(towards_goals(EPISODES, 0)), SMALL, seed=0, device=torch.device("cpu"))
    model.fit(tmp_path, progress=False)
    unseen = towards_goals(UNSEEN, 1)
    states, following = states_of(unseen)
    assert unexplained(model.predict(states, unseen.actions, following), unseen.rewards) < 0.2


def test_actions_are_found_beside_a_clock(tmp_path: Path) -> None:
    def clocked(episodes: Episodes) -> Episodes:
        clock = np.concatenate([0.1 * np.arange(length + 1) for length in episodes.lengths]).astype(np.float32)
        return Episodes(**{**episodes.arrays(), "observations": np.hstack([episodes.observations, clock[:, None]])})

    model = InverseDynamicsModel(linear_source(clocked(EPISODES)), SMALL, seed=0, device=torch.device("cpu"))
    model.fit(tmp_path, progress=False)
    assert unexplained(model.predict(*states_of(clocked(UNSEEN))), UNSEEN.actions) < 0.1


def test_a_constant_reward_is_predicted_exactly(tmp_path: Path) -> None:
    constant = Episodes(**{**EPISODES.arrays(), "rewards": np.full_like(EPISODES.rewards, 2.5)})
    model = RewardModel(linear_source(constant), SMALL, seed=0, device=torch.device("cpu"))
    model.fit(tmp_path, progress=False)
    states, following = states_of(UNSEEN)
    assert (model.predict(states, UNSEEN.actions, following) == 2.5).all()


@pytest.mark.parametrize("kind", [InverseDynamicsModel, RewardModel])
def test_no_two_models_of_a_dataset_share_a_key(kind: type[LearnedModel]) -> None:
    source = linear_source(EPISODES)
    model, forward = (cls(source, SMALL, seed=0, device=torch.device("cpu")) for cls in (kind, DynamicsModel))
    assert model.identity["model"] != forward.identity["model"]


def test_predictions_need_a_fitted_model() -> None:
    model = RewardModel(linear_source(EPISODES), SMALL, seed=0, device=torch.device("cpu"))
    states, following = states_of(UNSEEN)
    with pytest.raises(RuntimeError, match=r"fit\(\) must be called"):
        model.predict(states, UNSEEN.actions, following)
