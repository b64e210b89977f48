"""The d3rlpy buffer against d3rlpy's own picker and slicer, and against the dataset."""

from __future__ import annotations

import warnings
from pathlib import Path

import h5py
import minari
import numpy as np
import pytest
import torch
from gymnasium import spaces

from gta_datasets import GTAAugmentedDataset
from gta_datasets.adapters import to_d3rlpy
from gta_datasets.data.returns import asked_returns, returns_to_go
from gta_datasets.data.windows import WindowIndex
from gta_datasets.errors import ConfigError, DatasetError
from tests.builders import edit_file, linear_dataset, make_dataset
from tests.smoke import tiny, trajectories

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # gym, which d3rlpy imports, warns of NumPy 2
    import d3rlpy
    from d3rlpy.dataset import BasicTrajectorySlicer, BasicTransitionPicker, Episode
    from d3rlpy.preprocessing import StandardObservationScaler

LENGTHS = (12, 5, 1, 9)
GOAL = spaces.Dict(
    {
        "observation": spaces.Box(-1, 1, (4,), np.float64),
        "desired_goal": spaces.Box(-1, 1, (2,), np.float64),
        "achieved_goal": spaces.Box(-1, 1, (2,), np.float64),
    }
)


@pytest.fixture(scope="module")
def source() -> minari.MinariDataset:
    return linear_dataset("to-d3rlpy/linear-v0", lengths=LENGTHS, terminated=(1, 2))


@pytest.fixture(scope="module")
def augmented(source: minari.MinariDataset, tmp_path_factory: pytest.TempPathFactory) -> GTAAugmentedDataset:
    return tiny(source, cache_dir=tmp_path_factory.mktemp("cache"))


def as_d3rlpy(episode: minari.EpisodeData) -> Episode:
    """The episode as a user would build it by hand, with a dummy step where it was cut."""
    cut = not episode.terminations[-1]
    steps = len(episode.rewards)
    return Episode(
        observations=episode.observations[: steps + cut].astype(np.float32),
        actions=np.concatenate([episode.actions, np.zeros((int(cut), 2), np.float32)]),
        rewards=np.concatenate([episode.rewards, np.zeros(int(cut), np.float32)])[:, None],
        terminated=not cut,
    )


def test_episodes_are_those_of_the_dataset(augmented: GTAAugmentedDataset) -> None:
    buffer = augmented.to_d3rlpy()
    assert buffer.size() == len(augmented) == len(buffer.episodes)
    assert buffer.transition_count == augmented.total_steps == sum(e.transition_count for e in buffer.episodes)
    for ours, episode in zip(buffer.episodes, augmented, strict=True):
        expected = as_d3rlpy(episode)
        np.testing.assert_array_equal(ours.observations, expected.observations)
        np.testing.assert_array_equal(ours.actions, expected.actions)
        np.testing.assert_array_equal(ours.rewards, expected.rewards)
        assert ours.terminated == expected.terminated


def test_a_batch_is_what_d3rlpys_picker_gives(augmented: GTAAugmentedDataset) -> None:
    buffer, picker = augmented.to_d3rlpy(), BasicTransitionPicker()
    batch = buffer.sample_transition_batch(400)
    everything = [picker(as_d3rlpy(episode), index) for episode in augmented for index in range(len(episode.rewards))]
    known = {transition.observation.tobytes(): transition for transition in everything}
    assert len(known) == len(everything)
    for row in range(400):
        expected = known[batch.observations[row].tobytes()]
        np.testing.assert_array_equal(batch.actions[row], expected.action)
        np.testing.assert_array_equal(batch.rewards[row], expected.reward)
        np.testing.assert_array_equal(batch.next_observations[row], expected.next_observation)
        np.testing.assert_array_equal(batch.next_actions[row], expected.next_action)
        assert batch.terminals[row, 0] == expected.terminal
        assert batch.intervals[row, 0] == 1
        np.testing.assert_array_equal(batch.transitions[row].rewards_to_go, expected.rewards_to_go)
        np.testing.assert_array_equal(batch.transitions[row].observation, batch.observations[row])


def test_the_last_transition_of_a_cut_episode_is_there(source: minari.MinariDataset) -> None:
    buffer = to_d3rlpy(source)
    seen = {row.tobytes() for row in buffer.sample_transition_batch(1000).observations}
    assert len(seen) == sum(LENGTHS)
    assert source[0].observations[11].tobytes() in seen
    stock = d3rlpy.dataset.create_infinite_replay_buffer(
        [Episode(e.observations[:-1], e.actions, e.rewards[:, None], bool(e.terminations[-1])) for e in source]
    )
    assert buffer.transition_count == stock.transition_count + 2


@pytest.mark.parametrize("length", [1, 4, 30])
def test_trajectories_of_real_data_are_what_d3rlpys_slicer_gives(source: minari.MinariDataset, length: int) -> None:
    buffer, slicer = to_d3rlpy(source), BasicTrajectorySlicer()
    batch = buffer.sample_trajectory_batch(100, length)
    episodes = [as_d3rlpy(episode) for episode in source]
    known = {episode.observations[end].tobytes(): (episode, end) for episode in episodes for end in range(len(episode))}
    for row in range(100):
        episode, end = known[batch.observations[row, -1].tobytes()]
        expected = slicer(episode, end, length)
        np.testing.assert_array_equal(batch.observations[row], expected.observations)
        np.testing.assert_array_equal(batch.actions[row], expected.actions)
        np.testing.assert_array_equal(batch.rewards[row], expected.rewards)
        np.testing.assert_allclose(batch.returns_to_go[row], expected.returns_to_go, atol=1e-4)
        np.testing.assert_array_equal(batch.terminals[row], expected.terminals)
        np.testing.assert_array_equal(batch.timesteps[row], expected.timesteps)
        np.testing.assert_array_equal(batch.masks[row], expected.masks)


@pytest.mark.parametrize("kind", ["amplified", "source"])
def test_generated_trajectories_count_from_their_source(augmented: GTAAugmentedDataset, kind: str) -> None:
    buffer = augmented.generated.to_d3rlpy(return_to_go=kind)
    batch = buffer.sample_trajectory_batch(50, 3)
    generated = trajectories(augmented)
    pipeline = augmented.storage.pipeline
    every = returns_to_go(pipeline.source.episodes, discount=1.0)
    windows = WindowIndex.of(pipeline.source.episodes, augmented.config.data.horizon)
    best = float(every[windows.first_transitions].max())
    rows = {generated.observations[row].astype(np.float32).tobytes(): row for row in generated.transition_rows}
    for k in range(50):
        row = rows[batch.observations[k, -1].tobytes()]
        number = int(np.searchsorted(generated.transition_rows, row))
        episode = int(np.searchsorted(generated.offsets, number, side="right")) - 1
        origin = pipeline.provenance(episode)
        place = int(np.flatnonzero(pipeline.source.episode_ids == origin["source_episode"])[0])
        start = every[pipeline.source.episodes.offsets[place] + origin["source_start"]]
        if kind == "amplified":
            start = asked_returns(np.array([start]), augmented.config.sampling, best=best)[0]
        first = generated.offsets[episode]
        received = generated.rewards[first:number].sum(dtype=np.float64)
        assert batch.returns_to_go[k, -1, 0] == pytest.approx(start - received, abs=1e-3)
        assert batch.timesteps[k, -1] == origin["source_start"] + (number - first) + 1


def test_its_slicer_agrees_with_its_batches(augmented: GTAAugmentedDataset) -> None:
    buffer = augmented.generated.to_d3rlpy(seed=3)
    batch = buffer.sample_trajectory_batch(1, 4)
    single = augmented.generated.to_d3rlpy(seed=3).sample_trajectory(4)
    np.testing.assert_array_equal(batch.observations[0], single.observations)
    np.testing.assert_allclose(batch.returns_to_go[0], single.returns_to_go, atol=1e-4)
    np.testing.assert_array_equal(batch.timesteps[0], single.timesteps)


def test_scalers_that_d3rlpy_fits_do_not_see_the_step_that_is_no_step(augmented: GTAAugmentedDataset) -> None:
    """Decision Transformer and TACR fit them on whole episodes, cut by the buffer's slicer."""
    buffer = augmented.generated.to_d3rlpy()
    recorded = trajectories(augmented)
    whole = [buffer.trajectory_slicer(each, each.size() - 1, each.size()) for each in buffer.episodes]
    assert [len(each) for each in whole] == recorded.lengths.tolist()
    found = np.concatenate([each.rewards[:, 0] for each in whole])
    np.testing.assert_array_equal(found, recorded.rewards.astype(np.float32))
    assert all((each.masks == 1).all() for each in whole)


def test_goals_follow_the_observation(tmp_path: Path) -> None:
    source = make_dataset("to-d3rlpy/goal-v0", observation_space=GOAL, lengths=(6, 4))
    flat, pair = to_d3rlpy(source), to_d3rlpy(source, tuple_observation=True)
    episode = source[0].observations
    expected = [episode["observation"].astype(np.float32), episode["desired_goal"].astype(np.float32)]
    np.testing.assert_array_equal(flat.episodes[0].observations, np.concatenate(expected, axis=1))
    for ours, theirs in zip(pair.episodes[0].observations, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    batch = pair.sample_transition_batch(8)
    assert [part.shape for part in batch.observations] == [(8, 4), (8, 2)]
    assert [list(shape) for shape in pair.dataset_info.observation_signature.shape] == [[4], [2]]
    scaled = pair.observation_scaler().transform_numpy(batch.observations)
    for part, key in enumerate(("observation", "desired_goal")):
        rows = np.concatenate([episode.observations[key][:-1] for episode in source])  # one for each transition
        expected = (batch.observations[part] - rows.mean(axis=0)) / (rows.std(axis=0) + StandardObservationScaler().eps)
        np.testing.assert_allclose(scaled[part], expected, rtol=1e-4, atol=1e-6)


def test_both_flags_terminate_and_terminal_only_episodes_never_bootstrap() -> None:
    source = make_dataset("to-d3rlpy/flags-v0", lengths=(1, 1, 4), endings=("terminated", "both", "both"))
    batch = to_d3rlpy(source).sample_transition_batch(200)
    last = {episode.observations[-2].astype(np.float32).tobytes() for episode in source}
    for row in range(200):
        assert batch.terminals[row, 0] == (batch.observations[row].tobytes() in last)
    assert not batch.next_observations[batch.terminals[:, 0] == 1].any()


def test_an_unflagged_cut_is_not_followed_by_the_next_episode() -> None:
    source = make_dataset("to-d3rlpy/cut-v0", lengths=(3, 3), endings="none")
    batch = to_d3rlpy(source).sample_transition_batch(100)
    after = {e.observations[t].tobytes(): e.observations[t + 1] for e in source for t in range(3)}
    for row in range(100):
        np.testing.assert_array_equal(batch.next_observations[row], after[batch.observations[row].tobytes()])
    assert not batch.terminals.any()


@pytest.mark.parametrize("fraction", [0.0, 0.5, 1.0])
def test_the_share_of_real_data_is_exact(augmented: GTAAugmentedDataset, fraction: float) -> None:
    buffer = augmented.to_d3rlpy(real_fraction=fraction)
    real = {row.tobytes() for episode in augmented.source for row in episode.observations}
    for _ in range(5):
        batch = buffer.sample_transition_batch(32)
        assert sum(row.tobytes() in real for row in batch.observations) == 32 * fraction


def test_the_seed_decides(augmented: GTAAugmentedDataset) -> None:
    first, same, other = (augmented.to_d3rlpy(seed=seed).sample_transition_batch(16) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.observations, same.observations)
    assert not np.array_equal(first.observations, other.observations)


def test_it_is_read_only(source: minari.MinariDataset) -> None:
    buffer = to_d3rlpy(source)
    for operation in (buffer.append, buffer.append_episode, buffer.clip_episode, buffer.buffer.append):
        with pytest.raises(NotImplementedError, match="MixedReplayBuffer"):
            operation(None, 0)


def with_rewards(name: str, lengths: tuple[int, ...]) -> minari.MinariDataset:
    """Every reward is 1, and the last number of every observation 1e8."""

    def flatten(file: h5py.File) -> None:
        for number in range(len(lengths)):
            file[f"episode_{number}/rewards"][...] = 1
            file[f"episode_{number}/observations"][:, 2] = 1e8

    return edit_file(linear_dataset(name, lengths=lengths), flatten)


def test_a_column_that_never_changes_is_scaled_to_a_number() -> None:
    buffer = to_d3rlpy(with_rewards("to-d3rlpy/constant-v0", (4, 6)))
    observations = buffer.episodes[0].observations
    scaler = buffer.observation_scaler("min_max")
    for scaled in (scaler.transform_numpy(observations), scaler.transform(torch.from_numpy(observations)).numpy()):
        np.testing.assert_array_equal(scaled[:, 2], -1)
        assert np.ptp(scaled[:, :2], axis=0).min() > 0
    np.testing.assert_array_equal(scaler.reverse_transform_numpy(scaled)[:, 2], observations[:, 2])
    assert buffer.reward_scaler("min_max").transform_numpy(np.ones(3)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("lengths", [(5,), (4, 4, 4)])
def test_a_range_of_returns_that_is_zero_does_not_divide(lengths: tuple[int, ...]) -> None:
    buffer = to_d3rlpy(with_rewards(f"to-d3rlpy/equal-{len(lengths)}-v0", lengths))
    with pytest.raises(ConfigError, match=rf"all {len(lengths)} of them have {lengths[0]}; choose 'standard'"):
        buffer.reward_scaler("return")


@pytest.mark.parametrize("multiplier", [np.nan, 0.0, -1.0, "2", True, np.complex64(2)])
def test_a_multiplier_that_is_none(source: minari.MinariDataset, multiplier: float | str) -> None:
    with pytest.raises(ConfigError, match=r"multiplier=.* is not allowed; choose a number above 0"):
        to_d3rlpy(source).reward_scaler(multiplier=multiplier)


def test_sums_of_generated_trajectories_are_no_returns(augmented: GTAAugmentedDataset) -> None:
    with pytest.raises(ConfigError, match="there are none; choose 'standard' or 'min_max', or"):
        augmented.generated.to_d3rlpy().reward_scaler("return")


def test_what_d3rlpy_cannot_take_is_refused(source: minari.MinariDataset) -> None:
    several = make_dataset("to-d3rlpy/multi-v0", action_space=spaces.MultiDiscrete([2, 3]))
    with pytest.raises(ConfigError, match="MultiDiscrete"):
        to_d3rlpy(several)
    with pytest.raises(ConfigError, match="desired_goal"):
        to_d3rlpy(source, tuple_observation=True)
    with pytest.raises(ConfigError, match="choose 'amplified' or 'source'"):
        to_d3rlpy(source, return_to_go="own")
    with pytest.raises(ConfigError, match="needs generated data"):
        to_d3rlpy(source, real_fraction=0.5)
    with pytest.raises(DatasetError, match=r"minari\.MinariDataset"):
        to_d3rlpy("to-d3rlpy/linear-v0")
    with pytest.raises(TypeError, match="ratio"):
        to_d3rlpy(source, ratio=0.5)
    for scaler in (to_d3rlpy(source).observation_scaler, to_d3rlpy(source).reward_scaler):
        with pytest.raises(ConfigError, match="pixel"):
            scaler("pixel")
