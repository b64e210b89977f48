"""EDM preconditioning and training loss (Karras et al. 2022, "Elucidating the Design Space of Diffusion Models")."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

__all__ = ["Condition", "Denoise", "EDMDenoiser", "Network", "denoising_loss", "loss_weight"]

SIGMA_DATA = 1.0
"""Standard deviation of the normalised data."""


@dataclass(frozen=True)
class Condition:
    """What a window is generated under; every field has the batch as its first dimension."""

    returns: Tensor  # (B,) standardised return-to-go
    keep: Tensor  # (B,) 1 where the return is given, 0 where it is dropped
    context: Tensor  # (B, C) columns that are constant within an episode, normalised, or (B, R, C); C may be 0
    mask: Tensor  # (B, R, F) 1 where a value belongs to the window, 0 at padding

    def unconditional(self) -> Condition:
        """The same windows with their returns dropped."""
        return replace(self, keep=torch.zeros_like(self.keep))

    def __getitem__(self, rows: slice | Tensor) -> Condition:
        return Condition(self.returns[rows], self.keep[rows], self.context[rows], self.mask[rows])

    def join(self, other: Condition) -> Condition:
        """Both batches in one."""
        return Condition(
            torch.cat([self.returns, other.returns]),
            torch.cat([self.keep, other.keep]),
            torch.cat([self.context, other.context]),
            torch.cat([self.mask, other.mask]),
        )


Level = TypeVar("Level", float, Tensor)

Denoise = Callable[[Tensor, Tensor, Condition], Tensor]
"""(x (B, R, F), sigma (B,), condition) -> estimate of the clean windows (B, R, F)."""


class Network(Protocol):
    """Any module of `gta_datasets.networks`."""

    def __call__(self, x: Tensor, noise: Tensor, returns: Tensor, keep: Tensor) -> Tensor: ...


class EDMDenoiser(nn.Module):
    """`D(x; sigma) = c_skip x + c_out F(c_in x; c_noise)` with the coefficients of Karras et al. 2022, table 1."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """Estimate the clean windows.

        Args:
            x: noisy normalised windows, (B, R, F).
            sigma: noise level of every window, (B,).
            condition: what the windows are generated under.

        Returns:
            The estimate, (B, R, F), zero at padding.
        """
        level = sigma[:, None, None]
        total = level.square() + SIGMA_DATA**2
        context = condition.context
        if context.ndim == 2:
            context = context[:, None, :].expand(-1, x.shape[1], -1)
        scaled = torch.cat([x * condition.mask * total.rsqrt(), context], dim=-1)
        output = self.network(scaled, sigma.log() / 4, condition.returns, condition.keep).float()
        estimate: Tensor = x * (SIGMA_DATA**2 / total) + output * (level * SIGMA_DATA * total.rsqrt())
        return estimate * condition.mask


def loss_weight(sigma: Level) -> Level:
    """Weight of a squared error of the estimate at a noise level (Karras et al. 2022, table 1)."""
    return (sigma**2 + SIGMA_DATA**2) / (sigma * SIGMA_DATA) ** 2


def denoising_loss(
    denoise: Denoise,
    clean: Tensor,
    condition: Condition,
    generator: torch.Generator,
    *,
    log_sigma_mean: float = -1.2,
    log_sigma_std: float = 1.2,
) -> Tensor:
    """Weighted denoising error (Karras et al. 2022, equations 2 and 107, table 1), averaged over unpadded values.

    Args:
        denoise: the denoiser.
        clean: normalised windows, (B, R, F).
        condition: their condition.
        generator: source of the noise levels and the noise.
        log_sigma_mean: mean of ln sigma.
        log_sigma_std: standard deviation of ln sigma.

    Returns:
        The loss, a scalar.
    """
    normal = torch.randn(len(clean), generator=generator, device=clean.device)
    sigma = (log_sigma_mean + log_sigma_std * normal).exp()
    noise = torch.randn(clean.shape, generator=generator, device=clean.device)
    estimate = denoise(clean + sigma[:, None, None] * noise * condition.mask, sigma, condition)
    error = (estimate - clean).square() * condition.mask
    return (loss_weight(sigma) * error.sum(dim=(1, 2))).sum() / condition.mask.sum().clamp(min=1)
