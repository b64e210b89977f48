"""Classifier-free guidance as a wrapper around a denoiser."""

from __future__ import annotations

import torch
from torch import Tensor

from gta_datasets.diffusion.edm import Condition, Denoise

__all__ = ["guided"]


def guided(denoise: Denoise, scale: float, *, interval: tuple[float, float] = (0.0, float("inf"))) -> Denoise:
    """Wrap `denoise` so that every evaluation is guided (Ho and Salimans 2022, equation 6).

    The result is `D_u + scale (D_c - D_u)`: 1 is the conditional denoiser, at which the unconditional half would cancel
    and is not computed. Conditional and unconditional rows go through the network in one batch. Outside `interval` the
    scale is 1 (Kynkaanniemi et al. 2024): at low noise levels guidance no longer changes what a window is, only how
    well it obeys the dynamics.

    Args:
        denoise: the denoiser to wrap.
        scale: guidance scale, at least 0.
        interval: noise levels (lowest, highest), both included, at which guidance applies.
    """
    if scale == 1.0:
        return denoise

    def evaluate(x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        level = float(sigma[0])
        if not interval[0] <= level <= interval[1]:
            return denoise(x, sigma, condition)
        if scale == 0.0:
            return denoise(x, sigma, condition.unconditional())
        both = denoise(torch.cat([x, x]), torch.cat([sigma, sigma]), condition.join(condition.unconditional()))
        conditional, unconditional = both.chunk(2)
        return unconditional + scale * (conditional - unconditional)

    return evaluate
