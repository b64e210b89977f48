"""Stable-Baselines3's algorithms train on an augmented dataset, offline and then online."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from sb3_contrib import TQC
from stable_baselines3 import DQN, SAC, TD3

from gta_datasets import GTAAugmentedDataset
from gta_datasets.adapters import pretrain, to_sb3
from gta_datasets.demo import make_demo_dataset
from gta_datasets.simulator import simulator_for
from tests.builders import make_dataset
from tests.smoke import tiny

ENV = "HalfCheetah-v5"


def small() -> dict[str, Any]:
    """Options of tiny models; anew for each, because SB3 changes the dictionary it is given."""
    return {"policy_kwargs": {"net_arch": [16, 16]}, "batch_size": 16, "buffer_size": 300, "device": "cpu"}


@pytest.fixture(scope="module")
def augmented(tmp_path_factory: pytest.TempPathFactory) -> GTAAugmentedDataset:
    source = make_demo_dataset("sb3-clients/cheetah-v0", episodes=1)
    return tiny(source, cache_dir=tmp_path_factory.mktemp("cache"))


def losses(model: Any) -> dict[str, float]:
    return {name: float(value) for name, value in model.logger.name_to_value.items() if name.endswith("loss")}


@pytest.mark.parametrize("algorithm", [TD3, SAC, TQC], ids=lambda algorithm: algorithm.__name__)
def test_offline_then_online(algorithm: Any, augmented: GTAAugmentedDataset, tmp_path: Path) -> None:
    model = algorithm("MlpPolicy", gymnasium.make(ENV), learning_starts=0, seed=0, **small())
    pretrain(model, augmented, 200, progress=False, real_fraction=0.5)
    found = losses(model)
    assert {"train/actor_loss", "train/critic_loss"} <= found.keys()
    assert all(math.isfinite(value) for value in found.values()), found
    assert model._n_updates == 200
    buffer = model.replay_buffer
    assert (buffer.pos, buffer.size()) == (0, augmented.total_steps)
    model.learn(200)
    assert model.replay_buffer is buffer
    assert (buffer.pos, buffer.size()) == (200, augmented.total_steps + 200)
    assert model._n_updates == 400
    model.save_replay_buffer(tmp_path / "buffer")
    model.load_replay_buffer(tmp_path / "buffer")
    assert model.replay_buffer.size() == augmented.total_steps + 200
    pretrain(model, model.replay_buffer.dataset, 5, progress=False)  # its own dataset: nothing is lost
    assert model.replay_buffer.pos == 200


def test_discrete_actions_train() -> None:
    env = gymnasium.make("CartPole-v1")
    source = make_dataset(
        "sb3-clients/cartpole-v0", observation_space=env.observation_space, action_space=spaces.Discrete(2)
    )
    model = DQN("MlpPolicy", env, learning_starts=0, target_update_interval=10, **small())
    pretrain(model, source, 50, progress=False)
    assert math.isfinite(losses(model)["train/loss"])
    model.learn(32)
    assert model.replay_buffer.pos == 32


@pytest.mark.parametrize("copy", [False, True])
def test_transitions_are_those_of_the_simulator(augmented: GTAAugmentedDataset, copy: bool) -> None:
    env = gymnasium.make(ENV)
    batch = to_sb3(augmented.source, env, copy=copy, device="cpu").sample(100)
    low, high = env.action_space.low, env.action_space.high
    actions = low + (batch.actions.numpy() + 1) / 2 * (high - low)
    simulator = simulator_for(ENV)
    assert simulator is not None
    steps = simulator.step(batch.observations.numpy(), actions)
    np.testing.assert_allclose(batch.next_observations, steps.next_observations, atol=1e-4)
    np.testing.assert_allclose(batch.rewards[:, 0], steps.rewards, atol=1e-4)
