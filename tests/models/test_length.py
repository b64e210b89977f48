"""The length estimator and the model of terminations, on episodes they have not seen."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from gta_datasets.config import DynamicsConfig
from gta_datasets.data.episodes import Episodes
from gta_datasets.data.reading import Source, read_episodes
from gta_datasets.models.ending import EndingModel
from gta_datasets.models.length import LengthModel
from tests.builders import linear_episodes, linear_source
from tests.online.worlds import GOAL, line_dataset

SMALL = DynamicsConfig(dynamics_members=2, dynamics_width=32, dynamics_depth=1, dynamics_steps=500)


@pytest.fixture(scope="module")
def sources() -> tuple[Source, Source]:
    return read_episodes(line_dataset("length/seen-v0", episodes=100)), read_episodes(
        line_dataset("length/unseen-v0", episodes=10, seed=9)
    )


def test_estimated_lengths_are_those_of_unseen_episodes(sources: tuple[Source, Source], tmp_path: Path) -> None:
    seen, unseen = sources
    model = LengthModel(seen, SMALL, seed=0, device=torch.device("cpu"))
    model.fit(tmp_path, progress=False)
    episodes = unseen.episodes
    states = episodes.observations[episodes.transition_rows]
    actual = np.concatenate([np.arange(length, 0, -1) for length in episodes.lengths])
    estimated = model.predict(states)
    assert estimated.shape == actual.shape
    assert (estimated >= 1).all()
    assert np.mean(np.abs(estimated - actual) / actual) < 0.2
    assert np.corrcoef(estimated, actual)[0, 1] > 0.97


def test_terminations_are_those_of_unseen_episodes(sources: tuple[Source, Source], tmp_path: Path) -> None:
    seen, unseen = sources
    config = dataclasses.replace(SMALL, dynamics_steps=1500)
    model = EndingModel(seen, config, seed=0, device=torch.device("cpu"))
    model.fit(tmp_path, progress=False)
    episodes = unseen.episodes
    states = episodes.observations[episodes.transition_rows]
    ends = model.predict(states, episodes.actions, episodes.next_observations) > 0.5
    clear = np.abs(episodes.next_observations[:, 0] - GOAL) > 0.15
    assert episodes.terminations[clear].sum() >= 5
    assert np.mean(ends[clear] == episodes.terminations[clear]) > 0.95
    assert ends[clear & episodes.terminations].mean() > 0.9


def risky_source(transitions: int, seed: int) -> Source:
    """Unrelated states; 2 of 100 transitions end the task, or 30 of 100 where the first number is above 0.5."""
    rng = np.random.default_rng(seed)
    states = rng.uniform(-1, 1, (transitions + 1, 2)).astype(np.float32)
    ends = rng.random(transitions) < np.where(states[:-1, 0] > 0.5, 0.3, 0.02)
    cut = ~ends & (np.arange(transitions) == transitions - 1)
    stops = np.flatnonzero(ends | cut) + 1
    observations = np.insert(states[:-1], stops, states[stops], axis=0)
    nothing = np.zeros((transitions, 2), np.float32)
    return linear_source(Episodes(observations, nothing, nothing[:, 0], ends, cut, np.append(0, stops)))


@pytest.mark.parametrize("steps", [60, 1500])  # the shorter training is too short
def test_terminations_are_predicted_as_often_as_they_happen(tmp_path: Path, steps: int) -> None:
    seen, unseen = risky_source(8_000, 0), risky_source(8_000, 1)
    config = dataclasses.replace(SMALL, dynamics_steps=steps)
    model = EndingModel(seen, config, seed=0, device=torch.device("cpu"))
    model.fit(tmp_path, progress=False)
    rates, restored = [], EndingModel(seen, config, seed=0, device=torch.device("cpu"))
    restored.restore(model.weights)
    for source in (seen, unseen):
        episodes = source.episodes
        states = episodes.observations[episodes.transition_rows]
        likely = model.predict(states, episodes.actions, episodes.next_observations)
        np.testing.assert_array_equal(restored.predict(states, episodes.actions, episodes.next_observations), likely)
        rates.append((likely.mean(), episodes.terminations.mean()))
    assert rates[0][0] == pytest.approx(rates[0][1], rel=1e-4)
    assert rates[1][0] == pytest.approx(rates[1][1], rel=0.1)
    if steps > 100:
        risky = states[:, 0] > 0.5
        assert likely[risky].mean() == pytest.approx(0.3, abs=0.05)
        assert likely[~risky].mean() == pytest.approx(0.02, abs=0.01)


def test_where_every_transition_ends_the_task_all_are_predicted_to(tmp_path: Path) -> None:
    episodes = linear_episodes((1,) * 20, terminated=range(20))
    model = EndingModel(linear_source(episodes), SMALL, seed=0, device=torch.device("cpu"))
    model.fit(tmp_path, progress=False)
    states = episodes.observations[episodes.transition_rows]
    np.testing.assert_allclose(model.predict(states, episodes.actions, episodes.next_observations), 1.0)


def test_weights_carry_what_was_learned(sources: tuple[Source, Source], tmp_path: Path) -> None:
    quick = DynamicsConfig(dynamics_members=1, dynamics_width=8, dynamics_depth=1, dynamics_steps=5)
    first, second = (LengthModel(sources[0], quick, seed=seed, device=torch.device("cpu")) for seed in (0, 1))
    first.fit(tmp_path, progress=False)
    with pytest.raises(RuntimeError, match="fit"):
        second.predict(np.zeros((1, 2)))
    second.restore(first.weights)
    states = sources[1].episodes.observations
    np.testing.assert_array_equal(first.predict(states), second.predict(states))
