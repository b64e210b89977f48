"""SAC and TD3 learn from the buffer, and what that costs is logged."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import minari
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sb3_contrib import TQC
from stable_baselines3 import DDPG, PPO, SAC, TD3
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    LogEveryNTimesteps,
)
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

from gta_datasets.adapters import pretrain
from gta_datasets.errors import ConfigError, DivergenceError
from gta_datasets.online import ATraDiffReplayBuffer
from gta_datasets.online.critics import td_errors
from gta_datasets.seeding import derived_seed
from gta_datasets.training.loop import train
from gta_datasets.training.team import Team
from tests.online.worlds import QUICK, Line, line_dataset, quick_buffer

Array = NDArray[np.floating[Any]]
NO_TIMEOUTS = {"handle_timeout_termination": False}
SMALL: dict[str, Any] = {"batch_size": 16, "learning_starts": 10, "device": "cpu", "seed": 0}


@pytest.fixture(scope="module")
def dataset() -> minari.MinariDataset:
    return line_dataset("callback/line-v0")


@pytest.fixture(scope="module")
def endless() -> minari.MinariDataset:
    return line_dataset("callback/endless-v0", terminated=False)


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
    assert logged["atradiff/pruned"] == buffer.opened.diffuser.pruned
    assert (logged["atradiff/adaptations"], np.isfinite(logged["atradiff/adaptation_loss"])) == (2, True)
    shares = logged["atradiff/generation_share"], logged["atradiff/adaptation_share"]
    assert min(shares) > 0
    assert sum(shares) < 1
    assert 80 * logged["atradiff/seconds_per_step"] == pytest.approx(
        buffer.costs.generation + buffer.costs.adaptation, rel=0.1
    )


@pytest.mark.parametrize("algorithm", [SAC, TD3])
def test_the_buffer_keeps_its_units_where_the_model_sees_normalised_ones(
    algorithm: Any, endless: minari.MinariDataset
) -> None:
    env = VecNormalize(DummyVecEnv([Line]))
    settings = {**QUICK, "lengths": (3,), "starts_per_batch": 1, "adapt_every": 30}
    buffer = ATraDiffReplayBuffer.from_dataset(endless, env, **settings)
    model_of(algorithm, env).learn(100, callback=buffer.callback())
    assert (buffer.size(), buffer.state.adaptations) == (100, 3)
    states, following = buffer.observations[:100, 0], buffer.next_observations[:100, 0]
    moves = 1 + 2 * buffer.actions[:100, 0, 0]  # the space is from -1 to 3
    np.testing.assert_allclose(buffer.rewards[:100, 0], moves, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(following[:, 0] - states[:, 0], moves / 4, atol=1e-5)  # at ends of episodes, too
    np.testing.assert_allclose(following[:, 1], states[:, 1], atol=1e-5)
    begins = buffer.synthetic.observations[: buffer.synthetic.size() : 3, 0]
    assert len(begins) > 10
    assert {tuple(state) for state in begins.tolist()} <= {tuple(state) for state in states.tolist()}


def test_learning_is_repeatable_and_goes_on(dataset: minari.MinariDataset) -> None:
    weights = []
    for _ in range(2):
        buffer, model = quick_buffer(dataset, adapt_every=25), model_of(SAC)
        model.learn(40, callback=buffer.callback())
        model.learn(20, callback=buffer.callback(), reset_num_timesteps=False)
        assert buffer.size() == 60
        weights.append(torch.cat([value.flatten() for value in model.actor.state_dict().values()]))
    assert torch.equal(*weights)


def test_the_errors_of_new_transitions_decide(dataset: minari.MinariDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def errors(model: Any, batch: Any, seed: int) -> Array:
        asked.append(batch.rewards[:, 0].numpy())
        return np.ones(len(batch.rewards))

    monkeypatch.setattr("gta_datasets.online.callback.td_errors", errors)
    buffer = quick_buffer(dataset, adapt_every=20, importance="td_error")
    model_of(SAC).learn(45, callback=buffer.callback())
    np.testing.assert_array_equal(asked[0], buffer.rewards[:20, 0])
    np.testing.assert_array_equal(asked[1][-20:], buffer.rewards[20:40, 0])
    assert np.isin(asked[1][:-20], asked[0]).all()


def test_errors_are_drawn_by_the_seed_of_the_agent(
    dataset: minari.MinariDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[list[int]] = []

    def errors(model: Any, batch: Any, seed: int) -> Array:
        drawn[-1].append(seed)
        return np.ones(len(batch.rewards))

    monkeypatch.setattr("gta_datasets.online.callback.td_errors", errors)
    for seed in (0, 0, 1):
        drawn.append([])
        buffer = quick_buffer(dataset, adapt_every=20, importance="td_error", seed=seed, model_seed=7)
        model_of(SAC).learn(45, callback=buffer.callback())
    first, again, other = drawn
    assert first == again
    assert len({*first, *other}) == 4


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


def test_a_pretrained_model_goes_on_with_the_buffer(dataset: minari.MinariDataset) -> None:
    model = pretrain(model_of(SAC, learning_starts=0), dataset, 3, progress=False)
    buffer, offline = quick_buffer(dataset), model.replay_buffer
    model.learn(20, callback=buffer.callback())
    assert (model.replay_buffer is buffer, buffer.size()) == (True, 20)
    assert offline.size() == dataset.total_steps
    assert model._n_updates == 3 + 20
    model = pretrain(model_of(SAC), dataset, 3, progress=False)
    model.learn(5)
    with pytest.raises(ConfigError, match="holds 5 transitions, which would be lost; empty it"):
        model.learn(4, callback=buffer.callback())
    model.replay_buffer.reset()
    model.learn(4, callback=quick_buffer(dataset).callback())
    assert model.replay_buffer.size() == 4


def test_a_model_that_was_told_the_class_learns_from_the_buffer_alone(
    dataset: minari.MinariDataset, tmp_path: Path
) -> None:
    model = model_of(SAC, replay_buffer_class=ATraDiffReplayBuffer)
    wanted = r"has no dataset .*from_dataset\(dataset, env\), and pass callback=buffer\.callback\(\)"
    for callback in (None, model.replay_buffer.callback()):
        with pytest.raises(ConfigError, match=wanted):
            model.learn(5, callback=callback)
    with pytest.raises(ConfigError, match=wanted):
        model.replay_buffer.save(tmp_path / "buffer")
    model.replay_buffer.reset()
    buffer = quick_buffer(dataset)
    model.learn(20, callback=buffer.callback())
    assert (model.replay_buffer is buffer, buffer.size()) == (True, 20)
    model.save(tmp_path / "model")
    model = SAC.load(tmp_path / "model", env=Line(), device="cpu")
    model.learn(10, callback=buffer.callback(), reset_num_timesteps=False)
    assert buffer.size() == 30


PLACES: dict[str, Callable[[BaseCallback], BaseCallback]] = {
    "beside it": lambda checkpoint: checkpoint,
    "in a list": lambda checkpoint: CallbackList([LogEveryNTimesteps(5), checkpoint]),
    "at an event": lambda checkpoint: EveryNTimesteps(5, checkpoint),
    "after an evaluation": lambda checkpoint: EvalCallback(Line(), callback_after_eval=checkpoint, verbose=0),
    "for the best model": lambda checkpoint: EvalCallback(Line(), CallbackList([checkpoint]), verbose=0),
}


@pytest.mark.parametrize("place", PLACES)
def test_checkpoints_that_would_pickle_the_buffer_are_refused_at_once(
    place: str, dataset: minari.MinariDataset, tmp_path: Path
) -> None:
    buffer, model = quick_buffer(dataset), model_of(SAC)
    other = PLACES[place](CheckpointCallback(10, str(tmp_path), save_replay_buffer=True))
    for callbacks in ([buffer.callback(), other], [other, buffer.callback()]):
        with pytest.raises(ConfigError, match=r"leave save_replay_buffer out, and call buffer\.save\(path\)"):
            model.learn(20, callback=callbacks)
        assert buffer.size() == 0


def test_checkpoints_of_the_model_alone_are_written(dataset: minari.MinariDataset, tmp_path: Path) -> None:
    model_of(SAC).learn(20, callback=[quick_buffer(dataset).callback(), CheckpointCallback(10, str(tmp_path))])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rl_model_10_steps.zip", "rl_model_20_steps.zip"]


def through(layers: Iterable[nn.Module], values: Array) -> Array:
    """What a network of Stable-Baselines3 makes of some values, without torch."""
    for layer in layers:
        if isinstance(layer, nn.Linear):
            values = values @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
        else:
            values = {"ReLU": lambda x: np.maximum(x, 0), "Tanh": np.tanh}[type(layer).__name__](values)
    return values


def next_actions(model: Any, states: Array, seed: int) -> tuple[Array, Array | float]:
    """Actions (n, 1) of the policy that targets are of, and what their entropy is worth, (n,)."""
    if isinstance(model, TD3):
        return through(model.actor_target.mu, states), 0.0
    hidden = through(model.actor.latent_pi, states)
    mean, log_std = through([model.actor.mu], hidden), through([model.actor.log_std], hidden)
    noise = torch.normal(torch.zeros(mean.shape), 1.0, generator=torch.Generator().manual_seed(seed)).numpy()
    actions = np.tanh(mean + np.exp(log_std) * noise)
    log_likelihood = -(noise**2) / 2 - log_std - np.log(2 * np.pi) / 2 - np.log(1 - actions**2 + 1e-6)
    weight = (model.ent_coef_tensor if model.log_ent_coef is None else model.log_ent_coef.exp()).item()
    return actions, -weight * log_likelihood[:, 0]


def values_of(critic: Any, states: Array, actions: Array) -> Array:
    """One row for each of its networks, (2, n)."""
    return np.stack([through(network, np.hstack([states, actions]))[:, 0] for network in critic.q_networks])


@pytest.mark.parametrize(
    ("algorithm", "arguments"), [(SAC, {"ent_coef": "auto"}), (SAC, {"ent_coef": 0.3}), (TD3, {}), (DDPG, {})]
)
@pytest.mark.parametrize("normalised", [False, True])
def test_importance_is_the_error_of_the_critics(
    algorithm: Any, arguments: dict[str, Any], dataset: minari.MinariDataset, normalised: bool
) -> None:
    env = VecNormalize(DummyVecEnv([Line]), norm_obs=normalised, norm_reward=normalised)
    buffer, model = quick_buffer(dataset), model_of(algorithm, env, gamma=0.8, learning_rate=0.01, **arguments)
    callback, rows = buffer.callback(), np.array([3, 11, 12, 25, 29])
    model.learn(30, callback=callback)
    buffer.dones[[11, 12]], buffer.timeouts[12] = 1.0, 1.0  # the task ends, and a time limit that it does not know
    states, following = buffer.observations[rows, 0], buffer.next_observations[rows, 0]
    rewards = buffer.rewards[rows, 0]
    if normalised:
        states, following = ((x - env.obs_rms.mean) / np.sqrt(env.obs_rms.var + 1e-8) for x in (states, following))
        rewards = rewards / np.sqrt(env.ret_rms.var + 1e-8)
    actions, entropy = next_actions(model, following, seed=derived_seed(buffer.opened.seed, "td errors 0"))
    goes_on = np.array([1, 0, 1, 1, 1])
    target = rewards + 0.8 * goes_on * (values_of(model.critic_target, following, actions).min(axis=0) + entropy)
    errors = np.abs(values_of(model.critic, states, buffer.actions[rows, 0]) - target)
    assert errors.shape == (1 if algorithm is DDPG else 2, 5)
    np.testing.assert_allclose(callback._td_errors(rows), errors.mean(axis=0), rtol=1e-4)


def test_errors_leave_global_generators_alone(dataset: minari.MinariDataset) -> None:
    buffer, model = quick_buffer(dataset), model_of(SAC)
    model.learn(12, callback=buffer.callback())
    batch, state = buffer._get_samples(np.arange(12)), torch.random.get_rng_state()
    first, again, other = (td_errors(model, batch, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("options", [{"use_sde": True}, {"train_freq": (1, "episode"), "gradient_steps": -1}])
def test_ways_to_learn(options: dict[str, Any], dataset: minari.MinariDataset) -> None:
    buffer = quick_buffer(dataset, adapt_every=30)
    model = model_of(SAC, **options)
    model.learn(60, callback=buffer.callback())
    assert model._n_updates > 0
    assert buffer.state.adaptations == 1
    assert buffer.synthetic.size() > 0


def test_an_adaptation_that_diverges_is_left_out(
    dataset: minari.MinariDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = quick_buffer(dataset, adapt_every=30, adapt_learning_rate=1e-3, starts_per_batch=1_000)
    calls: list[Team] = []

    def train_once(*arguments: Any, **options: Any) -> Any:
        calls.append(options["team"])
        if len(calls) == 2:  # of the second length
            raise DivergenceError("the loss of step 1 is nan")
        return train(*arguments, **options)

    monkeypatch.setattr("gta_datasets.online.trajectory_model.train", train_once)
    with pytest.warns(UserWarning, match=r"adaptation 0 diverged.*lower adapt_learning_rate \(now 0.001\)"):
        model_of(SAC).learn(40, callback=buffer.callback())
    assert (buffer.state.adapted_at, buffer.state.adaptations) == (30, 1)
    assert len(buffer.state.subset) > 0, "what was recorded until then still counts"
    assert not any(name.partition(".")[2].startswith("adapted") for name in buffer.opened.diffuser.weights)
    buffer.adapt()
    assert {team.size for team in calls} == {1}, "whatever launch it is part of, an agent adapts by itself"
