"""Every method on a GPU, from training to quality, and what training does not do there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import minari
import numpy as np
import pytest
import torch

from gta_datasets import augment
from gta_datasets.training import loop
from tests.builders import linear_dataset
from tests.smoke import shard_bytes, trajectories

DEVICE = "cuda"
SMALL: dict[str, Any] = {"preset": "smoke", "training_steps": 3, "train_batch_size": 8, "progress": False}
WINDOWS: dict[str, Any] = {"width": 8, "depth": 1, "sampler_steps": 2, "horizon": 4}
TRANSITIONS: dict[str, Any] = {"width": 8, "depth": 1, "sampler_steps": 2}
FLOW: dict[str, Any] = {"flow_steps": 2, "distill_steps": 3, "distill_batch_size": 8}
JUDGED: dict[str, Any] = {"qualify": 1e9, "dynamics_steps": 3}

COMPILED = pytest.mark.skipif(torch.version.cuda is None, reason="an imitated GPU compiles nothing")
WARNING = [pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("DeprecationWarning", "UserWarning:torch")]


@pytest.fixture(scope="module")
def dataset() -> minari.MinariDataset:
    return linear_dataset("gpu/linear-v0", lengths=(30,) * 8)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("gta", WINDOWS),
        ("gta", {**WINDOWS, "precision": "bfloat16", "returns": "expected"}),
        ("gta", {**WINDOWS, **FLOW, **JUDGED}),
        ("synther", TRANSITIONS),
        ("diffstitch", {**WINDOWS, **JUDGED}),
        pytest.param("gta", {**WINDOWS, "compile": True}, marks=[COMPILED, *WARNING]),
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


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("gta", {**WINDOWS, "precision": "bfloat16"}),
        ("gta", {**WINDOWS, "returns": "expected", "optimizer": "adam"}),
        ("synther", TRANSITIONS),
        ("diffstitch", {**WINDOWS, **JUDGED}),
    ],
)
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_no_step_of_training_waits_for_the_gpu(
    method: str,
    settings: dict[str, Any],
    dataset: minari.MinariDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    advance = loop._Run.advance
    steps = []

    def strictly(run: loop._Run, loss_of_step: Callable[[int], torch.Tensor]) -> None:
        steps.append(run.step)
        try:
            torch.cuda.set_sync_debug_mode("error" if run.step else "default")  # libraries may, when first used
            advance(run, loss_of_step)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(loop._Run, "advance", strictly)
    augment(dataset, method, cache_dir=tmp_path, device=DEVICE, **SMALL, **settings).fit()
    assert len(steps) >= SMALL["training_steps"]
