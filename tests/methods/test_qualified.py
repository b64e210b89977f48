"""Only what agrees with the learned dynamics is kept, and the rest is drawn again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import minari
import numpy as np
import pytest
import torch

from gta_datasets import GTAAugmentedDataset
from gta_datasets.data.episodes import Episodes
from gta_datasets.errors import ConfigError, QualificationError
from gta_datasets.methods.qualified import Qualified
from gta_datasets.store import list_stores
from tests.builders import linear_dataset
from tests.smoke import shard_bytes, tiny, trajectories

JUDGE = {"dynamics_members": 2, "dynamics_width": 16, "dynamics_depth": 1, "dynamics_steps": 100}


@pytest.fixture(scope="module")
def source() -> minari.MinariDataset:
    return linear_dataset("qualified/linear-v0", lengths=(20,) * 8 + (3, 5), terminated=(2, 8))


def worst(augmented: GTAAugmentedDataset, number: int = 0) -> np.ndarray:
    pipeline = augmented.storage.pipeline
    assert isinstance(pipeline.augmenter, Qualified)
    return pipeline.augmenter.worst_errors(pipeline.shard(number))


@pytest.fixture(scope="module")
def median(source: minari.MinariDataset, tmp_path_factory: pytest.TempPathFactory) -> float:
    """Half of what is generated without a check is worse."""
    everything = tiny(source, qualify=1e9, cache_dir=tmp_path_factory.mktemp("median"), **JUDGE)
    return float(np.median(np.concatenate([worst(everything, number) for number in range(8)])))


def qualified(source: minari.MinariDataset, median: float, folder: Path, **options: Any) -> GTAAugmentedDataset:
    return tiny(source, qualify=median, cache_dir=folder, **{**JUDGE, **options})


def test_everything_kept_passes_and_is_as_long_as_planned(
    source: minari.MinariDataset, median: float, tmp_path: Path
) -> None:
    augmented = qualified(source, median, tmp_path).generate()
    pipeline = augmented.storage.pipeline
    for number, size in enumerate(pipeline.plan.shard_sizes):
        assert worst(augmented, number).max() <= median
        np.testing.assert_array_equal(
            Episodes.from_arrays(pipeline.shard(number)).lengths[:size], pipeline.augmenter.lengths(number)[:size]
        )
    assert augmented.generated.total_steps >= source.total_steps


def test_the_acceptance_rate_is_counted(source: minari.MinariDataset, median: float, tmp_path: Path) -> None:
    augmented = qualified(source, median, tmp_path)
    assert augmented.acceptance_rate is None
    augmented.generate()
    assert 0.3 < augmented.acceptance_rate < 0.7
    assert tiny(source, cache_dir=tmp_path).generate().acceptance_rate is None


def test_what_passes_at_once_is_what_would_be_generated_without_a_check(
    source: minari.MinariDataset, median: float, tmp_path: Path
) -> None:
    plain = tiny(source, cache_dir=tmp_path).storage.pipeline.shard(0)
    checked = qualified(source, median, tmp_path).storage.pipeline.shard(0)
    at_once = np.flatnonzero(checked["attempts"] == 1)
    assert 0 < len(at_once) < len(checked["attempts"])
    before, after = Episodes.from_arrays(plain), Episodes.from_arrays(checked)
    for place in at_once:
        np.testing.assert_array_equal(
            before.slice(place, place + 1).observations, after.slice(place, place + 1).observations
        )
    again = np.flatnonzero(checked["attempts"] > 1)
    pairs = zip(
        zip(plain["source_episode"][again], plain["source_start"][again], strict=True),
        zip(checked["source_episode"][again], checked["source_start"][again], strict=True),
        strict=True,
    )
    assert any(first != second for first, second in pairs)


def test_a_shard_depends_on_its_number_alone(source: minari.MinariDataset, median: float, tmp_path: Path) -> None:
    first = shard_bytes(qualified(source, median, tmp_path / "a"), 2)
    backwards = qualified(source, median, tmp_path / "b", generate_batch_size=1)
    backwards.generated[len(backwards.generated) - 1]
    assert shard_bytes(backwards, 2) == first


def test_all_methods_and_settings_on_a_dataset_share_one_judge(
    source: minari.MinariDataset, median: float, tmp_path: Path
) -> None:
    qualified(source, median, tmp_path).fit()
    models = len(list_stores(tmp_path))
    qualified(source, 2 * median, tmp_path, alpha=1.1).fit()
    assert len(list_stores(tmp_path)) == models == 2


def test_the_filter_does_not_judge_its_own_work(source: minari.MinariDataset, median: float, tmp_path: Path) -> None:
    augmented = qualified(source, median, tmp_path)
    pipeline = augmented.storage.pipeline
    filtering, own = pipeline.augmenter.models["judge"], pipeline.fitted_judge()
    assert filtering.identity["seed"] == 0  # as ever: what is generated does not depend on who measures it
    assert own.identity == filtering.identity | {"seed": own.identity["seed"]}
    augmented.fit()
    same = [torch.equal(weights, own.weights[name]) for name, weights in filtering.weights.items()]
    assert not any(same)
    found = augmented.quality(sample=50)
    assert len(list_stores(tmp_path)) == 4  # generator, filter, judge, shards
    assert any("no part in making or choosing" in note for note in found.notes)


def test_other_methods_are_checked_too(source: minari.MinariDataset, tmp_path: Path) -> None:
    from gta_datasets import augment

    settings = {**JUDGE, "progress": False, "cache_dir": tmp_path, "transitions_per_shard": 60}
    loose = augment(source, "s4rl", qualify=1e9, **settings).generate()
    assert loose.acceptance_rate == 1
    limit = float(np.quantile(worst(loose), 0.6))
    strict = augment(source, "s4rl", qualify=limit, num_transitions=40, **settings).generate()
    assert worst(strict).max() <= limit
    assert strict.acceptance_rate < 1
    assert trajectories(strict).num_transitions >= 40


def test_what_nothing_passes_is_given_up_with_the_numbers(source: minari.MinariDataset, tmp_path: Path) -> None:
    augmented = tiny(source, qualify=1e-12, qualify_attempts=2, cache_dir=tmp_path, **JUDGE)
    with pytest.raises(
        QualificationError, match=r"shard 0: 8 of 8 trajectories .* after 2 attempts \(0 passed in 16\)"
    ):
        augmented.generate()


@pytest.mark.parametrize(("name", "value"), [("qualify", -1.0), ("qualify_attempts", 0), ("dynamics_width", 0)])
def test_settings_are_checked(source: minari.MinariDataset, name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{name}={value}"):
        tiny(source, **{name: value})
