"""From a dataset and an environment to what a replay buffer needs; everything that does not fit is an error here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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

__all__ = ["Opened", "check_one_environment", "open_all"]


@dataclass(frozen=True)
class Opened:
    """A dataset as the online part sees it, and what generates from it."""

    dataset: minari.MinariDataset
    source: Source
    layout: Layout
    diffuser: Diffuser
    config: ATraDiffConfig
    seed: int

    @property
    def source_key(self) -> str:
        """Equal for datasets of equal content."""
        return content_key({"source": self.source.episodes.arrays()})


def open_all(
    dataset: minari.MinariDataset | str,
    env: gymnasium.Env[Any, Any] | VecEnv,
    config: ATraDiffConfig,
    *,
    seed: int,
    device: str,
) -> Opened:
    """Read the dataset and check that it and the environment fit; nothing is trained.

    Raises:
        ConfigError: spaces that differ, or are not Box, more than one environment, or too long a trajectory.
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
    check_spaces(opened, env)
    check_one_environment(env.num_envs if isinstance(env, VecEnv) else 1)
    source = read_episodes(opened, invalid=config.trajectories.invalid)
    diffuser = Diffuser(source, config, seed=seed, device=torch.device(device))
    return Opened(opened, source, Layout(env.observation_space, env.action_space), diffuser, config, seed)


def check_one_environment(number: int) -> None:
    """Raise ConfigError for several parallel environments."""
    if number != 1:
        raise ConfigError(
            f"n_envs={number} is not allowed: trajectories begin in the current state of one environment; use a "
            "single one"
        )
