"""One shard as one file: its name, its content, and the checks on opening it."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from gta_datasets.atomic import open_regular
from gta_datasets.errors import CacheError
from gta_datasets.store.container import ContainerError, decode, encode
from gta_datasets.store.mapping import map_file

__all__ = ["FORMAT_VERSION", "Arrays", "encode_shard", "open_shard", "shard_index", "shard_stem"]

Arrays = dict[str, NDArray[Any]]

FORMAT_VERSION = 1

_FORMAT = "gta-datasets shard"
_NAME = re.compile(r"shard-(?P<index>[0-9]{6}|[1-9][0-9]{6,17})\.[0-9a-f]{32}\.safetensors")
_MAX_INDEX = 10**18 - 1
_READ_BLOCK = 1 << 20  # bytes

_logger = logging.getLogger(__name__)


def shard_stem(index: int) -> str:
    """What the names of a shard's files start with, before the first dot. Raises CacheError if out of range."""
    if not 0 <= index <= _MAX_INDEX:
        raise CacheError(f"index={index} is not allowed; shards are numbered from 0 to {_MAX_INDEX}")
    return f"shard-{index:06d}"


def shard_index(name: str) -> int | None:
    """The index in the name of a committed shard's file; None for every other name."""
    match = _NAME.fullmatch(name)
    return int(match["index"]) if match else None


def encode_shard(key: str, index: int, arrays: Mapping[str, NDArray[Any]]) -> tuple[str, list[bytes | memoryview]]:
    """The name and the content of a shard's file. Raises CacheError for arrays that a shard cannot hold."""
    buffers = encode(arrays, _metadata(key, index))
    digest = _new_digest()
    for buffer in buffers:
        digest.update(buffer)
    return _name(index, digest), buffers


def open_shard(path: Path, key: str, index: int) -> Arrays | None:
    """The arrays of a committed shard, memory-mapped, after its checksum and its header have been verified.

    A damaged file is renamed to `<name>.bad` where possible, reported with a warning, and None is returned; for a
    missing one too, without a warning.

    Raises:
        CacheError: the file is a link, cannot be read, or has an unknown format version.
    """
    try:
        descriptor = open_regular(path)
    except FileNotFoundError:
        return None
    try:
        return _verified(descriptor, path, key, index)
    except ContainerError as error:
        _set_aside(path, descriptor, error)
        return None
    except CacheError:
        raise
    except OSError as error:
        raise CacheError(error.errno, f"cannot read {path}: {error.strerror}") from error
    finally:
        os.close(descriptor)


def _verified(descriptor: int, path: Path, key: str, index: int) -> Arrays:
    digest, size = _new_digest(), 0
    while block := os.read(descriptor, _READ_BLOCK):
        digest.update(block)
        size += len(block)
    if path.name != _name(index, digest):
        raise ContainerError(f"the checksum of its {size:,} bytes is wrong")
    metadata, arrays = decode(map_file(descriptor, size))
    version = metadata.get("format_version")
    if metadata.get("format") == _FORMAT and version != str(FORMAT_VERSION):
        raise CacheError(
            f"{path} has format version {version}; this version of gta_datasets reads version {FORMAT_VERSION}: "
            "update the library or choose another cache_dir"
        )
    if metadata != _metadata(key, index):
        raise ContainerError("it belongs to another key or index")
    return arrays


def _set_aside(path: Path, descriptor: int, reason: ContainerError) -> None:
    """Rename a damaged shard, if the name still belongs to the file that was read."""
    _logger.warning("%s is damaged and counts as missing: %s", path, reason)
    try:
        if os.path.samestat(os.lstat(path), os.fstat(descriptor)):
            os.replace(path, path.with_name(f"{path.name}.bad"))
    except OSError as error:
        _logger.warning("%s could not be set aside: %s", path, error)


def _metadata(key: str, index: int) -> dict[str, str]:
    return {"format": _FORMAT, "format_version": str(FORMAT_VERSION), "key": key, "index": str(index)}


def _name(index: int, digest: hashlib.blake2b) -> str:
    return f"{shard_stem(index)}.{digest.hexdigest()}.safetensors"


def _new_digest() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=16)
