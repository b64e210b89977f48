from __future__ import annotations

import json
import os
import re
import weakref

import gymnasium as gym
import minari
import numpy as np
import pytest
from gymnasium import spaces

from gta_datasets.data.episodes import Episodes
from gta_datasets.data.reading import read_episodes
from gta_datasets.data.screen import screen_id
from gta_datasets.data.spaces import SpaceCodec
from gta_datasets.errors import ConfigError, DatasetError, UntrustedDatasetError
from gta_datasets.export import write_minari
from tests.builders import (
    LINEAR_ACTION_SPACE,
    LINEAR_OBSERVATION_SPACE,
    episode_buffer,
    linear_dataset,
    linear_episodes,
    make_dataset,
)

NESTED = spaces.Dict(
    goal=spaces.Box(-1, 1, (2,), np.float64),
    pair=spaces.Tuple([spaces.Discrete(3, start=1), spaces.Dict(bits=spaces.MultiBinary([2, 2]))]),
)
SPACES = {
    "box": (LINEAR_OBSERVATION_SPACE, LINEAR_ACTION_SPACE),
    "scalar box": (spaces.Box(-1, 1, (), np.float64), spaces.Box(0, 9, (2, 2), np.int16)),
    "nested": (NESTED, spaces.Discrete(4)),
    "discrete": (spaces.Discrete(5, start=-2), spaces.MultiDiscrete([2, 3])),
}


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "root"))
    return tmp_path / "root"


@pytest.fixture
def codecs():
    return {
        "observation_codec": SpaceCodec.of(LINEAR_OBSERVATION_SPACE),
        "action_codec": SpaceCodec.of(LINEAR_ACTION_SPACE, name="action"),
    }


def assert_same(left, right):
    if isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            assert_same(left[key], right[key])
    elif isinstance(left, tuple):
        for a, b in zip(left, right, strict=True):
            assert_same(a, b)
    else:
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)


def nothing_left_over(root):
    return not root.exists() or not list(root.glob(".*"))


@pytest.mark.parametrize("kind", SPACES)
def test_stock_minari_reads_what_it_would_have_written_itself(kind):
    observation_space, action_space = SPACES[kind]
    lengths, endings = (4, 1, 7), ("truncated", "terminated", "truncated")
    stock = make_dataset(
        "test/stock-v0",
        observation_space=observation_space,
        action_space=action_space,
        lengths=lengths,
        endings=endings,
        author="someone",
        description="words",
    )
    source = read_episodes(stock)
    write_minari(
        "some/where/copy-v1",
        [source.episodes],
        observation_codec=source.observation_codec,
        action_codec=source.action_codec,
        metadata={"author": "someone", "description": "words"},
    )
    copy = minari.load_dataset("some/where/copy-v1")
    assert copy.total_episodes == 3
    assert copy.total_steps == 12
    assert (copy.observation_space, copy.action_space) == (stock.observation_space, stock.action_space)
    for left, right in zip(copy, stock, strict=True):
        assert left.id == right.id
        assert left.infos == {}
        assert repr(left) == repr(right)
        for field in ("observations", "actions", "rewards", "terminations", "truncations"):
            assert_same(getattr(left, field), getattr(right, field))
    left, right = copy.storage.metadata, stock.storage.metadata
    assert left.keys() == right.keys()
    changed = {"dataset_id", "dataset_size", "jpeg_encoding"}
    assert {key: left[key] for key in left.keys() - changed} == {key: right[key] for key in right.keys() - changed}
    metadatas = list(copy.storage.get_episode_metadata(range(3)))
    assert metadatas == list(stock.storage.get_episode_metadata(range(3)))


def test_every_operation_of_minari_works_on_an_export(codecs):
    dataset = write_minari("test/export-v0", [linear_episodes((4, 6, 4))], **codecs)
    assert type(dataset) is minari.MinariDataset
    assert len(dataset) == 3
    assert {episode.id for episode in dataset.sample_episodes(3)} == {0, 1, 2}
    assert dataset.filter_episodes(lambda episode: len(episode) == 4).total_steps == 8
    assert [len(part) for part in minari.split_dataset(dataset, [2, 1])] == [2, 1]
    assert dataset.spec.dataset_id == "test/export-v0"
    assert list(minari.list_local_datasets()) == ["test/export-v0"]
    other = linear_dataset("test/other-v0", lengths=(2,))
    assert minari.combine_datasets([dataset, other], "test/both-v0").total_steps == 16
    dataset.update_dataset_from_buffer([episode_buffer(LINEAR_OBSERVATION_SPACE, LINEAR_ACTION_SPACE, 5)])
    assert minari.load_dataset("test/export-v0").total_steps == 19
    minari.delete_dataset("test/export-v0")
    assert "test/export-v0" not in minari.list_local_datasets()


def test_an_export_passes_the_screen(codecs):
    write_minari("test/export-v0", [linear_episodes()], metadata={"env_spec": gym.spec("CartPole-v1")}, **codecs)
    assert screen_id("test/export-v0").is_dir()


def test_parts_follow_each_other_and_only_one_is_in_memory(codecs):
    lengths = [(3, 2), (1,) * 130, (5,)]
    arrays = []

    def part(index):
        episodes = linear_episodes(lengths[index], seed=index)
        arrays.append(weakref.ref(episodes.observations))
        return episodes

    def parts():
        for index in range(3):
            assert [array() for array in arrays] == [None] * index
            yield part(index)

    dataset = write_minari("test/parts-v0", parts(), **codecs)
    assert len(arrays) == 3
    assert dataset.total_episodes == 133
    expected = [
        linear_episodes(part, seed=seed).slice(i, i + 1) for seed, part in enumerate(lengths) for i in range(len(part))
    ]
    for episode, part in zip(dataset, expected, strict=True):
        np.testing.assert_array_equal(episode.observations, part.observations)
        np.testing.assert_array_equal(episode.actions, part.actions)
        np.testing.assert_array_equal(episode.rewards, part.rewards)


def test_recorded_actions_outside_of_their_space_are_written_as_they_are(codecs):
    episodes = linear_episodes((2,))
    episodes.actions[0] = (5.0, -5.0)
    dataset = write_minari("test/export-v0", [episodes], **codecs)
    assert dataset[0].actions[0].tolist() == [5.0, -5.0]


def test_metadata_in_every_form_minari_uses(codecs):
    spec = gym.spec("CartPole-v1")
    metadata = {
        "env_spec": spec,
        "eval_env_spec": spec.to_json(),
        "author": {"b", "a"},
        "author_email": "a@example.com",
        "algorithm_name": "GTA",
        "ref_min_score": np.float32(-1.5),
        "ref_max_score": 3,
        "requirements": ["mujoco>=3"],
        "provenance": {"key": "abc"},
    }
    dataset = write_minari("test/export-v0", [linear_episodes()], metadata=metadata, **codecs)
    assert dataset.env_spec == spec
    assert dataset.recover_environment(eval_env=True).spec.id == "CartPole-v1"
    stored = dataset.storage.metadata
    assert stored["author"] == {"a", "b"}
    assert stored["author_email"] == {"a@example.com"}
    assert stored["provenance"] == {"key": "abc"}
    assert minari.get_normalized_score(dataset, np.array(3.0)) == 1.0
    assert minari.get_normalized_score(dataset, np.array(-1.5)) == 0.0


def test_infos_of_every_episode(codecs):
    episodes = linear_episodes((2, 3))
    infos = [
        {"success": np.array([False, False, True]), "inner": {"x": np.arange(3)}},
        {"asked": np.float32(1.5), "none": np.zeros((0, 2))},
    ]
    dataset = write_minari("test/export-v0", [episodes], infos=infos, **codecs)
    assert dataset[0].infos["success"].tolist() == [False, False, True]
    assert dataset[0].infos["inner"]["x"].tolist() == [0, 1, 2]
    assert dataset[1].infos["asked"] == np.float32(1.5)
    assert dataset[1].infos["none"].shape == (0, 2)


@pytest.mark.parametrize(
    ("count", "message"),
    [(0, "infos end before episode 0"), (1, "infos end before episode 1"), (3, "infos go on after the last of 2")],
)
def test_infos_of_another_length(root, codecs, count, message):
    with pytest.raises(DatasetError, match=message):
        write_minari("test/export-v0", [linear_episodes((2, 3))], infos=[{}] * count, **codecs)
    assert nothing_left_over(root)


def test_an_existing_dataset_is_never_touched(root, codecs):
    dataset = linear_dataset("test/taken-v0")
    before = {file.name: file.read_bytes() for file in dataset.storage.data_path.iterdir()}
    pulled = []
    with pytest.raises(DatasetError, match=re.escape("minari.delete_dataset('test/taken-v0')")):
        write_minari("test/taken-v0", (pulled.append(1) for _ in range(1)), **codecs)
    assert not pulled
    assert {file.name: file.read_bytes() for file in dataset.storage.data_path.iterdir()} == before


def test_a_dataset_that_appears_while_writing_wins(root, codecs):
    def parts():
        yield linear_episodes((2,))
        linear_dataset("test/race-v0", lengths=(7,))

    with pytest.raises(DatasetError, match="'test/race-v0' already exists"):
        write_minari("test/race-v0", parts(), **codecs)
    assert minari.load_dataset("test/race-v0").total_steps == 7
    assert nothing_left_over(root)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
def test_a_failure_leaves_nothing_behind(root, codecs, error):
    def parts():
        yield linear_episodes((2,))
        raise error("stop")

    with pytest.raises(error, match="stop"):
        write_minari("test/broken-v0", parts(), **codecs)
    assert not list(root.iterdir())


def test_nothing_is_visible_before_the_end(root, codecs):
    seen = []

    def parts():
        yield linear_episodes((2,))
        seen.append(dict(minari.list_local_datasets()))
        yield linear_episodes((2,))

    write_minari("test/slow-v0", parts(), **codecs)
    assert seen == [{}]
    assert list(minari.list_local_datasets()) == ["test/slow-v0"]


def test_what_a_power_cut_leaves_is_a_whole_dataset_or_none(root, codecs, monkeypatch):
    """What is in the dataset's folders is on the disk before they have their name, and the name when it is returned."""
    calls, fsync, rename = [], os.fsync, os.rename

    def record_sync(descriptor):
        calls.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def record_rename(source, target):
        calls.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(os, "rename", record_rename)
    write_minari("some/where/new-v0", [linear_episodes()], **codecs)
    named, within = calls.index("rename"), root / "some" / "where" / "new-v0"
    files = {within / "data" / name for name in ("main_data.hdf5", "metadata.json")}
    assert {path.stat().st_ino for path in (*files, within / "data", within)} == set(calls[:named])
    assert {path.stat().st_ino for path in (root, root / "some", root / "some" / "where")} == set(calls[named + 1 :])


@pytest.mark.parametrize("parts", [[], [linear_episodes((2,)).slice(0, 0)]], ids=["no parts", "an empty part"])
def test_nothing_to_export(root, codecs, parts):
    with pytest.raises(DatasetError, match="there are no episodes to export"):
        write_minari("test/empty-v0", parts, **codecs)
    assert nothing_left_over(root)


def test_episodes_of_other_spaces_are_refused(root):
    with pytest.raises(DatasetError, match=r"flat observation has shape \(9, 3\); expected \(n, 2\)"):
        write_minari(
            "test/other-v0",
            [linear_episodes((8,))],
            observation_codec=SpaceCodec.of(spaces.Box(-1, 1, (2,))),
            action_codec=SpaceCodec.of(LINEAR_ACTION_SPACE),
        )
    assert nothing_left_over(root)


def test_numbers_that_are_not_finite_are_never_written(root, codecs):
    episodes = linear_episodes((8,))
    episodes.observations[3, 1] = np.nan
    with pytest.raises(DatasetError, match="observation is nan in row 3"):
        write_minari("test/nan-v0", [episodes], **codecs)
    assert nothing_left_over(root)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (
            {"total_steps": 3, "dataset_id": "a"},
            "must not hold dataset_id, total_steps; the export writes these itself",
        ),
        ({"env_spec": object()}, "metadata 'env_spec' cannot be written as JSON"),
    ],
)
def test_metadata_that_cannot_be_written(root, codecs, metadata, message):
    with pytest.raises(ConfigError, match=message):
        write_minari("test/export-v0", [linear_episodes()], metadata=metadata, **codecs)
    assert nothing_left_over(root)


@pytest.mark.parametrize("key", ["a/b", "", ".", 3])
def test_keys_that_minari_cannot_store(codecs, key):
    with pytest.raises(DatasetError, match="Minari cannot store the key"):
        write_minari("test/keys-v0", [linear_episodes((2,))], infos=[{key: np.zeros(3)}], **codecs)


def test_infos_that_are_no_numbers(codecs):
    with pytest.raises(DatasetError, match="'words' has dtype"):
        write_minari("test/keys-v0", [linear_episodes((2,))], infos=[{"words": ["a", "b"]}], **codecs)


@pytest.mark.parametrize("dataset_id", ["../up-v0", "/abs/x-v0", "no version"])
def test_ids_that_are_no_ids(codecs, dataset_id):
    with pytest.raises(UntrustedDatasetError, match="is not allowed"):
        write_minari(dataset_id, [linear_episodes((2,))], **codecs)


def test_the_files_are_small(root, codecs):
    episodes = linear_episodes((32,) * 200)
    stock = linear_dataset("test/stock-v0", lengths=(32,) * 200)
    ours = write_minari("test/ours-v0", [episodes], **codecs)
    sizes = [(dataset.storage.data_path / "main_data.hdf5").stat().st_size for dataset in (ours, stock)]
    assert sizes[0] < 0.5 * sizes[1]
    recorded = json.loads((ours.storage.data_path / "metadata.json").read_text())["dataset_size"]
    assert recorded == pytest.approx(sizes[0] / 1e6, abs=0.06)


def test_the_episodes_given_are_not_changed(codecs):
    episodes = linear_episodes((4, 5))
    before = {name: values.copy() for name, values in episodes.arrays().items()}
    write_minari("test/export-v0", [Episodes.from_arrays(episodes.arrays())], **codecs)
    for name, values in before.items():
        np.testing.assert_array_equal(episodes.arrays()[name], values)
