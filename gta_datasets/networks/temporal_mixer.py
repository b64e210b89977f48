"""The default network: a temporal mixer with adaptive layer norm.

Every row of a window is one token. A block first mixes over time with one dense map over the rows, shared by the
channels (MLP-Mixer, Tolstikhin et al. 2021), then over channels with an MLP in which a quarter of the channels is taken
from the row before and a quarter from the row after (temporal shift, Lin et al. 2019): dynamics are local in time, and
the shift makes them learnable at no cost. Noise level and return modulate both halves through adaptive layer norm with
zero-initialised gates (DiT, Peebles and Xie 2023, section 3.2); the activation is the squared ReLU (So et al. 2021).
It knows nothing of noise schedules: `noise` is whatever scalar the preconditioning hands over.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from gta_datasets.networks.embeddings import ConditionEmbedding

__all__ = ["TemporalMixer"]


class _MixerBlock(nn.Module):
    def __init__(self, rows: int, width: int, expansion: int) -> None:
        super().__init__()
        self.shifted = width // 4
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.time = nn.Linear(rows, rows)
        self.channel_in = nn.Linear(width, expansion * width)
        self.channel_out = nn.Linear(expansion * width, width)

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """Mix `x` (B, rows, width) under `modulation` (B, 6 * width)."""
        shift_t, scale_t, gate_t, shift_c, scale_c, gate_c = modulation.unsqueeze(1).chunk(6, dim=-1)
        hidden = torch.addcmul(shift_t, self.norm(x), 1 + scale_t)
        # The transposed product of `self.time`; without gradients it needs no transpositions of the whole batch.
        mixed = self.time.weight @ hidden + self.time.bias[:, None]
        x = torch.addcmul(x, gate_t, mixed)
        hidden = self._with_neighbours(torch.addcmul(shift_c, self.norm(x), 1 + scale_c))
        hidden = functional.relu(self.channel_in(hidden))
        return torch.addcmul(x, gate_c, self.channel_out(hidden * hidden))

    def _with_neighbours(self, x: Tensor) -> Tensor:
        """A quarter of the channels from the row before, a quarter from the row after, the rest from the row itself."""
        padded = functional.pad(x, (0, 0, 1, 1))
        size = self.shifted
        return torch.cat([padded[:, :-2, :size], padded[:, 2:, size : 2 * size], x[..., 2 * size :]], dim=-1)


class TemporalMixer(nn.Module):
    """Window network of about 1 to 5 M parameters.

    Args:
        rows: rows of a window, `H + 1`.
        in_features: columns of a row that enter (generated columns and context).
        out_features: columns of a row that are predicted.
        width: channels per row.
        depth: number of mixer blocks.
        expansion: hidden size of the channel MLP in multiples of the width.
    """

    def __init__(
        self, rows: int, in_features: int, out_features: int, *, width: int, depth: int, expansion: int = 4
    ) -> None:
        super().__init__()
        self.embed_row = nn.Linear(in_features, width)
        self.position = nn.Parameter(0.02 * torch.randn(rows, width))
        self.embed_condition = ConditionEmbedding(width)
        self.blocks = nn.ModuleList(_MixerBlock(rows, width, expansion) for _ in range(depth))
        self.modulations = nn.ModuleList(nn.Linear(width, 6 * width) for _ in range(depth))
        self.norm_out = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation_out = nn.Linear(width, 2 * width)
        self.project_out = nn.Linear(width, out_features)
        for layer in (*self.modulations, self.modulation_out, self.project_out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, noise: Tensor, returns: Tensor, keep: Tensor) -> Tensor:
        """Return the network output (B, rows, out_features).

        Args:
            x: rows, (B, rows, in_features).
            noise: noise embedding input, (B,).
            returns: standardised return-to-go, (B,).
            keep: 1 where the return is given and 0 where it is dropped, (B,).
        """
        condition = self.embed_condition(noise, returns, keep)
        x = self.embed_row(x) + self.position
        for block, modulation in zip(self.blocks, self.modulations, strict=True):
            x = block(x, modulation(condition))
        shift, scale = self.modulation_out(condition).unsqueeze(1).chunk(2, dim=-1)
        output: Tensor = self.project_out(self.norm_out(x) * (1 + scale) + shift)
        return output
