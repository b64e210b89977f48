"""The precision of matrix products."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

__all__ = ["autocast"]


@contextmanager
def autocast(precision: Literal["float32", "bfloat16"], device: torch.device) -> Iterator[None]:
    """A context in which networks on `device` compute their matrix products in `precision`."""
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            yield
    finally:
        torch.clear_autocast_cache()  # within somebody's autocast torch would go on with the weights of the first step
