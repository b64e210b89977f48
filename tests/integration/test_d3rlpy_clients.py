"""Every algorithm of d3rlpy trains on an augmented dataset, and its scalers and evaluators read it."""

from __future__ import annotations

import dataclasses
import io
import math
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from gta_datasets import GTAAugmentedDataset
from gta_datasets.adapters import to_d3rlpy
from tests.builders import linear_dataset, make_dataset
from tests.smoke import tiny

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # gym, which d3rlpy imports, warns of NumPy 2
    import d3rlpy
    from d3rlpy import algos
    from d3rlpy.metrics import evaluators
    from d3rlpy.models.encoders import VectorEncoderFactory
    from d3rlpy.ope import FQE, FQEConfig

SMALL = VectorEncoderFactory(hidden_units=[16, 16])
STEPS = 200
FEW_ACTIONS = {"n_action_samples": 2}

Q_LEARNING: dict[str, dict[str, Any]] = {
    "TD3PlusBC": {},
    "IQL": {},
    "CQL": FEW_ACTIONS,
    "AWAC": {},
    "BCQ": FEW_ACTIONS,
    "BEAR": {**FEW_ACTIONS, "n_target_samples": 2, "n_mmd_action_samples": 2, "warmup_steps": 20},
    "CalQL": FEW_ACTIONS,
    "CRR": FEW_ACTIONS,
    "PLAS": {"warmup_steps": 20},
    "PRDC": {},
    "ReBRAC": {},
    "BC": {},
}


@pytest.fixture(scope="module")
def augmented(tmp_path_factory: pytest.TempPathFactory) -> GTAAugmentedDataset:
    source = linear_dataset("d3rlpy/linear-v0", lengths=(20,) * 6 + (9, 5), terminated=(1, 6))
    return tiny(source, cache_dir=tmp_path_factory.mktemp("cache"))


def small(name: str, settings: dict[str, Any]) -> Any:
    """The algorithm with tiny networks and batches."""
    config = getattr(algos, f"{name}Config")
    fields = {field.name for field in dataclasses.fields(config)}
    encoders = {field: SMALL for field in fields if field.endswith("encoder_factory")}
    return config(batch_size=16, **encoders, **settings)


class Recorder(d3rlpy.logging.NoopAdapterFactory):
    """Keeps what d3rlpy reports, by epoch, where it would write log folders."""

    def __init__(self) -> None:
        self.epochs: dict[int, dict[str, float]] = {}

    def create(self, *_: Any, **__: Any) -> Any:
        recorder = self

        class Adapter(d3rlpy.logging.NoopAdapter):
            def write_metric(self, epoch: int, step: int, name: str, value: float) -> None:
                recorder.epochs.setdefault(epoch, {})[name] = value

        return Adapter()


def fitted(algorithm: Any, buffer: Any, **arguments: Any) -> list[dict[str, float]]:
    """The metrics of every epoch."""
    recorder = Recorder()
    algorithm.fit(
        buffer,
        n_steps=STEPS,
        n_steps_per_epoch=STEPS // 2,
        show_progress=False,
        logger_adapter=recorder,
        **arguments,
    )
    return list(recorder.epochs.values())


def assert_finite(epochs: list[dict[str, float]]) -> None:
    assert len(epochs) == 2
    for metrics in epochs:
        losses = {name: value for name, value in metrics.items() if not name.startswith("time")}
        assert losses
        assert all(math.isfinite(value) for value in losses.values()), losses


@pytest.mark.parametrize("name", Q_LEARNING)
def test_q_learning_algorithms_train(name: str, augmented: GTAAugmentedDataset) -> None:
    algorithm = small(name, Q_LEARNING[name]).create()
    assert_finite(fitted(algorithm, augmented.to_d3rlpy(real_fraction=0.5)))
    assert algorithm.predict(np.zeros((2, 3), np.float32)).shape == (2, 2)


@pytest.mark.parametrize("name", ["DecisionTransformer", "TACR"])
def test_transformers_train(name: str, augmented: GTAAugmentedDataset) -> None:
    algorithm = small(name, {"context_size": 5, "num_layers": 1, "max_timestep": 30}).create()
    assert_finite(fitted(algorithm, augmented.to_d3rlpy()))


@pytest.mark.parametrize("name", ["DQN", "DiscreteCQL", "DiscreteBC"])
def test_discrete_actions_train(name: str) -> None:
    source = make_dataset(f"d3rlpy/{name.lower()}-v0", action_space=spaces.Discrete(3), lengths=(12,) * 6)
    algorithm = small(name, {}).create()
    assert_finite(fitted(algorithm, to_d3rlpy(source)))
    assert set(algorithm.predict(np.zeros((4, 3), np.float32))) <= {0, 1, 2}


def test_goals_train_as_one_vector() -> None:
    box = spaces.Box(-1, 1, (2,), np.float64)
    goal = spaces.Dict({"observation": spaces.Box(-1, 1, (4,), np.float64), "desired_goal": box, "achieved_goal": box})
    source = make_dataset("d3rlpy/goal-v0", observation_space=goal, lengths=(10,) * 4)
    flat = small("TD3PlusBC", {}).create()
    assert_finite(fitted(flat, to_d3rlpy(source)))
    assert flat.predict(np.zeros((1, 6), np.float32)).shape == (1, 2)


def test_off_policy_evaluation_trains(augmented: GTAAugmentedDataset) -> None:
    buffer = augmented.to_d3rlpy()
    policy = small("BC", {}).create()
    fitted(policy, buffer)
    evaluation = FQE(algo=policy, config=FQEConfig(batch_size=16, encoder_factory=SMALL))
    assert_finite(fitted(evaluation, buffer))


def test_evaluators_read_the_buffer(augmented: GTAAugmentedDataset) -> None:
    chosen = {
        "td_error": evaluators.TDErrorEvaluator(),
        "advantage": evaluators.DiscountedSumOfAdvantageEvaluator(),
        "value": evaluators.AverageValueEstimationEvaluator(),
        "initial_value": evaluators.InitialStateValueEstimationEvaluator(),
        "soft_opc": evaluators.SoftOPCEvaluator(return_threshold=0.0),
        "action": evaluators.ContinuousActionDiffEvaluator(),
    }
    epochs = fitted(small("TD3PlusBC", {}).create(), augmented.to_d3rlpy(), evaluators=chosen)
    assert_finite(epochs)
    assert chosen.keys() <= epochs[-1].keys()


def test_scalers_that_d3rlpy_fits_itself_equal_the_ready_ones(augmented: GTAAugmentedDataset) -> None:
    buffer = augmented.to_d3rlpy()
    for kind, scaler in (
        ("standard", d3rlpy.preprocessing.StandardObservationScaler()),
        ("min_max", d3rlpy.preprocessing.MinMaxObservationScaler()),
    ):
        scaler.fit_with_transition_picker(buffer.episodes, buffer.transition_picker)
        ready = buffer.observation_scaler(kind)
        probe = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)
        np.testing.assert_allclose(ready.transform_numpy(probe), scaler.transform_numpy(probe), rtol=1e-5)
    for kind, scaler in (
        ("standard", d3rlpy.preprocessing.StandardRewardScaler()),
        ("min_max", d3rlpy.preprocessing.MinMaxRewardScaler()),
    ):
        scaler.fit_with_transition_picker(buffer.episodes, buffer.transition_picker)
        probe = np.linspace(-1, 1, 4, dtype=np.float32)
        found = buffer.reward_scaler(kind).transform_numpy(probe)
        np.testing.assert_allclose(found, scaler.transform_numpy(probe), rtol=1e-5)


def test_returns_are_scaled_by_the_real_episodes(augmented: GTAAugmentedDataset) -> None:
    scaler = d3rlpy.preprocessing.ReturnBasedRewardScaler(multiplier=1000.0)
    source = to_d3rlpy(augmented.source)
    scaler.fit_with_transition_picker(source.episodes, source.transition_picker)
    ready = augmented.to_d3rlpy().reward_scaler(multiplier=1000.0)
    np.testing.assert_allclose(ready.transform_numpy(np.ones(1)), scaler.transform_numpy(np.ones(1)), rtol=1e-5)


def test_ready_scalers_train(augmented: GTAAugmentedDataset) -> None:
    buffer = augmented.to_d3rlpy()
    scalers = {"observation_scaler": buffer.observation_scaler(), "reward_scaler": buffer.reward_scaler()}
    for name in ("TD3PlusBC", "CalQL"):
        assert_finite(fitted(small(name, {**Q_LEARNING[name], **scalers}).create(), buffer))


def test_what_is_dumped_is_loaded_by_d3rlpy(augmented: GTAAugmentedDataset) -> None:
    buffer, file = augmented.to_d3rlpy(), io.BytesIO()
    buffer.dump(file)
    file.seek(0)
    loaded = type(buffer).load(file, d3rlpy.dataset.InfiniteBuffer())
    assert loaded.transition_count == buffer.transition_count
    for ours, theirs in zip(buffer.episodes, loaded.episodes, strict=True):
        np.testing.assert_array_equal(ours.observations, theirs.observations)
        np.testing.assert_array_equal(ours.rewards, theirs.rewards)


def test_online_training_goes_on_in_a_mixed_buffer() -> None:
    env = gymnasium.make("Pendulum-v1")
    box = {"observation_space": env.observation_space, "action_space": env.action_space}
    buffer = to_d3rlpy(make_dataset("d3rlpy/pendulum-v0", lengths=(20,) * 4, **box))
    online = d3rlpy.dataset.create_fifo_replay_buffer(100, env=env, trajectory_slicer=buffer.trajectory_slicer)
    mixed = d3rlpy.dataset.MixedReplayBuffer(online, buffer, secondary_mix_ratio=0.5)
    recorder = Recorder()
    small("SAC", {}).create().fit_online(
        env, mixed, n_steps=60, n_steps_per_epoch=60, update_start_step=20, show_progress=False, logger_adapter=recorder
    )
    assert math.isfinite(recorder.epochs[1]["critic_loss"])
    assert online.transition_count > 0
    assert buffer.transition_count == 80


def test_d3rlpys_own_loader_shifts_episodes() -> None:
    """Why there is this adapter: `get_minari` pairs observations of later episodes with other steps' actions."""
    env = gymnasium.make("Pendulum-v1")
    spaces_of_env = {"observation_space": env.observation_space, "action_space": env.action_space}
    source = make_dataset("d3rlpy/shift-v0", lengths=(6, 6, 6), env=env, **spaces_of_env)
    stock, _ = d3rlpy.datasets.get_minari("d3rlpy/shift-v0")
    ours = to_d3rlpy(source)
    for place, episode in enumerate(source):
        right = episode.observations[:6].astype(np.float32)
        np.testing.assert_array_equal(ours.episodes[place].observations[:6], right)
        assert np.array_equal(stock.episodes[place].observations[:6], right) == (place == 0)
