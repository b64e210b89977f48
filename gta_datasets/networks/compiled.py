"""Networks compiled by `torch.compile`, where that works."""

from __future__ import annotations

import inspect
from functools import cache

import torch
from torch import Tensor, nn

from gta_datasets.warn import warn

__all__ = ["compile_network"]

# All networks of a class share torch's limit of compilations in a process, two for every model.
_LIMITS = {"recompile_limit": 1_000} if "recompile_limit" in inspect.signature(torch.compile).parameters else {}


def compile_network(network: nn.Module) -> None:
    """Have a network on its device compiled when it is first called; its weights keep their names.

    Where compiling fails, for want of a C++ compiler or of Triton, a warning says so once and nothing changes.
    """
    if _works(next(network.parameters()).device.type):
        # Batches of training have one size, and one compilation serves those of all sizes afterwards.
        network.compile(dynamic=None if network.training else True, **_LIMITS)


@cache
def _works(device: str) -> bool:
    """Whether anything can be compiled for a kind of device."""
    try:
        torch.compile(_increment)(torch.ones(8, device=device))
    except Exception as error:  # compilers fail in many ways
        reason = str(error).strip().partition("\n")[0]
        warn(f"torch.compile does not work here ({type(error).__name__}: {reason}); going on without it, more slowly")
        return False
    return True


def _increment(x: Tensor) -> Tensor:
    return x + 1
