"""Diffusion of a Gaussian, for which denoiser, ODE and marginals are known in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from gta_datasets.diffusion.edm import Condition, Denoise

MEAN, STD = 0.7, 0.4


def gaussian_denoiser(mean: float = MEAN, std: float = STD) -> Denoise:
    """The optimal denoiser of data that are N(mean, std^2): the posterior mean."""

    def denoise(x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        variance = sigma[:, None, None].square()
        return (std**2 * x + variance * mean) / (std**2 + variance) * condition.mask

    return denoise


def ode_solution(x: Tensor, start: float, end: float, mean: float = MEAN, std: float = STD) -> Tensor:
    """Where the probability-flow ODE takes `x` from noise level `start` to `end`."""
    return mean + (x - mean) * math.sqrt((std**2 + end**2) / (std**2 + start**2))


def condition_of(x: Tensor) -> Condition:
    return Condition(torch.zeros(len(x)), torch.ones(len(x)), torch.zeros(len(x), 0), torch.ones_like(x))


class Counted:
    """A denoiser that counts its calls and the rows in them, and keeps what it was asked."""

    def __init__(self, denoise: Denoise) -> None:
        self.denoise = denoise
        self.rows: list[int] = []
        self.levels: list[float] = []
        self.keeps: list[list[float]] = []

    def __call__(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        self.rows.append(len(x))
        self.levels.append(float(sigma[0]))
        self.keeps.append(condition.keep.tolist())
        assert (sigma == sigma[0]).all()
        return self.denoise(x, sigma, condition)


def seeded_noise(shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float64) -> Callable[[int], Tensor]:
    """Standard normal numbers that depend on the step alone."""

    def noise(step: int) -> Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(1000 * seed + step), dtype=dtype)

    return noise
