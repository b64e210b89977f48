"""Checkpoints: one safetensors file, tensors and JSON record together, published atomically; reading runs no code."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gta_datasets.atomic import atomic_write, open_regular
from gta_datasets.errors import CacheError

__all__ = ["Checkpoint", "load_checkpoint", "load_chosen", "save_checkpoint", "save_chosen", "under"]

MAX_BYTES = 8 * 1024**3
"""Larger files are refused: a checkpoint of the largest network here, with its optimiser, is under 1 GB."""

REMEDY = "remove it to train again"
"""Against a file of the cache that is not what it should be."""

MAX_HEADER_BYTES = 16 * 1024**2
"""Longer headers are refused: parsing one takes twenty times its size in memory."""


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name and what was recorded with them."""

    tensors: dict[str, Tensor]
    record: dict[str, Any]

    @property
    def digest(self) -> str:
        """blake2b of names, values and record as JSON has it; equal for equal content."""
        as_read = json.loads(json.dumps(self.record))  # 30000 comes before 120000, and "120000" before "30000"
        digest = hashlib.blake2b(json.dumps(as_read, sort_keys=True).encode(), digest_size=16)
        for name in sorted(self.tensors):
            tensor = self.tensors[name].detach().cpu().contiguous()
            digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
            if tensor.numel():  # nothing can be viewed as bytes where there is none
                digest.update(tensor.flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def under(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin with `prefix.`, by the rest of their names."""
        return under(self.tensors, prefix)


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those of some tensors whose names begin with `prefix.`, by the rest of their names."""
    return {
        name.removeprefix(f"{prefix}."): tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}.")
    }


def save_checkpoint(path: Path, checkpoint: Checkpoint, *, limit: int = MAX_BYTES, make_folder: bool = False) -> None:
    """Write a checkpoint; a crash at any moment leaves the old file or the new one.

    Args:
        path: the file.
        checkpoint: what is written.
        limit: bytes that `load_checkpoint` will be told to allow.
        make_folder: whether to make the folder if it is not there: somebody may clear a cache at any moment.

    Raises:
        CacheError: the file cannot be written, or would be too large to be read again; the old one stays.
    """
    on_host = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    record = {"record": json.dumps(checkpoint.record), "digest": checkpoint.digest}
    data = safetensors.torch.save(on_host, metadata=record)
    if len(data) > limit:
        raise CacheError(f"{path} would have {len(data):,} bytes, more than the {limit:,} allowed; keep less in it")
    atomic_write(path, data, make_folder=make_folder)


def save_chosen(path: Path | str, checkpoint: Checkpoint, *, limit: int = MAX_BYTES) -> None:
    """As `save_checkpoint`, to a path that a user gave: it may be a link, which those of a cache must not."""
    save_checkpoint(_chosen(path, "choose another name"), checkpoint, limit=limit)


def load_chosen(path: Path | str, *, remedy: str, limit: int = MAX_BYTES) -> Checkpoint | None:
    """As `load_checkpoint`, of a path that a user gave: it may be a link, which those of a cache must not."""
    return load_checkpoint(_chosen(path, remedy), remedy=remedy, limit=limit)


def _chosen(path: Path | str, remedy: str) -> Path:
    """Where links lead to; CacheError if something else than an ordinary file is there."""
    real = Path(os.path.realpath(path))
    if real.is_symlink() or (real.exists() and not real.is_file()):  # a link that leads in a circle stays one
        raise CacheError(f"{path} is not an ordinary file; {remedy}")
    return real


def load_checkpoint(path: Path, *, remedy: str = REMEDY, limit: int = MAX_BYTES) -> Checkpoint | None:
    """Read a checkpoint of at most `limit` bytes; None if there is no file. Errors end in the `remedy`.

    Raises:
        CacheError: the file is a link or not an ordinary file, too large, or not a checkpoint.
    """
    try:
        descriptor = open_regular(path)
    except FileNotFoundError:
        return None
    try:
        _check_size(path, descriptor, remedy, limit)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            record = json.loads(metadata["record"])
            found = Checkpoint({name: file.get_tensor(name) for name in file.keys()}, record)  # noqa: SIM118
        digest = found.digest
    except CacheError:
        raise
    except (SafetensorError, KeyError, ValueError, OSError, RecursionError) as error:
        raise CacheError(f"{path} is not a checkpoint of this library ({error}); {remedy}") from error
    finally:
        os.close(descriptor)
    if not isinstance(record, dict):
        raise CacheError(f"{path} is not a checkpoint of this library (no record); {remedy}")
    if digest != metadata.get("digest"):
        raise CacheError(f"{path} is damaged (its checksum does not match); {remedy}")
    return found


def _check_size(path: Path, descriptor: int, remedy: str, limit: int) -> None:
    """Refuse what would take much memory before anything of it is parsed."""
    size = os.fstat(descriptor).st_size
    if size > limit:
        raise CacheError(f"{path} has {size:,} bytes, more than the {limit:,} allowed; {remedy}")
    header = int.from_bytes(os.read(descriptor, 8), "little")
    if header > MAX_HEADER_BYTES:
        raise CacheError(
            f"{path} is not a checkpoint of this library (a header of {header:,} bytes, where {MAX_HEADER_BYTES:,} are "
            f"allowed); {remedy}"
        )
