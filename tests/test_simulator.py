"""True dynamics: recorded roll-outs come back exactly, in any order, and nothing from a dataset is imported."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec

from gta_datasets.errors import DatasetError
from gta_datasets.simulator import Simulator, roll_out, simulator_for, unavailable_reason

# Version 4 of the environments is marked as outdated.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*out of date.*")


@dataclasses.dataclass
class Recording:
    spec: EnvSpec
    observations: np.ndarray
    actions: np.ndarray
    next_observations: np.ndarray
    rewards: np.ndarray
    terminations: np.ndarray


def record(env_id: str, steps: int = 200, **kwargs: Any) -> Recording:
    """A roll-out of random actions, over episodes' ends."""
    env = gymnasium.make(env_id, **kwargs)
    env.action_space.seed(0)
    rows: list[tuple[Any, ...]] = []
    observation, _ = env.reset(seed=0)
    for _ in range(steps):
        action = env.action_space.sample()
        following, reward, terminated, truncated, _ = env.step(action)
        rows.append((observation, action, following, reward, terminated))
        observation = env.reset()[0] if terminated or truncated else following
    env.close()
    assert env.spec is not None
    return Recording(env.spec, *map(np.array, zip(*rows, strict=True)))


def simulator(env: EnvSpec | str) -> Simulator:
    found = simulator_for(env)
    assert found is not None
    assert unavailable_reason(env) is None
    return found


@pytest.mark.parametrize(
    ("env_id", "reward_tolerance"),
    [
        ("HalfCheetah-v5", 1e-9),
        ("HalfCheetah-v4", 1e-9),
        ("Hopper-v5", 1e-9),
        ("Hopper-v4", 1e-9),
        ("Swimmer-v5", 1e-9),
        ("Swimmer-v4", 1e-9),
        ("InvertedPendulum-v5", 1e-9),
        ("InvertedPendulum-v4", 1e-9),
        # Their reward depends on body positions inside the step before, which no observation holds.
        ("Ant-v5", 0.1),
        ("Ant-v4", 0.1),
        ("Humanoid-v5", 0.1),
        ("HumanoidStandup-v4", 1e-2),
    ],
)
def test_a_recorded_roll_out_is_reproduced(env_id: str, reward_tolerance: float) -> None:
    recording = record(env_id)
    steps = simulator(recording.spec).step(recording.observations, recording.actions)
    spread = np.maximum(recording.next_observations.std(axis=0), 1e-3)
    assert np.abs((steps.next_observations - recording.next_observations) / spread).max() < 1e-3
    assert np.median(np.abs(steps.next_observations - recording.next_observations)) < 1e-12
    assert np.abs(steps.rewards - recording.rewards).max() < reward_tolerance
    assert (steps.terminations == recording.terminations).all()
    assert steps.stable.all()


@pytest.mark.parametrize(
    ("env_id", "kwargs"),
    [
        ("Hopper-v5", {"exclude_current_positions_from_observation": False, "forward_reward_weight": 3.0}),
        ("HalfCheetah-v5", {"exclude_current_positions_from_observation": False, "ctrl_cost_weight": 0.7}),
        ("Swimmer-v5", {"exclude_current_positions_from_observation": False}),
        ("Hopper-v5", {"terminate_when_unhealthy": False, "frame_skip": 2, "render_mode": "rgb_array"}),
        ("Ant-v5", {"include_cfrc_ext_in_observation": False, "contact_cost_weight": 0.0}),
    ],
)
def test_arguments_of_the_environment_are_respected(env_id: str, kwargs: dict[str, Any]) -> None:
    recording = record(env_id, 60, **kwargs)
    steps = simulator(recording.spec).step(recording.observations, recording.actions)
    assert np.allclose(steps.next_observations, recording.next_observations, atol=1e-9)
    assert np.allclose(steps.rewards, recording.rewards, atol=0.1 if env_id.startswith("Ant") else 1e-9)
    assert (steps.terminations == recording.terminations).all()


def test_only_clipped_velocities_cost_exactness() -> None:
    recording = record("Walker2d-v5", 400)
    steps = simulator(recording.spec).step(recording.observations, recording.actions)
    clipped = (np.abs(recording.observations[:, 8:]) >= 10).any(axis=1)
    errors = np.abs(steps.next_observations - recording.next_observations).max(axis=1)
    assert 0 < clipped.sum() < len(clipped)
    assert errors[~clipped].max() < 1e-6
    assert np.median(errors[clipped]) > 1e-3


def test_results_do_not_depend_on_order_or_company() -> None:
    recording = record("Hopper-v5", 120)
    forward = simulator("Hopper-v5").step(recording.observations, recording.actions)
    order = np.random.default_rng(0).permutation(120)
    shuffled = simulator("Hopper-v5").step(recording.observations[order], recording.actions[order])
    assert np.array_equal(forward.next_observations[order], shuffled.next_observations)
    assert np.array_equal(forward.rewards[order], shuffled.rewards)
    alone = simulator("Hopper-v5").step(recording.observations[70:71], recording.actions[70:71])
    assert np.array_equal(alone.next_observations[0], forward.next_observations[70])


def test_inputs_stay_as_they_are() -> None:
    recording = record("Ant-v5", 5)
    observations = recording.observations.astype(np.float32)
    before = observations.copy(), recording.actions.copy()
    simulator("Ant-v5").step(observations, recording.actions)
    assert np.array_equal(observations, before[0])
    assert np.array_equal(recording.actions, before[1])


def test_impossible_states_are_marked_and_spoil_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    recording = record("HalfCheetah-v5", 40)
    sane = simulator("HalfCheetah-v5").step(recording.observations, recording.actions)
    observations, actions = recording.observations.copy(), recording.actions.copy()
    observations[3] = 1e12
    observations[10, 2] = np.nan
    observations[20, 8:] = 1e8
    actions[30, 0] = np.inf
    steps = simulator("HalfCheetah-v5").step(observations, actions)
    assert np.flatnonzero(~steps.stable).tolist() == [3, 10, 20, 30]
    assert np.isnan(steps.next_observations[~steps.stable]).all()
    assert np.isnan(steps.rewards[~steps.stable]).all()
    assert np.array_equal(steps.next_observations[steps.stable], sane.next_observations[steps.stable])
    assert list(tmp_path.iterdir()) == []  # MuJoCo would leave a log file
    assert capfd.readouterr() == ("", "")


def test_mujocos_own_warning_handler_is_put_back() -> None:
    def handler(message: str) -> None:
        raise AssertionError(message)

    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(handler)
    try:
        simulator("HalfCheetah-v5").step(np.full((1, 17), 1e12), np.zeros((1, 6)))
        assert mujoco.get_mju_user_warning() is handler
    finally:
        mujoco.set_mju_user_warning(before)


def test_roll_out_follows_its_own_states() -> None:
    recording = record("HalfCheetah-v5", 30)
    steps = roll_out(simulator("HalfCheetah-v5"), recording.observations[0], recording.actions)
    assert np.allclose(steps.next_observations, recording.next_observations, atol=1e-6)
    assert np.allclose(steps.rewards, recording.rewards, atol=1e-6)


@pytest.mark.parametrize(
    ("observations", "actions", "message"),
    [
        (np.zeros((4, 18)), np.zeros((4, 6)), r"observations of shape \(4, 18\).*needs \(4, 17\)"),
        (np.zeros((4, 17)), np.zeros((4, 7)), r"actions of shape \(4, 7\).*needs \(4, 6\)"),
        (np.zeros((4, 17)), np.zeros((3, 6)), r"actions of shape \(3, 6\).*needs \(4, 6\)"),
    ],
)
def test_wrong_shapes_are_refused(observations: np.ndarray, actions: np.ndarray, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        simulator("HalfCheetah-v5").step(observations, actions)


def spec(**changes: Any) -> EnvSpec:
    values = {"id": "HalfCheetah-v5", "entry_point": "gymnasium.envs.mujoco.half_cheetah_v5:HalfCheetahEnv", **changes}
    return EnvSpec(**values)


@pytest.mark.parametrize(
    ("env", "reason"),
    [
        (None, "names no environment"),
        ("NoSuchEnv-v0", "'NoSuchEnv-v0' is not a registered"),
        ("antigravity:Env-v0", "'antigravity:Env-v0' is not a registered"),
        ("Reacher-v5", "cannot be set to a state from its observation"),
        ("CartPole-v1", "cannot be set to a state from its observation"),
        (
            spec(id="AdroitHandDoor-v1", entry_point="gymnasium_robotics.envs:AdroitHandDoorEnv"),
            "'AdroitHandDoor-v1' c",
        ),
        (spec(entry_point="antigravity:fly"), "cannot be set to a state"),
        (spec(entry_point=None), "cannot be set to a state"),
        (spec(kwargs={"xml_file": "/elsewhere/model.xml"}), r"does not take from a dataset: \['xml_file'\]"),
        (
            spec(additional_wrappers=(gymnasium.wrappers.NormalizeObservation.wrapper_spec(),)),
            r"is wrapped \(NormalizeObservation\)",
        ),
    ],
)
def test_what_cannot_be_simulated_says_why_and_is_not_imported(env: EnvSpec | str | None, reason: str) -> None:
    assert simulator_for(env) is None
    sentence = unavailable_reason(env)
    assert sentence is not None
    assert re.search(reason, sentence)
    assert "antigravity" not in sys.modules


def test_without_mujoco_the_reason_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mujoco", None)
    assert simulator_for("HalfCheetah-v5") is None
    assert "gta-datasets[mujoco]" in str(unavailable_reason("HalfCheetah-v5"))


def test_the_name_tells_the_versions_of_the_physics() -> None:
    assert simulator("Hopper-v5").name == f"Hopper-v5 (mujoco {mujoco.__version__}, gymnasium {gymnasium.__version__})"
