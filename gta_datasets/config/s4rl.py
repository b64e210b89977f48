"""S4RL's configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gta_datasets.config.fields import Stage, require
from gta_datasets.config.method import MethodConfig

__all__ = ["NoiseConfig", "S4RLConfig"]


@dataclass(frozen=True)
class NoiseConfig(Stage):
    """How states are perturbed."""

    noise: float = 3e-4  # standard deviation, in standard deviations of the source's states
    transitions_per_shard: int = 16_384  # about how many transitions are made at once; episodes stay whole

    def _check(self) -> None:
        require(self.noise >= 0, "noise", self.noise, "a number of at least 0")
        require(self.transitions_per_shard >= 1, "transitions_per_shard", self.transitions_per_shard, "at least 1")


@dataclass(frozen=True)
class S4RLConfig(MethodConfig):
    """Everything S4RL's Gaussian state noise can be told (Sinha et al. 2021, arXiv 2103.06326)."""

    method: ClassVar[str] = "s4rl"

    perturbation: NoiseConfig = NoiseConfig()
