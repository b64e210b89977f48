"""S4RL: recorded episodes with a little noise on the states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import minari
import numpy as np
import pytest
from gymnasium import spaces

from gta_datasets import S4RLConfig, augment
from gta_datasets.adapters.corpus import Corpus
from gta_datasets.errors import ConfigError
from tests.builders import edit_file, linear_dataset, make_dataset
from tests.smoke import digest_of_files, trajectories


@pytest.fixture(scope="module")
def source() -> minari.MinariDataset:
    return linear_dataset("s4rl/linear-v0", lengths=(40,) * 30, terminated=(3,))


def sources_of(generated: minari.MinariDataset, source: minari.MinariDataset) -> list[int]:
    """Which episodes were copied: those with the same actions."""
    known = {episode.actions.tobytes(): number for number, episode in enumerate(source)}
    return [known[episode.actions.tobytes()] for episode in generated]


def test_states_differ_by_the_noise_and_nothing_else_does(source: minari.MinariDataset, tmp_path: Path) -> None:
    augmented = augment(source, "s4rl", cache_dir=tmp_path)
    assert augmented.generated.total_steps == source.total_steps
    spread = np.concatenate([episode.observations for episode in source]).std(axis=0)
    differences, copied = [], sources_of(augmented.generated, source)
    assert sorted(copied) == list(range(len(source)))
    assert copied != sorted(copied)
    for generated, number in zip(augmented.generated, copied, strict=True):
        episode = source[number]
        np.testing.assert_array_equal(generated.actions, episode.actions)
        np.testing.assert_array_equal(generated.rewards, episode.rewards)
        np.testing.assert_array_equal(generated.terminations, episode.terminations)
        np.testing.assert_array_equal(generated.truncations, episode.truncations)
        differences.append((generated.observations - episode.observations) / spread)
    measured = np.concatenate(differences)
    np.testing.assert_allclose(measured.std(axis=0), 3e-4, rtol=0.1)
    np.testing.assert_allclose(measured.mean(axis=0), 0, atol=4e-5)


def test_more_transitions_are_further_passes_with_other_noise(source: minari.MinariDataset, tmp_path: Path) -> None:
    augmented = augment(source, "s4rl", num_transitions=2 * source.total_steps, cache_dir=tmp_path)
    generated = augmented.generated
    first, second = np.split(np.array(sources_of(generated, source)), 2)
    assert sorted(first) == sorted(second) == list(range(len(source)))
    assert first.tolist() != second.tolist()
    again = 30 + int(np.flatnonzero(second == first[0])[0])
    np.testing.assert_array_equal(generated[0].actions, generated[again].actions)
    assert not np.array_equal(generated[0].observations, generated[again].observations)


def test_few_transitions_are_of_episodes_from_everywhere(source: minari.MinariDataset, tmp_path: Path) -> None:
    """Replay data begin with a beginner's episodes."""
    generated = augment(source, "s4rl", num_transitions=400, cache_dir=tmp_path).generated
    assert max(sources_of(generated, source)) >= 20


def test_nothing_is_trained_or_stored(source: minari.MinariDataset, tmp_path: Path) -> None:
    augmented = augment(source, "s4rl", cache_dir=tmp_path)
    assert augmented.is_fitted
    assert augmented.is_complete
    augmented.fit().generate()
    trajectories(augmented)
    Corpus(augmented)
    assert digest_of_files(tmp_path) == {}


def test_the_same_seed_gives_the_same_noise(source: minari.MinariDataset, tmp_path: Path) -> None:
    first, same, other = (
        augment(source, "s4rl", seed=seed, transitions_per_shard=100, cache_dir=tmp_path).generated
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first[9].observations, same[9].observations)
    assert not np.array_equal(first[9].observations, other[9].observations)
    assert not np.array_equal(first[0].observations - first[3].observations, other[0].observations)


def test_keys_tell_settings_apart(source: minari.MinariDataset, tmp_path: Path) -> None:
    keys = {
        augment(source, "s4rl", cache_dir=tmp_path, **options).key
        for options in ({}, {"noise": 1e-3}, {"seed": 1}, {"transitions_per_shard": 100}, {"invalid": "drop"})
    }
    assert len(keys) == 5


def test_goals_stay(tmp_path: Path) -> None:
    box = spaces.Box(-1, 1, (2,), np.float64)
    goal = spaces.Dict({"observation": box, "desired_goal": box})

    def one_each(file: Any) -> None:
        for number in range(4):
            goals = file[f"episode_{number}/observations/desired_goal"]
            goals[...] = goals[0]

    dataset = edit_file(make_dataset("s4rl/goal-v0", observation_space=goal, lengths=(5, 4, 7, 6)), one_each)
    generated = augment(dataset, "s4rl", noise=0.1, cache_dir=tmp_path).generated
    copied = sources_of(generated, dataset)
    assert sorted(copied) == [0, 1, 2, 3]
    for episode, number in zip(generated, copied, strict=True):
        states, recorded = episode.observations, dataset[number].observations
        assert states["desired_goal"].tobytes() == recorded["desired_goal"].tobytes()
        assert not np.isclose(states["observation"], recorded["observation"], atol=1e-6).all(axis=1).any()


def test_real_returns_are_asked_for(source: minari.MinariDataset, tmp_path: Path) -> None:
    augmented = augment(source, "s4rl", cache_dir=tmp_path)
    copied, corpus = sources_of(augmented.generated, source), Corpus(augmented)
    for kind in ("amplified", "source"):
        starts = corpus.start_returns(kind)
        np.testing.assert_allclose(starts[len(source) :], starts[: len(source)][copied], rtol=1e-5)


def test_settings_of_other_methods_are_refused(source: minari.MinariDataset) -> None:
    with pytest.raises(ConfigError, match=r"unknown keyword 'alpha'; known: dynamics_batch_size, .*, noise, "):
        augment(source, "s4rl", alpha=1.2)
    with pytest.raises(ConfigError, match=r"noise=-1\.0 is not allowed"):
        S4RLConfig().replace(noise=-1.0)
    with pytest.raises(ConfigError, match="choose 'gta', 's4rl', 'synther', 'diffstitch' or give a configuration"):
        augment(source, "s4")


def test_a_configuration_serves_as_method(source: minari.MinariDataset, tmp_path: Path) -> None:
    config = S4RLConfig().replace(noise=0.01)
    by_config = augment(source, config, cache_dir=tmp_path)
    assert by_config.key == augment(source, "s4rl", noise=0.01, cache_dir=tmp_path).key
    assert S4RLConfig.from_dict(config.to_dict()) == config
