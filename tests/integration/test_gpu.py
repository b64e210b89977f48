"""Every method on a GPU, from training to quality."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import minari
import numpy as np
import pytest

from gta_datasets import augment
from tests.builders import linear_dataset
from tests.smoke import shard_bytes, trajectories

DEVICE = "cuda"
SMALL: dict[str, Any] = {"preset": "smoke", "training_steps": 3, "train_batch_size": 8, "progress": False}
WINDOWS: dict[str, Any] = {"width": 8, "depth": 1, "sampler_steps": 2, "horizon": 4}


@pytest.fixture(scope="module")
def dataset() -> minari.MinariDataset:
    return linear_dataset("gpu/linear-v0", lengths=(30,) * 8)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("gta", WINDOWS),
        ("gta", {**WINDOWS, "precision": "bfloat16", "returns": "expected"}),
        ("gta", {**WINDOWS, "flow_steps": 2, "qualify": 1e9, "dynamics_steps": 3}),
        ("synther", {"width": 8, "depth": 1, "sampler_steps": 2}),
        ("diffstitch", {**WINDOWS, "qualify": 1e9, "dynamics_steps": 3}),
    ],
)
def test_methods_train_generate_and_are_judged_on_a_gpu(
    method: str, settings: dict[str, Any], dataset: minari.MinariDataset, tmp_path: Path
) -> None:
    first, again, anew = (
        augment(dataset, method, num_transitions=40, cache_dir=tmp_path / cache, device=DEVICE, **SMALL, **settings)
        for cache in ("one", "one", "other")
    )
    first.generate()
    made = trajectories(first)
    assert len(made.actions) >= 40
    assert np.isfinite(made.observations).all()
    assert again.is_complete
    assert shard_bytes(anew, 0) == shard_bytes(first, 0)
    assert np.isfinite(first.quality().generated.reward)
