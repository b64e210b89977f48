"""Augmented datasets that are trained in a fraction of a second, and what their tests compare."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import minari
import numpy as np
from minari import EpisodeData

from gta_datasets import GTAAugmentedDataset, augment
from gta_datasets.data.episodes import Episodes, concatenate

__all__ = [
    "TINY",
    "assert_same_episode",
    "digest_of_files",
    "leaves",
    "run_script",
    "shard_bytes",
    "tiny",
    "trajectories",
]

TINY = {
    "preset": "smoke",
    "device": "cpu",
    "progress": False,
    "training_steps": 3,
    "train_batch_size": 8,
    "width": 8,
    "depth": 1,
    "sampler_steps": 2,
    "windows_per_shard": 8,
}


def tiny(dataset: minari.MinariDataset | str, **arguments: Any) -> GTAAugmentedDataset:
    """`augment` with the smallest settings there are; those of `arguments` win."""
    return augment(dataset, **{**TINY, **arguments})


def trajectories(augmented: GTAAugmentedDataset) -> Episodes:
    """All generated trajectories."""
    return concatenate(augmented.storage.pipeline.generated())


def shard_bytes(augmented: GTAAugmentedDataset, number: int) -> dict[str, bytes]:
    """The arrays of a shard that is generated now, not read from the cache."""
    augmented.fit()
    shard = augmented.storage.pipeline.augmenter.generate(number)
    return {name: array.tobytes() for name, array in shard.items()}


def run_script(script: str, *arguments: object) -> str:
    """What a Python process of its own prints, with library and tests importable; fails with its errors if it fails."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    found = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


def digest_of_files(folder: Path) -> dict[str, str]:
    """Every file below a folder by its relative name."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def leaves(batch: Any) -> list[np.ndarray]:
    """The arrays of a nested batch in the form of Minari's EpisodeData, in a fixed order."""
    if isinstance(batch, dict):
        return [array for key in sorted(batch) for array in leaves(batch[key])]
    if isinstance(batch, tuple):
        return [array for child in batch for array in leaves(child)]
    return [np.asarray(batch)]


def assert_same_episode(first: EpisodeData, second: EpisodeData) -> None:
    """Bitwise equal in all but the number."""
    for name in ("observations", "actions", "rewards", "terminations", "truncations"):
        for left, right in zip(leaves(getattr(first, name)), leaves(getattr(second, name)), strict=True):
            assert left.dtype == right.dtype, name
            assert left.shape == right.shape, name
            assert left.tobytes() == right.tobytes(), name
