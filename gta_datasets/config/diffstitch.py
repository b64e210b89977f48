"""DiffStitch's configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gta_datasets.config.fields import io_field, require
from gta_datasets.config.method import MethodConfig
from gta_datasets.config.models import QualificationConfig
from gta_datasets.config.stages import (
    NetworkConfig,
    ReadingConfig,
    SolverConfig,
    TrainingConfig,
    require_batch_size,
    require_horizon,
)

__all__ = ["DiffStitchConfig", "StateConfig", "StitchingConfig"]


@dataclass(frozen=True)
class StateConfig(ReadingConfig):
    """Which windows of states the model of states learns from."""

    horizon: int = 31  # transitions per window, and in the longest bridge; a window has one state more

    def _check(self) -> None:
        super()._check()
        require_horizon(self.horizon)


@dataclass(frozen=True)
class StitchingConfig(SolverConfig):
    """Which pieces are joined, and how."""

    high_quantile: float = 0.8  # episodes whose return reaches this quantile are what others are led to
    steps_before: int = 15  # recorded transitions before the bridge
    steps_after: int = 16  # recorded transitions after the longest bridge; more after a shorter one
    min_bridge: int = 2  # generated transitions, at least; at most the horizon
    candidates: int = 1_024  # targets that are considered for one start
    sampler_steps: int = 16
    trajectories_per_shard: int = 256  # trajectories in a file of the cache
    # Windows per network evaluation, in blocks of 32; 0: 128 on a CPU, all at once on a GPU, where it may change last
    # bits. Halved if memory is short.
    generate_batch_size: int = io_field(0)

    def _check(self) -> None:
        super()._check()
        require(0 < self.high_quantile < 1, "high_quantile", self.high_quantile, "a number between 0 and 1")
        require(self.steps_before >= 0, "steps_before", self.steps_before, "at least 0")
        for name in ("steps_after", "min_bridge", "candidates", "trajectories_per_shard"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        require_batch_size(self.generate_batch_size)


@dataclass(frozen=True)
class DiffStitchConfig(MethodConfig):
    """Everything DiffStitch can be told (Li et al. 2024, arXiv 2402.02439)."""

    method: ClassVar[str] = "diffstitch"

    qualification: QualificationConfig = QualificationConfig(qualify=0.02, qualify_attempts=200)
    data: StateConfig = StateConfig()
    network: NetworkConfig = NetworkConfig()
    training: TrainingConfig = TrainingConfig()
    stitching: StitchingConfig = StitchingConfig()

    def __post_init__(self) -> None:
        shortest, longest = self.stitching.min_bridge, self.data.horizon
        require(shortest <= longest, "min_bridge", shortest, f"at most horizon={longest}")
