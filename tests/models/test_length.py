"""The length estimator and the model of terminations, on episodes they have not seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gta_datasets.config import DynamicsConfig
from gta_datasets.data.reading import Source, read_episodes
from gta_datasets.models.ending import EndingModel
from gta_datasets.models.length import LengthModel
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
    model = EndingModel(seen, SMALL, seed=0, device=torch.device("cpu"))
    model.fit(tmp_path, progress=False)
    episodes = unseen.episodes
    ends = model.ends(episodes.observations[episodes.transition_rows], episodes.actions, episodes.next_observations)
    clear = np.abs(episodes.next_observations[:, 0] - GOAL) > 0.15
    assert episodes.terminations[clear].sum() >= 5
    assert np.mean(ends[clear] == episodes.terminations[clear]) > 0.95
    assert ends[clear & episodes.terminations].mean() > 0.9


def test_weights_carry_what_was_learned(sources: tuple[Source, Source], tmp_path: Path) -> None:
    quick = DynamicsConfig(dynamics_members=1, dynamics_width=8, dynamics_depth=1, dynamics_steps=5)
    first, second = (LengthModel(sources[0], quick, seed=seed, device=torch.device("cpu")) for seed in (0, 1))
    first.fit(tmp_path, progress=False)
    with pytest.raises(RuntimeError, match="fit"):
        second.predict(np.zeros((1, 2)))
    second.restore(first.weights)
    states = sources[1].episodes.observations
    np.testing.assert_array_equal(first.predict(states), second.predict(states))
