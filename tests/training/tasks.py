"""A small training task whose batches come from the step's number, as the loop asks for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from gta_datasets.config import NetworkConfig, TrainingConfig
from gta_datasets.diffusion.edm import Condition, EDMDenoiser, denoising_loss
from gta_datasets.networks import build_network
from gta_datasets.training.loop import TrainingResult, train

__all__ = ["LossOfStep", "config_of", "file", "fresh_denoiser", "loss_of", "same_weights", "train_denoiser"]

LossOfStep = Callable[[int], Tensor]


def file(folder: Path) -> Path:
    """Where a test has its checkpoint."""
    return folder / "training.safetensors"


def fresh_denoiser() -> nn.Module:
    """A denoiser of windows of 4 rows and 3 columns; always the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return EDMDenoiser(build_network(NetworkConfig("temporal_mixer", width=8, depth=1), 4, 3, 3))


def loss_of(denoiser: nn.Module) -> LossOfStep:
    """The denoising loss of a batch that depends on the step alone."""

    def loss_of_step(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(step)
        clean = torch.randn(4, 4, 3, generator=generator)
        condition = Condition(clean.mean(dim=(1, 2)), torch.ones(4), torch.zeros(4, 0), torch.ones_like(clean))
        return denoising_loss(denoiser, clean, condition, generator)

    return loss_of_step


def config_of(steps: int, optimizer: str = "adam", *, checkpoint_seconds: float = 0.0) -> TrainingConfig:
    """A short run; it is saved after every step by default."""
    return TrainingConfig(
        training_steps=steps,
        learning_rate=0.01,
        warmup_steps=3,
        ema_decay=0.9,
        optimizer="muon" if optimizer == "muon" else "adam",
        checkpoint_seconds=checkpoint_seconds,
    )


def train_denoiser(
    checkpoint: Path,
    config: TrainingConfig,
    wrap: Callable[[LossOfStep], LossOfStep] = lambda loss_of_step: loss_of_step,
    run_id: str = "run",
) -> TrainingResult:
    """Train a fresh denoiser, or go on from `checkpoint`; `wrap` may tamper with the loss."""
    denoiser = fresh_denoiser()
    return train(denoiser, wrap(loss_of(denoiser)), config, checkpoint=checkpoint, run_id=run_id)


def same_weights(first: TrainingResult, second: TrainingResult) -> bool:
    """Bit for bit."""
    return first.weights.keys() == second.weights.keys() and all(
        torch.equal(first.weights[name], second.weights[name]) for name in first.weights
    )
