"""Checkpoints: one safetensors file, tensors and JSON record together, published atomically; reading runs no code."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gta_datasets.atomic import atomic_write, open_regular
from gta_datasets.errors import CacheError

__all__ = ["Checkpoint", "load_checkpoint", "save_checkpoint"]

MAX_BYTES = 8 * 1024**3
"""Larger files are refused: a checkpoint of the largest network here, with its optimiser, is under 1 GB."""

MAX_HEADER_BYTES = 16 * 1024**2
"""Longer headers are refused: parsing one takes twenty times its size in memory."""


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name and what was recorded with them."""

    tensors: dict[str, Tensor]
    record: dict[str, Any]

    def under(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin with `prefix.`, by the rest of their names."""
        return {
            name.removeprefix(f"{prefix}."): tensor
            for name, tensor in self.tensors.items()
            if name.startswith(f"{prefix}.")
        }


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; a crash at any moment leaves the old file or the new one.

    Raises:
        CacheError: the file cannot be written.
    """
    on_host = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    atomic_write(path, safetensors.torch.save(on_host, metadata={"record": json.dumps(checkpoint.record)}))


def load_checkpoint(path: Path) -> Checkpoint | None:
    """Read a checkpoint; None if there is no file.

    Raises:
        CacheError: the file is a link or not an ordinary file, too large, or not a checkpoint.
    """
    try:
        descriptor = open_regular(path)
    except FileNotFoundError:
        return None
    try:
        _check_size(path, descriptor)
        with safe_open(path, framework="pt") as file:
            record = json.loads((file.metadata() or {})["record"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except CacheError:
        raise
    except (SafetensorError, KeyError, ValueError, OSError, RecursionError) as error:
        raise CacheError(f"{path} is not a checkpoint of this library ({error}); remove it to train again") from error
    finally:
        os.close(descriptor)
    if not isinstance(record, dict):
        raise CacheError(f"{path} is not a checkpoint of this library (no record); remove it to train again")
    return Checkpoint(tensors, record)


def _check_size(path: Path, descriptor: int) -> None:
    """Refuse what would take much memory before anything of it is parsed."""
    size = os.fstat(descriptor).st_size
    if size > MAX_BYTES:
        raise CacheError(f"{path} has {size:,} bytes, more than the {MAX_BYTES:,} allowed; remove it")
    header = int.from_bytes(os.read(descriptor, 8), "little")
    if header > MAX_HEADER_BYTES:
        raise CacheError(
            f"{path} is not a checkpoint of this library (a header of {header:,} bytes, where {MAX_HEADER_BYTES:,} are "
            f"allowed); remove it to train again"
        )
