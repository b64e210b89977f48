"""Where torch computes, checked before anything else is done."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gta_datasets.errors import ConfigError

__all__ = ["is_shortage", "to_device", "torch_device"]


def torch_device(device: torch.device | str) -> str:
    """The device that "auto" stands for, or the one named.

    Raises:
        ConfigError: torch has no such device on this machine.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f"device={device!r} is not a torch device; choose 'auto', 'cpu' or 'cuda'") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device={device!r}: torch finds no GPU on this machine; choose 'auto' or 'cpu'")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        last = torch.cuda.device_count() - 1
        raise ConfigError(f"device={device!r}: torch's last GPU on this machine is 'cuda:{last}'; choose it, or 'auto'")
    if chosen.type not in ("cpu", "cuda"):
        try:
            torch.zeros(1, device=chosen).item()
        except (AssertionError, NotImplementedError, RuntimeError) as error:
            raise ConfigError(f"device={device!r}: torch cannot compute on it here; choose 'auto' or 'cpu'") from error
    return str(chosen)


def to_device(array: NDArray[np.generic], device: torch.device) -> Tensor:
    """An array on a device, for what every step needs: on a GPU nothing waits for the copy but what is computed of it.

    From other memory than pinned a copy waits for all that is under way, and the GPU then for the next step's Python.
    On the CPU the tensor is the array's own memory.
    """
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def is_shortage(error: RuntimeError) -> bool:
    """Whether memory did not suffice; only that of torch's own allocator on a GPU has a class of error for it."""
    signs = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in signs)
