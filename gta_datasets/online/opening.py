"""From a dataset and an environment to what a replay buffer needs; everything that does not fit is an error here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium
import minari
import torch
from gymnasium import spaces
from gymnasium.wrappers import FlattenObservation

from gta_datasets.adapters.sb3_layout import Layout, check_spaces
from gta_datasets.augment import open_dataset
from gta_datasets.config import ATraDiffConfig
from gta_datasets.data.reading import Source, read_episodes
from gta_datasets.data.spaces import SpaceCodec
from gta_datasets.errors import ConfigError, requires_extra
from gta_datasets.online.diffuser import Diffuser
from gta_datasets.store import content_key

with requires_extra("sb3", "stable-baselines3", "gta_datasets.online needs"):
    from stable_baselines3.common.vec_env import VecEnv

__all__ = ["SEEDS", "SIZES", "Data", "Opened", "check_one_environment", "open_data"]

SEEDS, SIZES = (0, 2**32 - 1), (1, 2**48)
"""The smallest and the largest seed and size of a buffer."""


@dataclass(frozen=True)
class Data:
    """A dataset as the online part sees it."""

    dataset: minari.MinariDataset
    source: Source
    layout: Layout

    @property
    def key(self) -> str:
        """Equal for datasets of equal content and spaces."""
        return content_key(self.source.identity)

    def with_models(self, config: ATraDiffConfig, *, seed: int, model_seed: int, device: str) -> Opened:
        """Beside it what generates from it; nothing is trained. ConfigError for a length that no episode has."""
        diffuser = Diffuser(self.source, config, seed=seed, model_seed=model_seed, device=torch.device(device))
        return Opened(self.dataset, self.source, self.layout, diffuser, config, seed, model_seed)


@dataclass(frozen=True)
class Opened(Data):
    """A dataset and what generates from it."""

    diffuser: Diffuser
    config: ATraDiffConfig
    seed: int
    model_seed: int


def open_data(
    dataset: minari.MinariDataset | str, env: gymnasium.Env[Any, Any] | VecEnv, *, invalid: Literal["error", "drop"]
) -> Data:
    """Read the dataset and check that it and the environment fit.

    Args:
        dataset: a Minari dataset or the id of one.
        env: where the agent will learn.
        invalid: what happens to episodes with values that are not finite.

    Raises:
        ConfigError: spaces that differ, or are not Box, or no environment, or more than one. Observations in a Dict or
            Tuple may come flat from the environment.
        UnsupportedSpaceError: images, or another space without a float form.
        DatasetError: there is no such dataset, or it breaks Minari's contract.
    """
    opened = open_dataset(dataset)
    observations = SpaceCodec.of(opened.observation_space, name="observation")
    SpaceCodec.of(opened.action_space, name="action")
    flat = isinstance(opened.observation_space, spaces.Dict | spaces.Tuple)
    if not all(isinstance(leaf.space, spaces.Box) for leaf in observations.leaves):
        raise ConfigError(
            f"the observation space of dataset {opened.id!r} is {opened.observation_space}; ATraDiff for SAC and TD3 "
            "needs a Box, or a Dict or Tuple of these"
        )
    if not isinstance(opened.action_space, spaces.Box):
        raise ConfigError(
            f"the action space of dataset {opened.id!r} is {opened.action_space}; ATraDiff for SAC and TD3 needs a Box"
        )
    if env is None:
        raise ConfigError(
            "env is None; give the environment in which the agent learns: trajectories begin in its states"
        )
    check_spaces(opened, env, flat=flat, optional=False)
    check_one_environment(env.num_envs if isinstance(env, VecEnv) else 1)
    if flat:
        _check_order(opened, observations, env)
    source = read_episodes(opened, invalid=invalid)
    if flat:
        source = _flattened(source, env.observation_space)
    return Data(opened, source, Layout(env.observation_space, env.action_space))


def _check_order(
    dataset: minari.MinariDataset, observations: SpaceCodec, env: gymnasium.Env[Any, Any] | VecEnv
) -> None:
    """Raise ConfigError if the parts of observations follow each other otherwise in the environment.

    Minari sorts the keys of a Dict, an environment need not, and the flat space does not tell.
    """
    inner = getattr(env.unwrapped, "envs", [None])[0] if isinstance(env, VecEnv) else env
    while isinstance(inner, gymnasium.Wrapper) and not isinstance(inner, FlattenObservation):
        inner = inner.env
    if not isinstance(inner, FlattenObservation):
        return  # in another process, or another wrapper
    parts, recorded = (
        ["/".join(map(str, leaf.keys)) for leaf in codec.leaves]
        for codec in (SpaceCodec.of(inner.env.observation_space), observations)
    )
    if parts != recorded:
        raise ConfigError(
            f"the environment's flat observations are made of {', '.join(parts)} in this order, and those of dataset "
            f"{dataset.id!r} of {', '.join(recorded)}; give the environment a Dict space with sorted keys"
        )


def _flattened(source: Source, space: gymnasium.Space[Any]) -> Source:
    """The source as if its observations had been recorded flat, in `space`: the codec's order is gymnasium's."""
    codec = SpaceCodec.of(space, name="observation")
    observations = source.episodes.observations.astype(codec.dtype, copy=False)
    episodes = dataclasses.replace(source.episodes, observations=observations)
    return dataclasses.replace(source, episodes=episodes, observation_codec=codec)


def check_one_environment(number: int) -> None:
    """Raise ConfigError for several parallel environments."""
    if number != 1:
        raise ConfigError(
            f"n_envs={number} is not allowed: trajectories begin in the current state of one environment; use a "
            "single one"
        )
