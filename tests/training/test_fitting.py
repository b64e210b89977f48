"""Weights in a folder: what is published first stays, and nothing is left behind."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gta_datasets.training import fitting
from gta_datasets.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from gta_datasets.training.fitting import Fitted, load_or_train
from gta_datasets.training.team import Team
from tests.training.tasks import config_of

STEPS = 4


def fit(folder: Path, at_step: Callable[[int], object] = lambda step: None) -> Fitted[nn.Linear]:
    """Train a few weights in `folder`; `at_step` is called before every step."""

    def new_module() -> nn.Linear:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return nn.Linear(2, 1)

    def loss(module: nn.Linear) -> Callable[[int], Tensor]:
        def loss_of_step(step: int) -> Tensor:
            at_step(step)
            return module(torch.ones(3, 2)).square().mean()

        return loss_of_step

    return load_or_train(folder, new_module, loss, config_of(STEPS), progress=False)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_who_trained_too_slowly_takes_over_what_is_published(tmp_path: Path) -> None:
    first = Checkpoint({"weight": torch.full((1, 2), 7.0), "bias": torch.zeros(1)}, {"losses": [1.0]})
    found = fit(tmp_path, lambda step: step == 2 and save_checkpoint(tmp_path / "model.safetensors", first))
    assert found.digest == first.digest
    assert torch.equal(found.module.weight, first.tensors["weight"])
    assert found.losses == [1.0]
    published = load_checkpoint(tmp_path / "model.safetensors")
    assert published is not None
    assert published.digest == first.digest
    assert names(tmp_path) == ["model.safetensors"]


def test_all_processes_of_a_launch_take_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broadcasts go by their order, and a file has its tensors in another one than a module."""
    orders = []
    monkeypatch.setattr(Team, "follow", lambda self, tensors: orders.append([float(each.sum()) for each in tensors]))
    first = Checkpoint({"bias": torch.full((1,), 2.0), "weight": torch.ones(1, 2)}, {"losses": [5.0]})
    trained = Checkpoint({"weight": torch.ones(1, 2), "bias": torch.full((1,), 2.0)}, {"losses": [5.0]})
    for each in (first, trained):
        taken = fitting._of_the_first(Team(1, 2), each, torch.device("cpu"))
        assert taken.digest == first.digest
    assert orders == [[2.0, 5.0, 2.0]] * 2


def test_a_cache_that_is_cleared_meanwhile_costs_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "key"
    folder.mkdir()
    found = fit(folder, lambda step: step == 2 and shutil.rmtree(folder))
    assert found.digest == fit(folder, lambda step: pytest.fail("trained again")).digest
    assert names(folder) == ["model.safetensors"]


def test_what_killed_and_overtaken_trainers_leave_goes_away(tmp_path: Path) -> None:
    old, new, other = (tmp_path / f".tmp-{name}" for name in ("a-training.safetensors", "b-model.safetensors", "c-x"))
    for path in (old, new, other):
        path.write_bytes(b"half a fi")
    for path in (old, other):
        os.utime(path, (time.time() - 7200,) * 2)
    fit(tmp_path)
    assert names(tmp_path) == [new.name, other.name, "model.safetensors"], "what may still be written stays"
    (tmp_path / "training.safetensors").write_bytes(b"of an overtaken trainer")
    fit(tmp_path)
    assert "training.safetensors" not in names(tmp_path)
