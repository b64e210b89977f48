"""SynthER: single transitions from pure noise."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from gta_datasets import augment
from gta_datasets.config import SynthERConfig
from gta_datasets.data.episodes import Episodes
from gta_datasets.errors import ConfigError, DivergenceError
from gta_datasets.methods.base import Shard
from gta_datasets.methods.synther import SynthER
from gta_datasets.networks.residual_mlp import ResidualMLP
from gta_datasets.presets import METHOD_PRESETS, PRESETS
from tests.builders import (
    linear_dataset,
    linear_episodes,
    linear_reward,
    linear_source,
    linear_step,
    make_dataset,
    walks,
)
from tests.smoke import assert_same_episode

CPU = torch.device("cpu")
TINY = {"width": 16, "depth": 1, "training_steps": 5, "sampler_steps": 3, "transitions_per_shard": 50}
SAMPLERS = ("dpm_2m_sde", "dpm_2m", "heun", "stochastic_heun")


def method(episodes: Episodes, *, seed: int = 0, **overrides: Any) -> SynthER:
    """SynthER on episodes in memory, with the smallest settings there are."""
    config = SynthERConfig().replace(**{**TINY, **overrides})
    return SynthER(linear_source(episodes), config, seed=seed, device=CPU)


def fitted(episodes: Episodes, folder: Path, **overrides: Any) -> SynthER:
    found = method(episodes, **overrides)
    found.fit(folder, progress=False)
    return found


def as_bytes(shard: Shard) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in shard.items()}


def with_goals(world: Episodes) -> Episodes:
    """A goal of each episode and a constant before the world's observations."""
    goals = np.random.default_rng(0).normal(size=(world.num_episodes, 2)).astype(np.float32)
    columns = np.concatenate([goals, np.full((len(goals), 1), 7.5, np.float32)], axis=1)
    rows = np.repeat(columns, world.lengths + 1, axis=0)
    return dataclasses.replace(world, observations=np.concatenate([rows, world.observations], axis=1))


def parameters_of(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_generating_needs_a_model() -> None:
    with pytest.raises(RuntimeError, match=r"fit\(\) must be called before generate\(\)"):
        method(linear_episodes()).generate(0)


def test_a_shard_holds_episodes_of_one_transition(tmp_path: Path) -> None:
    world = linear_episodes(terminated=(0, 5))
    found = fitted(world, tmp_path)
    shard = found.generate(0)
    made = Episodes.from_arrays(shard)
    np.testing.assert_array_equal(found.lengths(0), np.ones(50))
    np.testing.assert_array_equal(made.lengths, found.lengths(0))
    np.testing.assert_array_equal(made.truncations, ~made.terminations)
    for name, array in world.arrays().items():
        assert shard[name].dtype == array.dtype, name
        assert shard[name].shape[1:] == array.shape[1:], name
    assert np.abs(made.actions).max() <= 1
    assert set(shard["source_episode"]) == {-1}
    assert set(shard["source_start"]) == {0}
    for name in ("source_return", "asked_return"):
        assert shard[name].dtype == np.float32
        assert np.isnan(shard[name]).all()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_shard_does_not_depend_on_batches_or_order(tmp_path: Path, sampler: str) -> None:
    world = linear_episodes(terminated=(0, 5))
    settings = {"sampler": sampler, "transitions_per_shard": 300}
    first = fitted(world, tmp_path, **settings)
    expected = [as_bytes(first.generate(number)) for number in range(3)]
    assert len({shard["observations"] for shard in expected}) == 3
    for size in (1, 96, 1_000):
        other = fitted(world, tmp_path, generate_batch_size=size, **settings)
        assert {number: as_bytes(other.generate(number)) for number in (2, 0, 1)} == dict(enumerate(expected))


def test_attempts_give_other_transitions(tmp_path: Path) -> None:
    found = fitted(linear_episodes(), tmp_path)
    ones = found.lengths(4)
    made = [found.attempt(4, attempt, ones) for attempt in range(3)]
    assert as_bytes(made[0]) == as_bytes(found.generate(4))
    actions = [tuple(row) for shard in made for row in shard["actions"].tolist()]
    assert len(set(actions)) == 3 * 50
    assert as_bytes(found.attempt(4, 2, ones)) == as_bytes(made[2])
    assert Episodes.from_arrays(found.attempt(4, 1, ones[:7])).num_episodes == 7


def test_training_again_gives_the_same_weights_and_another_seed_others(tmp_path: Path) -> None:
    digests = []
    for place, seed in enumerate((0, 0, 1)):
        folder = tmp_path / str(place)
        folder.mkdir()
        digests.append(method(linear_episodes(), seed=seed).fit(folder, progress=False))
    assert digests[0] == digests[1] != digests[2]


def test_the_paper_preset_has_the_papers_number_of_parameters() -> None:
    """25.6 M; the features are those of HalfCheetah: 17 states twice, 6 actions, reward and done."""
    dataset = linear_dataset("synther/parameters-v0", lengths=(3,))
    config = augment(dataset, "synther", preset="paper").config
    assert isinstance(config, SynthERConfig)
    assert (config.network.width, config.network.depth) == (1024, 6)
    assert (config.sampling.sampler, config.sampling.sampler_steps) == ("stochastic_heun", 128)
    network = ResidualMLP(2 * 17 + 6 + 2, width=config.network.width, depth=config.network.depth)
    assert parameters_of(network) == pytest.approx(25.6e6, rel=0.01)


def test_the_network_uses_its_input_and_the_noise_level_and_nothing_else() -> None:
    torch.manual_seed(0)
    network = ResidualMLP(5, width=16, depth=2)
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    x, noise, one = torch.randn(3, 1, 5), torch.linspace(-1, 1, 3), torch.ones(3)
    output = network(x, noise, one, one)
    assert output.shape == (3, 1, 5)
    assert torch.equal(output, network(x, noise, 9 * one, 0 * one))
    assert not torch.allclose(output, network(x, noise + 0.3, one, one), atol=1e-3)
    assert not torch.allclose(output, network(x + 0.3, noise, one, one), atol=1e-3)
    assert ResidualMLP(5, width=16, depth=2, outputs=2)(x, noise, one, one).shape == (3, 1, 2)
    output.square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())


def test_training_rows_are_the_normalised_transitions() -> None:
    """Recomputed from the episodes: `[goal | s | a | r | s' | done]`."""
    world = with_goals(linear_episodes((4, 6, 5), terminated=(1,)))
    found = method(world)
    rows = found._gather(np.arange(15))[:, 0].numpy()
    states = world.observations[world.transition_rows]
    mean, spread = world.observations.mean(axis=0), world.observations.std(axis=0)
    normalised, following = ((part - mean)[:, 3:] / spread[3:] for part in (states, world.next_observations))
    goals = ((states - mean) / np.where(spread > 0, spread, 1))[:, :2]
    actions = (world.actions - world.actions.mean(axis=0)) / world.actions.std(axis=0)
    rewards = (world.rewards - world.rewards.mean()) / world.rewards.std()
    expected = [goals, normalised, actions, rewards[:, None], following, world.terminations[:, None]]
    np.testing.assert_allclose(rows, np.concatenate(expected, axis=1), atol=1e-5)
    assert set(rows[:, -1]) == {0.0, 1.0}


def test_goals_are_the_same_before_and_after_a_step(tmp_path: Path) -> None:
    found = fitted(with_goals(linear_episodes()), tmp_path)
    before, after = np.split(found.generate(0)["observations"].reshape(50, 2, 6), 2, axis=1)
    np.testing.assert_array_equal(before[..., :3], after[..., :3])
    assert set(before[..., 2].ravel()) == {7.5}
    assert len(set(before[..., 0].ravel())) == 50
    assert (before[..., 3:] != after[..., 3:]).all()


def test_generated_values_go_back_to_their_units_and_done_is_rounded() -> None:
    """The rows of recorded transitions give these transitions back; `done` counts from beyond 0.5."""
    world = with_goals(linear_episodes((4, 6, 5), terminated=(1,)))
    found = method(world)
    rows = found._gather(np.arange(15))[:, 0].numpy()
    rows[:4, -1] = (0.49, 0.51, -3.0, 1.7)
    made = Episodes.from_arrays(found._assembled(rows))
    np.testing.assert_allclose(made.observations[::2], world.observations[world.transition_rows], atol=1e-5)
    np.testing.assert_allclose(made.next_observations, world.next_observations, atol=1e-5)
    np.testing.assert_allclose(made.actions, world.actions, atol=1e-6)
    np.testing.assert_allclose(made.rewards, world.rewards, atol=1e-5)
    expected = np.concatenate([[False, True, False, True], world.terminations[4:]])
    np.testing.assert_array_equal(made.terminations, expected)
    assert expected[4:].sum() == 1


def test_limits_of_the_state_decide_what_ends_the_task() -> None:
    """Rows of recorded transitions, of which the generator says the opposite."""
    world = walks(50)
    rows = method(world)._gather(np.arange(world.num_transitions))[:, 0].numpy()
    rows[:, -1] = 1 - rows[:, -1]
    for terminations, expected in (("limits", world.terminations), ("generated", ~world.terminations)):
        made = Episodes.from_arrays(method(world, terminations=terminations)._assembled(rows))
        np.testing.assert_array_equal(made.terminations, expected)
        np.testing.assert_array_equal(made.truncations, ~expected)


@pytest.mark.parametrize("terminated", [(), range(8)])
def test_where_all_or_no_transitions_end_an_episode_all_or_none_of_the_generated_do(
    tmp_path: Path, terminated: Any
) -> None:
    made = fitted(linear_episodes((1,) * 8, terminated=terminated), tmp_path).generate(0)
    assert set(made["terminations"]) == {len(terminated) == 8}


def test_a_constant_reward_is_copied(tmp_path: Path) -> None:
    world = linear_episodes()
    world = dataclasses.replace(world, rewards=np.full_like(world.rewards, -0.3))
    assert set(fitted(world, tmp_path).generate(0)["rewards"]) == {np.float32(-0.3)}


def test_what_is_not_finite_is_an_error(tmp_path: Path) -> None:
    found = fitted(linear_episodes(), tmp_path)
    rows = np.zeros((2, found._num_columns), np.float32)
    rows[1, 0] = np.nan
    with pytest.raises(DivergenceError, match="a generated observation is not finite; train longer or take more"):
        found._assembled(rows)


def test_a_generated_value_beyond_float32_is_an_error(tmp_path: Path) -> None:
    world = linear_episodes()
    found = fitted(dataclasses.replace(world, rewards=np.float32(1e30) * world.rewards), tmp_path)
    rows = np.zeros((2, found._num_columns), np.float32)
    rows[1, 5] = 1e20  # after 3 observations and 2 actions
    with pytest.raises(DivergenceError, match="a generated reward is not finite; train longer or take more"):
        found._assembled(rows)


def test_it_learns_the_dynamics(tmp_path: Path) -> None:
    """Its next states and rewards fit its states and actions far better than another transition's would."""
    world = linear_episodes((20,) * 100)
    found = fitted(
        world,
        tmp_path,
        width=64,
        depth=2,
        training_steps=400,
        train_batch_size=256,
        warmup_steps=50,
        learning_rate=1e-2,
        sampler_steps=16,
        transitions_per_shard=1_000,
    )
    made = Episodes.from_arrays(found.generate(0))
    states, scale = made.observations[::2], world.observations.std(axis=0)
    expected, rewards = linear_step(states, made.actions), linear_reward(states, made.actions)
    shuffled = np.random.default_rng(0).permutation(1_000)

    def error(following: np.ndarray, order: Any) -> float:
        return float(np.square((following[order] - expected) / scale).mean())

    assert error(made.next_observations, slice(None)) < 0.1 * error(made.next_observations, shuffled)
    assert np.square(made.rewards - rewards).mean() < 0.2 * np.square(made.rewards[shuffled] - rewards).mean()
    np.testing.assert_allclose(states.std(axis=0), world.observations[world.transition_rows].std(axis=0), rtol=0.15)
    history = found.loss_history
    assert [step for step, _ in history] == list(range(50, 401, 50))
    assert history[-1][1] < 0.75 * history[0][1]


def test_any_space(tmp_path: Path) -> None:
    space = spaces.Dict(
        desired_goal=spaces.Box(-1, 1, (2,), np.float64),
        mode=spaces.Discrete(3, start=-1),
        observation=spaces.Box(-2, 2, (2,), np.float64),
    )
    dataset = make_dataset("synther/goal-v0", observation_space=space, action_space=spaces.Discrete(4), lengths=(5, 4))
    augmented = augment(dataset, "synther", preset="smoke", num_transitions=20, cache_dir=tmp_path, progress=False)
    for episode in augmented.generated:
        for step in range(2):
            assert space.contains({key: values[step] for key, values in episode.observations.items()})
        assert 0 <= episode.actions[0] < 4


def test_from_the_front_door(tmp_path: Path) -> None:
    source = linear_dataset("synther/linear-v0", terminated=(0, 1))
    options = {"preset": "smoke", "cache_dir": tmp_path, "progress": False}
    augmented = augment(source, "synther", **options)
    generated = augmented.generated
    assert len(generated) == generated.total_steps == source.total_steps
    assert len(augmented) == len(source) + source.total_steps
    for episode in list(generated)[:5]:
        assert len(episode) == 1
        assert source.observation_space.contains(episode.observations[1])
        assert bool(episode.terminations[0]) is not bool(episode.truncations[0])
    again = augment(source, "synther", **options)
    assert again.is_complete
    assert again.key == augmented.key
    assert_same_episode(again.generated[7], generated[7])
    assert augment(source, "synther", generate_batch_size=64, **options).key == augmented.key
    assert augment(source, "synther", sampler_steps=5, **options).key != augmented.key


def test_the_source_is_not_changed(tmp_path: Path) -> None:
    world = with_goals(linear_episodes(terminated=(0,)))
    before = as_bytes(world.arrays())
    fitted(world, tmp_path).generate(0)
    assert as_bytes(world.arrays()) == before


def test_settings_of_other_methods_are_refused() -> None:
    dataset = linear_dataset("synther/refused-v0", lengths=(5,))
    with pytest.raises(ConfigError, match=r"unknown keyword 'alpha'; known: checkpoint_seconds, .*, width"):
        augment(dataset, "synther", alpha=1.2)
    for name, value in (("width", 4), ("depth", 0), ("transitions_per_shard", 0), ("sampler", "euler"), ("eta", -1.0)):
        with pytest.raises(ConfigError, match=f"{name}={value!r} is not allowed"):
            SynthERConfig().replace(**{name: value})


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_a_configuration_that_survives_json(preset: str) -> None:
    config = augment(linear_dataset(f"synther/{preset}-v0", lengths=(3,)), "synther", preset=preset).config
    assert isinstance(config, SynthERConfig)
    assert SynthERConfig.from_dict(config.to_dict()) == config
    for name, value in METHOD_PRESETS["synther"][preset].items():
        assert value in [getattr(stage, name, None) for stage in (config.network, config.training, config.sampling)]


def test_it_is_told_no_return() -> None:
    with pytest.raises(ConfigError, match="unknown keyword 'condition_dropout'"):
        SynthERConfig().replace(condition_dropout=0.5)
