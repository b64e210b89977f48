"""A buffer in a file goes on as if nothing had happened; files that are something else are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import minari
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import SAC

from gta_datasets.errors import CacheError, ConfigError, DatasetError
from gta_datasets.online import ATraDiffReplayBuffer
from gta_datasets.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tests.online.test_buffer import Other, same, walk
from tests.online.worlds import Line, line_dataset, quick_buffer


@pytest.fixture(scope="module")
def dataset() -> minari.MinariDataset:
    return line_dataset("saving/line-v0")


@pytest.mark.parametrize("room", [30, 200])
def test_a_loaded_buffer_goes_on_where_it_was(
    dataset: minari.MinariDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    buffer = quick_buffer(dataset, buffer_size=room, frozen_share=0.5, model_seed=7)
    walk(buffer, 60)
    buffer.adapt()
    walk(buffer, 11, 60)
    buffer.sample(7)
    buffer.save(tmp_path / "buffer")
    monkeypatch.setattr("gta_datasets.training.fitting.train", None)  # nothing is trained
    loaded = ATraDiffReplayBuffer.load(tmp_path / "buffer", dataset, Line(), device="cpu")
    monkeypatch.undo()
    assert loaded.config == buffer.config
    for each in (buffer, loaded):
        walk(each, 40, 71)
        each.adapt()
        walk(each, 20, 111)
    assert (loaded.size(), loaded.synthetic.size()) == (buffer.size(), buffer.synthetic.size())
    assert same(buffer.sample(300), loaded.sample(300))
    np.testing.assert_array_equal(buffer.state.subset, loaded.state.subset)
    first, second = (each.opened.diffuser.weights for each in (buffer, loaded))
    assert all(torch.equal(first[name], second[name]) for name in first | second)


def test_the_folder_may_be_a_link(dataset: minari.MinariDataset, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "disk")
    quick_buffer(dataset).save(tmp_path / "runs" / "buffer")
    assert (tmp_path / "disk" / "buffer").is_file()


def test_nobody_is_told_to_remove_a_file_of_his_own(dataset: minari.MinariDataset, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("by me" * 100)
    for path in (tmp_path, tmp_path / "thesis.tex"):
        with pytest.raises(CacheError, match=r"not .*; give the file that buffer.save\(path\) wrote$"):
            ATraDiffReplayBuffer.load(path, dataset, Line(), device="cpu")


def test_with_the_model(dataset: minari.MinariDataset, tmp_path: Path) -> None:
    buffer = quick_buffer(dataset)
    model = SAC("MlpPolicy", Line(), policy_kwargs={"net_arch": [8]}, learning_starts=5, batch_size=8, device="cpu")
    model.learn(20, callback=buffer.callback())
    model.save(tmp_path / "model")
    buffer.save(tmp_path / "buffer")
    with (tmp_path / "pickle").open("wb") as file, pytest.raises(ConfigError, match="not pickled"):
        model.save_replay_buffer(file)
    model = SAC.load(tmp_path / "model", env=Line(), device="cpu")
    buffer = ATraDiffReplayBuffer.load(tmp_path / "buffer", dataset, Line(), device="cpu")
    model.learn(10, callback=buffer.callback(), reset_num_timesteps=False)
    assert (model.num_timesteps, buffer.size(), model.replay_buffer is buffer) == (30, 30, True)


@pytest.fixture
def saved(dataset: minari.MinariDataset, tmp_path: Path) -> Path:
    buffer = quick_buffer(dataset)
    walk(buffer, 20)
    buffer.save(tmp_path / "buffer")
    return tmp_path / "buffer"


def changed(path: Path, tensors: dict[str, Any] | None = None, **record: Any) -> Path:
    found = load_checkpoint(path)
    assert found is not None
    kept = {name: value.clone() for name, value in found.tensors.items()} | (tensors or {})
    kept = {name: value for name, value in kept.items() if value is not None}
    save_checkpoint(path, Checkpoint(kept, found.record | record))
    return path


def test_buffers_may_be_larger_than_weights(
    saved: Path, dataset: minari.MinariDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gta_datasets.training.checkpoint.MAX_BYTES", saved.stat().st_size - 1)
    loaded = ATraDiffReplayBuffer.load(saved, dataset, Line(), device="cpu")
    loaded.save(saved)
    assert ATraDiffReplayBuffer.load(saved, dataset, Line(), device="cpu").size() == 20


def test_a_file_too_large_to_be_read_again_is_not_written(
    saved: Path, dataset: minari.MinariDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = saved.read_bytes()
    buffer = ATraDiffReplayBuffer.load(saved, dataset, Line(), device="cpu")
    walk(buffer, 5, 20)
    monkeypatch.setattr("gta_datasets.online.saving.MAX_BYTES", len(whole))
    with pytest.raises(CacheError, match=rf"buffer would have [\d,]+ bytes, more than the {len(whole):,} allowed"):
        buffer.save(saved)
    assert [(path.name, path.read_bytes()) for path in saved.parent.iterdir()] == [("buffer", whole)]
    assert ATraDiffReplayBuffer.load(saved, dataset, Line(), device="cpu").size() == 20
    monkeypatch.setattr("gta_datasets.online.saving.MAX_BYTES", len(whole) - 1)
    with pytest.raises(CacheError, match=rf"has {len(whole):,} bytes, more than the"):
        ATraDiffReplayBuffer.load(saved, dataset, Line(), device="cpu")


def test_another_version_is_refused(saved: Path, dataset: minari.MinariDataset) -> None:
    message = "was saved in version 1 of its format, and this library reads version 5; load it with the version"
    with pytest.raises(CacheError, match=message):
        ATraDiffReplayBuffer.load(changed(saved, version=1), dataset, Line(), device="cpu")


def test_other_files_are_refused(saved: Path, dataset: minari.MinariDataset, tmp_path: Path) -> None:
    def load(path: Path) -> None:
        ATraDiffReplayBuffer.load(path, dataset, Line(), device="cpu")

    with pytest.raises(CacheError, match="there is no file"):
        load(tmp_path / "absent")
    sound = saved.read_bytes()
    with pytest.raises(CacheError, match=r"does not hold what .* needs .*position"):
        load(changed(saved, {"weights.2.offline.network.position": None}))
    saved.write_bytes(sound)
    with pytest.raises(CacheError, match=r"does not hold what .* needs .*unknown"):
        load(changed(saved, {"state.unknown": torch.zeros(1)}))
    with pytest.raises(CacheError, match="holds no ATraDiffReplayBuffer"):
        load(changed(saved, kind="policy"))
    saved.write_bytes(sound[:-1])
    with pytest.raises(CacheError, match="is not a checkpoint"):
        load(saved)


def test_other_data_and_environments_are_refused(saved: Path, dataset: minari.MinariDataset) -> None:
    other = line_dataset("saving/other-v0", seed=5)
    with pytest.raises(DatasetError, match="was made from other data or spaces than dataset 'saving/other-v0'"):
        ATraDiffReplayBuffer.load(saved, other, Line(), device="cpu")
    env = Other(action_space=dataset.observation_space)
    with pytest.raises(ConfigError, match="the environment does not fit"):
        ATraDiffReplayBuffer.load(saved, dataset, env, device="cpu")


def test_other_bounds_of_actions_are_refused(saved: Path) -> None:
    """Actions are kept as the policy scales them, between these bounds."""
    wide = spaces.Box(-10.0, 30.0, (1,))
    other = line_dataset("saving/wide-v0", actions=wide)
    with pytest.raises(DatasetError, match="was made from other data or spaces than dataset 'saving/wide-v0'"):
        ATraDiffReplayBuffer.load(saved, other, Other(action_space=wide), device="cpu")
