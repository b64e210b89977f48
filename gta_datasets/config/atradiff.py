"""ATraDiff's configuration."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal

from gta_datasets.config.fields import Stage, require, require_choice
from gta_datasets.config.method import StagedConfig
from gta_datasets.config.models import DynamicsConfig
from gta_datasets.config.stages import NetworkConfig, ReadingConfig, SolverConfig, TrainingConfig

__all__ = ["ATraDiffConfig", "AdaptationConfig", "ImaginationConfig", "TrajectoryConfig"]


@dataclass(frozen=True)
class TrajectoryConfig(ReadingConfig):
    """What is learned from the offline data."""

    lengths: tuple[int, ...] = (5, 15, 31)  # transitions of a trajectory, ascending; one model for each

    def __post_init__(self) -> None:
        if isinstance(self.lengths, list):  # JSON has no tuples
            object.__setattr__(self, "lengths", tuple(self.lengths))
        super().__post_init__()

    def _check(self) -> None:
        super()._check()
        whole = all(type(length) is int and length >= 1 for length in self.lengths)
        ascending = whole and list(self.lengths) == sorted(set(self.lengths))
        require(bool(self.lengths) and ascending, "lengths", self.lengths, "whole numbers of at least 1, ascending")


@dataclass(frozen=True)
class ImaginationConfig(SolverConfig):
    """How many trajectories are generated, and how."""

    rho: float = 0.5  # share of generated transitions
    sampler_steps: int = 16
    # Distance below which a state counts as one that was there before, in usual steps of the data; 0 for no pruning.
    loop_tolerance: float = 0.5
    starts_per_batch: int = 8  # states that wait until trajectories are generated from all at once; the paper: 1

    def _check(self) -> None:
        super()._check()
        require(0 <= self.rho < 1, "rho", self.rho, "a number in [0, 1)")
        require(self.loop_tolerance >= 0, "loop_tolerance", self.loop_tolerance, "a number of at least 0")
        require(self.starts_per_batch >= 1, "starts_per_batch", self.starts_per_batch, "at least 1")


@dataclass(frozen=True)
class AdaptationConfig(Stage):
    """How the models follow the environment."""

    adapt_every: int = 5_000  # transitions of the environment between two adaptations; 0: no adaptation
    adapt_steps: int = 200  # training steps of an adaptation, of every model that is in use
    adapt_batch_size: int = 64  # windows per step
    adapt_learning_rate: float = 3e-4  # the peak of an adaptation
    importance: Literal["td_error", "reward"] = "td_error"  # what makes a recorded window worth learning from
    subset_size: int = 2_000  # recorded windows that are learned from
    drop_share: float = 0.2  # of these, how many leave at random before new ones come
    frozen_share: float = 0.3  # of the trajectories, how many come from the offline models

    def _check(self) -> None:
        require(self.adapt_every >= 0, "adapt_every", self.adapt_every, "at least 0")
        for name in ("adapt_steps", "adapt_batch_size", "subset_size"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        require(self.adapt_learning_rate > 0, "adapt_learning_rate", self.adapt_learning_rate, "a positive number")
        require_choice("importance", self.importance, ("td_error", "reward"))
        for name in ("drop_share", "frozen_share"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "a number in [0, 1]")

    def training(self, of_offline: TrainingConfig) -> TrainingConfig:
        """The training of one adaptation, otherwise as of the offline models."""
        return dataclasses.replace(
            of_offline,
            training_steps=self.adapt_steps,
            train_batch_size=self.adapt_batch_size,
            learning_rate=self.adapt_learning_rate,
            warmup_steps=0,
            optimizer="adam",
        )


@dataclass(frozen=True)
class ATraDiffConfig(StagedConfig):
    """Everything ATraDiff can be told (Yang and Wang 2024, arXiv 2406.04323)."""

    method: ClassVar[str] = "atradiff"

    trajectories: TrajectoryConfig = TrajectoryConfig()
    network: NetworkConfig = NetworkConfig()
    training: TrainingConfig = TrainingConfig()
    dynamics: DynamicsConfig = DynamicsConfig()
    imagination: ImaginationConfig = ImaginationConfig()
    adaptation: AdaptationConfig = AdaptationConfig()
