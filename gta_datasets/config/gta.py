"""Generative Trajectory Augmentation's configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from gta_datasets.config.method import MethodConfig
from gta_datasets.config.stages import DataConfig, NetworkConfig, SamplingConfig, TrainingConfig

__all__ = ["GTAConfig"]


@dataclass(frozen=True)
class GTAConfig(MethodConfig):
    """Everything Generative Trajectory Augmentation can be told (GTA, arXiv 2405.16907)."""

    method: ClassVar[str] = "gta"

    data: DataConfig = DataConfig()
    network: NetworkConfig = NetworkConfig()
    training: TrainingConfig = TrainingConfig()
    sampling: SamplingConfig = SamplingConfig()

    @property
    def invalid(self) -> Literal["error", "drop"]:
        return self.data.invalid
