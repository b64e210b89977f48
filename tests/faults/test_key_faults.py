"""Rows 9 to 11 of the fault matrix: what is a hit, and what is another key."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
import pytest
from gymnasium import spaces

from gta_datasets import GTAAugmentedDataset
from gta_datasets.config import GTAConfig
from gta_datasets.methods import gta as gta_module
from gta_datasets.methods.distilled import DistilledFlow
from gta_datasets.methods.gta import GTA
from gta_datasets.methods.levels import LevelSearch
from gta_datasets.models.dynamics import DynamicsModel
from gta_datasets.models.reward import RewardModel
from tests.builders import linear_dataset, make_dataset
from tests.smoke import digest_of_files, tiny

NO_DATA = {"checkpoint_seconds", "generate_batch_size", "qualify_attempts"}

CHOICES = {
    "short_episodes": ("pad", "skip"),
    "invalid": ("error", "drop"),
    "reweighting": ("none", "dense"),
    "network": ("temporal_mixer", "mixer_unet"),
    "precision": ("float32", "bfloat16"),
    "optimizer": ("adam", "muon"),
    "sampler": ("heun", "dpm_2m"),
    "coverage": ("windows", "transitions"),
    "terminations": ("limits", "source"),
    "returns": ("recorded", "expected"),
    "condition": ("amplified", "fixed"),
}


def another(value: Any, choices: tuple[str, ...]) -> Any:
    """An allowed value that differs from the present one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return next(choice for choice in choices if choice != value)
    if isinstance(value, int):
        return value + 1
    return 0.8 * value + 0.01 if value < 1 else 1.05 * value


def other_value(augmented: GTAAugmentedDataset, name: str) -> Any:
    stages = augmented.config.to_dict().values()
    (value,) = (stage[name] for stage in stages if name in stage)
    return another(value, CHOICES.get(name, ()))


@pytest.fixture(scope="module")
def dataset() -> minari.MinariDataset:
    return linear_dataset("keys/linear-v0", terminated=(1, 3))


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every model has the same weights and costs nothing: what is left of a key is what it is computed from."""
    monkeypatch.setenv("GTA_DATASETS_CACHE", str(tmp_path / "cache"))
    for model in (GTA, DynamicsModel, RewardModel, LevelSearch, DistilledFlow):
        monkeypatch.setattr(model, "fit", lambda self, folder, *, progress: "weights")


def model_key(augmented: GTAAugmentedDataset) -> str:
    return augmented.storage.pipeline.model_store.key


@pytest.mark.filterwarnings("ignore:nothing is generated from 1 of 8 source episodes")  # source_quantile
@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize("name", GTAConfig.keywords())
def test_row_9_fields_that_affect_data_change_the_key_and_others_do_not(
    dataset: minari.MinariDataset, name: str
) -> None:
    # What is filtered, and found by trying, depends on most.
    base = {"qualify": 0.5} | ({"mu": "auto"} if name != "mu" else {})
    if name not in ("auto_steps", "network"):  # a flow map replaces the sampler, and has a network of its own kind
        base["flow_steps"] = 2
    first = tiny(dataset, **base)
    second = tiny(dataset, **base | {name: other_value(first, name)})
    assert first.config != second.config
    assert (first.key == second.key) == (name in NO_DATA)


@pytest.mark.usefixtures("untrained")
def test_row_9_who_qualifies_and_seeks_nothing_does_not_care_how(dataset: minari.MinariDataset) -> None:
    base = tiny(dataset)
    stages = base.config.to_dict()
    for name in ("qualify_attempts", *stages["dynamics"], *stages["search"], *stages["flow"]):
        if name in ("flow_steps", "auto_steps"):  # these ask for it
            continue
        assert tiny(dataset, **{name: other_value(base, name)}).key == base.key, name


@pytest.mark.filterwarnings("ignore:nothing is generated from 1 of 8 source episodes")  # source_quantile
@pytest.mark.usefixtures("untrained")
def test_row_9_how_a_window_is_sampled_needs_no_other_model(dataset: minari.MinariDataset) -> None:
    base = tiny(dataset)
    stages = base.config.to_dict()
    sampling = stages["sampling"] | stages["qualification"] | stages["dynamics"] | stages["search"] | stages["flow"]
    for name in GTAConfig.keywords():
        same = name in sampling or name in NO_DATA
        assert (model_key(tiny(dataset, **{name: other_value(base, name)})) == model_key(base)) == same, name


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(
    "arguments",
    [
        {"num_transitions": 17},
        {"include_source": False},
        {"progress": True},
        {"device": "cpu:0"},
        {"device": "auto"},
    ],
)
def test_row_9_how_much_where_and_how_loudly_are_not_in_the_key(
    dataset: minari.MinariDataset, arguments: dict[str, Any]
) -> None:
    assert tiny(dataset, **arguments).key == tiny(dataset).key


@pytest.mark.usefixtures("untrained")
def test_row_9_seeds_and_weights_are_in_the_key(dataset: minari.MinariDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    first = tiny(dataset)
    assert tiny(dataset, seed=1).key != first.key
    assert model_key(tiny(dataset, seed=1)) != model_key(first)
    monkeypatch.setattr(GTA, "fit", lambda self, folder, *, progress: "other weights")
    assert tiny(dataset).key != first.key


def edit(dataset: minari.MinariDataset, change: Callable[[h5py.File], None]) -> None:
    """Change the file behind a dataset and keep its times."""
    path = dataset.storage.data_path / "main_data.hdf5"
    status = path.stat()
    with h5py.File(path, "r+") as file:
        change(file)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_mtime_ns == status.st_mtime_ns


def add(name: str, place: Any, amount: float) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        file[f"episode_5/{name}"][place] += np.float32(amount)

    return change


def flag(file: h5py.File) -> None:
    file["episode_5/terminations"][19] = True


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(
    "change", [add("observations", (20, 2), 1e-6), add("actions", (3, 0), 1e-6), add("rewards", 19, 1e-6), flag]
)
def test_row_10_one_changed_value_of_the_source_is_another_key(change: Callable[[h5py.File], None]) -> None:
    dataset = linear_dataset("keys/edited-v0", seed=7)
    try:
        before = tiny(dataset).key
        assert tiny("keys/edited-v0").key == before
        edit(dataset, change)
        assert tiny("keys/edited-v0").key != before
    finally:
        minari.delete_dataset("keys/edited-v0")


@pytest.mark.usefixtures("untrained")
def test_row_10_the_same_data_under_another_name_are_a_hit(dataset: minari.MinariDataset) -> None:
    copy = linear_dataset("keys/renamed-v0", terminated=(1, 3))
    assert tiny(copy).key == tiny(dataset).key
    assert tiny(dataset.filter_episodes(lambda episode: episode.id != 7)).key != tiny(dataset).key


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(("width", "change"), [(3, 1.0), (3, 1e-9), (1200, 1.0)])
def test_row_10_other_bounds_of_a_space_are_another_key(
    monkeypatch: pytest.MonkeyPatch, width: int, change: float
) -> None:
    """Generated values are clipped to them; the text of a space has eight digits, and of a long one the ends only."""
    name = f"keys/bounds-{width}-{change}-v0".replace(".", "_")
    low, high = np.linspace(-6, -5, width), np.linspace(5, 6, width)
    wider = high.copy()
    wider[width // 2] += change
    dataset = make_dataset(name, observation_space=spaces.Box(low, high, dtype=np.float64))
    key = tiny(dataset).key
    monkeypatch.setattr(dataset, "_observation_space", spaces.Box(low, wider, dtype=np.float64))
    assert tiny(dataset).key != key


def test_row_11_a_new_algorithm_is_another_key_and_keeps_the_old_data(
    dataset: minari.MinariDataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    old = tiny(dataset, cache_dir=tmp_path).generate()
    kept = digest_of_files(tmp_path)
    monkeypatch.setattr(gta_module, "ALGORITHM_VERSION", gta_module.ALGORITHM_VERSION + 1)
    new = tiny(dataset, cache_dir=tmp_path)
    assert not new.is_fitted
    new.generate()
    assert new.key != old.key
    assert kept.items() < digest_of_files(tmp_path).items()
    monkeypatch.undo()
    assert tiny(dataset, cache_dir=tmp_path).is_complete
