"""A source, what `augment` makes of it, and the same before any training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import minari
import pytest

from gta_datasets import GTAAugmentedDataset
from gta_datasets.methods.gta import GTA
from tests.builders import linear_dataset
from tests.dataset.helpers import SOURCES, TERMINATED
from tests.smoke import tiny


@pytest.fixture(scope="session")
def dataset() -> minari.MinariDataset:
    """Stored with an environment, reference scores and authors."""
    return linear_dataset(
        "dataset/linear-v0",
        lengths=(9,) * SOURCES,
        terminated=TERMINATED,
        env="CartPole-v1",
        eval_env="CartPole-v1",
        ref_min_score=-1.0,
        ref_max_score=9.0,
        author={"Ada", "Blaise"},
        algorithm_name="random",
    )


@pytest.fixture(scope="session")
def augmented(dataset: minari.MinariDataset) -> GTAAugmentedDataset:
    return tiny(dataset).generate()


@pytest.fixture
def untrained(dataset: minari.MinariDataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> GTAAugmentedDataset:
    """Not trained yet, and a test that trains it fails."""

    def fail(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("trained or generated")

    monkeypatch.setattr(GTA, "fit", fail)
    return tiny(dataset, cache_dir=tmp_path / "cache")
