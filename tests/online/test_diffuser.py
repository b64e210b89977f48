"""Trajectories begin in the given state, have the length that is left, and stay in the dataset's spaces."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from gta_datasets.augment import configured
from gta_datasets.config import ATraDiffConfig
from gta_datasets.data.bank import Columns
from gta_datasets.data.endings import Limits
from gta_datasets.data.episodes import Episodes
from gta_datasets.data.reading import Source, read_episodes
from gta_datasets.data.spaces import SpaceCodec
from gta_datasets.data.windows import Windows, cut, starting_at
from gta_datasets.errors import ConfigError
from gta_datasets.models.ending import EndingModel
from gta_datasets.online.assembling import Assembly
from gta_datasets.online.diffuser import Diffuser
from gta_datasets.shelf import Shelf
from tests.builders import linear_episodes, linear_source
from tests.online.worlds import GOAL, QUICK, line_dataset

KEPT = ("preset", "device", "progress", "buffer_size")
CPU = torch.device("cpu")


def config_of(**overrides: Any) -> ATraDiffConfig:
    quick = {name: value for name, value in QUICK.items() if name not in KEPT}
    return configured(ATraDiffConfig(), "smoke", "cpu", {}, {**quick, **overrides})


@pytest.fixture(scope="module")
def source() -> Source:
    return read_episodes(line_dataset("diffuser/endless-v0", terminated=False))


@pytest.fixture
def fitted(source: Source, tmp_path: Path) -> Callable[..., Diffuser]:
    def make(seed: int = 0, model_seed: int = 0, **overrides: Any) -> Diffuser:
        diffuser = Diffuser(source, config_of(**overrides), seed=seed, model_seed=model_seed, device=CPU)
        diffuser.fit(Shelf(tmp_path, "cpu", {}, progress=False))
        return diffuser

    return make


@pytest.mark.parametrize("by", ["limits", "a model"])
def test_a_trained_model_walks_as_the_data_do_from_where_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    source = read_episodes(line_dataset(f"diffuser/line-{by.split()[-1]}-v0"))
    of_models = {"training_steps": 200, "train_batch_size": 48, "width": 32, "depth": 2, "learning_rate": 0.003}
    if by == "a model":
        monkeypatch.setattr(Limits, "of", lambda episodes: None)
    of_endings = {"dynamics_steps": 400, "dynamics_width": 16}
    config = config_of(lengths=(4,), sampler_steps=8, **of_models, **of_endings)
    diffuser = Diffuser(source, config, seed=0, model_seed=0, device=CPU)
    diffuser.fit(Shelf(tmp_path, "cpu", {}, progress=False))
    starts = np.array([[1.0, 0.5], [3.0, -0.5], [4.5, 0.0], [9.5, 0.3]])
    made = diffuser.imagine(starts, np.full(4, 4.0), 0)
    begins = np.flatnonzero((made.observations[:, None] == starts).all(axis=2).any(axis=1))
    assert len(begins) == 4
    steps = made.next_observations[:, 0] - made.observations[:, 0]
    assert steps[: begins[3]].mean() == pytest.approx(0.71, abs=0.15)
    assert np.abs(steps - made.actions[:, 0] / 4).mean() < 0.2
    assert not made.terminated[: begins[3]].any()  # far from the goal
    assert made.terminated[begins[3] :].sum() == 1
    assert made.terminated[-1]  # nothing follows the goal
    assert made.next_observations[-1, 0] > GOAL - 0.5
    assert sum(name.startswith("ending.") for name in diffuser.weights) == (0 if by == "limits" else 6)


def test_trajectories_end_as_often_as_it_is_likely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = read_episodes(line_dataset("diffuser/ending-v0"))
    monkeypatch.setattr(Limits, "of", lambda episodes: None)
    diffuser = Diffuser(source, config_of(lengths=(5,)), seed=0, model_seed=0, device=CPU)
    diffuser.fit(Shelf(tmp_path, "cpu", {}, progress=False))
    monkeypatch.setattr(EndingModel, "predict", lambda self, states, *others: np.full(len(states), 0.2))
    made, again, other = (diffuser.imagine(np.zeros((400, 2)), np.full(400, 5.0), number) for number in (0, 0, 1))
    ended = made.terminated.sum()
    assert ended / len(made.terminated) == pytest.approx(0.2, abs=0.03)
    assert ended / 400 == pytest.approx(1 - 0.8**5, abs=0.07)
    np.testing.assert_array_equal(made.terminated, again.terminated)
    assert made.terminated.tolist() != other.terminated.tolist()


def test_the_shortest_model_that_is_long_enough_is_chosen(source: Source) -> None:
    diffuser = Diffuser(source, config_of(lengths=(2, 5, 9)), seed=0, model_seed=0, device=CPU)
    assert [diffuser.horizon(steps) for steps in (1.0, 2.0, 2.1, 5.0, 8.7, 9.0, 300.0)] == [2, 2, 5, 5, 9, 9, 9]
    assert [diffuser.announced(steps) for steps in (1.0, 3.3, 300.0)] == [2.0, 3.3, 9.0]


def test_lengths_follow_what_is_left(fitted: Callable[..., Diffuser]) -> None:
    diffuser = fitted()
    states = np.zeros((3, 2))
    assert len(diffuser.imagine(states, np.full(3, 2.0), 0).rewards) == 6
    assert len(diffuser.imagine(states, np.full(3, 400.0), 0).rewards) == 15


def test_trajectories_depend_on_seed_and_number_alone(fitted: Callable[..., Diffuser]) -> None:
    states, steps = np.zeros((3, 2)), np.array([2.0, 5.0, 5.0])
    first, again = fitted().imagine(states, steps, 4), fitted().imagine(states, steps, 4)
    for one, other in zip(first, again, strict=True):
        assert one.tobytes() == other.tobytes()
    assert fitted().imagine(states, steps, 5).rewards.tobytes() != first.rewards.tobytes()
    assert fitted(seed=1).imagine(states, steps, 4).rewards.tobytes() != first.rewards.tobytes()


def test_what_is_made_lies_in_the_spaces(fitted: Callable[..., Diffuser], source: Source) -> None:
    made = fitted().imagine(np.full((8, 2), 3.0), np.full(8, 5.0), 0)  # hardly trained: values are anywhere
    space = source.action_codec.space
    assert all(action in space for action in made.actions.astype(np.float32))
    assert made.observations.dtype == source.episodes.observations.dtype


@pytest.mark.parametrize(("share", "moved"), [(1.0, 0), (0.0, 6)])
def test_the_frozen_share_comes_from_the_offline_models(
    fitted: Callable[..., Diffuser], source: Source, share: float, moved: int
) -> None:
    diffuser = fitted(frozen_share=share, adapt_learning_rate=0.1)
    states, steps = np.zeros((6, 2)), np.full(6, 5.0)
    before = diffuser.imagine(states, steps, 0)
    diffuser.adapt(lambda length: windows_of(source, length), 0)
    after = diffuser.imagine(states, steps, 0)
    changed = (before.next_observations != after.next_observations).any(axis=1).reshape(6, 5).any(axis=1)
    assert changed.sum() == moved


def windows_of(source: Source, length: int) -> Episodes:
    return cut(source.episodes, starting_at(source.episodes, np.arange(0, 60, 7), length))


def test_only_lengths_in_use_are_adapted(fitted: Callable[..., Diffuser], source: Source) -> None:
    diffuser = fitted()
    diffuser.imagine(np.zeros((1, 2)), np.array([5.0]), 0)
    asked = []

    def windows(length: int) -> Episodes:
        asked.append(length)
        return windows_of(source, length)

    diffuser.adapt(windows, 0)
    diffuser.adapt(windows, 1)  # nothing was generated since: all are
    assert asked == [5, 2, 5]


def test_agents_that_share_their_models_adapt_by_random_numbers_of_their_own(
    fitted: Callable[..., Diffuser], source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[list[int]] = []

    def spied(episodes: Episodes, transitions: np.ndarray, length: int) -> Windows:
        drawn[-1].extend(transitions.tolist())
        return starting_at(episodes, transitions, length)

    diffusers = [fitted(seed=seed, model_seed=7) for seed in (0, 0, 1)]
    monkeypatch.setattr("gta_datasets.online.trajectory_model.starting_at", spied)
    for diffuser in diffusers:
        drawn.append([])
        diffuser.adapt(lambda length: windows_of(source, length), 0)
    assert drawn[0] == drawn[1] != drawn[2]


def test_noise_of_adaptation_is_of_the_seed_of_the_agent(fitted: Callable[..., Diffuser], source: Source) -> None:
    kinds: dict[str, list[torch.Tensor]] = {"offline": [], "adapted": []}
    for seed in (0, 0, 1):
        diffuser = fitted(seed=seed, model_seed=7, lengths=(5,))
        diffuser.adapt(lambda length: cut(source.episodes, starting_at(source.episodes, np.array([3]), length)), 0)
        for kind, found in kinds.items():
            weights = [value.flatten() for name, value in diffuser.weights.items() if f".{kind}." in name]
            found.append(torch.cat(weights))
    assert all(torch.equal(kinds["offline"][0], weights) for weights in kinds["offline"])
    first, again, other = kinds["adapted"]
    assert torch.equal(first, again)
    assert not torch.equal(first, other), "of one window, so only noise differs"


def test_models_of_other_bounds_of_actions_are_others(source: Source, tmp_path: Path) -> None:
    """The farthest action that is allowed decides how actions are scaled."""
    found = []
    for highest in (3.0, 30.0, 3.0):
        codec = SpaceCodec.of(spaces.Box(-1.0, highest, (1,)), name="action")
        bounded = dataclasses.replace(source, action_codec=codec)
        diffuser = Diffuser(bounded, config_of(lengths=(5,)), seed=0, model_seed=0, device=CPU)
        diffuser.fit(Shelf(tmp_path, "cpu", {}, progress=False))
        found.append(torch.cat([value.flatten() for name, value in diffuser.weights.items() if name.startswith("5.")]))
    first, wide, again = found
    assert torch.equal(first, again)
    assert not torch.equal(first, wide)


def test_trajectories_longer_than_every_episode_are_refused(source: Source) -> None:
    longest = int(source.episodes.lengths.max())
    message = rf"holds 200, which is longer than every episode \(longest: {longest} transitions\); choose lengths <="
    with pytest.raises(ConfigError, match=message):
        Diffuser(source, config_of(lengths=(3, 200)), seed=0, model_seed=0, device=CPU)


def looped() -> Episodes:
    """Two episodes that go out, around and on; the second ends the task at the loop's last state."""
    _, columns = of_plane()
    circle = [(0, 0), (1, 0), (2, 0), (2, 2), (0, 2), (0, 0)]
    places = np.array([*circle, (-2, 0), *circle], np.float64)
    states = columns.observation.inverse(np.concatenate([places, np.zeros((len(places), 1))], axis=1))
    flags = np.zeros(11, bool)
    flags[10] = True
    return Episodes(states, np.zeros((11, 2)), np.arange(11.0), flags, np.zeros(11, bool), np.array([0, 6, 11]))


def of_plane() -> tuple[Source, Columns]:
    source = linear_source(linear_episodes())
    return source, Columns.of(source.episodes)


@pytest.mark.parametrize(
    ("tolerance", "steps", "left"),
    [
        (0.1, 1.0, [5, 10]),  # both loops; what ends the task stays
        (0.0, 1.0, list(range(11))),  # no pruning
        (0.1, 6.0, list(range(11))),  # nothing is too long
    ],
)
def test_loops_are_cut_where_a_trajectory_is_too_long(tolerance: float, steps: float, left: list[int]) -> None:
    source, columns = of_plane()
    episodes = looped()
    states = episodes.observations.copy()
    states[-2] = states[7]  # the loop of the second closes a transition before the task ends
    episodes = dataclasses.replace(episodes, observations=states)
    assembly = Assembly(source, columns, tolerance)
    kept = assembly.transitions(episodes, np.full(2, steps))
    assert assembly.pruned == 11 - len(left)
    np.testing.assert_array_equal(kept.rewards, left)
    rows = episodes.transition_rows[left]
    np.testing.assert_array_equal(kept.observations, episodes.observations[rows])
    np.testing.assert_array_equal(kept.next_observations, episodes.observations[rows + 1])
