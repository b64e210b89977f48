"""What all tests share: one thread, folders of their own, no network."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

# The same examples in every run, so that a failure is the change's and not the day's; `--hypothesis-seed` tries others.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")

LOOPBACK = {"127.0.0.1", "::1", "localhost"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need a GPU are skipped where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> Iterator[None]:
    """One thread per worker, also in the processes that tests start."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="session", autouse=True)
def _private_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The user's cache and Minari folder are never read or written.

    For the session, not per test: fixtures of a module that hold a dataset or a trained model are made before any
    fixture of a single test.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GTA_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("MINARI_DATASETS_PATH", str(tmp_path_factory.mktemp("minari")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_network() -> Iterator[None]:
    """Connecting to another machine fails at once, whatever library tries it."""
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in LOOPBACK:
            raise RuntimeError(f"a test tried to connect to {address[0]}; tests must not use the network")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        yield


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that benchmarks write to, instead of the committed one."""
    monkeypatch.setattr("benchmarks.record.RESULTS", tmp_path / "results")
    return tmp_path / "results"
