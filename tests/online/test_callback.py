"""SAC and TD3 learn from the buffer, and what that costs is logged."""

from __future__ import annotations

from typing import Any

import minari
import numpy as np
import pytest
import torch
from sb3_contrib import TQC
from stable_baselines3 import PPO, SAC, TD3
from stable_baselines3.common.vec_env import DummyVecEnv

from gta_datasets.errors import ConfigError
from gta_datasets.online.critics import td_errors
from tests.online.worlds import Line, line_dataset, quick_buffer

NO_TIMEOUTS = {"handle_timeout_termination": False}
SMALL: dict[str, Any] = {"batch_size": 16, "learning_starts": 10, "device": "cpu", "seed": 0}


@pytest.fixture(scope="module")
def dataset() -> minari.MinariDataset:
    return line_dataset("callback/line-v0")


def model_of(algorithm: Any, env: Any = None, **arguments: Any) -> Any:
    return algorithm("MlpPolicy", env or Line(), policy_kwargs={"net_arch": [8]}, **{**SMALL, **arguments})


@pytest.mark.parametrize("algorithm", [SAC, TD3])
def test_models_learn_and_log(algorithm: Any, dataset: minari.MinariDataset) -> None:
    buffer = quick_buffer(dataset, adapt_every=30)
    model = model_of(algorithm)
    model.learn(80, callback=buffer.callback(), log_interval=1_000)
    assert model.replay_buffer is buffer
    assert (buffer.size(), buffer.state.adaptations) == (80, 2)
    assert buffer.state.batches == model._n_updates == 70
    logged = {name: value for name, value in model.logger.name_to_value.items() if name.startswith("atradiff/")}
    assert (logged["atradiff/recorded"], logged["atradiff/generated"]) == (80, buffer.synthetic.size())
    assert (logged["atradiff/adaptations"], np.isfinite(logged["atradiff/adaptation_loss"])) == (2, True)
    shares = logged["atradiff/generation_share"], logged["atradiff/adaptation_share"]
    assert min(shares) > 0
    assert sum(shares) < 1
    assert 80 * logged["atradiff/seconds_per_step"] == pytest.approx(
        buffer.costs.generation + buffer.costs.adaptation, rel=0.1
    )


def test_learning_is_repeatable_and_goes_on(dataset: minari.MinariDataset) -> None:
    weights = []
    for _ in range(2):
        buffer, model = quick_buffer(dataset, adapt_every=25), model_of(SAC)
        model.learn(40, callback=buffer.callback())
        model.learn(20, callback=buffer.callback(), reset_num_timesteps=False)
        assert buffer.size() == 60
        weights.append(torch.cat([value.flatten() for value in model.actor.state_dict().values()]))
    assert torch.equal(*weights)


def test_importance_may_be_the_reward(dataset: minari.MinariDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = quick_buffer(dataset, adapt_every=20, importance="reward")
    monkeypatch.setattr("gta_datasets.online.callback.td_errors", None)
    model_of(TQC).learn(45, callback=buffer.callback())  # whose error is not known
    assert buffer.state.adaptations == 2


def test_models_that_cannot_use_the_buffer_are_refused(dataset: minari.MinariDataset) -> None:
    buffer = quick_buffer(dataset)
    with pytest.raises(ConfigError, match="PPO has no replay buffer"):
        PPO("MlpPolicy", Line(), n_steps=8, batch_size=8, device="cpu").learn(8, callback=buffer.callback())
    with pytest.raises(ConfigError, match="n_envs=2 is not allowed"):
        model_of(SAC, DummyVecEnv([Line, Line])).learn(4, callback=buffer.callback())
    with pytest.raises(ConfigError, match="importance='td_error' needs a SAC or TD3 model, and this one is a TQC"):
        model_of(TQC).learn(4, callback=buffer.callback())
    with pytest.raises(ConfigError, match=r"made for an environment with Box.* and the model's has Box"):
        model_of(SAC, "Pendulum-v1").learn(4, callback=buffer.callback())
    for other in ({"n_steps": 3}, {"optimize_memory_usage": True, "replay_buffer_kwargs": NO_TIMEOUTS}):
        with pytest.raises(ConfigError, match="replay buffer of another kind"):
            model_of(SAC, **other).learn(4, callback=buffer.callback())
    model = model_of(SAC)
    model.learn(5)
    with pytest.raises(ConfigError, match="holds 5 transitions, which would be lost"):
        model.learn(4, callback=buffer.callback())


@pytest.mark.parametrize("algorithm", [SAC, TD3])
def test_errors_are_those_of_the_critics(algorithm: Any, dataset: minari.MinariDataset) -> None:
    buffer, model = quick_buffer(dataset), model_of(algorithm, gamma=0.5)
    model.learn(30, callback=buffer.callback())
    batch = buffer._get_samples(np.arange(30))
    ended = batch._replace(dones=torch.ones_like(batch.dones))
    values = torch.cat(model.critic(batch.observations, batch.actions), dim=1)
    expected = (values - batch.rewards).abs().mean(dim=1).detach()
    np.testing.assert_allclose(td_errors(model, ended, 0), expected, rtol=1e-5)
    state = torch.random.get_rng_state()
    first, again = td_errors(model, batch, 3), td_errors(model, batch, 3)
    np.testing.assert_array_equal(first, again)
    assert torch.equal(state, torch.random.get_rng_state())
    assert not np.allclose(first, expected)
    if algorithm is TD3:
        actions = model.actor_target(batch.next_observations)
        following = torch.min(*model.critic_target(batch.next_observations, actions))
        target = batch.rewards + 0.5 * (1 - batch.dones) * following
        np.testing.assert_allclose(first, (values - target).abs().mean(dim=1).detach(), rtol=1e-4)
