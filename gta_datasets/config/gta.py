"""Generative Trajectory Augmentation's configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gta_datasets.config.fields import Stage, require, require_choice
from gta_datasets.config.method import MethodConfig
from gta_datasets.config.stages import ConditionalTrainingConfig, DataConfig, NetworkConfig, SamplingConfig

__all__ = ["MOST_DISTILLED_ALPHA", "FlowConfig", "GTAConfig", "SearchConfig"]

MOST_DISTILLED_ALPHA = 1.5
"""Up to which alpha a flow map learns what to do."""


@dataclass(frozen=True)
class SearchConfig(Stage):
    """How `alpha="auto"` and `mu="auto"` are found, and whether the sampler may take more steps than it was given."""

    auto_windows: int = 256  # windows generated at every setting that is tried
    auto_error: float = 0.05  # dynamics error of a step, by the learned model, from which its window counts as bad
    auto_share: float = 0.1  # largest share of bad windows that a setting may have beyond the source's own
    # `sampler_steps` are doubled, up to this, while too many windows are bad and it helps; 0 for never.
    auto_steps: int = 0

    def _check(self) -> None:
        require(self.auto_windows >= 1, "auto_windows", self.auto_windows, "at least 1")
        require(self.auto_error > 0, "auto_error", self.auto_error, "a positive number")
        require(0 <= self.auto_share <= 1, "auto_share", self.auto_share, "a number in [0, 1]")
        require(self.auto_steps >= 0, "auto_steps", self.auto_steps, "0, or a number of steps")


@dataclass(frozen=True)
class FlowConfig(Stage):
    """A flow map distilled from the trained denoiser, in the place of the sampler."""

    flow_steps: int = 0  # network evaluations per window, each a jump; 0 for the sampler
    flow_end: float = 0.1  # lowest noise level that a jump starts from
    flow_noise: bool = True  # noise is added again between two jumps
    flow_guidance: float = 3.0  # guidance scale of what is distilled
    flow_levels: int = 10  # noise levels of the solver that the flow map learns from
    distill_steps: int = 2_000  # updates of the flow map
    distill_batch_size: int = 128  # windows per step
    distill_rate: float = 1e-3  # learning rate

    def _check(self) -> None:
        require(0 <= self.flow_steps <= 8, "flow_steps", self.flow_steps, "0, or up to 8")
        require(self.flow_guidance >= 0, "flow_guidance", self.flow_guidance, "a number of at least 0")
        require(self.flow_levels >= 2, "flow_levels", self.flow_levels, "at least 2")
        for name in ("flow_end", "distill_rate"):
            require(getattr(self, name) > 0, name, getattr(self, name), "a positive number")
        for name in ("distill_steps", "distill_batch_size"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")


@dataclass(frozen=True)
class GTAConfig(MethodConfig):
    """Everything Generative Trajectory Augmentation can be told (GTA, arXiv 2405.16907)."""

    method: ClassVar[str] = "gta"

    data: DataConfig = DataConfig()
    network: NetworkConfig = NetworkConfig()
    training: ConditionalTrainingConfig = ConditionalTrainingConfig()
    sampling: SamplingConfig = SamplingConfig()
    search: SearchConfig = SearchConfig()
    flow: FlowConfig = FlowConfig()

    def __post_init__(self) -> None:
        if self.training.condition_dropout == 0:  # the network never learns what holds without a return
            need = "above 0 for guidance other than 1, and where the condition is no return"
            sound = self.sampling.guidance == 1 and self.sampling.condition in ("amplified", "fixed")
            sound = sound and (self.flow.flow_steps == 0 or self.flow.flow_guidance == 1)
            require(sound, "condition_dropout", 0.0, need)
        if self.flow.flow_steps > 0:
            network = self.network.network
            require(network == "temporal_mixer", "network", network, "'temporal_mixer' with flow_steps")
            require_choice("condition", self.sampling.condition, ("amplified", "fixed"))  # what a flow map learns
            alpha = self.sampling.alpha
            sound = self.sampling.condition == "fixed" or isinstance(alpha, str) or alpha <= MOST_DISTILLED_ALPHA
            require(sound, "alpha", alpha, f"at most {MOST_DISTILLED_ALPHA} with flow_steps: what a flow map learns")
            require(self.search.auto_steps == 0, "auto_steps", self.search.auto_steps, "0 with flow_steps: no sampler")
