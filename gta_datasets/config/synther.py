"""SynthER's configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from gta_datasets.config.fields import Stage, io_field, require, require_choice
from gta_datasets.config.method import MethodConfig
from gta_datasets.config.stages import SolverConfig, TrainingConfig

__all__ = ["SynthERConfig", "TransitionNetworkConfig", "TransitionSamplingConfig"]


@dataclass(frozen=True)
class TransitionNetworkConfig(Stage):
    """The residual perceptron that denoises transitions."""

    width: int = 512  # channels; twice as many hidden units in a block
    depth: int = 6  # residual blocks
    precision: Literal["float32", "bfloat16"] = "float32"  # of matrix products, in training and in sampling

    def _check(self) -> None:
        require(self.width >= 8, "width", self.width, "at least 8")
        require(self.depth >= 1, "depth", self.depth, "at least 1")
        require_choice("precision", self.precision, ("float32", "bfloat16"))


@dataclass(frozen=True)
class TransitionSamplingConfig(SolverConfig):
    """How transitions are made from noise."""

    sampler_steps: int = 64
    # Where a transition ends the task: if recorded terminations lie beyond limits of the state, beyond these; or where
    # the generator says so, as in the paper.
    terminations: Literal["limits", "generated"] = "limits"
    transitions_per_shard: int = 16_384  # transitions in a file of the cache
    generate_batch_size: int = io_field(4_096)  # transitions per network evaluation, in blocks of 32

    def _check(self) -> None:
        super()._check()
        require_choice("terminations", self.terminations, ("limits", "generated"))
        require(self.transitions_per_shard >= 1, "transitions_per_shard", self.transitions_per_shard, "at least 1")
        require(self.generate_batch_size >= 1, "generate_batch_size", self.generate_batch_size, "at least 1")


@dataclass(frozen=True)
class SynthERConfig(MethodConfig):
    """Everything Synthetic Experience Replay can be told (Lu et al. 2023, arXiv 2303.06614)."""

    method: ClassVar[str] = "synther"

    network: TransitionNetworkConfig = TransitionNetworkConfig()
    training: TrainingConfig = TrainingConfig()
    sampling: TransitionSamplingConfig = TransitionSamplingConfig()
