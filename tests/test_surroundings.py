"""What is made is the same, however its reader has set torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import minari
import pytest
import torch

from gta_datasets import augment
from gta_datasets.surroundings import plain_torch
from tests.builders import linear_dataset

SMALL: dict[str, Any] = {"preset": "smoke", "progress": False, "num_transitions": 40}


@contextmanager
def default_type() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def rough_products() -> Iterator[None]:
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


SETTINGS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "default type": default_type,
    "default device": lambda: torch.device("meta"),
    "rough products": rough_products,
}
METHODS: dict[str, dict[str, Any]] = {
    "gta": {"precision": "float32", "relabel": True, "qualify": 1e9},
    "synther": {},
    "s4rl": {},
}


def state_of_torch() -> tuple[object, ...]:
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.get_float32_matmul_precision(),
    )


@pytest.fixture(scope="module")
def dataset() -> minari.MinariDataset:
    return linear_dataset("surroundings/linear-v0", lengths=(30,) * 4)


@pytest.fixture(scope="module")
def plain(dataset: minari.MinariDataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {method: made(dataset, method, tmp_path_factory.mktemp(method)) for method in METHODS}


def made(dataset: minari.MinariDataset, method: str, cache: Path) -> tuple[Any, ...]:
    augmented = augment(dataset, method, **SMALL, **METHODS[method], cache_dir=cache)
    rewards = [episode.rewards.tobytes() for episode in augmented.generated]
    return rewards, augmented.quality(sample=40, novelty_sample=40).to_json()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("setting", SETTINGS)
def test_trajectories_and_quality_do_not_depend_on_the_settings_of_torch(
    dataset: minari.MinariDataset, plain: dict[str, Any], tmp_path: Path, method: str, setting: str
) -> None:
    with SETTINGS[setting]():
        before = state_of_torch()
        found = made(dataset, method, tmp_path)
        assert state_of_torch() == before
    assert found == plain[method]


def test_settings_are_given_back_after_an_error() -> None:
    with default_type(), rough_products(), torch.no_grad():
        before = state_of_torch()
        with pytest.raises(ZeroDivisionError), plain_torch():
            1 / (state_of_torch() == before)
        assert state_of_torch() == before


def test_a_precision_that_cannot_be_read_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def mixed() -> str:
        raise RuntimeError("mix of the legacy and new APIs")

    monkeypatch.setattr(torch, "get_float32_matmul_precision", mixed)
    monkeypatch.setattr(torch, "set_float32_matmul_precision", pytest.fail)
    with plain_torch():
        assert torch.is_grad_enabled()
