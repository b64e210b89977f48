"""Adam over the parameters of all networks of all runs at once."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.optim.adam import adam

__all__ = ["Adam"]

LEARNING_RATE = 3e-4


class Adam:
    """Adam with d3rlpy's settings, in one kernel; torch's own class takes as long again to get there.

    Args:
        values: what is to be optimised, changed in place.
        gradients: read at every step.
        anneal: steps over which the learning rate falls to zero along a cosine; None keeps it.
    """

    def __init__(self, values: Tensor, gradients: Tensor, *, anneal: int | None = None) -> None:
        self.values, self._gradients, self._anneal = values, gradients, anneal
        self.tensors = {
            "mean": torch.zeros_like(values),
            "square": torch.zeros_like(values),
            "steps": torch.zeros((), device=values.device),
        }
        """What it remembers."""

    def step(self) -> None:
        mean, square, steps = self.tensors.values()
        adam(
            [self.values],
            [self._gradients],
            [mean],
            [square],
            [],
            [steps],
            fused=True,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=self._rate(steps),
            weight_decay=0.0,
            eps=1e-8,
            maximize=False,
        )

    def _rate(self, steps: Tensor) -> float | Tensor:
        """The learning rate after some steps; a tensor where it changes, which a CUDA graph computes anew."""
        if self._anneal is None:
            return LEARNING_RATE
        return (steps * (math.pi / self._anneal)).cos_().add_(1).mul_(LEARNING_RATE / 2)
