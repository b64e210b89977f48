"""The front door: it returns at once, takes every setting by name, and says what is wrong with an argument."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import minari
import numpy as np
import platformdirs
import pytest
import torch
from gymnasium import spaces

import gta_datasets
from gta_datasets import GTAConfig, augment
from gta_datasets import pipeline as pipeline_module
from gta_datasets.augment import cache_root
from gta_datasets.device import torch_device
from gta_datasets.errors import ConfigError, DatasetError, MissingExtraError, UnsupportedSpaceError
from gta_datasets.methods.gta import GTA
from gta_datasets.presets import PRESETS, TASKS
from tests.builders import linear_dataset, make_dataset
from tests.smoke import TINY, tiny

IMAGE = spaces.Box(0, 255, (32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def dataset() -> minari.MinariDataset:
    return linear_dataset("front/linear-v0")


def test_it_returns_at_once(dataset: minari.MinariDataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is read, trained, generated or written, whatever is asked of the result besides its episodes."""

    def fail(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("worked")

    monkeypatch.setattr(pipeline_module, "read_episodes", fail)
    monkeypatch.setattr(type(dataset.storage), "get_episodes", fail)
    monkeypatch.setattr(GTA, "__init__", fail)
    start = time.monotonic()
    augmented = augment(dataset, cache_dir=tmp_path / "cache")
    assert time.monotonic() - start < 1
    assert augmented.id == dataset.id
    assert augmented.observation_space == dataset.observation_space
    assert augmented.action_space == dataset.action_space
    assert augmented.source.storage is dataset.storage
    assert augmented.generated.config == augmented.config
    assert not (tmp_path / "cache").exists()


def test_a_dataset_may_be_given_by_its_id(dataset: minari.MinariDataset) -> None:
    assert [len(e) for e in tiny("front/linear-v0")] == [len(e) for e in tiny(dataset)]


@pytest.mark.parametrize("preset", PRESETS)
def test_presets(dataset: minari.MinariDataset, preset: str) -> None:
    config = augment(dataset, preset=preset).config
    assert config == GTAConfig().replace(**PRESETS[preset])


def test_the_paper_preset_has_the_papers_settings(dataset: minari.MinariDataset) -> None:
    config = augment(dataset, preset="paper").config
    assert config.network.network == "mixer_unet"
    assert config.training.training_steps == 1_000_000
    assert config.training.train_batch_size == 256
    assert config.training.learning_rate == 3e-4
    assert config.training.optimizer == "adam"
    assert (config.sampling.sampler, config.sampling.sampler_steps) == ("stochastic_heun", 128)
    assert (config.sampling.guidance, config.sampling.churn) == (2.0, 80.0)


@pytest.mark.parametrize(("gpu", "preset"), [(True, "fast"), (False, "cpu")])
def test_the_automatic_preset_follows_the_device(
    dataset: minari.MinariDataset, monkeypatch: pytest.MonkeyPatch, gpu: bool, preset: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    augmented = augment(dataset)
    assert augmented.config == augment(dataset, preset=preset).config
    assert augmented.storage.pipeline.device == ("cuda" if gpu else "cpu")


@pytest.mark.parametrize("task", TASKS)
def test_a_task_changes_the_preset_and_a_keyword_both(dataset: minari.MinariDataset, task: str) -> None:
    config = augment(dataset, preset="smoke", task=task).config
    assert config == augment(dataset, preset="smoke").config.replace(**TASKS[task])
    assert augment(dataset, preset="smoke", task=task, alpha=1.7).config.sampling.alpha == 1.7


def test_keywords_win_over_the_preset(dataset: minari.MinariDataset) -> None:
    config = augment(dataset, preset="smoke", horizon=5, width=16, learning_rate=1, mu=0.25).config
    assert (config.data.horizon, config.network.width, config.sampling.mu) == (5, 16, 0.25)
    assert config.training.learning_rate == 1.0
    assert config.training.training_steps == PRESETS["smoke"]["training_steps"]


def test_a_configuration_may_be_given_as_the_method(dataset: minari.MinariDataset) -> None:
    config = GTAConfig().replace(**PRESETS["smoke"]).replace(mu=0.3)
    assert augment(dataset, config).config is config
    for also in ({"preset": "smoke"}, {"task": "maze2d"}, {"alpha": 1.2}):
        with pytest.raises(ConfigError, match=r"change it with its replace\(\)"):
            augment(dataset, config, **also)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"horizont": 5}, "unknown keyword 'horizont'; known: alpha, auto_error, "),
        ({"method": "s4rll"}, "method='s4rll' is not known; choose 'gta', 's4rl', 'synther', 'diffstitch' or"),
        ({"preset": "huge"}, "preset='huge' is not known; choose one of 'auto', 'paper', "),
        ({"task": "atari"}, "task='atari' is not known; choose one of 'locomotion', "),
        ({"method": "s4rl", "task": "maze2d"}, "task='maze2d' is for method 'gta', "),
        ({"device": "tpu?"}, "device='tpu?' is not a torch device; choose 'auto', 'cpu' or 'cuda'"),
        ({"device": None}, "device=None is not a torch device; choose 'auto', 'cpu' or 'cuda'"),
        ({"cache_dir": 5}, "cache_dir=5 is not allowed; give the path of a folder, or None for the usual one"),
        ({"include_source": "no"}, "include_source='no' is not allowed; choose True or False"),
        ({"progress": "no"}, "progress='no' is not allowed; choose True or False"),
        ({"num_transitions": 0}, "num_transitions=0 is not allowed"),
        ({"num_transitions": 1e6}, "num_transitions=1000000.0 is not allowed; choose a whole number from 1 to "),
        ({"num_transitions": True}, "num_transitions=True is not allowed"),
        ({"seed": -1}, "seed=-1 is not allowed; choose a whole number from 0 to 4294967295"),
        ({"seed": 2**32}, "seed=4294967296 is not allowed"),
        ({"seed": 0.5}, "seed=0.5 is not allowed"),
        ({"mu": 0.0}, "mu=0.0 is not allowed"),
        ({"alpha": 0.9}, "alpha=0.9 is not allowed"),
        ({"horizon": 7.0}, "horizon=7.0 is not allowed; choose a value of type int"),
        ({"sampler": "euler"}, "sampler='euler' is not allowed; choose one of 'dpm_2m_sde', "),
    ],
)
def test_what_is_wrong_with_an_argument(dataset: minari.MinariDataset, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        augment(dataset, **{"preset": "smoke", **arguments})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(dataset: minari.MinariDataset) -> None:
    with pytest.raises(ConfigError, match="device='cuda': torch finds no GPU on this machine; choose 'auto' or 'cpu'"):
        augment(dataset, device="cuda")


def test_a_second_gpu_that_is_not_there(dataset: minari.MinariDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="device='cuda:1': torch's last GPU on this machine is 'cuda:0'; choose it"):
        augment(dataset, device="cuda:1")
    assert [torch_device(name) for name in ("auto", "cuda", "cuda:0")] == ["cuda", "cuda", "cuda:0"]


@pytest.mark.parametrize("device", ["meta", "mps", "xpu"])
def test_a_device_that_nothing_can_be_computed_on(dataset: minari.MinariDataset, device: str) -> None:
    if device in {"mps", "xpu"} and getattr(torch, device).is_available():
        pytest.skip("this machine has one")
    with pytest.raises(
        ConfigError, match=f"device='{device}': torch cannot compute on it here; choose 'auto' or 'cpu'"
    ):
        augment(dataset, device=device)


def test_whole_numbers_of_numpy_are_whole_numbers(dataset: minari.MinariDataset) -> None:
    augmented = tiny(dataset, seed=np.int64(3), num_transitions=np.int32(30))
    assert augmented.key == tiny(dataset, seed=3).key
    assert 30 <= augmented.generated.total_steps < 37


@pytest.mark.parametrize("given", [None, 3, Path("front/linear-v0"), ["front/linear-v0"]])
def test_what_is_no_dataset(given: Any) -> None:
    with pytest.raises(DatasetError, match=f"dataset is of type {type(given).__name__}; give a minari.MinariDataset"):
        augment(given)


def test_a_dataset_that_is_not_on_this_machine() -> None:
    with pytest.raises(DatasetError, match="there is no dataset 'front/missing-v0' on this machine; `minari list"):
        augment("front/missing-v0")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"minari_version": "0.3.1"}, DatasetError, "ValueError: .* does not support"),
        ({"minari_version": None}, DatasetError, "cannot open dataset 'front/odd-v0'"),
        (
            {"data_format": "arrow", "total_episodes": 0, "total_steps": 0},
            MissingExtraError,
            "library: pyarrow",
        ),
    ],
)
def test_a_dataset_that_minari_cannot_open(
    change: dict[str, Any], error: type[Exception], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    path = linear_dataset("front/odd-v0").storage.data_path / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(error, match=message):
        augment("front/odd-v0")


def test_a_root_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "file"))
    with pytest.raises(DatasetError, match="cannot use the folder that MINARI_DATASETS_PATH names"):
        augment("front/linear-v0")


@pytest.mark.parametrize(
    ("name", "observation_space"),
    [
        ("observation", IMAGE),
        ("observation/camera/left", spaces.Dict(camera=spaces.Dict(left=IMAGE), state=spaces.Box(-1, 1, (2,)))),
        ("observation/mission", spaces.Dict(mission=spaces.Text(8), state=spaces.Box(-1, 1, (2,)))),
        ("observation/1", spaces.Tuple([spaces.Box(-1, 1, (2,)), spaces.Sequence(spaces.Discrete(2))])),
    ],
)
def test_row_27_spaces_that_are_not_supported_are_refused_at_once(
    dataset: minari.MinariDataset, monkeypatch: pytest.MonkeyPatch, name: str, observation_space: spaces.Space
) -> None:
    monkeypatch.setattr(dataset, "_observation_space", observation_space)
    with pytest.raises(UnsupportedSpaceError, match=f"^{name} is "):
        augment(dataset)


def test_row_27_an_image_dataset_as_minari_writes_it() -> None:
    images = make_dataset("front/images-v0", observation_space=IMAGE, lengths=(2,))
    with pytest.raises(UnsupportedSpaceError, match=r"^observation is an image"):
        augment(images)
    with pytest.raises(UnsupportedSpaceError, match=r"^observation is an image"):
        augment("front/images-v0")


def test_the_cache_lies_where_it_is_told_to(
    dataset: minari.MinariDataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def root(**arguments: Any) -> Path:
        return augment(dataset, **arguments).storage.pipeline.cache_root

    monkeypatch.setenv("GTA_DATASETS_CACHE", str(tmp_path / "variable"))
    assert root() == cache_root() == tmp_path / "variable"
    assert root(cache_dir=str(tmp_path / "given")) == root(cache_dir=tmp_path / "given") == tmp_path / "given"
    monkeypatch.delenv("GTA_DATASETS_CACHE")
    assert root() == Path(platformdirs.user_cache_dir("gta-datasets"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert root(cache_dir="~/mine") == tmp_path / "mine"
    monkeypatch.chdir(tmp_path)
    assert root(cache_dir="here") == tmp_path / "here"


def test_a_relative_cache_is_the_same_after_changing_the_folder(
    dataset: minari.MinariDataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    augmented = tiny(dataset, cache_dir="cache")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    augmented.fit()
    assert os.listdir(tmp_path / "elsewhere") == []
    assert list((tmp_path / "cache").glob("*/model.safetensors"))


@pytest.mark.parametrize("progress", [True, False])
def test_progress_bars(
    dataset: minari.MinariDataset, capfd: pytest.CaptureFixture[str], tmp_path: Path, progress: bool
) -> None:
    augment(dataset, **{**TINY, "progress": progress, "cache_dir": tmp_path}).generate()
    output, errors = capfd.readouterr()
    assert output == ""
    assert ("training" in errors and "generating" in errors) == progress
    assert progress or errors == ""


def test_global_random_state_is_left_alone(dataset: minari.MinariDataset, tmp_path: Path) -> None:
    np.random.seed(5)  # noqa: NPY002 - the state that must not be touched
    torch.manual_seed(5)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    tiny(dataset, cache_dir=tmp_path).generate()
    np.testing.assert_array_equal(before[0], np.random.get_state()[1])  # noqa: NPY002
    assert torch.equal(before[1], torch.get_rng_state())


def test_the_package_exports_what_a_user_needs() -> None:
    names = {"GTAAugmentedDataset", "GTAConfig", "GTADatasetsError", "augment", "screen"}
    assert names <= set(gta_datasets.__all__)
    assert all(hasattr(gta_datasets, name) for name in gta_datasets.__all__)
