"""The precision of matrix products."""

from __future__ import annotations

from typing import Literal

import torch

__all__ = ["autocast"]


def autocast(precision: Literal["float32", "bfloat16"], device: torch.device) -> torch.autocast:
    """A context in which networks on `device` compute their matrix products in `precision`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
