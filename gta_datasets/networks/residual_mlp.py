"""The network for single transitions: a residual multilayer perceptron (SynthER, arXiv 2303.06614).

A block is `x + contract(silu(expand(modulated(norm(x)))))` with twice as many hidden units as channels. At width 1024
and depth 6 that is 25.5 M parameters for a transition of 42 columns (HalfCheetah), all weights and biases counted. The
authors' released network has 25.6 M at width 2048 and depth 6, with one matrix of 2048 x 2048 and no norm in a block:
as many products as here in two layers around a residual stream of half the width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from gta_datasets.networks.embeddings import FourierFeatures

__all__ = ["ResidualMLP"]


class _ResidualBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.expand = nn.Linear(width, 2 * width)
        self.contract = nn.Linear(2 * width, width)

    def forward(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        """(B, width), three times -> (B, width)."""
        hidden = self.expand(torch.addcmul(shift, self.norm(x), 1 + scale))
        result: Tensor = x + self.contract(functional.silu(hidden))
        return result


class ResidualMLP(nn.Module):
    """Network for windows of one row, unconditional.

    The noise level scales and shifts what enters every block, in all blocks alike.

    Args:
        features: columns of a row, all of which enter.
        width: channels.
        depth: number of residual blocks.
        outputs: columns that are predicted; all by default.
    """

    def __init__(self, features: int, *, width: int, depth: int, outputs: int | None = None) -> None:
        super().__init__()
        self.embed_row = nn.Linear(features, width)
        self.embed_noise = nn.Sequential(
            FourierFeatures(64, 0.25, 64.0), nn.Linear(64, 128), nn.SiLU(), nn.Linear(128, 2 * width)
        )
        self.blocks = nn.ModuleList(_ResidualBlock(width) for _ in range(depth))
        self.norm_out = nn.LayerNorm(width, elementwise_affine=False)
        self.project_out = nn.Linear(width, features if outputs is None else outputs)
        nn.init.zeros_(self.project_out.weight)
        nn.init.zeros_(self.project_out.bias)

    def forward(self, x: Tensor, noise: Tensor, returns: Tensor, keep: Tensor) -> Tensor:  # noqa: ARG002
        """Return the network output (B, 1, outputs).

        Args:
            x: rows, (B, 1, features).
            noise: noise embedding input, (B,).
            returns: not used.
            keep: not used.
        """
        shift, scale = self.embed_noise(noise).chunk(2, dim=-1)
        hidden = self.embed_row(x[:, 0])
        for block in self.blocks:
            hidden = block(hidden, shift, scale)
        output: Tensor = self.project_out(self.norm_out(hidden))
        return output[:, None]
