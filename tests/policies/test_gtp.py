"""GTP and GTP-BC as algorithms of d3rlpy."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector

from gta_datasets import GTAAugmentedDataset
from gta_datasets.adapters import to_d3rlpy
from gta_datasets.errors import ConfigError, DatasetError, UnsupportedSpaceError
from gta_datasets.policies import GTPBCConfig, GTPConfig, load_policy, save_policy
from gta_datasets.policies.updates import advantage_weights
from tests.builders import linear_dataset, make_dataset
from tests.policies.helpers import TINY, built, d3rlpy, fit, minibatch, signs
from tests.smoke import tiny

CONFIGS = [GTPBCConfig, GTPConfig]
STATES = np.zeros((200, 3), np.float32)


@pytest.fixture(scope="module")
def augmented(tmp_path_factory: pytest.TempPathFactory) -> GTAAugmentedDataset:
    source = linear_dataset("policies/linear-v0", lengths=(20,) * 4, terminated=(1,))
    return tiny(source, cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize("config", CONFIGS)
def test_they_learn_from_augmented_and_from_plain_data(config: type[Any], augmented: GTAAugmentedDataset) -> None:
    for buffer in (augmented.to_d3rlpy(real_fraction=0.5), to_d3rlpy(augmented.source)):
        scalers = {"observation_scaler": buffer.observation_scaler(), "reward_scaler": buffer.reward_scaler("standard")}
        algorithm = config(**TINY, **scalers).create()
        metrics = fit(algorithm, buffer, 4)
        losses = {name: value for name, value in metrics.items() if not name.startswith("time")}
        assert {"actor_loss", "consistency_error", "flow_error"} <= losses.keys()
        assert all(math.isfinite(value) for value in losses.values()), losses
        assert algorithm.predict(np.ones((5, 3), np.float32)).shape == (5, 2)


def test_scalers_and_evaluators_of_d3rlpy_work(augmented: GTAAugmentedDataset) -> None:
    scaler = d3rlpy.preprocessing.MinMaxActionScaler(minimum=np.full(2, -1e3), maximum=np.full(2, 1e3))
    algorithm = GTPConfig(**TINY, action_scaler=scaler).create()
    metrics = fit(algorithm, to_d3rlpy(augmented.source), 2, evaluators={"td": d3rlpy.metrics.TDErrorEvaluator()})
    assert math.isfinite(metrics["td"])
    for actions in (algorithm.sample_action(STATES, steps=1), algorithm.predict(STATES)):
        assert 1 < np.abs(actions).max() <= 1e3


@pytest.mark.parametrize("config", CONFIGS)
def test_the_number_of_jumps_is_chosen_at_prediction_time(config: type[Any]) -> None:
    algorithm = built(config, sampling_steps=3)
    flow_map = algorithm.impl.modules.average_actor.flow_map
    jumps: list[int] = []
    flow_map.register_forward_hook(lambda *_: jumps.append(1))
    for asked, taken in [(None, 3), (1, 1), (7, 7), (None, 3)]:
        for act in (algorithm.predict, algorithm.sample_action):
            jumps.clear()
            assert act(STATES, steps=asked).shape == (200, 2)
            assert len(jumps) == taken
    with pytest.raises(ConfigError, match="steps=0 is not allowed"):
        algorithm.predict(STATES, steps=0)


def test_the_seed_of_d3rlpy_decides_what_it_does() -> None:
    first, same, other = (built(GTPConfig, seed=seed) for seed in (1, 1, 2))
    for algorithm in (first, same, other):
        algorithm.update(minibatch())
    actions = [algorithm.predict(STATES) for algorithm in (first, same, other)]
    np.testing.assert_array_equal(actions[0], actions[1])
    assert not np.allclose(actions[0], actions[2])
    assert not np.allclose(actions[0], first.predict(STATES))  # it draws anew


@pytest.mark.parametrize("config", CONFIGS)
def test_a_low_temperature_calms_predictions_alone(config: type[Any]) -> None:
    calm, usual = (built(config, temperature=temperature) for temperature in (0.0, 1.0))
    assert calm.predict(STATES).std(axis=0).max() < 1e-6  # all states are the same one
    assert usual.predict(STATES).std() > 0.01
    np.testing.assert_array_equal(built(config, temperature=0.0).sample_action(STATES), usual_sample(config))


def usual_sample(config: type[Any]) -> np.ndarray:
    actions: np.ndarray = built(config).sample_action(STATES)
    return actions


def test_weights_grow_with_advantages_in_their_own_spread() -> None:
    advantages = torch.tensor([-2.0, 0.0, 1.0, 3.0])
    spread = math.sqrt((2.5**2 + 0.5**2 + 0.5**2 + 2.5**2) / 4)
    expected = torch.tensor([1.0, 1.0, math.exp(2 / spread), math.exp(6 / spread)])
    torch.testing.assert_close(advantage_weights(advantages, 2.0, 100.0), expected, rtol=1e-4, atol=0)
    torch.testing.assert_close(advantage_weights(1000 * advantages, 2.0, 100.0), expected, rtol=1e-4, atol=0)
    torch.testing.assert_close(advantage_weights(advantages, 2.0, 5.0), expected.clamp(max=5))
    # All better by more than they differ: the policy clones.
    assert advantage_weights(torch.ones(3), 1.0, 100.0).tolist() == [100.0, 100.0, 100.0]


def test_advantages_and_critics_lead_to_good_actions() -> None:
    rates = {"actor_learning_rate": 1e-2, "critic_learning_rate": 1e-2}
    cloned, better = built(GTPBCConfig, actor_learning_rate=1e-2), built(GTPConfig, eta=3.0, tau=0.05, **rates)
    for algorithm in (cloned, better):
        for step in range(80):
            algorithm.update(minibatch(64, seed=step))
    assert 0.25 < signs(cloned.sample_action(STATES)) < 0.75
    assert signs(better.sample_action(STATES)) > 0.8
    good, bad = np.full((200, 2), 0.5, np.float32), np.full((200, 2), -0.5, np.float32)
    assert better.predict_value(STATES, good).mean() == pytest.approx(1, abs=0.2)
    assert better.predict_value(STATES, bad).mean() == pytest.approx(0, abs=0.2)


@pytest.mark.parametrize(("terminal", "value"), [(0.0, 2.0), (1.0, 1.0)])
def test_values_are_discounted_sums(terminal: float, value: float) -> None:
    algorithm = built(GTPConfig, gamma=0.5, tau=0.2, critic_learning_rate=3e-2, actor_learning_rate=0.0)
    batch = minibatch(terminal=terminal)
    batch.rewards[:] = 1
    for _ in range(60):
        algorithm.update(batch)
    assert algorithm.predict_value(batch.observations, batch.actions).mean() == pytest.approx(value, abs=0.25)


def test_predict_takes_the_action_that_the_critics_prefer() -> None:
    algorithm = built(GTPConfig, n_critics=1, n_action_samples=16)
    best = algorithm.predict_value(STATES, algorithm.predict(STATES))
    any_one = algorithm.predict_value(STATES, algorithm.sample_action(STATES))
    assert best.mean() > any_one.mean()
    assert best.std() < any_one.std()


def test_without_critics_there_are_no_values() -> None:
    with pytest.raises(NotImplementedError, match="GTP-BC has no critics"):
        built(GTPBCConfig).predict_value(STATES, np.zeros((200, 2), np.float32))


def weights_of(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def after_one_update(config: type[Any] = GTPConfig, **settings: Any) -> tuple[Any, dict[str, float]]:
    algorithm = built(config, **settings)
    return algorithm.impl.modules, algorithm.update(minibatch())


def test_averages_follow_at_their_rates() -> None:
    modules, _ = after_one_update(actor_tau=1.0, tau=0.01)
    torch.testing.assert_close(weights_of(modules.average_actor), weights_of(modules.actor))
    assert not torch.allclose(weights_of(modules.average_critics), weights_of(modules.critics))
    modules, _ = after_one_update(actor_tau=0.01, tau=1.0)
    assert not torch.allclose(weights_of(modules.average_actor), weights_of(modules.actor))
    torch.testing.assert_close(weights_of(modules.average_critics), weights_of(modules.critics))


@pytest.mark.parametrize("flow_weight", [0.0, 2.0])
def test_the_actor_s_loss_is_made_of_both_errors(flow_weight: float) -> None:
    _, metrics = after_one_update(GTPBCConfig, flow_weight=flow_weight)
    expected = metrics["consistency_error"] + flow_weight * metrics["flow_error"]
    assert metrics["actor_loss"] == pytest.approx(expected, rel=1e-5)


def test_settings_change_what_is_trained() -> None:
    modules, usual = after_one_update()
    unchanged = weights_of(built(GTPConfig).impl.modules.critics)
    assert not torch.allclose(weights_of(modules.critics), unchanged)
    for name, value in {"levels": 3, "target_steps": 1, "eta": 5.0, "score_targets": False}.items():
        assert after_one_update(**{name: value})[1]["actor_loss"] != usual["actor_loss"], name
    assert after_one_update(eta=0.0)[1]["mean_weight"] == 1
    assert after_one_update(eta=50.0, max_weight=2.0)[1]["mean_weight"] < 2
    torch.testing.assert_close(weights_of(after_one_update(critic_learning_rate=0.0)[0].critics), unchanged)
    still = after_one_update(actor_learning_rate=0.0)[0]
    torch.testing.assert_close(weights_of(still.actor), weights_of(built(GTPConfig).impl.modules.actor))
    assert len(after_one_update(n_critics=3)[0].critics) == 3
    for name in ("width", "depth"):
        larger = after_one_update(**{name: 2 * TINY[name]})[0]
        assert len(weights_of(larger.actor)) > len(weights_of(modules.actor))


@pytest.mark.parametrize("name", ["actor_optim_factory", "critic_optim_factory"])
def test_optimisers_are_those_of_the_settings(name: str) -> None:
    modules = built(GTPConfig, **{name: d3rlpy.optimizers.SGDFactory()}).impl.modules
    optimisers = {"actor_optim_factory": modules.actor_optim, "critic_optim_factory": modules.critic_optim}
    assert {key for key, found in optimisers.items() if isinstance(found.optim, torch.optim.SGD)} == {name}


COUNTS = ("width", "depth", "levels", "sampling_steps", "n_critics", "target_steps", "n_action_samples")
NAN, INF = float("nan"), float("inf")
REFUSED: dict[str, tuple[str, tuple[Any, ...]]] = {
    **dict.fromkeys(COUNTS, ("a whole number of at least 1", (0, -2, 2.5, 4.0, NAN, True, "5"))),
    "actor_tau": (r"a number in \(0, 1\]", (0.0, -0.1, 2.0, NAN)),
    "tau": (r"a number in \(0, 1\]", (0.0, -1.0, 1.5, NAN)),
    "temperature": ("a finite number of at least 0", (-0.5, NAN, INF)),
    "flow_weight": ("a finite number of at least 0", (-1.0, NAN, INF)),
    "eta": ("a finite number of at least 0", (-1.0, NAN, INF)),
    "max_weight": ("a number of at least 1", (0.5, NAN)),
}


@pytest.mark.parametrize("setting", REFUSED)
def test_settings_that_make_no_sense_are_refused(setting: str) -> None:
    allowed, values = REFUSED[setting]
    configs = [config for config in CONFIGS if setting in config.__dataclass_fields__]
    for config, value in itertools.product(configs, values):
        with pytest.raises(
            ConfigError, match=rf"^{setting}={re.escape(repr(value))} is not allowed; choose {allowed}$"
        ):
            config(**{setting: value})


def test_settings_at_their_bounds_are_allowed(tmp_path: Path) -> None:
    settings = {"actor_tau": 1, "tau": 1.0, "temperature": 0, "flow_weight": 0.0, "eta": 0, "max_weight": 1}
    algorithm = built(GTPConfig, **settings, depth=np.int64(1))
    save_policy(algorithm, tmp_path / "policy")  # as JSON
    assert load_policy(tmp_path / "policy").config.depth == 1


@pytest.mark.parametrize("config", CONFIGS)
def test_what_d3rlpy_offers_and_gtp_does_not_is_refused(config: type[Any], tmp_path: Any) -> None:
    with pytest.raises(ConfigError, match="compile_graph=True is not supported"):
        config(compile_graph=True)
    with pytest.raises(ConfigError, match="enable_ddp=True is not supported"):
        config().create(enable_ddp=True)
    with pytest.raises(NotImplementedError, match="load_policy"):
        built(config).save_policy(str(tmp_path / "policy.pt"))


def dataset(observations: np.ndarray, actions: np.ndarray) -> Any:
    ends = np.arange(len(actions)) % 4 == 3
    return d3rlpy.dataset.MDPDataset(observations, actions, np.ones(len(actions), np.float32), ends.astype(np.float32))


@pytest.mark.parametrize("config", CONFIGS)
def test_images_and_discrete_actions_are_refused(config: type[Any]) -> None:
    images = np.zeros((8, 1, 16, 16), np.uint8)
    with pytest.raises(UnsupportedSpaceError, match=r"observations that are vectors, .* \(1, 16, 16\)"):
        fit(config().create(), dataset(images, np.full((8, 2), 0.5, np.float32)), 1)
    choices = np.arange(8)[:, None] % 3
    with pytest.raises(UnsupportedSpaceError, match="continuous actions, and the dataset has 3 discrete ones"):
        fit(config().create(), dataset(np.zeros((8, 3), np.float32), choices), 1)


@pytest.mark.parametrize("config", CONFIGS)
def test_actions_out_of_bounds_are_refused(config: type[Any]) -> None:
    algorithm, batch = built(config), minibatch()
    algorithm.update(batch)
    batch.actions[3, 1] = -2
    with pytest.raises(DatasetError, match=r"reach 2, .* within -1 and 1; give .* an action_scaler"):
        algorithm.update(batch)


@pytest.mark.parametrize("config", CONFIGS)
def test_observations_and_actions_of_other_sizes_are_refused(config: type[Any]) -> None:
    algorithm = built(config)
    for act in (algorithm.predict, algorithm.sample_action, lambda x: algorithm.predict_value(x, x[:, :2])):
        with pytest.raises(ConfigError, match=r"made for observations of shape \(3,\), and these are of shape \(4,\)"):
            act(np.zeros((2, 4), np.float32))
    with pytest.raises(ConfigError, match=r"these are of shape \(\)"):
        algorithm.predict(np.zeros(3, np.float32))  # without a batch
    with pytest.raises(ConfigError, match=r"these are of shape \(\(3,\), \(1,\)\)"):
        algorithm.predict([np.zeros((2, 3), np.float32), np.zeros((2, 1), np.float32)])
    with pytest.raises(
        ConfigError, match=r"observations of shape \(3,\), and these are of shape \(5,\).* a new policy"
    ):
        fit(algorithm, dataset(np.zeros((8, 5), np.float32), np.full((8, 2), 0.5, np.float32)), 1)
    with pytest.raises(ConfigError, match=r"actions of shape \(2,\), and these are of shape \(3,\)"):
        fit(algorithm, dataset(np.zeros((8, 3), np.float32), np.full((8, 3), 0.5, np.float32)), 1)
    fit(algorithm, dataset(np.zeros((8, 3), np.float32), np.full((8, 2), 0.5, np.float32)), 1)


@pytest.mark.parametrize("config", CONFIGS)
def test_actions_that_are_not_finite_are_refused(config: type[Any]) -> None:
    actions = np.full((8, 2), 0.5, np.float32)
    actions[:, 0] = np.linspace(-1, 1, 8)  # the second is constant
    algorithm = config(**TINY, action_scaler=d3rlpy.preprocessing.MinMaxActionScaler()).create()
    with pytest.raises(
        DatasetError, match=r"not finite in dimensions \[1\], .* the same, .* give it minimum and maximum"
    ):
        fit(algorithm, dataset(np.zeros((8, 3), np.float32), actions), 1)
    for value in (np.nan, np.inf):
        algorithm, batch = built(config), minibatch()
        batch.actions[3, 0] = value
        with pytest.raises(DatasetError, match=r"not finite in dimensions \[0\]"):
            algorithm.update(batch)


def test_training_goes_on_online() -> None:
    env = gymnasium.make("Pendulum-v1")
    box = {"observation_space": env.observation_space, "action_space": env.action_space}
    offline = to_d3rlpy(make_dataset("policies/pendulum-v0", lengths=(20,) * 4, **box))
    scaler = d3rlpy.preprocessing.MinMaxActionScaler(minimum=np.full(1, -2.0), maximum=np.full(1, 2.0))
    algorithm = GTPConfig(**TINY, action_scaler=scaler).create()
    fit(algorithm, offline, 2)
    online = d3rlpy.dataset.create_fifo_replay_buffer(100, env=env, trajectory_slicer=offline.trajectory_slicer)
    actor = algorithm.impl.modules.actor
    before = parameters_to_vector(actor.parameters())
    algorithm.fit_online(
        env, online, n_steps=50, update_start_step=40, show_progress=False,
        logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
    )  # fmt: skip
    assert online.transition_count > 0
    assert not torch.equal(before, parameters_to_vector(actor.parameters()))
