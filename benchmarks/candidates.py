"""Window networks that the default was chosen against; they take what the library's networks take."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from gta_datasets.networks.embeddings import ConditionEmbedding

__all__ = ["DiffusionTransformer", "TemporalUNet"]

HEAD = 32
"""Channels of an attention head."""


class _TransformerBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // HEAD
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.channel_in = nn.Linear(width, 4 * width)
        self.channel_out = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        shift_t, scale_t, gate_t, shift_c, scale_c, gate_c = modulation.unsqueeze(1).chunk(6, dim=-1)
        parts = self.query_key_value(self.norm(x) * (1 + scale_t) + shift_t).chunk(3, dim=-1)
        query, key, value = (part.unflatten(-1, (self.heads, HEAD)).transpose(1, 2) for part in parts)
        attended = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(-2)
        x = x + gate_t * self.out(attended)
        hidden = functional.gelu(self.channel_in(self.norm(x) * (1 + scale_c) + shift_c))
        found: Tensor = x + gate_c * self.channel_out(hidden)
        return found


class DiffusionTransformer(nn.Module):
    """A transformer with adaptive layer norm (DiT, Peebles and Xie 2023, section 3.2); a row is a token.

    Args:
        rows: rows of a window.
        in_features: columns of a row that enter.
        out_features: columns of a row that are predicted.
        width: channels per row, a multiple of 32.
        depth: number of blocks.
    """

    def __init__(self, rows: int, in_features: int, out_features: int, *, width: int, depth: int) -> None:
        super().__init__()
        self.embed_row = nn.Linear(in_features, width)
        self.position = nn.Parameter(0.02 * torch.randn(rows, width))
        self.embed_condition = ConditionEmbedding(width)
        self.blocks = nn.ModuleList(_TransformerBlock(width) for _ in range(depth))
        self.modulations = nn.ModuleList(nn.Linear(width, 6 * width) for _ in range(depth))
        self.norm_out = nn.LayerNorm(width, elementwise_affine=False)
        self.project_out = nn.Linear(width, out_features)
        for layer in (*self.modulations, self.project_out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, noise: Tensor, returns: Tensor, keep: Tensor) -> Tensor:
        """(B, rows, in_features), three times (B,) -> (B, rows, out_features)."""
        condition = self.embed_condition(noise, returns, keep)
        x = self.embed_row(x) + self.position
        for block, modulation in zip(self.blocks, self.modulations, strict=True):
            x = block(x, modulation(condition))
        output: Tensor = self.project_out(self.norm_out(x))
        return output


class _TemporalBlock(nn.Module):
    """(B, channels_in, rows) -> (B, channels_out, rows): two convolutions over time."""

    def __init__(self, channels_in: int, channels_out: int, condition: int) -> None:
        super().__init__()
        self.first = nn.Sequential(_convolution(channels_in, channels_out), nn.Mish())
        self.embed = nn.Linear(condition, channels_out)
        self.second = nn.Sequential(_convolution(channels_out, channels_out), nn.Mish())
        same = channels_in == channels_out
        self.shortcut = nn.Identity() if same else nn.Conv1d(channels_in, channels_out, 1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        hidden = self.first(x) + self.embed(condition)[:, :, None]
        moved: Tensor = self.second(hidden) + self.shortcut(x)
        return moved


def _convolution(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv1d(channels_in, channels_out, 5, padding=2), nn.GroupNorm(8, channels_out))


class TemporalUNet(nn.Module):
    """A U-Net of convolutions over time with three resolutions (Diffuser, Janner et al. 2022, appendix C).

    Args:
        rows: rows of a window, a multiple of 4.
        in_features: columns of a row that enter.
        out_features: columns of a row that are predicted.
        width: channels of the first resolution, a multiple of 8; doubled twice.
    """

    def __init__(self, rows: int, in_features: int, out_features: int, *, width: int) -> None:
        super().__init__()
        if rows % 4:
            raise ValueError(f"{rows=} is not a multiple of 4")
        self.embed_condition = ConditionEmbedding(4 * width)
        ends = [(in_features, width), (width, 2 * width), (2 * width, 4 * width)]
        self.down = nn.ModuleList(_TemporalBlock(*channels, 4 * width) for channels in ends)
        self.shrink = nn.ModuleList(nn.Conv1d(channels, channels, 3, 2, 1) for _, channels in ends[:2])
        self.middle = _TemporalBlock(4 * width, 4 * width, 4 * width)
        self.grow = nn.ModuleList(nn.ConvTranspose1d(2 * channels, channels, 4, 2, 1) for _, channels in ends[1::-1])
        self.up = nn.ModuleList(_TemporalBlock(2 * channels, channels, 4 * width) for _, channels in ends[1::-1])
        self.project_out = nn.Conv1d(width, out_features, 1)

    def forward(self, x: Tensor, noise: Tensor, returns: Tensor, keep: Tensor) -> Tensor:
        """(B, rows, in_features), three times (B,) -> (B, rows, out_features)."""
        condition = self.embed_condition(noise, returns, keep)
        x, kept = x.transpose(1, 2), []
        for block, shrink in zip(self.down, [*self.shrink, nn.Identity()], strict=True):
            kept.append(block(x, condition))
            x = shrink(kept[-1])
        x = self.middle(x, condition)
        for grow, block in zip(self.grow, self.up, strict=True):
            kept.pop()
            x = block(torch.cat([grow(x), kept[-1]], dim=1), condition)
        output: Tensor = self.project_out(x)
        return output.transpose(1, 2)
