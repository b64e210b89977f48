"""Rows 20, 22 to 26 and 31 of the fault matrix: what is wrong with a source dataset is said, or put right, by name."""

from __future__ import annotations

import hashlib
import re

import numpy as np
import pytest
from gymnasium import spaces

from gta_datasets.data.reading import read_episodes
from gta_datasets.errors import DatasetError
from tests.builders import LINEAR_ACTION_SPACE, edit_file, linear_dataset, linear_episodes, make_dataset


@pytest.fixture(autouse=True)
def _datasets_root(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))


def replace(file, name, values):
    del file[name]
    file[name] = values


def digest(dataset):
    return hashlib.sha256((dataset.storage.data_path / "main_data.hdf5").read_bytes()).hexdigest()


def breaks(field, step, value):
    def edit(file):
        values = file[f"episode_1/{field}"][()].astype(float)
        values[step] = value
        replace(file, f"episode_1/{field}", values)

    return edit


NOT_FINITE = [
    ("observations", (4, 1), np.nan, "observation is nan at step 4"),
    ("observations", (20, 0), np.inf, "observation is inf at step 20"),
    ("actions", (7, 1), -np.inf, "action is -inf at step 7"),
    ("rewards", 3, np.nan, "rewards is nan at step 3"),
    ("rewards", 0, np.inf, "rewards is inf at step 0"),
    ("terminations", 19, np.nan, "terminations is nan at step 19"),
    ("observations", (2, 2), 1e300, "observation is inf at step 2"),
]


@pytest.mark.parametrize(("field", "step", "value", "sentence"), NOT_FINITE)
def test_row_20_a_number_that_is_not_finite_is_named(field, step, value, sentence):
    dataset = edit_file(linear_dataset(lengths=(20,) * 3), breaks(field, step, value))
    before = digest(dataset)
    with pytest.raises(DatasetError, match=re.escape(f"dataset 'test/linear-v0', episode 1: {sentence}")):
        read_episodes(dataset)
    source = read_episodes(dataset, invalid="drop")
    assert source.episode_ids.tolist() == [0, 2]
    assert len(source.dropped) == 1
    assert sentence in source.dropped[0]
    assert np.isfinite(source.episodes.observations).all()
    assert digest(dataset) == before
    whole = linear_episodes((20,) * 3)
    np.testing.assert_array_equal(source.episodes.slice(1, 2).observations, whole.slice(2, 3).observations)
    np.testing.assert_array_equal(source.episodes.slice(1, 2).rewards, whole.slice(2, 3).rewards)


def test_row_20_the_leaf_of_a_dict_observation_is_named():
    space = spaces.Dict(goal=spaces.Box(-1, 1, (2,)), state=spaces.Box(-9, 9, (3,)))

    def edit(file):
        file["episode_2/observations/state"][1, 0] = np.nan

    dataset = edit_file(make_dataset(observation_space=space), edit)
    with pytest.raises(DatasetError, match="episode 2: observation/state is nan at step 1"):
        read_episodes(dataset)


def test_row_22_episodes_of_one_terminal_step_keep_their_flags():
    episodes = read_episodes(linear_dataset(lengths=(1,) * 5, terminated=(0, 3))).episodes
    assert episodes.lengths.tolist() == [1] * 5
    assert episodes.terminations.tolist() == [True, False, False, True, False]
    assert episodes.truncations.tolist() == [False, True, True, False, True]
    np.testing.assert_array_equal(episodes.next_observations, linear_episodes((1,) * 5).observations[1::2])


@pytest.mark.parametrize("steps", [1, 6])
def test_row_23_one_episode_is_enough(steps):
    source = read_episodes(linear_dataset(lengths=(steps,)))
    assert source.episodes.num_episodes == 1
    assert source.episodes.observations.shape == (steps + 1, 3)
    assert source.episode_ids.tolist() == [0]


def test_row_24_a_filter_that_leaves_nothing():
    empty = linear_dataset().filter_episodes(lambda episode: False)
    with pytest.raises(DatasetError, match="'test/linear-v0' has no episodes; if it was filtered, loosen the filter"):
        read_episodes(empty)


def test_row_24_every_episode_invalid():
    dataset = edit_file(
        linear_dataset(lengths=(4,)), lambda file: file["episode_0/rewards"].write_direct(np.full(4, np.inf))
    )
    with pytest.raises(
        DatasetError, match="none of the 1 episodes of dataset 'test/linear-v0' can be used; the first: "
    ):
        read_episodes(dataset, invalid="drop")


def test_row_25_as_many_observations_as_steps():
    def edit(file):
        replace(file, "episode_2/observations", file["episode_2/observations"][:-1])

    dataset = edit_file(linear_dataset(), edit)
    with pytest.raises(DatasetError, match="episode 2: 20 observations for 20 steps, where 21 are needed"):
        read_episodes(dataset)
    assert read_episodes(dataset, invalid="drop").episode_ids.tolist() == [0, 1, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(
    ("field", "keep", "sentence"),
    [
        ("observations", 3, "3 observations for 20 steps"),
        ("actions", 19, "19 actions for 20 rewards"),
        ("terminations", 19, "terminations have shape (19,) where (20,) is needed"),
        ("truncations", 0, "truncations have shape (0,) where (20,) is needed"),
        ("rewards", 0, "it has no steps"),
        ("rewards", 19, "terminations have shape (20,) where (19,) is needed"),
    ],
)
def test_fields_of_different_lengths_are_named(field, keep, sentence):
    def edit(file):
        replace(file, f"episode_0/{field}", file[f"episode_0/{field}"][:keep])

    dataset = edit_file(linear_dataset(), edit)
    with pytest.raises(DatasetError, match=re.escape(f"episode 0: {sentence}")):
        read_episodes(dataset)
    assert read_episodes(dataset, invalid="drop").episodes.num_episodes == 7


def test_row_26_terminated_and_truncated_at_once_is_terminated():
    dataset = make_dataset(lengths=(4, 4), endings=("both", "terminated"))
    assert dataset[0].terminations[-1]
    assert dataset[0].truncations[-1]
    episodes = read_episodes(dataset).episodes
    assert episodes.terminations.tolist() == [False, False, False, True] * 2
    assert not episodes.truncations.any()


@pytest.mark.parametrize("field", ["terminations", "truncations"])
def test_a_flag_before_the_last_step_is_refused(field):
    def edit(file):
        file[f"episode_3/{field}"][5] = True

    dataset = edit_file(linear_dataset(), edit)
    with pytest.raises(DatasetError, match=f"episode 3: {field} are set at step 5 of 20, before the last one"):
        read_episodes(dataset)


def test_row_31_an_unflagged_cut_counts_as_a_truncation():
    dataset = make_dataset(lengths=(3, 5), endings="none")
    episodes = read_episodes(dataset).episodes
    assert np.flatnonzero(episodes.truncations).tolist() == [2, 7]
    assert not episodes.terminations.any()
    expected = np.concatenate([dataset[i].observations[1:] for i in range(2)])
    np.testing.assert_array_equal(episodes.next_observations, expected)


def test_row_30_recorded_actions_outside_of_their_bounds_stay_as_they_are():
    def edit(file):
        file["episode_0/actions"][0] = (3.0, -3.0)

    source = read_episodes(edit_file(linear_dataset(), edit))
    assert LINEAR_ACTION_SPACE.high.max() == 1.0
    assert source.episodes.actions[0].tolist() == [3.0, -3.0]


def test_a_missing_episode_is_named():
    def edit(file):
        del file["episode_4"]

    dataset = edit_file(linear_dataset(), edit)
    with pytest.raises(DatasetError, match=r"episode 4: Minari cannot read it \(KeyError"):
        read_episodes(dataset)


def test_metadata_that_announce_more_steps_than_memory_holds():
    dataset = linear_dataset()
    dataset.storage.update_metadata({"total_steps": 2**60})
    with pytest.raises(DatasetError, match="announces 1152921504606846976 steps in 8 episodes"):
        read_episodes(type(dataset)(dataset.storage))
