"""Adam over the parameters of all networks of all runs at once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.adam import adam

__all__ = ["Adam"]


class Adam:
    """Adam with d3rlpy's settings, in one kernel; torch's own class takes as long again to get there.

    Args:
        values: what is to be optimised, changed in place.
        gradients: read at every step.
    """

    def __init__(self, values: Tensor, gradients: Tensor, *, learning_rate: float = 3e-4) -> None:
        self.values, self._gradients, self._learning_rate = values, gradients, learning_rate
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
            lr=self._learning_rate,
            weight_decay=0.0,
            eps=1e-8,
            maximize=False,
        )
