"""GTA with a flow map in the place of the sampler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import minari
import numpy as np
import pytest
import torch
from torch import Tensor

from gta_datasets import GTAAugmentedDataset
from gta_datasets.diffusion.edm import Condition, EDMDenoiser
from gta_datasets.diffusion.flow_map import EXTRA_CONTEXT, FlowMap
from gta_datasets.methods.distilled import DistilledFlow
from gta_datasets.networks import TemporalMixer
from tests.builders import linear_dataset
from tests.smoke import shard_bytes, tiny, trajectories

FLOW = {"flow_steps": 2, "distill_steps": 3, "distill_batch_size": 8, "flow_levels": 3}


@pytest.fixture(scope="module")
def dataset() -> minari.MinariDataset:
    return linear_dataset("distilled/linear-v0", terminated=(1, 3))


def flow_of(augmented: GTAAugmentedDataset) -> DistilledFlow:
    found = augmented.fit().storage.pipeline.augmenter.models["flow map"]
    assert isinstance(found, DistilledFlow)
    return found


def test_it_starts_as_the_denoiser_it_is_distilled_from() -> None:
    torch.manual_seed(0)
    denoiser = EDMDenoiser(TemporalMixer(4, 5, 3, width=8, depth=1))
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    flow_map = FlowMap(TemporalMixer(4, 5 + EXTRA_CONTEXT, 3, width=8, depth=1)).start_from(denoiser)
    x, sigma = torch.randn(6, 4, 3), torch.full((6,), 1.5)
    condition = Condition(torch.randn(6), torch.ones(6), torch.randn(6, 2), torch.ones_like(x))
    with torch.no_grad():
        jumped = flow_map(x, sigma, torch.zeros(6), condition)
        torch.testing.assert_close(jumped, denoiser(x, sigma, condition))
        halfway = flow_map(x, sigma, sigma / 2, condition)
        torch.testing.assert_close(halfway, 0.5 * x + 0.5 * denoiser(x, sigma, condition))


def test_it_starts_as_no_other_network() -> None:
    denoiser = EDMDenoiser(TemporalMixer(4, 5, 3, width=8, depth=1))
    with pytest.raises(ValueError, match=r"weights network.* do not fit"):
        FlowMap(TemporalMixer(4, 5 + EXTRA_CONTEXT, 3, width=16, depth=1)).start_from(denoiser)


@pytest.mark.parametrize(("settings", "lowest"), [({}, 0.1), ({"flow_end": 0.02}, 0.02)])
def test_so_many_evaluations_as_steps_down_to_the_lowest_level(
    dataset: minari.MinariDataset, monkeypatch: pytest.MonkeyPatch, settings: dict[str, float], lowest: float
) -> None:
    augmented = tiny(dataset, **FLOW, windows_per_shard=40, **settings)
    module = flow_of(augmented)._fitted.module
    forward, levels = module.forward, []

    def watched(x: Tensor, now: Tensor, after: Tensor, condition: Condition) -> Tensor:
        levels.append((float(now[0]), float(after[0]), len(x)))
        return forward(x, now, after, condition)

    monkeypatch.setattr(module, "forward", watched)
    augmented.storage.pipeline.augmenter.generate(0)
    assert len(levels) == 2
    assert levels[0] == (pytest.approx(2.43, abs=0.01), 0.0, 64)  # 40 windows in whole blocks of 32
    assert levels[1] == (pytest.approx(lowest), 0.0, 64)


@pytest.mark.parametrize("flow_noise", [True, False])
def test_a_shard_does_not_depend_on_how_it_is_computed(
    dataset: minari.MinariDataset, flow_noise: bool, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {**FLOW, "flow_noise": flow_noise, "windows_per_shard": 40, "cache_dir": tmp_path}
    first = shard_bytes(tiny(dataset, **settings), 1)
    again = tiny(dataset, generate_batch_size=32, **settings)
    again.storage.pipeline.shard(0)
    assert shard_bytes(again, 1) == first


def test_what_it_makes_obeys_the_contract_and_is_no_solvers(dataset: minari.MinariDataset, tmp_path: Path) -> None:
    jumped = trajectories(tiny(dataset, cache_dir=tmp_path, **FLOW))
    solved = trajectories(tiny(dataset, cache_dir=tmp_path))
    np.testing.assert_array_equal(jumped.lengths, solved.lengths)
    np.testing.assert_array_equal(jumped.terminations, solved.terminations)
    assert not np.array_equal(jumped.observations, solved.observations)


@pytest.mark.parametrize("change", [{"flow_guidance": 1.0}, {"distill_rate": 3e-3}])
def test_it_is_distilled_once_for_any_number_of_steps(
    dataset: minari.MinariDataset, tmp_path: Path, change: dict[str, float]
) -> None:
    two, four = (tiny(dataset, cache_dir=tmp_path, **{**FLOW, "flow_steps": steps}) for steps in (2, 4))
    weights = flow_of(two)._fitted.digest
    assert four.is_fitted
    assert flow_of(four)._fitted.digest == weights
    assert two.key != four.key
    other = tiny(dataset, cache_dir=tmp_path, **{**FLOW, **change})
    assert not other.is_fitted
    assert flow_of(other)._fitted.digest != weights


def test_levels_are_sought_with_it(dataset: minari.MinariDataset) -> None:
    augmented = tiny(dataset, **FLOW, mu="auto", auto_windows=4)
    assert augmented.levels is not None
    assert len(augmented.levels["probes"]) == 3


def test_it_must_be_fitted_first(dataset: minari.MinariDataset, tmp_path: Path) -> None:
    augmenter = tiny(dataset, **FLOW).storage.pipeline.augmenter
    with pytest.raises(RuntimeError, match=r"fit\(\) must be called"):
        augmenter.generate(0)
    augmenter.fit(tmp_path, progress=False)
    with pytest.raises(RuntimeError, match=r"fit\(\) must be called before sample\(\)"):
        augmenter.generate(0)


def test_levels_are_found_with_the_flow_map_or_without(dataset: minari.MinariDataset, tmp_path: Path) -> None:
    """What one way of generating stands may be too much for the other."""
    for settings in (FLOW, {}):
        augmented = tiny(dataset, **settings, alpha="auto", mu="auto", auto_windows=8, cache_dir=tmp_path)
        assert augmented.levels is not None
    assert len(set(tmp_path.rglob("levels.json"))) == 2
