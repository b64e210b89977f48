"""A generated trajectory has the same values for everybody who reads it: Minari, its exports, adapters."""

from __future__ import annotations

import dataclasses

import minari
import numpy as np
import pytest
from gymnasium import spaces
from minari.data_collector.episode_buffer import EpisodeBuffer

from gta_datasets import augment
from gta_datasets.adapters.corpus import Corpus
from gta_datasets.data.episodes import Episodes
from tests.builders import LINEAR_ACTION_SPACE, linear_episodes, write_buffers
from tests.smoke import TINY, assert_same_episode

BOX = spaces.Box(-2.0, 2.0, (3,), np.float32)
SMALL = {name: TINY[name] for name in ("preset", "device", "progress")}


@pytest.fixture(scope="module")
def wild() -> minari.MinariDataset:
    """Actions up to three times their bounds, and states beyond theirs."""
    episodes = linear_episodes((30,) * 8)
    episodes = dataclasses.replace(episodes, actions=3 * episodes.actions, observations=2 * episodes.observations)
    return write_buffers("same/wild-v0", [buffer(episodes, i) for i in range(8)], BOX, LINEAR_ACTION_SPACE)


def buffer(episodes: Episodes, number: int) -> EpisodeBuffer:
    part = episodes.slice(number, number + 1)
    flags = {"terminations": part.terminations, "truncations": part.truncations}
    return EpisodeBuffer(observations=part.observations, actions=part.actions, rewards=part.rewards, infos={}, **flags)


@pytest.mark.parametrize("method", ["gta", "s4rl", "synther", "diffstitch"])
def test_every_reader_sees_the_same_values_within_the_spaces(wild: minari.MinariDataset, method: str) -> None:
    assert max(np.abs(episode.actions).max() for episode in wild) > 2.5
    assert max(np.abs(episode.observations).max() for episode in wild) > 2.5
    generated = augment(wild, method, num_transitions=200, **SMALL).generated
    exported, corpus = generated.export(f"same/{method}-v0"), Corpus(generated)
    assert f"augmented by the method {method!r} " in exported.storage.metadata["description"]
    assert len(exported) == len(generated) == corpus.episodes.num_episodes
    for number, episode in enumerate(generated):
        assert np.abs(episode.actions).max() <= 1
        assert np.abs(episode.observations).max() <= 2
        assert_same_episode(exported[number], episode)
        adapted = corpus.episodes.episode(number)
        np.testing.assert_array_equal(adapted.actions, episode.actions)
        np.testing.assert_array_equal(adapted.observations, episode.observations)
