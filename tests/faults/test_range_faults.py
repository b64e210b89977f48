"""Row 20 of the fault matrix at the ends of float32's range, through augment(): what is generated is finite or refused.

The error says that it is what was generated, and not the source, that is at fault.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import minari
import numpy as np
import pytest

from gta_datasets import augment
from gta_datasets.errors import DivergenceError
from gta_datasets.models.reward import RewardModel
from tests.builders import edit_file, linear_dataset
from tests.smoke import tiny

LARGEST = np.finfo(np.float32).max


def filled(dataset_id: str, field: str) -> minari.MinariDataset:
    """A dataset one of whose fields has the largest floats, of either sign."""

    def fill(file: Any) -> None:
        for number in range(4):
            values = file[f"episode_{number}/{field}"]
            values[...] = np.copysign(LARGEST, values[...])

    return edit_file(linear_dataset(dataset_id, lengths=(20,) * 4), fill)


def test_row_20_observations(tmp_path: Path) -> None:
    dataset = filled("range/observations-v0", "observations")
    with pytest.raises(DivergenceError, match="a generated observation is not finite; train longer or lower guidance"):
        tiny(dataset, cache_dir=tmp_path, num_transitions=200).generate()


def test_row_20_observations_with_noise(tmp_path: Path) -> None:
    dataset = filled("range/noise-v0", "observations")
    with pytest.raises(DivergenceError, match="a generated observation is not finite; lower noise"):
        len(augment(dataset, "s4rl", noise=0.1, cache_dir=tmp_path).generated[0])


def test_row_20_rewards(tmp_path: Path) -> None:
    dataset = filled("range/rewards-v0", "rewards")
    augmented = tiny(dataset, cache_dir=tmp_path, num_transitions=200)
    with pytest.raises(DivergenceError, match="a generated reward is not finite; train longer or lower guidance"):
        augmented.generate()
    assert augmented.storage.pipeline.fit().indices() == []


def test_row_20_rewards_of_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RewardModel, "predict", lambda _, observations, *others: np.full(len(observations), 1e39))
    dataset = linear_dataset("range/relabelled-v0", lengths=(20,) * 4)
    models = {"dynamics_steps": 3, "dynamics_members": 1, "dynamics_width": 8, "dynamics_depth": 1}
    with pytest.raises(DivergenceError, match="a generated reward is not finite; raise dynamics_steps, or leave relab"):
        tiny(dataset, cache_dir=tmp_path, relabel=True, **models).generate()


def test_row_20_returns(tmp_path: Path) -> None:
    """The rewards are within float32's range, and the returns are not."""
    dataset = linear_dataset("range/returns-v0", lengths=(20,) * 4)

    def fill(file: Any) -> None:
        for number in range(4):
            rewards = file[f"episode_{number}/rewards"]
            rewards[...] = np.linspace(0.2, 0.3, 20, dtype=np.float32) * LARGEST

    augmented = tiny(edit_file(dataset, fill), cache_dir=tmp_path, mu=0.01).generate()
    metadata = list(augmented.generated.storage.get_episode_metadata(range(len(augmented.generated))))
    returns = np.array([[origin["source_return"], origin["asked_return"]] for origin in metadata])
    assert np.isfinite(returns).all()
    assert returns.max() > LARGEST
