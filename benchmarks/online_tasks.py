"""What agents learn online, and what they have of it offline: a dataset's own rewards, its goal alone, or milestones.

Where only the goal counts, the first step with a reward ends the task.

For milestones the reward is 1 where another metre is behind the robot and 0 elsewhere; an observation ends with the way
since the last milestone, without which the reward could not be known from it. A dataset of dense rewards tells the way,
because Gymnasium's rewards hold the forward velocity.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import gymnasium
import minari
import mujoco
import numpy as np
from gymnasium import spaces
from minari.data_collector.episode_buffer import EpisodeBuffer
from numpy.typing import NDArray

from benchmarks.environments import make_flat
from benchmarks.vectorised.tables import encoder_of
from gta_datasets.data.screen import screen_id

__all__ = ["REWARDS", "SHIFTS", "Milestones", "make_env", "offline_part"]

REWARDS = ("milestones", "own", "goal")

Seen = Callable[[minari.EpisodeData], tuple[Any, Any, Any]]
"""Arrays of observations (T + 1, O), rewards (T,) and terminations (T,) of a recorded episode as an agent would have
seen them; T may be less than was recorded."""

EVERY = 1.0  # metres
SHIFTS = {"friction": 0.5, "mass": 1.5}
"""What is changed online, and by which factor."""

HEALTHY = {"Hopper-v5": 1.0, "Walker2d-v5": 1.0, "HalfCheetah-v5": 0.0}  # reward of a step without a fall
CONTROL = {"Hopper-v5": 1e-3, "Walker2d-v5": 1e-3, "HalfCheetah-v5": 0.1}  # cost of a squared action


class Milestones(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Rewards milestones instead of speed."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self.observation_space = with_way(env.observation_space)
        self._start = self._best = 0.0

    def reset(self, **arguments: Any) -> tuple[NDArray[np.float64], dict[str, Any]]:
        observation, info = self.env.reset(**arguments)
        self._start, self._best = self._position(), 0.0
        return np.append(observation, 0.0), info

    def step(self, action: Any) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        observation, _, terminated, truncated, info = self.env.step(action)
        way = self._position() - self._start
        before, self._best = self._best, max(self._best, way)
        reward = float(self._best // EVERY - before // EVERY)
        return np.append(observation, left_over(way, self._best)), reward, terminated, truncated, info

    def _position(self) -> float:
        return float(self.unwrapped.data.qpos[0])  # type: ignore[attr-defined]


class Goal(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Ends the task with the first reward."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, float(reward), terminated or float(reward) > 0, truncated, info


def left_over(way: Any, best: Any) -> Any:
    """The way since the last milestone; negative for who went back behind it."""
    return way - EVERY * (best // EVERY)


def with_way(space: spaces.Space[Any]) -> spaces.Box:
    """The space of observations with the way since the last milestone behind them."""
    size = space.shape[0] + 1 if space.shape else 1
    return spaces.Box(-np.inf, np.inf, (size,), np.float64)


def make_env(source: minari.MinariDataset, reward: str, shift: str | None) -> gymnasium.Env[Any, Any]:
    """The environment of a dataset with one of the `REWARDS`, and with changed physics where asked for."""
    env = gymnasium.make(source.env_spec) if reward == "milestones" else make_flat(source, 1)[0]
    model = env.unwrapped.model  # type: ignore[attr-defined]
    if shift == "friction":
        model.geom_friction[:, 0] *= SHIFTS[shift]
    elif shift == "mass":
        model.body_mass[:] *= SHIFTS[shift]
        model.body_inertia[:] *= SHIFTS[shift]
        mujoco.mj_setConst(model, env.unwrapped.data)  # type: ignore[attr-defined]
    wrapper = {"milestones": Milestones, "goal": Goal}.get(reward)
    return env if wrapper is None else wrapper(env)


def offline_part(source: minari.MinariDataset, reward: str, steps: int) -> minari.MinariDataset:
    """The first episodes of `source`, at least `steps` transitions, as recorded in `make_env`'s; made once."""
    name = f"{reward}/{source.id.replace('/', '-').removesuffix('-v0')}-{steps}-v0"
    if screen_id(name).exists():
        found: minari.MinariDataset = minari.load_dataset(name)
        return found
    seen = {"milestones": _milestones_of, "own": _own, "goal": _goal_of}[reward](source)
    buffers: list[EpisodeBuffer] = []
    recorded = 0
    for episode in source:
        if recorded >= steps:
            break
        observations, rewards, terminations = seen(episode)
        buffers.append(
            EpisodeBuffer(
                observations=observations,
                actions=episode.actions[: len(rewards)],
                rewards=rewards,
                terminations=terminations,
                truncations=episode.truncations[: len(rewards)],
                infos={},
            )
        )
        recorded += len(rewards)
    env = make_env(source, reward, None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no environment is registered for these observations
        made: minari.MinariDataset = minari.create_dataset_from_buffers(
            name,
            buffers,
            observation_space=env.observation_space,
            action_space=source.action_space,
            algorithm_name="as of the source",
            description=f"the first episodes of {source.id}, rewards: {reward}",
            author="gta-datasets",
            author_email="none@example.com",
            code_permalink="https://example.com",
        )
    env.close()
    return made


def _own(source: minari.MinariDataset) -> Seen:
    """The observations of `make_flat`."""
    encode = encoder_of(source)
    return lambda episode: (encode(episode.observations), episode.rewards, episode.terminations)


def _goal_of(source: minari.MinariDataset) -> Seen:
    """The same up to the first reward."""
    own = _own(source)

    def seen(episode: minari.EpisodeData) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.bool_]]:
        observations, rewards, terminations = own(episode)
        ends = terminations | (rewards > 0)
        end = int(np.argmax(ends)) + 1 if ends.any() else len(ends)
        return observations[: end + 1], rewards[:end], ends[:end]

    return seen


def _milestones_of(source: minari.MinariDataset) -> Seen:
    """The observations and rewards of `Milestones`, of episodes with dense rewards."""
    env = gymnasium.make(source.env_spec.id)
    step = env.unwrapped.dt  # type: ignore[attr-defined]
    env.close()

    def seen(episode: minari.EpisodeData) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.bool_]]:
        way = _way(episode, source.env_spec.id, step)
        best = np.maximum.accumulate(way)
        observations = np.column_stack([episode.observations, left_over(way, best)])
        return observations, np.diff(best // EVERY), episode.terminations

    return seen


def _way(episode: minari.EpisodeData, env_id: str, step: float) -> NDArray[np.float64]:
    """Metres from where a recorded episode began, for every observation, (T + 1,); `step` in seconds."""
    cost = CONTROL[env_id] * np.square(episode.actions, dtype=np.float64).sum(axis=1)
    speed = episode.rewards.astype(np.float64) - HEALTHY[env_id] * ~episode.terminations + cost
    return np.append(0.0, np.cumsum(speed * step))
