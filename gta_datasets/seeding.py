"""Random streams that depend on their name alone, never on what was drawn before."""

from __future__ import annotations

import numpy as np
import torch

__all__ = ["numpy_generator", "torch_generator"]


def _sequence(seed: int, stream: str, number: int) -> np.random.SeedSequence:
    # The length keeps a digit at the end of a name apart from the number.
    return np.random.SeedSequence([seed, len(stream), *stream.encode(), number])


def numpy_generator(seed: int, stream: str, number: int) -> np.random.Generator:
    """The generator of item `number` (a shard, a step) of a named stream; all three are at least 0."""
    return np.random.default_rng(_sequence(seed, stream, number))


def torch_generator(seed: int, stream: str, number: int, device: torch.device) -> torch.Generator:
    """Like `numpy_generator`, for torch and on a device."""
    state = int(_sequence(seed, stream, number).generate_state(1, np.uint64)[0])
    return torch.Generator(device).manual_seed(state)
