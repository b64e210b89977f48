"""Roll-outs of the policies that ship with the project: data made in seconds and without a network."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources.abc import Traversable
from typing import Any, Protocol

import gymnasium
import numpy as np
from minari.data_collector.episode_buffer import EpisodeBuffer
from numpy.typing import NDArray

from gta_datasets.errors import MissingExtraError

__all__ = ["Policy", "SquashedGaussian", "Uniform", "make_env", "roll_out"]


class Policy(Protocol):
    """What decides."""

    def act(self, observation: Any, rng: np.random.Generator) -> NDArray[np.float32]:
        """A random action (act_dim,) for an observation of the environment."""
        ...


@dataclass(frozen=True)
class SquashedGaussian:
    """A Gaussian squashed by tanh, as Soft Actor-Critic trains it."""

    weights: dict[str, NDArray[np.float32]]

    @classmethod
    def load(cls, path: Traversable) -> SquashedGaussian:
        """Read the weights of a policy; nothing is unpickled."""
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return cls(dict(arrays))

    def act(self, observation: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float32]:
        """A random action for `observation (obs_dim,)`, each entry within -1 and 1, (act_dim,)."""
        hidden = np.maximum(self._layer("hidden_0", observation.astype(np.float32)), 0)
        hidden = np.maximum(self._layer("hidden_1", hidden), 0)
        mean = self._layer("mean", hidden)
        deviation = np.exp(np.clip(self._layer("log_std", hidden), -20, 2))
        return np.tanh(mean + deviation * rng.standard_normal(mean.shape)).astype(np.float32)

    def _layer(self, name: str, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        return inputs @ self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]


@dataclass(frozen=True)
class Uniform:
    """Any action between -1 and 1 with equal probability."""

    size: int

    def act(self, observation: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float32]:  # noqa: ARG002
        """A random action (size,)."""
        return rng.uniform(-1, 1, self.size).astype(np.float32)


def make_env(env_id: str) -> gymnasium.Env[Any, Any]:
    """An environment of Gymnasium's MuJoCo family.

    Raises:
        MissingExtraError: MuJoCo is not installed.
    """
    try:
        return gymnasium.make(env_id, disable_env_checker=True)
    except gymnasium.error.DependencyNotInstalled as error:
        raise MissingExtraError(
            f"{env_id} needs MuJoCo, which is not installed: pip install 'gta-datasets[mujoco]'"
        ) from error


def roll_out(env: gymnasium.Env[Any, Any], policy: Policy, number: int, seed: int) -> EpisodeBuffer:
    """Episode `number` of a data set of some seed; it does not depend on the episodes before it."""
    rng = np.random.default_rng((seed, number))
    reset_seed = int(rng.integers(2**31))
    observation, _ = env.reset(seed=reset_seed)
    observations, actions, rewards, terminations, truncations = [observation], [], [], [], []
    ended = False
    while not ended:
        action = policy.act(observation, rng)
        observation, reward, terminated, truncated, _ = env.step(action)
        observations.append(observation)
        actions.append(action)
        rewards.append(float(reward))
        terminations.append(terminated)
        truncations.append(truncated)
        ended = terminated or truncated
    return EpisodeBuffer(
        id=number,
        seed=reset_seed,
        observations=observations,
        actions=actions,
        rewards=rewards,
        terminations=terminations,
        truncations=truncations,
        infos={},  # with None, Minari fails to print an episode
    )
