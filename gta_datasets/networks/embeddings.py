"""Embeddings of the two scalars every window network is conditioned on."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["ConditionEmbedding", "FourierFeatures"]


class FourierFeatures(nn.Module):
    """Sines and cosines of a scalar at geometrically spaced fixed frequencies.

    Args:
        size: number of features, even.
        slowest: lowest angular frequency.
        fastest: highest angular frequency.
    """

    frequencies: Tensor

    def __init__(self, size: int, slowest: float, fastest: float) -> None:
        super().__init__()
        exponents = torch.linspace(math.log(slowest), math.log(fastest), size // 2)
        self.register_buffer("frequencies", exponents.exp(), persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        """(B,) -> (B, size)."""
        angles = values[:, None] * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class ConditionEmbedding(nn.Module):
    """Noise level and return in one vector.

    The return enters an MLP without periodic features, so that an amplified return beyond the data extrapolates
    smoothly. A dropped return contributes a learned vector instead (classifier-free guidance, Ho and Salimans 2022).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.noise_features = FourierFeatures(64, 0.25, 64.0)
        self.noise_mlp = nn.Sequential(nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width))
        self.return_mlp = nn.Sequential(nn.Linear(1, width), nn.SiLU(), nn.Linear(width, width))
        self.no_return = nn.Parameter(torch.zeros(width))

    def forward(self, noise: Tensor, returns: Tensor, keep: Tensor) -> Tensor:
        """(B,), (B,), (B,) -> (B, width)."""
        given = self.return_mlp(returns[:, None])
        chosen = torch.where(keep[:, None] > 0, given, self.no_return)
        embedded: Tensor = nn.functional.silu(self.noise_mlp(self.noise_features(noise)) + chosen)
        return embedded
