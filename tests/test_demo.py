"""The demo dataset: made without files from elsewhere, the same every time, and true to the simulator."""

from __future__ import annotations

import re
from importlib import resources
from typing import Any

import gymnasium
import minari
import numpy as np
import pytest
from minari.dataset.minari_storage import MinariStorage

from gta_datasets import demo
from gta_datasets.data.reading import read_episodes
from gta_datasets.demo import make_demo_dataset
from gta_datasets.errors import DatasetError, MissingExtraError, UntrustedDatasetError
from gta_datasets.metrics import quality


@pytest.fixture(scope="module")
def dataset() -> minari.MinariDataset:
    return make_demo_dataset("demo/one-v0", episodes=2, seed=3)


def arrays(dataset: minari.MinariDataset) -> dict[str, np.ndarray]:
    return read_episodes(dataset).episodes.arrays()


def test_the_episodes_are_whole_and_of_medium_quality(dataset: minari.MinariDataset) -> None:
    assert dataset.total_episodes == 2
    assert dataset.total_steps == 2000
    for episode in dataset:
        assert episode.observations.shape == (1001, 17)
        assert episode.actions.shape == (1000, 6)
        assert np.abs(episode.actions).max() <= 1
        assert np.flatnonzero(episode.truncations).tolist() == [999]
        assert not episode.terminations.any()
        assert 3500 < episode.rewards.sum() < 5500
        assert "infos=dict" in repr(episode)
    assert 0.3 < minari.get_normalized_score(dataset, np.array([dataset[0].rewards.sum()]))[0] < 0.5
    assert not np.allclose(dataset[0].observations[0], dataset[1].observations[0])


def test_the_same_seed_gives_the_same_data_and_another_seed_others(dataset: minari.MinariDataset) -> None:
    again = arrays(make_demo_dataset("demo/again-v0", episodes=1, seed=3))
    other = arrays(make_demo_dataset("demo/other-v0", episodes=1, seed=4))
    first = read_episodes(dataset).episodes.slice(0, 1).arrays()
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["actions"], other["actions"])


def test_a_second_call_opens_what_is_there(dataset: minari.MinariDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise AssertionError("rolled out again")

    monkeypatch.setattr(demo, "_roll_outs", fail)
    again = make_demo_dataset("demo/one-v0", episodes=2, seed=3)
    assert np.array_equal(arrays(again)["actions"], arrays(dataset)["actions"])


def test_half_of_it_does_not_keep_the_name(dataset: minari.MinariDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []

    def interrupted(self: MinariStorage, episode: Any) -> None:
        written.append(episode)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(dataset.storage), "update_episodes", interrupted)
        with pytest.raises(KeyboardInterrupt):
            make_demo_dataset("demo/half-v0", episodes=1, seed=3)
    assert written
    assert make_demo_dataset("demo/half-v0", episodes=1, seed=3).total_episodes == 1


def test_a_dataset_that_another_process_makes_meanwhile_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    roll_outs = demo._roll_outs

    def overtaken(*arguments: Any) -> Any:
        monkeypatch.setattr(demo, "_roll_outs", roll_outs)
        make_demo_dataset("demo/race-v0", episodes=1, seed=3)
        return roll_outs(*arguments)

    monkeypatch.setattr(demo, "_roll_outs", overtaken)
    with pytest.raises(ValueError, match="already exists"):
        make_demo_dataset("demo/race-v0", episodes=1, seed=3)
    assert make_demo_dataset("demo/race-v0", episodes=1, seed=3).total_episodes == 1


@pytest.mark.parametrize("changes", [{"seed": 4}, {"episodes": 3}])
def test_a_dataset_made_otherwise_is_not_passed_off_as_this_one(
    dataset: minari.MinariDataset, changes: dict[str, int]
) -> None:
    with pytest.raises(DatasetError, match=r"'demo/one-v0' exists and was not made by this call .*delete_dataset"):
        make_demo_dataset("demo/one-v0", **{"episodes": 2, "seed": 3, **changes})


def test_an_id_that_leaves_the_root_is_refused() -> None:
    with pytest.raises(UntrustedDatasetError, match=re.escape("'../demo-v0'")):
        make_demo_dataset("../demo-v0", episodes=1)


def test_the_data_obey_the_simulator(dataset: minari.MinariDataset) -> None:
    episodes = read_episodes(dataset).episodes
    found = quality(episodes.slice(0, 1), episodes, env_spec=dataset.env_spec).generated
    assert found.oracle_reward == pytest.approx(dataset[0].rewards.mean(), rel=1e-9)
    assert found.dynamics_p99 is not None
    assert found.dynamics_p99 < 1e-20


def test_the_policy_file_is_small_float32_and_without_pickles() -> None:
    path = resources.files("gta_datasets") / "assets" / "halfcheetah_medium_policy.npz"
    with path.open("rb") as file:
        assert len(file.read()) < 100_000
        file.seek(0)
        with np.load(file, allow_pickle=False) as weights:
            assert {array.dtype for array in weights.values()} == {np.dtype(np.float32)}
            assert weights["hidden_0.weight"].shape == (17, 128)
    assert "Soft Actor-Critic" in (resources.files("gta_datasets") / "assets" / "README.md").read_text("utf-8")


def test_without_mujoco_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*args: Any, **kwargs: Any) -> None:
        raise gymnasium.error.DependencyNotInstalled("MuJoCo is not installed")

    monkeypatch.setattr(gymnasium, "make", missing)
    with pytest.raises(MissingExtraError, match=r"pip install 'gta-datasets\[mujoco\]'"):
        make_demo_dataset("demo/missing-v0", episodes=1)
    assert "demo/missing-v0" not in minari.list_local_datasets()
