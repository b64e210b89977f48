"""Perceptrons of several runs side by side: stacked weights, batched products, gradients derived by hand.

An optimiser step or a target update is one kernel for all networks of all runs, because their parameters are views of
one tensor. The buffers of a pass are kept: on a CPU, making those of hundreds of kilobytes anew costs a fifth of an
update, and a CUDA graph needs them to stay where they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["HIDDEN", "Layer", "Networks", "Pass"]

HIDDEN = 256
"""Units of each of the two hidden layers, as in d3rlpy's default encoder."""


class Layer(NamedTuple):
    """One layer of a network of every run."""

    weight: Tensor  # (R, inputs, outputs)
    bias: Tensor  # (R, 1, outputs)


class Networks:
    """Networks of one shape, `count` for each of `R` runs: two hidden layers with ReLU, a linear output.

    Args:
        runs: R.
        inputs: of a network.
        outputs: of a network.
        device: where they are.
        count: networks of a run.
    """

    def __init__(self, runs: int, inputs: int, outputs: int, device: torch.device, *, count: int = 1) -> None:
        self._shape = (runs, inputs, outputs, device)
        self._size = sum((rows + 1) * columns for rows, columns in self._layer_sizes)
        self.values = torch.zeros(runs, count * self._size, device=device)
        self.gradients = torch.zeros_like(self.values)
        self.layers, self.gradient_layers = self.views(self.values), self.views(self.gradients)

    @property
    def _layer_sizes(self) -> list[tuple[int, int]]:
        _, inputs, outputs, _ = self._shape
        return [(inputs, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, outputs)]

    def views(self, tensor: Tensor) -> list[list[Layer]]:
        """What belongs to each layer of each network in a tensor with the shape of `values`."""
        return [self._layers(part) for part in tensor.split(self._size, dim=1)]

    def _layers(self, part: Tensor) -> list[Layer]:
        layers, start = [], 0
        for number, (rows, columns) in enumerate(self._layer_sizes):
            weight, bias = part[:, start : start + rows * columns], part[:, start + rows * columns :][:, :columns]
            # The last layer's few columns are stored one after the other: products are then up to five times faster.
            last = number == len(self._layer_sizes) - 1
            shaped = weight.unflatten(1, (columns, rows)).mT if last else weight.unflatten(1, (rows, columns))
            layers.append(Layer(shaped, bias.unsqueeze(1)))
            start += (rows + 1) * columns
        return layers

    def initialise(self, generators: Sequence[torch.Generator]) -> None:
        """Draw the parameters of every run as `torch.nn.Linear` does."""
        for layers in self.layers:
            for weight, bias in layers:
                bound = 1 / math.sqrt(weight.shape[1])
                for tensor in (weight, bias):
                    for run, generator in zip(tensor, generators, strict=True):
                        run.uniform_(-bound, bound, generator=generator)

    def copy(self) -> Networks:
        """Networks with the same parameters, of their own."""
        runs, inputs, outputs, device = self._shape
        found = Networks(runs, inputs, outputs, device, count=len(self.layers))
        found.values.copy_(self.values)
        return found


class Pass:
    """The buffers of one pass, forward and back, of one network of every run on a batch of `B` inputs."""

    def __init__(self, runs: int, batch_size: int, outputs: int, device: torch.device) -> None:
        self._outputs = torch.empty(runs, batch_size, outputs, device=device)
        first, second, third = (torch.empty(runs, batch_size, HIDDEN, device=device) for _ in range(3))
        self._hidden = [first, second]
        # The slope at the first hidden layer may overwrite the second one, which nobody needs then.
        self._slopes = [second, third]

    def forward(self, layers: Sequence[Layer], inputs: Tensor) -> Tensor:
        """Outputs (R, B, outputs) for inputs (R, B, inputs), valid until the next call; one `backward` may follow."""
        self._inputs = inputs
        *first_layers, (last_weight, last_bias) = layers
        for (weight, bias), hidden in zip(first_layers, self._hidden, strict=True):
            inputs = torch.baddbmm(bias, inputs, weight, out=hidden).relu_()
        return torch.bmm(inputs, last_weight, out=self._outputs).add_(last_bias)

    def backward(self, layers: Sequence[Layer], slope: Tensor, gradients: Sequence[Layer] | None = None) -> Tensor:
        """The slope of the loss at the first hidden layer, given that at the outputs.

        Args:
            layers: those of the last `forward`.
            slope: at the outputs, (R, B, outputs).
            gradients: where the slopes at the parameters go; None if nobody needs them.
        """
        for number in (2, 1, 0):
            inputs = self._hidden[number - 1] if number else self._inputs
            if gradients is not None:
                torch.bmm(inputs.mT, slope, out=gradients[number].weight)
                torch.sum(slope, 1, keepdim=True, out=gradients[number].bias)
            if number:
                buffer, weight = self._slopes[number - 1], layers[number].weight.mT
                # An outer product is not worth a matrix product.
                product = torch.mul if slope.shape[-1] == 1 else torch.bmm
                product(slope, weight, out=buffer)
                slope = torch.ops.aten.threshold_backward(buffer, inputs, 0, grad_input=buffer)
        return slope
