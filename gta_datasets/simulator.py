"""True dynamics: states are set into MuJoCo and stepped once, so that generated transitions can be checked.

Where that is impossible a learned model of the source can stand in (`StandIn`).

Only environments of Gymnasium whose observation holds positions and velocities can be set to a state; for every other
one `simulator_for` returns None and `unavailable_reason` says why. The environment class is looked up in a table of
Gymnasium's own classes: an entry point that comes with a dataset is compared with that table and never imported.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

from gta_datasets.errors import DatasetError
from gta_datasets.models.dynamics import DynamicsModel

__all__ = ["Simulator", "StandIn", "Steps", "roll_out", "simulator_for", "unavailable_reason"]

# Gymnasium module -> (class, how many leading positions `exclude_current_positions_from_observation` leaves out).
_FAMILIES = {
    "half_cheetah": ("HalfCheetahEnv", 1),
    "hopper": ("HopperEnv", 1),
    "walker2d": ("Walker2dEnv", 1),
    "swimmer": ("SwimmerEnv", 2),
    "ant": ("AntEnv", 2),
    "humanoid": ("HumanoidEnv", 2),
    "humanoidstandup": ("HumanoidStandupEnv", 2),
    "inverted_pendulum": ("InvertedPendulumEnv", 0),
}
_SKIPPED_POSITIONS = {
    f"gymnasium.envs.mujoco.{module}_{version}:{name}": skipped
    for module, (name, skipped) in _FAMILIES.items()
    for version in ("v4", "v5")
}
# Arguments without influence on one step from a given state, or whose influence the environment class carries itself.
# A model file (`xml_file`) is not among them: its path would come from the dataset.
_ALLOWED_KWARGS = {
    "contact_cost_range", "contact_cost_weight", "contact_force_range", "ctrl_cost_weight",
    "exclude_current_positions_from_observation", "forward_reward_weight", "frame_skip", "healthy_angle_range",
    "healthy_reward", "healthy_state_range", "healthy_z_range", "impact_cost_range", "impact_cost_weight",
    "include_cfrc_ext_in_observation", "include_cinert_in_observation", "include_cvel_in_observation",
    "include_qfrc_actuator_in_observation", "main_body", "reset_noise_scale", "terminate_when_unhealthy",
    "uph_cost_weight", "use_contact_forces",
}  # fmt: skip
_RENDERING_KWARGS = {"render_mode", "width", "height", "camera_id", "camera_name", "default_camera_config"}


@dataclass(frozen=True)
class Steps:
    """What the true dynamics make of `n` independent pairs of state and action."""

    next_observations: NDArray[np.float64]  # (n, obs_dim); NaN where the simulation was unstable
    rewards: NDArray[np.float64]  # (n,); NaN where the simulation was unstable
    terminations: NDArray[np.bool_]  # (n,)
    stable: NDArray[np.bool_]  # (n,), False where the physics diverged from the given state


class Simulator(Protocol):
    """One step of the true dynamics from any flat observation."""

    name: str  # environment and versions of the physics: scores are comparable only where these agree
    observation_size: int
    action_size: int

    def step(self, observations: NDArray[Any], actions: NDArray[Any]) -> Steps:
        """Steps every row once, independently of the others: `observations (n, obs_dim)`, `actions (n, act_dim)`."""
        ...


def simulator_for(env: EnvSpec | str | None) -> Simulator | None:
    """A simulator for the environment of a dataset (`dataset.env_spec`, or a registered id), or None.

    What the observation hides cannot be exact, not even for the source's own transitions: velocities that are clipped
    (Hopper, Walker2d) start from their clipped values, and the rewards of Ant and Humanoid, which measure progress
    between two moments inside the simulator's step, are off by about 0.003.
    """
    spec = _spec(env)
    if spec is None or unavailable_reason(spec) is not None:
        return None
    return _MujocoSimulator(spec)


def unavailable_reason(env: EnvSpec | str | None) -> str | None:
    """Why `simulator_for(env)` is None, as one sentence; None where there is a simulator."""
    if env is None:
        return "The dataset names no environment, so there are no true dynamics to compare with."
    spec = _spec(env)
    if spec is None:
        return f"'{env}' is not a registered Gymnasium environment, so there are no true dynamics to compare with."
    if spec.entry_point not in _SKIPPED_POSITIONS:
        supported = ", ".join(name.removesuffix("Env") for name, _ in _FAMILIES.values())
        return (
            f"'{spec.id}' cannot be set to a state from its observation alone"
            f" (possible for Gymnasium's {supported} in versions 4 and 5)."
        )
    if spec.additional_wrappers:
        wrappers = ", ".join(wrapper.name for wrapper in spec.additional_wrappers)
        return f"'{spec.id}' is wrapped ({wrappers}), so its observations are not the simulator's state."
    unknown = sorted(set(spec.kwargs) - _ALLOWED_KWARGS - _RENDERING_KWARGS)
    if unknown:
        return f"'{spec.id}' was made with arguments that the simulator does not take from a dataset: {unknown}."
    return _missing_physics()


def roll_out(simulator: Simulator, observation: NDArray[Any], actions: NDArray[Any]) -> Steps:
    """Consecutive steps from one `observation (obs_dim,)` under `actions (n, act_dim)`, without feedback from data."""
    steps, state = [], np.asarray(observation)[None]
    for action in actions:
        steps.append(simulator.step(state, action[None]))
        state = steps[-1].next_observations
    columns = ("next_observations", "rewards", "terminations", "stable")
    return Steps(**{name: np.concatenate([getattr(step, name) for step in steps]) for name in columns})


def _spec(env: EnvSpec | str | None) -> EnvSpec | None:
    # `gymnasium.spec` imports the module of an id such as "module:Env-v0"; the registry alone imports nothing.
    return gymnasium.registry.get(env) if isinstance(env, str) else env


def _missing_physics() -> str | None:
    try:
        importlib.import_module("mujoco")
    except ImportError:
        return "MuJoCo is not installed: pip install 'gta-datasets[mujoco]'."
    return None


class StandIn:
    """A learned model of the source in the place of the environment, terminations apart.

    Args:
        model: fitted to the source.
        observation_size: of the source.
        action_size: of the source.
    """

    name = "a learned model of the source"

    def __init__(self, model: DynamicsModel, observation_size: int, action_size: int) -> None:
        self._model, self.observation_size, self.action_size = model, observation_size, action_size

    def step(self, observations: NDArray[Any], actions: NDArray[Any]) -> Steps:
        following, rewards = self._model.predict(observations, actions)
        none, every = np.zeros(len(rewards), np.bool_), np.ones(len(rewards), np.bool_)
        return Steps(following, rewards, terminations=none, stable=every)


class _MujocoSimulator:
    """Steps an environment of the table; its own `step` computes reward and termination."""

    def __init__(self, spec: EnvSpec) -> None:
        import mujoco

        entry_point = str(spec.entry_point)
        skipped = _SKIPPED_POSITIONS[entry_point]
        module, name = entry_point.split(":")
        kwargs = {key: value for key, value in spec.kwargs.items() if key not in _RENDERING_KWARGS}
        env = getattr(importlib.import_module(module), name)(**kwargs)
        # The classes without such a switch (InvertedPendulum, HumanoidStandup-v4) always leave out the table's number.
        excluded = getattr(env, "_exclude_current_positions_from_observation", True)
        self._mujoco, self._env = mujoco, env
        self._skipped = skipped if excluded else 0
        self.name = f"{spec.id} (mujoco {mujoco.__version__}, gymnasium {gymnasium.__version__})"
        self.observation_size = int(env.observation_space.shape[0])
        self.action_size = int(env.action_space.shape[0])

    def step(self, observations: NDArray[Any], actions: NDArray[Any]) -> Steps:
        self._check(observations, actions)
        rows = len(observations)
        steps = Steps(
            next_observations=np.full((rows, self.observation_size), np.nan),
            rewards=np.full(rows, np.nan),
            terminations=np.zeros(rows, np.bool_),
            stable=np.isfinite(observations).all(axis=1) & np.isfinite(actions).all(axis=1),
        )
        with _collected_warnings(self._mujoco) as warnings:
            for row in np.flatnonzero(steps.stable).tolist():
                result = self._step_one(observations[row], actions[row])
                if warnings:  # MuJoCo found the state unusable and has reset itself to its initial state
                    steps.stable[row] = False
                    warnings.clear()
                else:
                    steps.next_observations[row], steps.rewards[row], steps.terminations[row] = result
        return steps

    def _step_one(self, observation: NDArray[Any], action: NDArray[Any]) -> tuple[NDArray[np.float64], float, bool]:
        model, data = self._env.model, self._env.data
        # Clears the solver's warm start too: without it a result would depend on the transition simulated before.
        self._mujoco.mj_resetData(model, data)
        positions = model.nq - self._skipped
        data.qpos[self._skipped :] = observation[:positions]
        data.qpos[: self._skipped] = 0.0
        data.qvel[:] = observation[positions : positions + model.nv]
        # Ant and Humanoid measure their progress by body positions, which are derived from qpos.
        self._mujoco.mj_kinematics(model, data)
        following, reward, terminated, _, _ = self._env.step(action)
        return following, reward, terminated

    def _check(self, observations: NDArray[Any], actions: NDArray[Any]) -> None:
        expected = {"observations": (observations, self.observation_size), "actions": (actions, self.action_size)}
        for name, (array, size) in expected.items():
            if array.shape != (len(observations), size):
                raise DatasetError(
                    f"{name} of shape {array.shape} do not fit {self.name}, which needs {(len(observations), size)}"
                )


@contextmanager
def _collected_warnings(mujoco: Any) -> Iterator[list[str]]:
    """MuJoCo's warnings, which it would otherwise print and write to a log file in the working folder."""
    warnings: list[str] = []
    previous = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(warnings.append)
    try:
        yield warnings
    finally:
        mujoco.set_mju_user_warning(previous)
