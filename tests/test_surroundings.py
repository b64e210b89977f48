"""What is made is the same, however its reader has set torch."""

from __future__ import annotations

import threading
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


@contextmanager
def newer_products() -> Iterator[None]:
    matmul = torch.backends.mkldnn.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before


SETTINGS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast switched off": lambda: torch.autocast("cpu", enabled=False),
    "default type": default_type,
    "default device": lambda: torch.device("meta"),
    "rough products": rough_products,
    "products of the newer kind": newer_products,
}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "gta": ("gta", {"precision": "float32", "relabel": True, "qualify": 1e9}),
    "gta in bfloat16": ("gta", {"precision": "bfloat16", "flow_steps": 2, "distill_steps": 2, "distill_batch_size": 8}),
    "synther": ("synther", {"precision": "bfloat16"}),
    "diffstitch": ("diffstitch", {"precision": "bfloat16", "qualify": 1e9}),
    "s4rl": ("s4rl", {}),
}


def state_of_torch() -> tuple[object, ...]:
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_default_dtype(),
        torch.get_default_device(),
        precision_of_products(),
        torch.backends.cuda.matmul.fp32_precision,
        torch.backends.mkldnn.matmul.fp32_precision,
    )


def precision_of_products() -> str | None:
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


@pytest.fixture(scope="module")
def dataset() -> minari.MinariDataset:
    return linear_dataset("surroundings/linear-v0", lengths=(30,) * 4)


@pytest.fixture(scope="module")
def plain(dataset: minari.MinariDataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {method: made(dataset, method, tmp_path_factory.mktemp(method)) for method in METHODS}


def made(dataset: minari.MinariDataset, method: str, cache: Path) -> tuple[Any, ...]:
    name, settings = METHODS[method]
    augmented = augment(dataset, name, **SMALL, **settings, cache_dir=cache)
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


@pytest.mark.parametrize("first", ["older", "newer"])
def test_settings_of_products_are_given_back_as_they_were(first: str) -> None:
    before = state_of_torch()
    matmul = torch.backends.cuda.matmul
    try:
        if first == "older":
            matmul.allow_tf32 = True
        else:
            matmul.fp32_precision = "tf32"
        rough = state_of_torch()
        with plain_torch():
            assert torch.get_float32_matmul_precision() == "highest"
            assert matmul.fp32_precision == torch.backends.mkldnn.matmul.fp32_precision == "ieee"
        assert state_of_torch() == rough
    finally:
        torch.set_float32_matmul_precision("highest")
        matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision = before[-2:]
    assert state_of_torch() == before


def test_a_thread_that_goes_on_alone_keeps_torchs_own_settings() -> None:
    def other() -> None:
        first_is_in.wait(60)
        with plain_torch():
            second_is_in.set()
            first_is_out.wait(60)
            seen.append(torch.get_default_dtype())

    seen: list[torch.dtype] = []
    first_is_in, second_is_in, first_is_out = threading.Event(), threading.Event(), threading.Event()
    thread = threading.Thread(target=other)
    thread.start()
    with default_type():
        with plain_torch():
            first_is_in.set()
            assert second_is_in.wait(60)
        first_is_out.set()
        thread.join(60)
        assert seen == [torch.float32]
        assert torch.get_default_dtype() == torch.float64
