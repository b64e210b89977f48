"""The augmented dataset is a Minari dataset: every operation of Minari works on it, or refuses and says why."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from pathlib import Path
from typing import Any

import minari
import numpy as np
import pytest
import torch
from gymnasium import spaces
from minari.data_collector.episode_buffer import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage

from gta_datasets import GTAAugmentedDataset
from tests.builders import write_buffers
from tests.dataset.helpers import SOURCES, TERMINATED
from tests.smoke import assert_same_episode, tiny


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
    assert augmented.storage.pipeline.fit().indices() == [0]


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
    assert "infos=dict" in repr(tiny(bare, horizon=3)[0])


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
