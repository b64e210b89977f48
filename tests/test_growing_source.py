"""Episodes that a source gets after `augment()` change nothing in what was made of it."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import minari
import numpy as np
import pytest

from gta_datasets.adapters.corpus import Corpus
from tests.builders import LINEAR_ACTION_SPACE, LINEAR_OBSERVATION_SPACE, episode_buffer, linear_dataset
from tests.smoke import assert_same_episode, tiny

SOURCES = 6


@pytest.fixture
def source() -> Iterator[minari.MinariDataset]:
    yield linear_dataset("growing/linear-v0", lengths=(9,) * SOURCES)
    minari.delete_dataset("growing/linear-v0")


def grow(dataset: minari.MinariDataset) -> None:
    dataset.update_dataset_from_buffer([episode_buffer(LINEAR_OBSERVATION_SPACE, LINEAR_ACTION_SPACE, 5, seed=77)])


@pytest.mark.parametrize("read_before", [True, False])
def test_episodes_keep_their_numbers(source: minari.MinariDataset, tmp_path: Path, read_before: bool) -> None:
    expected = list(tiny(source, cache_dir=tmp_path))
    augmented = tiny(source, cache_dir=tmp_path)
    if read_before:
        augmented[SOURCES]
    grow(source)
    grow(augmented.source)
    assert len(source) == SOURCES + 1
    assert len(augmented) == len(expected)
    assert augmented.total_steps == sum(map(len, expected))
    for number, episode in enumerate(expected):
        assert_same_episode(augmented[number], episode)
    assert [told.get("generated", False) for told in augmented.storage.get_episode_metadata(range(SOURCES + 1))] == [
        *[False] * SOURCES,
        True,
    ]


def test_exports_and_adapters_hold_the_same(source: minari.MinariDataset) -> None:
    augmented = tiny(source)
    grow(source)
    exported, corpus = augmented.export("growing/exported-v0"), Corpus(augmented)
    assert len(exported) == corpus.episodes.num_episodes == len(augmented)
    assert corpus.num_real_episodes == SOURCES
    for number, episode in enumerate(augmented):
        assert_same_episode(exported[number], episode)
        np.testing.assert_array_equal(corpus.episodes.episode(number).rewards, episode.rewards)


def test_what_is_augmented_anew_has_all_episodes(source: minari.MinariDataset) -> None:
    before = tiny(source)
    grow(source)
    assert len(tiny(source).source) == SOURCES + 1
    assert len(before.source) == SOURCES


def test_a_buffer_that_is_carried_elsewhere_holds_what_it_held(source: minari.MinariDataset) -> None:
    corpus = Corpus(source)
    grow(source)
    assert len(source) == SOURCES + 1
    assert len(pickle.loads(pickle.dumps(corpus))) == len(corpus) == 9 * SOURCES
