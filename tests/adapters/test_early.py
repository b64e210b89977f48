"""Whatever is asked for wrongly is refused before anything is trained."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from gta_datasets import GTAAugmentedDataset, compare
from gta_datasets.adapters import to_tensordict
from gta_datasets.errors import CacheError, ConfigError, MissingExtraError, UnsupportedSpaceError
from tests.builders import linear_dataset, make_dataset
from tests.smoke import tiny

ADAPTERS = ("to_d3rlpy", "to_sb3", "to_torchrl")


@pytest.fixture
def untrained(tmp_path: Path) -> Iterator[GTAAugmentedDataset]:
    dataset = tiny(linear_dataset(f"early/{tmp_path.name}-v0"), cache_dir=tmp_path)
    yield dataset
    assert not dataset.is_fitted
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"real_fraction": 50}, "real_fraction=50 is not allowed"),
        ({"real_fraction": lambda batch: -1.0}, r"real_fraction=-1\.0 is not allowed"),
        ({"seed": -1}, "seed=-1 is not allowed"),
        ({"weights": [1.0, 2.0]}, r"weights have shape \(2,\); give one per transition, \(\d\d\d,\)"),
        ({"weights": np.ones((2, 2))}, "weights have shape"),
        ({"weights": "all"}, "weights are no numbers"),
    ],
)
def test_a_share_weights_or_a_seed_that_is_not_allowed(
    untrained: GTAAugmentedDataset, adapter: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        getattr(untrained, adapter)(**options)


@pytest.mark.parametrize(("adapter", "option"), [("to_d3rlpy", "tuple_observation"), ("to_sb3", "copy")])
def test_a_word_is_neither_true_nor_false(untrained: GTAAugmentedDataset, adapter: str, option: str) -> None:
    with pytest.raises(ConfigError, match=f"{option}='no' is not allowed; choose True or False"):
        getattr(untrained, adapter)(**{option: "no"})


def test_a_kind_of_data_that_is_not_there(untrained: GTAAugmentedDataset) -> None:
    with pytest.raises(ConfigError, match="needs real data"):
        untrained.generated.to_d3rlpy(real_fraction=0.5)


def test_a_goal_that_is_not_there(untrained: GTAAugmentedDataset) -> None:
    with pytest.raises(ConfigError, match="'desired_goal'"):
        untrained.to_d3rlpy(tuple_observation=True)


@pytest.mark.parametrize(
    "options",
    [{"context_length": 0}, {"return_to_go": "own"}, {"return_scale": 0.0}, {"return_scale": "1"}, {"normalize": "no"}],
)
def test_options_of_decision_transformer(untrained: GTAAugmentedDataset, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        untrained.to_decision_transformer(**options)


@pytest.mark.parametrize("adapter", ["to_sb3", "to_torchrl"])
def test_a_device_that_is_not_there(untrained: GTAAugmentedDataset, adapter: str) -> None:
    with pytest.raises(ConfigError, match="device='abacus' is not a torch device"):
        getattr(untrained, adapter)(device="abacus")


def test_a_folder_that_cannot_be_made(untrained: GTAAugmentedDataset, tmp_path_factory: pytest.TempPathFactory) -> None:
    pytest.importorskip("torchrl")
    file = tmp_path_factory.mktemp("tensors") / "file"
    file.write_text("no folder")
    with pytest.raises(CacheError, match=r"cannot make the folder .*file"):
        to_tensordict(untrained, file / "tensors")


def test_an_environment_with_other_spaces(untrained: GTAAugmentedDataset) -> None:
    with pytest.raises(ConfigError, match="does not fit"):
        untrained.to_sb3(gymnasium.make("Pendulum-v1"))


@pytest.mark.parametrize("adapter", ["to_d3rlpy", "to_sb3"])
def test_actions_that_a_library_does_not_have(adapter: str, tmp_path: Path) -> None:
    source = make_dataset(f"early/multi-{adapter}-v0", action_space=spaces.MultiDiscrete([2, 3]))
    augmented = tiny(source, cache_dir=tmp_path)
    with pytest.raises(ConfigError, match="MultiDiscrete"):
        getattr(augmented, adapter)()
    assert not augmented.is_fitted


def test_a_key_that_torchrl_has_taken(tmp_path: Path) -> None:
    space = spaces.Dict({"reward": spaces.Box(-1, 1, (2,), np.float32)})
    augmented = tiny(make_dataset("early/taken-v0", observation_space=space), cache_dir=tmp_path)
    for adapter in (GTAAugmentedDataset.to_torchrl, to_tensordict):
        with pytest.raises(UnsupportedSpaceError, match="'reward'"):
            adapter(augmented)
    assert not augmented.is_fitted


def test_a_page_without_matplotlib(
    untrained: GTAAugmentedDataset, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    page = tmp_path_factory.mktemp("page") / "page.html"
    for write in (untrained.report, lambda path: compare({"one": untrained}, path)):
        with pytest.raises(MissingExtraError, match=r"pip install 'gta-datasets\[report\]'"):
            write(page)
