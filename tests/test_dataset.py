"""The augmented dataset is a Minari dataset: every operation of Minari works on it, or refuses and says why."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
import pytest
import torch
from gymnasium import spaces
from minari.data_collector.episode_buffer import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage

from gta_datasets import GTAAugmentedDataset, GTAConfig
from gta_datasets.errors import DatasetError, UntrustedDatasetError
from gta_datasets.methods.gta import GTA
from tests.builders import linear_dataset, make_dataset, write_buffers
from tests.smoke import assert_same_episode, digest_of_files, leaves, tiny

SOURCES, TERMINATED = 16, range(1, 15)


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def augmented(dataset: minari.MinariDataset) -> GTAAugmentedDataset:
    return tiny(dataset).generate()


@pytest.fixture
def untrained(dataset: minari.MinariDataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> GTAAugmentedDataset:
    """Not trained yet, and a test that trains it fails."""

    def fail(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("trained or generated")

    monkeypatch.setattr(GTA, "fit", fail)
    return tiny(dataset, cache_dir=tmp_path / "cache")


def test_it_is_a_minari_dataset(augmented: GTAAugmentedDataset) -> None:
    assert isinstance(augmented, minari.MinariDataset)
    assert isinstance(augmented.storage, MinariStorage)


def test_size_and_spec_need_no_model(untrained: GTAAugmentedDataset, dataset: minari.MinariDataset) -> None:
    assert len(untrained) > SOURCES
    assert untrained.total_episodes == len(untrained) == len(untrained.episode_indices)
    assert untrained.total_steps >= 2 * dataset.total_steps
    spec, of_source = untrained.spec, dataset.spec
    changed = {"data_path", "total_episodes", "total_steps"}
    for field in dataclasses.fields(spec):
        if field.name not in changed:
            assert getattr(spec, field.name) == getattr(of_source, field.name), field.name
    assert spec.total_episodes == len(untrained)
    assert spec.total_steps == untrained.total_steps
    assert not untrained.is_fitted
    assert not untrained.is_complete


@pytest.mark.parametrize("first", ["total_steps", "total_episodes", "spec", "episode_indices"])
def test_the_counts_do_not_depend_on_what_is_asked_first(augmented: GTAAugmentedDataset, first: str) -> None:
    for fresh in (tiny(augmented.source), tiny(augmented.source).generated):
        getattr(fresh, first)
        assert fresh.total_steps == sum(len(episode) for episode in fresh)
        assert len(fresh) == len(list(fresh))


def test_the_source_comes_first_and_bitwise(augmented: GTAAugmentedDataset, dataset: minari.MinariDataset) -> None:
    for number, original in enumerate(dataset):
        assert_same_episode(augmented[number], original)
        assert augmented[number].id == number


def test_episodes_by_index(augmented: GTAAugmentedDataset) -> None:
    last = len(augmented) - 1
    assert [augmented[i].id for i in (0, SOURCES, last, -1, -last - 1)] == [0, SOURCES, last, last, 0]
    assert_same_episode(augmented[-1], augmented[last])
    for outside in (len(augmented), -len(augmented) - 1):
        with pytest.raises(IndexError):
            augmented[outside]
    with pytest.raises(IndexError, match=f"episode 999 does not exist; the dataset has episodes 0 to {last}"):
        list(augmented.iterate_episodes([999]))


def test_iterating(augmented: GTAAugmentedDataset) -> None:
    assert [episode.id for episode in augmented] == list(range(len(augmented)))
    chosen = [SOURCES + 3, 0, SOURCES + 3]
    assert [episode.id for episode in augmented.iterate_episodes(chosen)] == chosen


def test_the_first_episode_is_read_without_making_the_others(
    dataset: minari.MinariDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    augmented = tiny(dataset, cache_dir=tmp_path)
    iterator = iter(augmented)
    assert next(iterator).id == 0
    assert not augmented.is_fitted
    generated = iter(augmented.generated)
    assert next(generated).id == 0
    assert augmented.storage.pipeline.shard_store.indices() == [0]


def test_sampling_follows_the_seed(augmented: GTAAugmentedDataset) -> None:
    def sample(seed: int) -> list[int]:
        fresh = tiny(augmented.source)
        fresh.set_seed(seed)
        return [episode.id for episode in fresh.sample_episodes(20)]

    assert sample(1) == sample(1) != sample(2)
    assert len(set(sample(3))) == 20
    with pytest.raises(ValueError, match="larger sample than population"):
        augmented.sample_episodes(len(augmented) + 1)


def test_filtering(augmented: GTAAugmentedDataset) -> None:
    ended = augmented.filter_episodes(lambda episode: bool(episode.terminations[-1]))
    expected = [episode.id for episode in augmented if episode.terminations[-1]]
    assert [episode.id for episode in ended] == expected
    assert set(TERMINATED) < set(expected), "this test needs generated terminations"
    assert len(ended) == ended.spec.total_episodes == len(expected)
    assert ended.total_steps == sum(len(augmented[number]) for number in expected)
    twice = ended.filter_episodes(lambda episode: episode.id >= SOURCES)
    assert [episode.id for episode in twice] == expected[len(TERMINATED) :]
    assert len(augmented.filter_episodes(lambda episode: False)) == 0


def test_a_subset_chosen_by_hand(augmented: GTAAugmentedDataset) -> None:
    fresh = tiny(augmented.source)
    fresh.episode_indices = np.array([2, SOURCES + 1])
    assert [episode.id for episode in fresh] == [2, SOURCES + 1]
    assert fresh.total_steps == len(augmented[2]) + len(augmented[SOURCES + 1])


def test_episodes_can_be_printed(augmented: GTAAugmentedDataset) -> None:
    assert f"id={SOURCES}, total_steps=7, observations=ndarray of shape (8, 3)" in repr(augmented[SOURCES])


def test_episodes_written_without_infos_can_be_printed_too() -> None:
    buffer = EpisodeBuffer(
        observations=np.zeros((4, 3), np.float32),
        actions=np.zeros((3, 2), np.float32),
        rewards=np.arange(3.0),
        terminations=np.zeros(3, bool),
        truncations=np.array([False, False, True]),
        infos=None,
    )
    space = spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (2,))
    bare = write_buffers("dataset/bare-v0", [buffer], *space)
    with pytest.raises(AttributeError):
        repr(bare[0])
    assert "infos=dict" in repr(tiny(bare)[0])


def test_the_environment_is_recovered(augmented: GTAAugmentedDataset) -> None:
    for env in (augmented.recover_environment(), augmented.recover_environment(eval_env=True)):
        assert env.spec is not None
        assert env.spec.id == "CartPole-v1"
        env.close()


def test_scores_are_normalised_as_those_of_the_source(augmented: GTAAugmentedDataset) -> None:
    returns = np.array([-1.0, 4.0, 9.0])
    np.testing.assert_allclose(minari.get_normalized_score(augmented, returns), [0, 0.5, 1])


@pytest.mark.parametrize("moment", ["before", "after"])
def test_pickling(dataset: minari.MinariDataset, tmp_path: Path, moment: str) -> None:
    original = tiny(dataset, cache_dir=tmp_path)
    if moment == "after":
        original.generate()
    restored = pickle.loads(pickle.dumps(original))
    assert isinstance(restored, GTAAugmentedDataset)
    assert restored.is_complete == (moment == "after")
    assert len(restored) == len(original)
    for number in (0, SOURCES, len(original) - 1):
        assert_same_episode(restored[number], original[number])
    some = original.filter_episodes(lambda episode: episode.id > SOURCES)
    assert [e.id for e in pickle.loads(pickle.dumps(some))] == list(range(SOURCES + 1, len(original)))


def test_what_was_pickled_beside_a_gpu_opens_without_one(dataset: minari.MinariDataset, tmp_path: Path) -> None:
    original = tiny(dataset, cache_dir=tmp_path).generate()
    expected = original[len(original) - 1]
    original.storage.pipeline.device = "cuda"
    restored = pickle.loads(pickle.dumps(original))
    assert restored.storage.pipeline.device == ("cuda" if torch.cuda.is_available() else "cpu")
    assert_same_episode(restored[len(original) - 1], expected)


def test_copying(augmented: GTAAugmentedDataset) -> None:
    for duplicate in (copy.copy(augmented), copy.deepcopy(augmented)):
        assert_same_episode(duplicate[-1], augmented[-1])


def test_metadata_of_episodes(augmented: GTAAugmentedDataset) -> None:
    found = list(augmented.storage.get_episode_metadata(range(len(augmented))))
    assert [told["id"] for told in found] == list(range(len(augmented)))
    assert [told["total_steps"] for told in found] == [len(episode) for episode in augmented]
    assert [told.get("generated", False) for told in found] == [False] * SOURCES + [True] * (len(found) - SOURCES)
    assert all(0 <= told["source_episode"] < SOURCES for told in found[SOURCES:])


def test_episodes_are_the_readers_own(augmented: GTAAugmentedDataset) -> None:
    for array in (augmented[-1].observations, augmented[-1].rewards, augmented[-1].terminations):
        array[...] = 1
    assert not (augmented[-1].rewards == 1).any()


def read_only_operations() -> dict[str, Any]:
    buffer = EpisodeBuffer(rewards=[0.0])
    return {
        "update_dataset_from_buffer": lambda dataset: dataset.update_dataset_from_buffer([buffer]),
        "update_episodes": lambda dataset: dataset.storage.update_episodes([buffer]),
        "update_metadata": lambda dataset: dataset.storage.update_metadata({"author": {"Eve"}}),
        "update_episode_metadata": lambda dataset: dataset.storage.update_episode_metadata([{}], [0]),
        "update_from_storage": lambda dataset: dataset.storage.update_from_storage(dataset.source.storage),
    }


@pytest.mark.parametrize("operation", read_only_operations())
def test_what_would_change_it_refuses(augmented: GTAAugmentedDataset, operation: str) -> None:
    with pytest.raises(TypeError, match=r"read-only; export\(\) makes a writable one"):
        read_only_operations()[operation](augmented)
    assert len(augmented) == len(tiny(augmented.source))


def test_its_storage_is_not_made_by_minari(augmented: GTAAugmentedDataset, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"made by gta_datasets.augment\(\)"):
        augmented.storage._create(tmp_path, augmented.observation_space, augmented.action_space)


def test_splitting_refuses_instead_of_returning_the_source(augmented: GTAAugmentedDataset) -> None:
    with pytest.raises(ValueError, match="an-augmented-dataset-has-no-folder-export-it-first"):
        minari.split_dataset(augmented, [2, 2])
    parts = minari.split_dataset(augmented.export("dataset/split-v0"), [2, len(augmented) - 2], seed=0)
    assert sorted(episode.id for part in parts for episode in part) == list(range(len(augmented)))


@pytest.mark.parametrize("order", [("augmented", "other"), ("other", "augmented")])
def test_combining(augmented: GTAAugmentedDataset, order: tuple[str, str]) -> None:
    both = {"augmented": augmented, "other": augmented.source}
    name = f"combined-{order[0]}-v0"
    combined = minari.combine_datasets([both[part] for part in order], name)
    expected = [episode for part in order for episode in both[part]]
    assert len(combined) == len(expected)
    assert combined.total_steps == augmented.total_steps + augmented.source.total_steps
    for found, wanted in zip(combined, expected, strict=True):
        assert_same_episode(found, wanted)


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
    assert augmented.storage.pipeline.shard_store.indices() == []
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
    assert metadata["gta_datasets"]["config"] == augmented.config.to_dict()
    assert again.env_spec == augmented.env_spec
    np.testing.assert_allclose(minari.get_normalized_score(again, np.array([4.0])), 0.5)


def test_exporting_the_generated_part_alone(augmented: GTAAugmentedDataset) -> None:
    exported = augmented.generated.export("dataset/generated-v0")
    assert len(exported) == len(augmented) - SOURCES
    assert_same_episode(exported[0], augmented[SOURCES])


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
    augmented = tiny(write_buffers("dataset/infos-v0", buffers, *space))
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


def test_quality_generates_only_what_it_measures(dataset: minari.MinariDataset, tmp_path: Path) -> None:
    augmented = tiny(dataset, cache_dir=tmp_path, num_transitions=2_000)
    found = augmented.quality(sample=100, novelty_sample=50)
    assert augmented.storage.pipeline.shard_store.indices() == [0, 1]
    rewards = np.concatenate([augmented.generated[number].rewards for number in range(16)])
    assert found.generated.reward == pytest.approx(rewards.mean(dtype=np.float64))
    assert found.source.reward == pytest.approx(np.mean([e.rewards.mean(dtype=np.float64) for e in dataset]), rel=1e-5)
    assert found.pearson is not None
    assert any("No true rewards" in note for note in found.notes)
    assert found.learned
    assert found.simulator == "a learned model of the source"
    assert "that the learned model gives" in str(found.rows())


def test_the_report_is_one_file(augmented: GTAAugmentedDataset, tmp_path: Path) -> None:
    found = augmented.report(tmp_path / "new" / "report.html", sample=100)
    page = (tmp_path / "new" / "report.html").read_text()
    assert "dataset/linear-v0, augmented" in page
    assert f"{augmented.config.sampling.alpha}" in page
    assert found.checked_transitions >= 100


def test_an_augmented_dataset_can_be_augmented_again(augmented: GTAAugmentedDataset) -> None:
    twice = tiny(augmented, num_transitions=50)
    assert len(twice) == len(augmented) + len(twice.generated)
    assert_same_episode(twice[SOURCES], augmented[SOURCES])


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
