"""The GTA paper's network: a temporal U-Net of MLP-Mixer blocks (arXiv 2405.16907, appendix C).

A window is an image of one channel, rows by features. Each block mixes over [channel x feature] and over time in
parallel; rows are halved three times on the way down. At 32 rows of 24 features and width 16 it has the paper's 29.6 M
parameters.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["MixerUNet"]

MULTIPLES = (1, 2, 4, 8)
ROW_MULTIPLE = 2 ** (len(MULTIPLES) - 1)

FEWEST = 64
"""Windows of an evaluation on a CPU: of fewer, CPUs with AMX round bfloat16 convolutions otherwise."""


class _RandomFourier(nn.Module):
    """The scalar itself and sines and cosines of it at fixed random frequencies; (B,) -> (B, size + 1)."""

    frequencies: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(size // 2))

    def forward(self, values: Tensor) -> Tensor:
        angles = 2 * math.pi * values[:, None] * self.frequencies
        return torch.cat([values[:, None], angles.sin(), angles.cos()], dim=-1)


def _feed_forward(size: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(size), nn.Linear(size, hidden), nn.GELU(), nn.Linear(hidden, size))


class _MixerBlock(nn.Module):
    """(B, channels_in, rows, features) -> (B, channels_out, rows, features)."""

    def __init__(self, rows: int, features: int, channels_in: int, channels_out: int, embedding: int) -> None:
        super().__init__()
        self.mix_features = _feed_forward(channels_in * features, 4 * channels_in)
        self.mix_rows = _feed_forward(rows, 4 * rows)
        self.embed = nn.Sequential(nn.Mish(), nn.Linear(embedding, channels_out))
        same = channels_in == channels_out
        self.output = nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1)
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        batch, channels, rows, features = x.shape
        by_row = x.transpose(1, 2).reshape(batch, rows, channels * features)
        mixed = self.mix_features(by_row).view(batch, rows, channels, features).transpose(1, 2)
        mixed = mixed + self.mix_rows(x.transpose(2, 3)).transpose(2, 3)
        result: Tensor = self.output(mixed) + self.embed(embedding)[:, :, None, None] + self.shortcut(x)
        return result


class _LinearAttention(nn.Module):
    """Residual linear attention over all rows and features (Shen et al. 2021), 4 heads of 32."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm2d(channels, affine=True)
        self.to_qkv = nn.Conv2d(channels, 3 * 128, 1, bias=False)
        self.to_out = nn.Conv2d(128, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, rows, features = x.shape
        query, key, value = self.to_qkv(self.norm(x)).view(batch, 3, 4, 32, rows * features).unbind(1)
        summary = key.softmax(dim=-1) @ value.transpose(-1, -2)  # (B, heads, key, value)
        attended = summary.transpose(-1, -2) @ query
        result: Tensor = x + self.to_out(attended.reshape(batch, 128, rows, features))
        return result


class _Stage(nn.Module):
    """Two blocks and attention at one resolution."""

    def __init__(self, rows: int, features: int, channels_in: int, channels_out: int, embedding: int) -> None:
        super().__init__()
        self.first = _MixerBlock(rows, features, channels_in, channels_out, embedding)
        self.second = _MixerBlock(rows, features, channels_out, channels_out, embedding)
        self.attention = _LinearAttention(channels_out)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        result: Tensor = self.attention(self.second(self.first(x, embedding), embedding))
        return result


class MixerUNet(nn.Module):
    """The paper's network for windows of any number of rows (padded to a multiple of 8).

    Args:
        rows: rows of a window, `H + 1`.
        in_features: columns of a row that enter.
        out_features: columns of a row that are predicted, the first ones of those that enter.
        width: channels of the first resolution; 16 in the paper.
    """

    def __init__(self, rows: int, in_features: int, out_features: int, *, width: int = 16) -> None:
        super().__init__()
        self.out_features = out_features
        self.rows = math.ceil(rows / ROW_MULTIPLE) * ROW_MULTIPLE
        widths = [width * multiple for multiple in MULTIPLES]
        heights = [self.rows // 2**level for level in range(len(widths))]
        self.embed_noise = nn.Sequential(
            _RandomFourier(16), nn.Linear(17, 4 * width), nn.Mish(), nn.Linear(4 * width, width)
        )
        self.embed_return = nn.Sequential(nn.Linear(1, 2 * width), nn.Mish(), nn.Linear(2 * width, width))
        embedding = 2 * width
        self.down = nn.ModuleList(
            _Stage(height, in_features, before, after, embedding)
            for height, before, after in zip(heights, [1, *widths], widths, strict=False)
        )
        self.shrink = nn.ModuleList(nn.Conv2d(size, size, 3, (2, 1), 1) for size in widths[:-1])
        self.middle_in = _MixerBlock(heights[-1], in_features, widths[-1], widths[-1], embedding)
        self.middle_attention = _LinearAttention(widths[-1])
        self.middle_out = _MixerBlock(heights[-1], in_features, widths[-1], widths[-1], embedding)
        levels = range(len(widths) - 1, 0, -1)
        self.up = nn.ModuleList(
            _Stage(heights[level], in_features, 2 * widths[level], widths[level - 1], embedding) for level in levels
        )
        self.grow = nn.ModuleList(
            nn.ConvTranspose2d(widths[level - 1], widths[level - 1], (4, 3), (2, 1), (1, 1)) for level in levels
        )
        self.final = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(8, width), nn.Mish(), nn.Conv2d(width, 1, 1)
        )

    def forward(self, x: Tensor, noise: Tensor, returns: Tensor, keep: Tensor) -> Tensor:
        """Return the network output (B, rows, out_features); arguments as in `TemporalMixer.forward`.

        In evaluation a window gets the same bits beside any number of others, if they are a multiple of 32.
        """
        size = len(x)
        if not self.training and x.device.type == "cpu" and size < FEWEST:
            filled = torch.arange(FEWEST) % size
            return self._evaluated(x[filled], noise[filled], returns[filled], keep[filled])[:size]
        return self._evaluated(x, noise, returns, keep)

    def _evaluated(self, x: Tensor, noise: Tensor, returns: Tensor, keep: Tensor) -> Tensor:
        given = self.embed_return(returns[:, None]) * keep[:, None]
        embedding = torch.cat([given, self.embed_noise(noise)], dim=-1)
        rows = x.shape[1]
        hidden = functional.pad(x, (0, 0, 0, self.rows - rows))[:, None]
        skipped: list[Tensor] = []
        for level, stage in enumerate(self.down):
            hidden = stage(hidden, embedding)
            skipped.append(hidden)
            if level < len(self.shrink):
                hidden = self.shrink[level](hidden)
        hidden = self.middle_out(self.middle_attention(self.middle_in(hidden, embedding)), embedding)
        for stage, grow in zip(self.up, self.grow, strict=True):
            hidden = grow(stage(torch.cat([hidden, skipped.pop()], dim=1), embedding))
        output: Tensor = self.final(hidden)
        return output[:, 0, :rows, : self.out_features]
