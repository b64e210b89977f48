"""Random streams that depend on their name alone, never on what was drawn before."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["derived_seed", "numpy_generator", "seeded", "torch_generator"]

_seeding = threading.RLock()


def _in_forked_child() -> None:
    """The parent's other threads are not there: who held the lock never frees it, and torch would wait for its own."""
    global _seeding
    _seeding = threading.RLock()
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_forked_child)


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


def derived_seed(seed: int, stream: str) -> int:
    """A seed below 2**32 for whatever takes a seed itself and is to be independent of what `seed` decides elsewhere."""
    return int(_sequence(seed, stream, 0).generate_state(1)[0])


@contextmanager
def seeded(seed: int, device: torch.device = torch.device("cpu")) -> Iterator[None]:  # noqa: B008 - a constant
    """For code that draws from torch's global generators, which are afterwards as they were.

    `torch.manual_seed` would seed those of all GPUs, too, which `fork_rng` does not put back. Threads of one process
    take turns, as the generators are the same for all of them.

    Args:
        seed: of the CPU's generator, and of the device's.
        device: where else numbers are drawn.
    """
    cuda = device.type == "cuda"
    with _seeding, torch.random.fork_rng(devices=[device] if cuda else []):
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
