"""Compiled networks give what they gave before, and their want of a compiler is no error."""

from __future__ import annotations

import functools
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from gta_datasets.methods import gta
from gta_datasets.networks import TemporalMixer, compiled
from gta_datasets.networks.compiled import compile_network
from gta_datasets.training.checkpoint import load_checkpoint
from gta_datasets.training.fitting import MODEL_FILE
from tests.builders import linear_dataset
from tests.smoke import shard_bytes, tiny

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")


@pytest.fixture(autouse=True)
def _nothing_is_known() -> Iterator[None]:
    compiled._works.cache_clear()
    yield
    compiled._works.cache_clear()


def network() -> TemporalMixer:
    torch.manual_seed(0)
    return TemporalMixer(4, 3, 2, width=8, depth=1)


def test_where_compiling_fails_this_is_said_once_and_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_function: object) -> None:
        raise RuntimeError("no C++ compiler\nand a long trace")

    monkeypatch.setattr(torch, "compile", fail)
    first, second = network(), network()
    with pytest.warns(
        UserWarning, match=r"does not work here \(RuntimeError: no C\+\+ compiler\); going on without it"
    ):
        compile_network(first)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compile_network(second)
    arguments = torch.ones(2, 4, 3), torch.ones(2), torch.ones(2), torch.ones(2)
    torch.testing.assert_close(first(*arguments), network()(*arguments), rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler imports what torch deprecates
@needs_compiler
@pytest.mark.parametrize("flow_steps", [0, 2])
def test_compiled_networks_give_the_same_windows_but_for_rounding(flow_steps: int) -> None:
    dataset = linear_dataset(f"compiled/linear-{flow_steps}-v0")
    flow = {"flow_steps": flow_steps, "distill_steps": 2, "distill_batch_size": 8, "flow_levels": 3}
    settings = {**(flow if flow_steps else {}), "precision": "float32", "windows_per_shard": 40}
    eager = shard_bytes(tiny(dataset, **settings), 0)
    made, same = (
        shard_bytes(tiny(dataset, **settings, compile=True, generate_batch_size=size), 0) for size in (32, 64)
    )
    assert made == same
    for name in ("observations", "actions", "rewards"):
        before, after = (np.frombuffer(shard[name], np.float32) for shard in (eager, made))
        np.testing.assert_allclose(after, before, atol=1e-3)
    assert tiny(dataset, **settings).key != tiny(dataset, **settings, compile=True).key


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@needs_compiler
def test_compiled_training_learns_what_training_learns_but_for_rounding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = linear_dataset("compiled/training-v0")
    modes: list[bool] = []
    compile_one = gta.compile_network

    def noted(network: nn.Module) -> None:
        modes.append(network.training)
        compile_one(network)

    monkeypatch.setattr(gta, "compile_network", noted)
    settings = {"precision": "float32", "optimizer": "adam"}
    eager, made = (
        tiny(dataset, cache_dir=tmp_path / str(compiled), compile=compiled, **settings) for compiled in (False, True)
    )
    eager.fit()
    assert modes == []
    made.fit()
    assert modes == [True, False]
    (before, after) = (load_checkpoint(next((tmp_path / name).rglob(MODEL_FILE))) for name in ("False", "True"))
    assert before is not None
    assert after is not None
    for name, weights in before.tensors.items():
        torch.testing.assert_close(after.tensors[name], weights, rtol=0, atol=1e-4)
    assert eager.storage.pipeline.model_store.path.name == made.storage.pipeline.model_store.path.name


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_any_number_of_models_is_compiled_in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    compile_module = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", functools.partialmethod(compile_module, backend="eager"))
    monkeypatch.setattr(compiled, "_works", lambda _device: True)
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters["stats"]
    before = counters["unique_graphs"]
    models = 6
    for width in range(8, 8 + 4 * models, 4):
        for training in (True, False):
            model = TemporalMixer(4, 3, 2, width=width, depth=1).train(training).requires_grad_(training)
            compile_network(model)
            model(torch.ones(3, 4, 3), torch.ones(3), torch.ones(3), torch.ones(3))
    assert counters["unique_graphs"] - before == 2 * models
