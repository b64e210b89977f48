"""What a cache holds: what its keys stand for, in words, and what in it is damaged."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from gta_datasets.atomic import is_file
from gta_datasets.augment import configured
from gta_datasets.config import ATraDiffConfig, StagedConfig
from gta_datasets.errors import CacheError
from gta_datasets.methods import METHODS
from gta_datasets.methods.levels import FILE as LEVELS_FILE
from gta_datasets.methods.levels import load_choice
from gta_datasets.presets import PRESETS
from gta_datasets.store import MANIFEST_FILE, ShardStore
from gta_datasets.training.checkpoint import load_checkpoint
from gta_datasets.training.fitting import CHECKPOINT_FILE, MODEL_FILE

__all__ = ["Checked", "check", "describe"]

CONFIGS: Mapping[str, type[StagedConfig]] = {**METHODS, ATraDiffConfig.method: ATraDiffConfig}

MODELS: Mapping[str, Callable[[Path], object]] = {
    MODEL_FILE: load_checkpoint,
    CHECKPOINT_FILE: load_checkpoint,
    LEVELS_FILE: load_choice,
}
"""The files of a model, and what reads them."""


@dataclass
class Checked:
    """How many files of each kind a key has, and a sentence for everything that is damaged."""

    shards: int = 0
    models: int = 0
    manifests: int = 0
    damaged: list[str] = field(default_factory=list)


def describe(store: ShardStore) -> str:
    """What a key stands for, as its manifest says: kind, dataset, method, seed, and settings that are not the defaults.

    Raises:
        CacheError: the manifest cannot be read.
    """
    manifest = store.read_manifest() or {}
    kind, method = manifest.get("kind", "unknown"), manifest.get("method", "unknown method")
    part = f" ({manifest['model']})" if "model" in manifest else ""
    words = [str(method), f"seed {manifest.get('seed', 'unknown')}", *_settings(method, manifest.get("config"))]
    if kind == "model" and not any(is_file(store.path / name) for name in (MODEL_FILE, LEVELS_FILE)):
        words.append("unfinished")
    line = f"{kind}{part} of {manifest.get('dataset', 'unknown')}: {', '.join(words)}"
    return line if line.isprintable() else ascii(line)


def check(store: ShardStore) -> Checked:
    """Read all that a key has; damaged shards are set aside."""
    found = Checked()
    with _noted(found.damaged):
        for index in store.indices():
            found.shards += 1
            with _noted(found.damaged):
                if not store.check(index):
                    found.damaged.append(f"{store.key} shard {index} was damaged and has been set aside")
    for name, load in MODELS.items():
        found.models += os.path.lexists(store.path / name)
        with _noted(found.damaged):
            load(store.path / name)
    found.manifests += os.path.lexists(store.path / MANIFEST_FILE)
    with _noted(found.damaged):
        store.read_manifest()
    return found


@contextmanager
def _noted(damaged: list[str]) -> Iterator[None]:
    """Add the sentence of an error to those of what is damaged, and go on."""
    try:
        yield
    except CacheError as error:
        damaged.append(str(error))


def _settings(method: object, config: object) -> list[str]:
    """The preset that a stored configuration is nearest to, unless it is the defaults, and where it differs from it."""
    if not isinstance(config, dict) or not isinstance(method, str) or method not in CONFIGS:
        return []
    stored = _flat(config)
    others = {
        name: [f"{field}={value}" for field, value in stored.items() if field not in base or base[field] != value]
        for name, base in _bases(method).items()
    }
    nearest = min(others, key=lambda name: len(others[name]))
    return [*([f"preset {nearest}"] if nearest else []), *others[nearest]]


@cache
def _bases(method: str) -> dict[str, dict[str, Any]]:
    """The fields of a method's defaults, under no name, and of its presets, as JSON has them."""
    config = CONFIGS[method]()
    named = {"": config, **{preset: configured(config, preset, "cpu", {}, {}) for preset in PRESETS}}
    return {name: _flat(json.loads(json.dumps(base.to_dict()))) for name, base in named.items()}


def _flat(config: Mapping[str, object]) -> dict[str, Any]:
    """All fields of all stages by name."""
    return {field: value for stage in config.values() if isinstance(stage, Mapping) for field, value in stage.items()}
