"""From a dataset and an environment to what a replay buffer needs; everything that does not fit is an error here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import gymnasium
import minari
import torch
from gymnasium import spaces

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
        """Equal for datasets of equal content."""
        return content_key({"source": self.source.episodes.arrays()})

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
        ConfigError: spaces that differ, or are not Box, or no environment, or more than one.
        UnsupportedSpaceError: images, or another space without a float form.
        DatasetError: there is no such dataset, or it breaks Minari's contract.
    """
    opened = open_dataset(dataset)
    for name, space in (("observation", opened.observation_space), ("action", opened.action_space)):
        SpaceCodec.of(space, name=name)
        if not isinstance(space, spaces.Box):
            raise ConfigError(
                f"the {name} space of dataset {opened.id!r} is {space}; ATraDiff for SAC and TD3 needs a Box (Dict "
                "observations: gymnasium.wrappers.FlattenObservation, on the environment and on the data)"
            )
    if env is None:
        raise ConfigError(
            "env is None; give the environment in which the agent learns: trajectories begin in its states"
        )
    check_spaces(opened, env, optional=False)
    check_one_environment(env.num_envs if isinstance(env, VecEnv) else 1)
    return Data(opened, read_episodes(opened, invalid=invalid), Layout(env.observation_space, env.action_space))


def check_one_environment(number: int) -> None:
    """Raise ConfigError for several parallel environments."""
    if number != 1:
        raise ConfigError(
            f"n_envs={number} is not allowed: trajectories begin in the current state of one environment; use a "
            "single one"
        )
