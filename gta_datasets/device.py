"""Where torch computes, checked before anything else is done."""

from __future__ import annotations

import torch

from gta_datasets.errors import ConfigError

__all__ = ["torch_device"]


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
