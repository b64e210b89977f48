"""Augmentation methods: from a source dataset to generated trajectories."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from gta_datasets.config import DiffStitchConfig, GTAConfig, MethodConfig, S4RLConfig, SynthERConfig
from gta_datasets.data.reading import Source
from gta_datasets.errors import ConfigError
from gta_datasets.methods.base import Augmenter
from gta_datasets.methods.diffstitch import DiffStitch
from gta_datasets.methods.gta import GTA
from gta_datasets.methods.qualified import Qualified
from gta_datasets.methods.s4rl import S4RL
from gta_datasets.methods.synther import SynthER
from gta_datasets.models.dynamics import DynamicsModel

__all__ = ["METHODS", "build_augmenter"]

METHODS: Mapping[str, type[MethodConfig]] = {
    config.method: config for config in (GTAConfig, S4RLConfig, SynthERConfig, DiffStitchConfig)
}
"""The configuration of every method by its name."""


def build_augmenter(source: Source, config: MethodConfig, *, seed: int, device: torch.device) -> Augmenter:
    """The method of a configuration, bound to a source dataset, behind the filter if there is one."""
    augmenter = _unfiltered(source, config, seed=seed, device=device)
    if config.qualification.qualify == 0:
        return augmenter
    judge = DynamicsModel(source, config.dynamics, seed=seed, device=device)
    return Qualified(augmenter, judge, config.qualification)


def _unfiltered(source: Source, config: MethodConfig, *, seed: int, device: torch.device) -> Augmenter:
    if isinstance(config, GTAConfig):
        return GTA(source, config, seed=seed, device=device)
    if isinstance(config, S4RLConfig):
        return S4RL(source, config, seed=seed)
    if isinstance(config, SynthERConfig):
        return SynthER(source, config, seed=seed, device=device)
    if isinstance(config, DiffStitchConfig):
        return DiffStitch(source, config, seed=seed, device=device)
    raise ConfigError(f"{type(config).__name__} belongs to no method; known: {', '.join(METHODS)}")
