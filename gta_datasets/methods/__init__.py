"""Augmentation methods: from a source dataset to generated trajectories."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from gta_datasets.config import GTAConfig, MethodConfig, S4RLConfig
from gta_datasets.data.reading import Source
from gta_datasets.errors import ConfigError
from gta_datasets.methods.base import Augmenter
from gta_datasets.methods.gta import GTA
from gta_datasets.methods.s4rl import S4RL

__all__ = ["METHODS", "build_augmenter"]

METHODS: Mapping[str, type[MethodConfig]] = {config.method: config for config in (GTAConfig, S4RLConfig)}
"""The configuration of every method by its name."""


def build_augmenter(source: Source, config: MethodConfig, *, seed: int, device: torch.device) -> Augmenter:
    """The method of a configuration, bound to a source dataset."""
    if isinstance(config, GTAConfig):
        return GTA(source, config, seed=seed, device=device)
    if isinstance(config, S4RLConfig):
        return S4RL(source, config, seed=seed)
    raise ConfigError(f"{type(config).__name__} belongs to no method; known: {', '.join(METHODS)}")
