"""The replay buffer: what it holds, what it draws, and how it follows what was recorded."""

from __future__ import annotations

import copy
import pickle
import re
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import minari
import numpy as np
import pytest
import torch
from gymnasium import spaces
from minari.data_collector.episode_buffer import EpisodeBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from gta_datasets.errors import ConfigError, DatasetError, UnsupportedSpaceError
from gta_datasets.online import ATraDiffReplayBuffer
from tests.builders import edit_file, make_dataset, write_buffers
from tests.online.worlds import QUICK, Line, line_dataset, quick_buffer


@pytest.fixture(scope="module")
def dataset() -> minari.MinariDataset:
    return line_dataset("buffer/line-v0", terminated=False)


def walk(buffer: ATraDiffReplayBuffer, steps: int, first: int = 0) -> None:
    """Record `steps` transitions, each with its number as reward; every tenth ends an episode."""
    for number in range(first, first + steps):
        state, following = np.array([[number % 10, 0.5]]), np.array([[number % 10 + 1.0, 0.5]])
        ended = np.array([number % 10 == 9])
        buffer.add(state, following, np.zeros((1, 1), np.float32), np.array([float(number)]), ended, [{}])


def same(first: Any, second: Any) -> bool:
    return all(torch.equal(one, other) for one, other in zip(first[:5], second[:5], strict=True))


def test_generated_transitions_keep_their_proportion(dataset: minari.MinariDataset) -> None:
    buffer = quick_buffer(dataset, rho=0.6, adapt_every=0, lengths=(8, 10), buffer_size=800, starts_per_batch=64)
    walk(buffer, 800)
    assert buffer.synthetic.size() / buffer.size() == pytest.approx(1.5, rel=0.15)


@pytest.mark.parametrize("rho", [0.0, 0.3])
def test_the_share_of_a_batch_is_exact(dataset: minari.MinariDataset, rho: float) -> None:
    buffer = quick_buffer(dataset, rho=rho, starts_per_batch=1)
    walk(buffer, 5)
    while rho and not buffer.synthetic.size():
        walk(buffer, 1)
    buffer.synthetic.rewards[:], buffer.rewards[:] = -7.0, 7.0
    counts = [int((buffer.sample(16).rewards == -7).sum()) for _ in range(50)]
    assert sum(counts) == round(50 * 16 * rho)
    assert max(counts) - min(counts) <= 1


def test_batches_are_recorded_data_until_there_are_others(dataset: minari.MinariDataset) -> None:
    buffer = quick_buffer(dataset, starts_per_batch=1_000)
    walk(buffer, 40)
    batch = buffer.sample(64)
    assert buffer.synthetic.size() == 0
    assert len(buffer.state.waiting) > 3
    assert set(batch.rewards[:, 0].tolist()) <= set(range(40))
    assert len(batch.rewards) == 64


def test_trajectories_begin_in_recorded_states(dataset: minari.MinariDataset) -> None:
    buffer = quick_buffer(dataset, lengths=(3,), starts_per_batch=1)
    walk(buffer, 60)
    begins = buffer.synthetic.observations[: buffer.synthetic.size() : 3, 0]
    assert len(begins) > 10
    assert {tuple(state) for state in begins.tolist()} <= {(float(place), 0.5) for place in range(10)}
    following = buffer.synthetic.next_observations[:, 0]
    np.testing.assert_array_equal(buffer.synthetic.observations[1:3, 0], following[:2])


def test_generated_actions_are_scaled_as_the_policy_scales_them(dataset: minari.MinariDataset) -> None:
    buffer = quick_buffer(dataset)
    walk(buffer, 80)
    actions = buffer.synthetic.actions[: buffer.synthetic.size(), 0, 0]
    assert ((actions > 0.7) & (actions <= 1.0)).all()  # between 2.7 and 3, of a space from -1 to 3


def test_the_same_seed_gives_the_same_buffer(dataset: minari.MinariDataset) -> None:
    buffers = [quick_buffer(dataset, seed=seed) for seed in (3, 3, 4)]
    for buffer in buffers:
        np.random.seed(len(buffer.state.waiting))  # noqa: NPY002 - the global state must not matter
        walk(buffer, 60)
        buffer.adapt()
        walk(buffer, 30, 60)
    first, again, other = (buffer.sample(100) for buffer in buffers)
    assert same(first, again)
    assert not same(first, other)


def test_adaptation_is_due_every_so_many_transitions(dataset: minari.MinariDataset) -> None:
    buffer, never = quick_buffer(dataset, adapt_every=20), quick_buffer(dataset, adapt_every=0)
    due = []
    for number in range(45):
        walk(buffer, 1, number)
        walk(never, 1, number)
        due.append(buffer.is_adaptation_due)
        assert not never.is_adaptation_due
        if due[-1]:
            assert np.isfinite(buffer.adapt())
    assert np.flatnonzero(due).tolist() == [19, 39]
    assert buffer.state.adaptations == 2
    assert buffer.costs.adaptation > 0
    assert buffer.costs.generation > 0


def test_what_matters_is_learned_from(dataset: minari.MinariDataset) -> None:
    buffer = quick_buffer(dataset, subset_size=20, drop_share=0.5, rho=0.0)
    walk(buffer, 200)
    buffer.adapt()
    assert len(buffer.state.subset) == 20
    assert np.median(buffer.state.subset) > 120  # rewards grow with the number
    walk(buffer, 200, 200)
    before = buffer.state.subset
    buffer.adapt(lambda rows: -buffer.rewards[rows, 0])  # now the least
    assert len(np.intersect1d(before, buffer.state.subset)) <= 14
    assert np.median(buffer.state.subset) < 250
    assert np.isin(buffer.state.subset, [*before, *range(200, 400)]).all()


def test_adaptation_follows_what_is_recorded(dataset: minari.MinariDataset) -> None:
    """The environment moves backwards, as the offline data never do."""
    buffer = quick_buffer(
        dataset, lengths=(2,), adapt_steps=80, adapt_learning_rate=0.01, frozen_share=0.0, width=16, sampler_steps=4
    )
    for number in range(60):
        state = np.array([[5.0 - 0.7 * (number % 8), 0.0]])
        following = state - [[0.7, 0.0]]
        ended = np.array([number % 8 == 7])
        buffer.add(state, following, np.zeros((1, 1), np.float32), np.zeros(1), ended, [{}])

    def pace() -> float:
        made = buffer.opened.diffuser.imagine(np.tile([[4.0, 0.0]], (60, 1)), np.full(60, 2.0), 10_000)
        return float((made.next_observations - made.observations)[::2, 0].mean())

    before = pace()
    buffer.adapt()
    assert pace() < before - 0.3


def test_nothing_recorded_is_nothing_to_adapt_to(dataset: minari.MinariDataset) -> None:
    with pytest.raises(ConfigError, match="nothing to adapt to"):
        quick_buffer(dataset).adapt()


def test_reset_forgets_what_was_recorded_and_generated(dataset: minari.MinariDataset) -> None:
    buffer = quick_buffer(dataset)
    walk(buffer, 40)
    buffer.adapt()
    buffer.reset()
    assert (buffer.size(), buffer.synthetic.size(), buffer.state.added, len(buffer.state.subset)) == (0, 0, 0, 0)
    walk(buffer, 12)
    assert buffer.adapt() > 0


def test_a_full_buffer_loses_its_oldest(dataset: minari.MinariDataset) -> None:
    buffer = quick_buffer(dataset, buffer_size=30, rho=0.75)
    assert buffer.synthetic.buffer_size == 90
    walk(buffer, 95)
    buffer.adapt()
    assert buffer.size() == 30
    assert buffer.state.subset.min() >= 65
    assert buffer.sample(200).rewards[:50].min() >= 65


def test_normalisation_is_the_environments(dataset: minari.MinariDataset) -> None:
    env = VecNormalize(DummyVecEnv([Line]))
    env.obs_rms.mean, env.obs_rms.var = np.full(2, 0.5), np.full(2, 4.0)
    raw, seen = quick_buffer(dataset), quick_buffer(dataset)
    for buffer in (raw, seen):
        walk(buffer, 60)
    expected = (raw.sample(40).observations.numpy() - 0.5) / 2
    np.testing.assert_allclose(seen.sample(40, env=env).observations, expected, rtol=1e-4, atol=1e-4)


def test_pickling_is_refused(dataset: minari.MinariDataset) -> None:
    buffer = quick_buffer(dataset)
    for attempt in (pickle.dumps, copy.deepcopy):
        with pytest.raises(ConfigError, match=r"use buffer\.save\(path\)"):
            attempt(buffer)


def test_invalid_episodes_are_refused_or_left_out() -> None:
    def spoil(file: h5py.File) -> None:
        file["episode_3/rewards"][0] = np.nan

    spoiled = edit_file(line_dataset("buffer/spoiled-v0"), spoil)
    with pytest.raises(DatasetError, match=r"episode 3: rewards is nan at step 0.*invalid=\"drop\""):
        quick_buffer(spoiled)
    assert len(quick_buffer(spoiled, invalid="drop").opened.source.episode_ids) == 19


class Other(Line):
    def __init__(self, **changed: spaces.Space) -> None:
        super().__init__()
        self.__dict__.update(changed)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (Other(action_space=spaces.Box(-1.0, 1.0, (1,))), "action space has the bounds .* instead of"),
        (Other(observation_space=spaces.Box(-1.0, 1.0, (3,))), "the observation space is Box.* instead of"),
        (DummyVecEnv([Line, Line]), "n_envs=2 is not allowed: .* use a single one"),
        ("Line-v0", "env is of type str"),
        (None, "env is None; give the environment in which the agent learns"),
    ],
)
def test_environments_that_do_not_fit_are_refused(dataset: minari.MinariDataset, env: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        ATraDiffReplayBuffer.from_dataset(dataset, env, **QUICK)
    assert "or None" not in str(refused.value), "advice that is refused, too"


@pytest.mark.parametrize(
    ("space", "error", "message"),
    [
        (spaces.Box(0, 255, (4, 4), np.uint8), UnsupportedSpaceError, "an image of shape"),
        (
            spaces.Dict({"a": spaces.Box(-1, 1, (2,))}),
            ConfigError,
            r"space is Dict.* instead of Box.*FlattenObservation",
        ),
        (spaces.Dict({"a": spaces.Discrete(4)}), ConfigError, "needs a Box, or a Dict or Tuple of these"),
        (spaces.Discrete(4), ConfigError, "needs a Box"),
    ],
)
def test_other_observations_are_refused(space: spaces.Space, error: type[Exception], message: str) -> None:
    data = make_dataset(f"buffer/{re.sub(r'[^a-z0-9]', '', str(space).lower())}-v0", observation_space=space)
    env = gymnasium.Env()
    env.observation_space, env.action_space = data.observation_space, data.action_space
    with pytest.raises(error, match=message):
        ATraDiffReplayBuffer.from_dataset(data, env, **QUICK)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lengths": (2, 500)}, r"holds 500, which is longer than every episode \(longest: \d+"),
        ({"rho": 1.0}, r"rho=1\.0 is not allowed"),
        ({"seed": -1}, "seed=-1 is not allowed"),
        ({"buffer_size": 0}, "buffer_size=0 is not allowed"),
        ({"horizon": 5}, "unknown keyword 'horizon'"),
        ({"preset": "huge"}, "preset='huge' is not known"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    dataset: minari.MinariDataset, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        quick_buffer(dataset, **arguments)


def test_agents_of_several_seeds_may_share_their_models(
    dataset: minari.MinariDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffers = [quick_buffer(dataset, seed=0, model_seed=7, cache_dir=tmp_path)]
    monkeypatch.setattr("gta_datasets.training.fitting.train", None)  # nothing is trained any more
    buffers.append(quick_buffer(dataset, seed=1, model_seed=7, cache_dir=tmp_path))
    for buffer in buffers:
        walk(buffer, 60)
    first, second = (buffer.opened.diffuser.weights for buffer in buffers)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not same(*(buffer.sample(100) for buffer in buffers))
    buffers[1].save(tmp_path / "buffer")
    loaded = ATraDiffReplayBuffer.load(tmp_path / "buffer", dataset, Line(), device="cpu")
    assert (loaded.opened.seed, loaded.opened.model_seed) == (1, 7)


def test_no_state_waits_for_ever(dataset: minari.MinariDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gta_datasets.online.following.LONGEST_WAIT", 30)
    buffer, since = quick_buffer(dataset, rho=0.1, lengths=(5,), starts_per_batch=1_000), []
    for number in range(300):
        walk(buffer, 1, number)
        since.append(number - buffer.state.waiting_since if len(buffer.state.waiting) else 0)
    assert max(since) == 29
    assert buffer.synthetic.size() > 0


def test_rewards_that_the_data_never_saw_are_generated_once_recorded(dataset: minari.MinariDataset) -> None:
    """Data of an agent that never found what is rewarded have a constant reward."""
    poor = make_like(dataset, "buffer/poor-v0", reward=0.0)
    settings = {"adapt_steps": 150, "adapt_learning_rate": 0.01, "frozen_share": 0.0, "width": 16, "sampler_steps": 4}
    buffer = quick_buffer(poor, lengths=(2,), **settings)
    for number in range(60):
        state, following = np.array([[number % 10, 0.5]]), np.array([[number % 10 + 1.0, 0.5]])
        buffer.add(state, following, np.zeros((1, 1)), np.ones(1), np.array([number % 10 == 9]), [{}])

    def reward() -> float:
        return float(buffer.opened.diffuser.imagine(np.tile([[4.0, 0.5]], (60, 1)), np.full(60, 2.0), 9).rewards.mean())

    before = reward()
    buffer.adapt()
    assert reward() > before + 0.3


def make_like(dataset: minari.MinariDataset, dataset_id: str, reward: float) -> minari.MinariDataset:
    """The same episodes with another reward."""
    buffers = [
        EpisodeBuffer(
            observations=episode.observations,
            actions=episode.actions,
            rewards=np.full(len(episode.rewards), reward),
            terminations=episode.terminations,
            truncations=episode.truncations,
            infos={},
        )
        for episode in dataset
    ]
    return write_buffers(dataset_id, buffers, dataset.observation_space, dataset.action_space)
