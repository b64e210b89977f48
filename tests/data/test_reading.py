from __future__ import annotations

import dataclasses
import tracemalloc

import numpy as np
import pytest
from gymnasium import spaces
from minari import EpisodeData

from gta_datasets.data.reading import read_episodes
from gta_datasets.errors import ConfigError, UnsupportedSpaceError
from tests.builders import edit_file, linear_dataset, linear_episodes, make_dataset


@pytest.fixture(autouse=True)
def _datasets_root(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))


def test_arrays_are_the_recorded_ones():
    lengths = (4, 1, 9)
    source = read_episodes(linear_dataset(lengths=lengths, terminated=(1,)))
    expected = linear_episodes(lengths, terminated=(1,))
    for name, values in expected.arrays().items():
        np.testing.assert_array_equal(source.episodes.arrays()[name], values)
    assert source.episodes.observations.dtype == source.episodes.actions.dtype == np.float32
    assert source.episodes.rewards.dtype == np.float32
    assert source.episode_ids.tolist() == [0, 1, 2]
    assert source.dropped == ()


def test_nested_spaces_come_back_through_the_codecs():
    space = spaces.Dict(
        goal=spaces.Box(-1, 1, (2,), np.float64),
        pair=spaces.Tuple([spaces.Discrete(3, start=1), spaces.MultiBinary(2)]),
    )
    dataset = make_dataset(observation_space=space, action_space=spaces.Discrete(4))
    source = read_episodes(dataset)
    for index, recorded in enumerate(dataset):
        part = source.episodes.slice(index, index + 1)
        observations = source.observation_codec.unflatten(part.observations)
        np.testing.assert_array_equal(observations["goal"], recorded.observations["goal"])
        np.testing.assert_array_equal(observations["pair"][0], recorded.observations["pair"][0])
        np.testing.assert_array_equal(observations["pair"][1], recorded.observations["pair"][1])
        np.testing.assert_array_equal(source.action_codec.unflatten(part.actions), recorded.actions)


def test_a_filtered_dataset_gives_its_own_episodes():
    dataset = linear_dataset(lengths=(4, 6, 5, 6)).filter_episodes(lambda episode: len(episode) == 6)
    source = read_episodes(dataset)
    assert source.episode_ids.tolist() == [1, 3]
    assert source.episodes.lengths.tolist() == [6, 6]
    whole = linear_episodes((4, 6, 5, 6))
    np.testing.assert_array_equal(source.episodes.slice(1, 2).actions, whole.slice(3, 4).actions)


@pytest.mark.parametrize("announced", [0, 3, 160, 5000])
def test_wrong_step_counts_in_the_metadata_do_no_harm(announced):
    dataset = linear_dataset()
    dataset.storage.update_metadata({"total_steps": announced})
    source = read_episodes(type(dataset)(dataset.storage))
    expected = linear_episodes()
    np.testing.assert_array_equal(source.episodes.observations, expected.observations)
    np.testing.assert_array_equal(source.episodes.rewards, expected.rewards)
    assert source.episodes.truncations.sum() == expected.num_episodes


def test_rewards_recorded_in_float64_keep_their_digits():
    dataset = make_dataset(lengths=(3,))
    episode = dataset[0]
    rewards = 1e9 + 1e-6 * np.arange(3)

    class Precise:
        id, observation_space, action_space = "test/precise-v0", dataset.observation_space, dataset.action_space
        total_episodes, total_steps, episode_indices = 2, 6, np.arange(2)
        storage = dataset.storage

        def iterate_episodes(self):
            yield episode
            yield dataclasses.replace(episode, id=1, rewards=rewards)

    read = read_episodes(Precise()).episodes.rewards
    np.testing.assert_array_equal(read, np.concatenate([episode.rewards.astype(np.float64), rewards]))


def test_arrays_handed_out_by_a_storage_are_neither_kept_nor_changed():
    dataset = make_dataset(lengths=(3,), endings="both")
    episode = next(iter(dataset))
    copies = {field.name: np.copy(getattr(episode, field.name)) for field in dataclasses.fields(EpisodeData)[1:-1]}

    class InMemory:
        id, observation_space, action_space = "test/memory-v0", dataset.observation_space, dataset.action_space
        total_episodes, total_steps, episode_indices = 1, 3, np.arange(1)
        storage = dataset.storage

        def iterate_episodes(self):
            yield dataclasses.replace(episode, infos=None)

    source = read_episodes(InMemory())
    source.episodes.observations[:] = 7.0
    for name, values in copies.items():
        np.testing.assert_array_equal(getattr(episode, name), values)


def test_images_are_refused_before_anything_is_read():
    dataset = make_dataset(
        observation_space=spaces.Dict(camera=spaces.Box(0, 255, (40, 40, 3), np.uint8)), lengths=(2,)
    )
    with pytest.raises(UnsupportedSpaceError, match="observation/camera is an image"):
        read_episodes(dataset)


def test_unknown_treatment_of_invalid_episodes():
    with pytest.raises(ConfigError, match='invalid=\'skip\' is not known; choose "error" or "drop"'):
        read_episodes(linear_dataset(lengths=(2,)), invalid="skip")


@pytest.mark.parametrize("invalid", ["error", "drop"])
def test_memory_stays_near_the_arrays_and_one_episode(invalid):
    dataset = linear_dataset(lengths=(1500,) * 30)
    if invalid == "drop":

        def edit(file):
            for index in range(0, 30, 2):
                file[f"episode_{index}/rewards"][-1] = np.nan

        dataset = edit_file(dataset, edit)
    read_episodes(dataset, invalid=invalid)
    tracemalloc.start()
    source = read_episodes(dataset, invalid=invalid)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    whole = linear_episodes((1500,) * 30).nbytes
    one_episode = whole / 30
    assert source.episodes.num_episodes == (30 if invalid == "error" else 15)
    assert peak < whole + 4 * one_episode
    assert kept < source.episodes.nbytes + one_episode
