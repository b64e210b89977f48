"""Rows 32 and 35 of the fault matrix, through augment(): little memory changes nothing, and only the seed decides."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import minari
import numpy as np
import pytest
import torch
from torch import Tensor

from gta_datasets.networks import TemporalMixer
from tests.builders import linear_dataset
from tests.smoke import shard_bytes, tiny


@pytest.fixture(scope="module")
def dataset() -> minari.MinariDataset:
    return linear_dataset("sampling/linear-v0", lengths=(1, 3, 7, 8, 20, 20, 30), terminated=(0, 1, 4))


def test_row_35_only_the_seed_decides(dataset: minari.MinariDataset, tmp_path: Path) -> None:
    expected = shard_bytes(tiny(dataset, cache_dir=tmp_path / "0"), 3)
    np.random.seed(99)  # noqa: NPY002 - global state must not matter
    torch.manual_seed(99)
    assert shard_bytes(tiny(dataset, cache_dir=tmp_path / "1"), 3) == expected, "global seeds"
    for size in (1, 2, 5, 7, 8):
        assert shard_bytes(tiny(dataset, cache_dir=tmp_path / "0", generate_batch_size=size), 3) == expected, size
    torch.set_num_threads(2)
    try:
        assert shard_bytes(tiny(dataset, cache_dir=tmp_path / "0"), 3) == expected, "threads"
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize(
    "shortage",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("can't allocate memory"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_row_32_out_of_memory_halves_the_batch_and_changes_nothing(
    dataset: minari.MinariDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    shortage: RuntimeError,
) -> None:
    """A device with room for 32 windows at a time, and one with room for none."""
    settings = {"windows_per_shard": 72, "cache_dir": tmp_path}
    expected = shard_bytes(tiny(dataset, **settings), 0)
    plain, room = TemporalMixer.forward, 32

    def forward(network: TemporalMixer, x: Tensor, *others: Tensor) -> Tensor:
        if len(x) > room:
            raise shortage
        return plain(network, x, *others)

    short = tiny(dataset, **settings)
    short.storage.pipeline.fit().clear()
    monkeypatch.setattr(TemporalMixer, "forward", forward)
    with caplog.at_level(logging.WARNING, logger="gta_datasets"):
        assert shard_bytes(short, 0) == expected
    assert [line for line in caplog.messages if "out of memory" in line] == [
        f"out of memory: going on with {size} windows per network evaluation" for size in (64, 32)
    ]
    short.storage.pipeline.fit().clear()
    room = 0
    with pytest.raises(RuntimeError, match=re.escape(str(shortage))):
        shard_bytes(short, 0)
    assert short.storage.pipeline.fit().indices() == []


def test_row_32_other_errors_of_a_network_are_not_a_shortage(
    dataset: minari.MinariDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken = tiny(dataset, cache_dir=tmp_path).fit()

    def forward(network: TemporalMixer, *inputs: Tensor) -> Tensor:
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(TemporalMixer, "forward", forward)
    with pytest.raises(RuntimeError, match="shapes"):
        shard_bytes(broken, 0)
    assert "out of memory" not in caplog.text


def test_row_35_the_order_of_shards_does_not_matter(dataset: minari.MinariDataset, tmp_path: Path) -> None:
    alone = shard_bytes(tiny(dataset, cache_dir=tmp_path), 3)
    later = tiny(dataset, cache_dir=tmp_path)
    found = [shard_bytes(later, number) for number in (0, 1, 2, 3, 3)]
    assert found[3] == found[4] == alone
    names = ("observations", "actions", "rewards")
    assert all(len({shard[name] for shard in found[:4]}) == 4 for name in names), "shards differ"


def test_row_35_other_seeds_give_other_trajectories(dataset: minari.MinariDataset, tmp_path: Path) -> None:
    shards = [shard_bytes(tiny(dataset, seed=seed, cache_dir=tmp_path), 0) for seed in (0, 1, 2**32 - 1)]
    for name in ("observations", "source_start"):
        assert len({shard[name] for shard in shards}) == 3


@pytest.mark.parametrize(
    "settings",
    [
        {"sampler": "dpm_2m"},
        {"sampler": "heun"},
        {"sampler": "stochastic_heun", "sampler_steps": 8},
        {"guidance": 1.0},
        {"precision": "float32"},
        {"precision": "float32", "width": 100, "learning_rate": 0.05, "training_steps": 10},
        {"precision": "float32", "width": 33, "learning_rate": 0.05, "training_steps": 10},
        {"precision": "bfloat16", "width": 100, "learning_rate": 0.05, "training_steps": 10},
        {"network": "mixer_unet", "precision": "float32"},
        {"network": "mixer_unet", "precision": "bfloat16"},
    ],
)
def test_row_35_batch_size_does_not_matter_with_any_sampler_and_network(
    dataset: minari.MinariDataset, tmp_path: Path, settings: dict[str, Any]
) -> None:
    """Matrix products of other sizes round differently, which must not reach the result."""
    made = {
        size: shard_bytes(
            tiny(dataset, cache_dir=tmp_path, generate_batch_size=size, windows_per_shard=72, **settings), 1
        )
        for size in (1, 17, 40, 71, 72, 200)
    }
    assert [size for size, shard in made.items() if shard != made[200]] == []
