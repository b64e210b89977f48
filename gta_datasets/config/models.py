"""Models that are learned beside a method's own, and the check that uses one."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from gta_datasets.config.fields import Stage, io_field, require

__all__ = ["DynamicsConfig", "QualificationConfig"]


@dataclass(frozen=True)
class QualificationConfig(Stage):
    """Which generated trajectories are kept."""

    qualify: float = 0.0  # largest dynamics error of a step by the learned model, in the source's units; 0 keeps all
    qualify_attempts: int = io_field(50)  # how often a trajectory is drawn anew before giving up

    def _check(self) -> None:
        require(self.qualify >= 0, "qualify", self.qualify, "a number of at least 0")
        require(self.qualify_attempts >= 1, "qualify_attempts", self.qualify_attempts, "at least 1")


@dataclass(frozen=True)
class DynamicsConfig(Stage):
    """The small models learned beside a method's own: of dynamics, rewards, values, actions, lengths and endings."""

    dynamics_members: int = 3  # networks in the ensemble
    dynamics_width: int = 256  # channels
    dynamics_depth: int = 2  # residual layers
    dynamics_steps: int = 4_000  # updates
    dynamics_batch_size: int = 256  # transitions per step and network

    def _check(self) -> None:
        for item in dataclasses.fields(self):
            require(getattr(self, item.name) >= 1, item.name, getattr(self, item.name), "at least 1")
