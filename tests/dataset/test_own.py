"""What the augmented dataset adds to Minari's: training, its parts, export, quality and the report."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
import pytest
from gymnasium import spaces
from minari.data_collector.episode_buffer import EpisodeBuffer

from gta_datasets import GTAAugmentedDataset, GTAConfig, augment, compare
from gta_datasets.errors import ConfigError, DatasetError, UntrustedDatasetError
from tests.builders import as_dataset, linear_dataset, make_dataset, walks, write_buffers
from tests.dataset.helpers import SOURCES
from tests.smoke import assert_same_episode, digest_of_files, leaves, tiny


def test_what_it_was_made_from(augmented: GTAAugmentedDataset, dataset: minari.MinariDataset) -> None:
    assert augmented.source.storage is dataset.storage
    np.testing.assert_array_equal(augmented.source.episode_indices, dataset.episode_indices)
    assert isinstance(augmented.config, GTAConfig)
    assert augmented.config.training.training_steps == 3
    assert augmented.skipped == ()


def test_key_and_path_name_the_shards(augmented: GTAAugmentedDataset) -> None:
    assert augmented.path.name == augmented.key
    assert len(list(augmented.path.glob("shard-*"))) == augmented.storage.pipeline.plan.num_shards


def test_training_and_generating_when_asked(dataset: minari.MinariDataset, tmp_path: Path) -> None:
    augmented = tiny(dataset, cache_dir=tmp_path)
    assert not augmented.is_fitted
    assert augmented.fit() is augmented
    assert augmented.is_fitted
    assert not augmented.is_complete
    assert augmented.storage.pipeline.fit().indices() == []
    assert augmented.generate() is augmented
    assert augmented.is_complete


def test_the_generated_part_alone(augmented: GTAAugmentedDataset) -> None:
    generated = augmented.generated
    assert isinstance(generated, GTAAugmentedDataset)
    assert len(generated) == len(augmented) - SOURCES
    assert generated.total_steps == augmented.total_steps - augmented.source.total_steps
    for number in range(len(generated)):
        assert_same_episode(generated[number], augmented[SOURCES + number])
        assert generated[number].id == number
    assert generated.key == augmented.key
    assert [e.rewards.tobytes() for e in generated.generated] == [e.rewards.tobytes() for e in generated]


def test_without_the_source(augmented: GTAAugmentedDataset) -> None:
    alone = tiny(augmented.source, include_source=False)
    assert len(alone) == len(augmented.generated)
    assert_same_episode(alone[0], augmented[SOURCES])
    assert alone.source.storage is augmented.source.storage


def test_a_filtered_source(dataset: minari.MinariDataset) -> None:
    some = dataset.filter_episodes(lambda episode: episode.id % 3 == 2)
    augmented = tiny(some)
    assert len(augmented) - len(augmented.generated) == 5
    assert_same_episode(augmented[1], dataset[5])
    assert augmented.total_steps == sum(len(episode) for episode in augmented)


def test_the_source_is_never_changed(tmp_path: Path) -> None:
    dataset = linear_dataset("dataset/untouched-v0", terminated=(1, 3))
    folder = Path(dataset.storage.data_path)
    before = digest_of_files(folder)
    arrays = [array.copy() for array in leaves(tuple(dataset[i].observations for i in range(8)))]
    augmented = tiny(dataset, cache_dir=tmp_path)
    read = {name: array.copy() for name, array in augmented.storage.pipeline.source.episodes.arrays().items()}
    augmented.generate().export("dataset/untouched-export-v0")
    augmented.quality(sample=50, novelty_sample=20)
    assert digest_of_files(folder) == before
    for name, array in augmented.storage.pipeline.source.episodes.arrays().items():
        assert array.tobytes() == read[name].tobytes()
    for array, again in zip(arrays, (episode.observations for episode in dataset), strict=True):
        assert array.tobytes() == again.tobytes()


def test_size_on_disk(dataset: minari.MinariDataset, tmp_path: Path) -> None:
    augmented = tiny(dataset, cache_dir=tmp_path, num_transitions=20_000, windows_per_shard=1_000)
    assert augmented.storage.get_size() == dataset.storage.get_size()
    assert augmented.generated.storage.get_size() == 0
    augmented.generate()
    shards = sum(path.stat().st_size for path in augmented.path.iterdir()) / 1e6
    assert shards > 0.5
    assert augmented.generated.storage.get_size() == pytest.approx(shards, abs=0.06)


def test_exported_episodes_are_those_that_are_read(augmented: GTAAugmentedDataset) -> None:
    exported = augmented.export("dataset/exported-v0")
    again = minari.load_dataset("dataset/exported-v0")
    assert type(exported) is type(again) is minari.MinariDataset
    assert len(again) == len(augmented)
    assert again.total_steps == augmented.total_steps
    for number, episode in enumerate(again):
        assert_same_episode(episode, augmented[number])
        assert episode.infos == {}
    metadata = again.storage.metadata
    assert metadata["author"] == {"Ada", "Blaise"}
    assert metadata["algorithm_name"] == "random"
    assert metadata["description"] == f"{augmented.id}, augmented by the method 'gta' of gta-datasets"
    assert metadata["gta_datasets"]["config"] == augmented.config.to_dict()
    assert again.env_spec == augmented.env_spec
    np.testing.assert_allclose(minari.get_normalized_score(again, np.array([4.0])), 0.5)


def test_exporting_the_generated_part_alone(augmented: GTAAugmentedDataset) -> None:
    exported = augmented.generated.export("dataset/generated-v0")
    assert len(exported) == len(augmented) - SOURCES
    assert_same_episode(exported[0], augmented[SOURCES])


@pytest.mark.parametrize("progress", [False, True])
def test_an_export_shows_how_far_it_is_if_bars_are_wanted(progress: bool, capfd: pytest.CaptureFixture[str]) -> None:
    augmented = tiny(linear_dataset(f"test/shown-{progress}-v0"), num_transitions=100, progress=progress).generate()
    capfd.readouterr()
    augmented.export(f"test/shown-{progress}-export-v0")
    shards = augmented.storage.pipeline.plan.num_shards
    assert shards > 1
    assert (f"{shards}/{shards}" in capfd.readouterr().err) == progress


def test_exporting_keeps_the_infos_of_the_source() -> None:
    space = spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (2,))
    rng = np.random.default_rng(0)
    buffers = [
        EpisodeBuffer(
            observations=rng.uniform(-1, 1, (6, 3)).astype(np.float32),
            actions=rng.uniform(-1, 1, (5, 2)).astype(np.float32),
            rewards=rng.normal(size=5),
            terminations=np.zeros(5, bool),
            truncations=np.arange(5) == 4,
            infos={"success": np.arange(6) == number, "physics": {"mass": rng.normal(size=(6, 2))}},
        )
        for number in range(3)
    ]
    augmented = tiny(write_buffers("dataset/infos-v0", buffers, *space), horizon=5)
    exported = augmented.export("dataset/infos-kept-v0")
    for number, buffer in enumerate(buffers):
        for found in (exported[number], augmented[number]):
            np.testing.assert_array_equal(found.infos["success"], buffer.infos["success"])
            np.testing.assert_array_equal(found.infos["physics"]["mass"], buffer.infos["physics"]["mass"])
    assert all(exported[number].infos == {} for number in range(3, len(exported)))


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("dataset/linear-v0", DatasetError, "'dataset/linear-v0' already exists"),
        ("../evil-v0", UntrustedDatasetError, "'../evil-v0' is not allowed"),
    ],
)
def test_a_name_that_cannot_be_exported_to_is_refused_before_any_work(
    untrained: GTAAugmentedDataset, name: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        untrained.export(name)


def test_quality_says_how_much_is_recorded(tmp_path: Path) -> None:
    dataset = as_dataset("dataset/walks-v0", walks())
    for mu, found in ((0.25, True), (0.01, False)):
        augmented = tiny(dataset, cache_dir=tmp_path, mu=mu, num_transitions=4_000)
        recorded = np.concatenate(
            [
                augmented.storage.pipeline.shard(number)["recorded"]
                for number in range(augmented.storage.pipeline.plan.num_shards)
            ]
        )
        assert recorded.any() == found
        note = f"{100 * recorded.mean():.2g} % of the trajectories are recordings"
        notes = augmented.quality(sample=10**6, novelty_sample=50).notes
        assert any(note in each for each in notes) == found
        assert any("are recordings" in each for each in notes) == found


def test_quality_generates_only_what_it_measures(dataset: minari.MinariDataset, tmp_path: Path) -> None:
    augmented = tiny(dataset, cache_dir=tmp_path, num_transitions=2_000)
    found = augmented.quality(sample=100, novelty_sample=50)
    assert augmented.storage.pipeline.fit().indices() == [0, 1]
    rewards = np.concatenate([augmented.generated[number].rewards for number in range(16)])
    assert found.generated.reward == pytest.approx(rewards.mean(dtype=np.float64))
    assert found.source.reward == pytest.approx(np.mean([e.rewards.mean(dtype=np.float64) for e in dataset]), rel=1e-5)
    assert found.pearson is not None
    assert any("No true rewards" in note for note in found.notes)
    assert found.learned
    assert found.simulator == "a learned model of the source"
    assert "that the learned model gives" in str(found.rows())


def test_quality_of_long_trajectories_is_not_of_a_few(tmp_path: Path) -> None:
    source = linear_dataset("own/long-v0", lengths=[300] * 40)
    copied = augment(source, "s4rl", cache_dir=tmp_path, num_transitions=12_000, transitions_per_shard=600)
    found = copied.quality(sample=1_024, novelty_sample=10)
    assert len(found.evidence.returns) == 8, "as many episodes as have 1,024 transitions if 128 of each count"
    made = tiny(source, cache_dir=tmp_path, horizon=200, windows_per_shard=2, num_transitions=1_600)
    assert len(made.quality(sample=400, novelty_sample=10).evidence.returns) == 2, "the third shard is not there yet"
    made.generate()
    assert len(made.quality(sample=400, novelty_sample=10).evidence.returns) == 4


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("folder", "Is a directory"),
        ("file/report.html", "File exists|Not a directory"),
        ("file/new/report.html", "Not a directory"),
        (None, "NoneType"),
    ],
)
def test_a_page_that_cannot_be_written_is_refused_before_any_work(
    untrained: GTAAugmentedDataset, tmp_path: Path, name: str | None, reason: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    path: Any = None if name is None else tmp_path / name
    for write in (untrained.report, lambda page: compare({"one": untrained}, page)):
        with pytest.raises(
            ConfigError, match=rf"cannot write the page .*({reason}).*; give a file in a folder that you may"
        ):
            write(path)
    assert (tmp_path / "file").read_text() == "mine"


def test_looking_whether_a_page_can_be_written_leaves_it_as_it_is(
    untrained: GTAAugmentedDataset, tmp_path: Path
) -> None:
    page = tmp_path / "report.html"
    for before in (None, "an older page"):
        if before is not None:
            page.write_text(before)
        with pytest.raises(AssertionError, match="trained or generated"):
            untrained.report(page)
        assert (page.read_text() if page.exists() else None) == before
        assert set(tmp_path.iterdir()) <= {page, tmp_path / "cache"}


@pytest.mark.parametrize(
    ("name", "least", "value"),
    [(name, 1, value) for name in ("sample", "novelty_sample") for value in (0, -5, 2.5, "all", None, True)]
    + [("seed", 0, value) for value in (-1, 2.5, "all", None, True)],
)
def test_what_is_no_size_or_seed_of_a_sample_is_refused_before_any_work(
    untrained: GTAAugmentedDataset, tmp_path: Path, name: str, least: int, value: Any
) -> None:
    page, given = tmp_path / "report.html", {name: value}
    uses: list[Callable[[], object]] = [lambda: untrained.quality(**given)]
    if name != "novelty_sample":
        uses += [lambda: untrained.report(page, **given), lambda: compare({"one": untrained}, page, **given)]
    message = re.escape(f"{name}={value!r} is not allowed; choose a whole number of at least {least}")
    for use in uses:
        with pytest.raises(ConfigError, match=f"^{message}"):
            use()


def test_the_smallest_sample_is_measured(augmented: GTAAugmentedDataset) -> None:
    found = augmented.quality(sample=np.int64(1), novelty_sample=1)
    assert "NaN" not in found.to_json()


def test_the_report_is_one_file(augmented: GTAAugmentedDataset, tmp_path: Path) -> None:
    found = augmented.report(tmp_path / "new" / "report.html", sample=100)
    page = (tmp_path / "new" / "report.html").read_text()
    assert "dataset/linear-v0, augmented" in page
    assert f"{augmented.config.sampling.alpha}" in page
    assert found.checked_transitions >= 100


@pytest.mark.parametrize(
    "of",
    [
        lambda augmented: augmented,
        lambda augmented: augmented.generated,
        lambda augmented: augmented.filter_episodes(lambda episode: episode.id % 2 == 0),
        lambda augmented: augmented.export("dataset/once-v0"),
    ],
    ids=["itself", "the generated part", "some of it", "an export"],
)
def test_an_augmented_dataset_can_be_augmented_again_with_a_warning(
    augmented: GTAAugmentedDataset, of: Callable[[GTAAugmentedDataset], minari.MinariDataset]
) -> None:
    once = of(augmented)
    with pytest.warns(UserWarning, match=r"generated data are augmented: .*augmented\.source") as caught:
        twice = tiny(once, num_transitions=50).generate()
    assert len(caught) == 1
    assert len(twice) == len(once) + len(twice.generated)
    assert twice.storage.pipeline.source.augmented
    assert_same_episode(twice[3], once[3])


def test_what_an_augmented_dataset_was_made_from_is_augmented_without_a_warning(augmented: GTAAugmentedDataset) -> None:
    again = tiny(augmented.source)
    assert not again.storage.pipeline.source.augmented
    assert again.key == augmented.key


def test_a_recovered_environment_takes_generated_actions() -> None:
    space = spaces.Box(-1, 1, (4,), np.float32)
    dataset = make_dataset(
        "dataset/cart-v0", observation_space=space, action_space=spaces.Discrete(2), env="CartPole-v1", lengths=(9,) * 3
    )
    augmented = tiny(dataset)
    env = augmented.recover_environment()
    env.reset(seed=0)
    for action in augmented[-1].actions:
        assert env.action_space.contains(action)
        with_next = env.step(action)
        if with_next[2]:
            break
    assert isinstance(env.action_space, gymnasium.spaces.Discrete)
    env.close()
