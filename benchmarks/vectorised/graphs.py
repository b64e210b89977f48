"""An update as CUDA graphs: launched as one, its hundred small kernels no longer wait for Python."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["Captured"]

WARM_UP = 3
"""Calls before the capture, in which libraries make what they need once."""

Update = Callable[[Tensor, Tensor, bool], None]
"""Takes row numbers, noise, and whether the policy takes its turn."""


class Captured:
    """Does what `update` does, from recorded graphs after the first calls, one for either kind of update."""

    def __init__(self, update: Update, device: torch.device) -> None:
        self._update, self._device = update, device
        self._calls = {True: 0, False: 0}
        self._graphs: dict[bool, torch.cuda.CUDAGraph] = {}
        self._inputs: tuple[Tensor, Tensor] | None = None
        self._stream = torch.cuda.Stream(device)

    def __call__(self, numbers: Tensor, noise: Tensor, with_actor: bool) -> None:
        with torch.cuda.device(self._device):  # whose streams are meant
            self._replay(numbers, noise, with_actor)

    def _replay(self, numbers: Tensor, noise: Tensor, with_actor: bool) -> None:
        if self._inputs is None:
            self._inputs = numbers.clone(), noise.clone()
        self._inputs[0].copy_(numbers)
        self._inputs[1].copy_(noise)
        if self._calls[with_actor] < WARM_UP:
            self._calls[with_actor] += 1
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                self._update(*self._inputs, with_actor)
            torch.cuda.current_stream().wait_stream(self._stream)
            return
        if with_actor not in self._graphs:
            self._graphs[with_actor] = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graphs[with_actor]):
                self._update(*self._inputs, with_actor)
        self._graphs[with_actor].replay()
