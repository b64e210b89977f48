"""Inpainting as a wrapper around a denoiser: what is known of a window stays as it is."""

from __future__ import annotations

import torch
from torch import Tensor

from gta_datasets.diffusion.edm import Condition, Denoise

__all__ = ["inpainted"]


def inpainted(denoise: Denoise, known: Tensor, values: Tensor) -> Denoise:
    """Wrap `denoise` so that every estimate holds the known values (Song et al. 2021, section 5: imputation).

    A sampler that starts from known values plus noise then ends on them, and the rest of the window comes to fit them.

    Args:
        denoise: the denoiser to wrap, of batches of B windows.
        known: which values are known, (B, R, F) bool or anything that broadcasts to it.
        values: the known values, (B, R, F); others are not read.
    """

    def evaluate(x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        return torch.where(known, values, denoise(x, sigma, condition))

    return evaluate
