"""Generative Trajectory Augmentation's configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from gta_datasets.config.fields import Stage, require
from gta_datasets.config.method import MethodConfig
from gta_datasets.config.stages import DataConfig, NetworkConfig, SamplingConfig, TrainingConfig

__all__ = ["GTAConfig", "SearchConfig"]


@dataclass(frozen=True)
class SearchConfig(Stage):
    """How `alpha="auto"` and `mu="auto"` are found."""

    auto_windows: int = 256  # windows generated at every setting that is tried
    auto_error: float = 0.05  # dynamics error of a step, by the learned model, from which its window counts as bad
    auto_share: float = 0.1  # largest share of bad windows that a setting may have beyond the source's own

    def _check(self) -> None:
        require(self.auto_windows >= 1, "auto_windows", self.auto_windows, "at least 1")
        require(self.auto_error > 0, "auto_error", self.auto_error, "a positive number")
        require(0 <= self.auto_share <= 1, "auto_share", self.auto_share, "a number in [0, 1]")


@dataclass(frozen=True)
class GTAConfig(MethodConfig):
    """Everything Generative Trajectory Augmentation can be told (GTA, arXiv 2405.16907)."""

    method: ClassVar[str] = "gta"

    data: DataConfig = DataConfig()
    network: NetworkConfig = NetworkConfig()
    training: TrainingConfig = TrainingConfig()
    sampling: SamplingConfig = SamplingConfig()
    search: SearchConfig = SearchConfig()

    @property
    def invalid(self) -> Literal["error", "drop"]:
        return self.data.invalid
