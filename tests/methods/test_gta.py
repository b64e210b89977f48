"""GTA: what it trains on, what it asks for, and the traps of the released code, one test each."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from gta_datasets.data.draws import TrainingDraws
from gta_datasets.data.episodes import Episodes
from gta_datasets.methods import gta as gta_module
from gta_datasets.methods.gta import GTA
from tests.builders import linear_episodes
from tests.methods.gta import method


def test_generating_needs_a_model() -> None:
    with pytest.raises(RuntimeError, match=r"fit\(\) must be called before generate\(\)"):
        method(linear_episodes()).generate(0)


def test_lengths_are_those_of_the_shards(tmp_path: Path) -> None:
    found = method(linear_episodes((2, 9, 4, 10)))
    lengths = [found.lengths(number) for number in range(5)]
    found.fit(tmp_path, progress=False)
    for number, expected in enumerate(lengths):
        np.testing.assert_array_equal(Episodes.from_arrays(found.generate(number)).lengths, expected)
    assert {2, 4, 7} == set(np.concatenate(lengths).tolist())


def test_source_windows_are_drawn_uniformly() -> None:
    """Every window equally often, so a long episode in proportion to its windows."""
    found = method(linear_episodes((7, 16)), windows_per_shard=5_000)
    windows = found._draws.shard(0)
    share = (windows.episode == 0).mean()
    assert share == pytest.approx(1 / 11, abs=0.015)
    counts = np.bincount(windows.start[windows.episode == 1], minlength=10)
    np.testing.assert_allclose(counts / 5_000, 1 / 11, atol=0.015)


def test_weights_are_loaded_not_trained_again(trained: GTA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert trained.is_fitted(tmp_path)
    again = method(linear_episodes(terminated=(0, 5)))
    monkeypatch.setattr(again, "_loss", lambda *_, **__: pytest.fail("trained again"))
    assert again.fit(tmp_path, progress=False) == trained.fit(tmp_path, progress=False)
    first, second = trained.generate(0), again.generate(0)
    assert all(first[name].tobytes() == second[name].tobytes() for name in first)
    assert again.loss_history == trained.loss_history


def test_only_the_weights_stay_when_training_is_done(trained: GTA, tmp_path: Path) -> None:
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_training_learns(tmp_path: Path) -> None:
    found = method(linear_episodes((20,) * 8), training_steps=150, train_batch_size=32, width=32)
    found.fit(tmp_path, progress=False)
    assert found.loss_history[-1][1] < 0.9 * found.loss_history[0][1]


def test_seeds_differ(tmp_path: Path) -> None:
    digests = set()
    for seed in range(3):
        (tmp_path / str(seed)).mkdir()
        digests.add(method(linear_episodes(), seed=seed).fit(tmp_path / str(seed), progress=False))
    assert len(digests) == 3


def test_relabelled_rewards_are_those_of_the_model(tmp_path: Path) -> None:
    plain, relabelled = (method(linear_episodes(), relabel=relabel) for relabel in (False, True))
    assert not plain.models
    for found in (plain, relabelled):
        found.fit(tmp_path, progress=False)
    (tmp_path / "rewards").mkdir()
    model = relabelled.models["rewards"]
    model.fit(tmp_path / "rewards", progress=False)
    before, after = plain.generate(0), relabelled.generate(0)
    episodes = Episodes.from_arrays(before)
    expected = model.predict(
        episodes.observations[episodes.transition_rows], episodes.actions, episodes.next_observations
    )
    np.testing.assert_array_equal(after["rewards"], expected.astype(np.float32))
    assert not np.array_equal(after["rewards"], before["rewards"])
    for name in before.keys() - {"rewards"}:
        np.testing.assert_array_equal(before[name], after[name])


def test_only_the_best_episodes_are_augmented() -> None:
    episodes = linear_episodes((20,) * 10, seed=3)
    returns = np.array([episodes.slice(e, e + 1).rewards.sum() for e in range(10)])
    best = set(np.argsort(returns)[-3:].tolist())
    found = method(episodes, source_quantile=0.75, windows_per_shard=400)
    assert set(found._draws.shard(0).episode.tolist()) == best
    assert set(found._draws.again(0, 1, found.lengths(0)).episode.tolist()) == best


def test_starts_and_ends_are_augmented_more_often_if_every_transition_counts_alike() -> None:
    episodes = linear_episodes((20, 30), seed=3)
    found = method(episodes, coverage="transitions", windows_per_shard=20_000)
    horizon = found._config.data.horizon
    for windows in (found._draws.shard(0), found._draws.again(0, 1, found.lengths(0))):
        counts = np.bincount(found._index.first[windows.episode] + windows.start, minlength=len(found._index))
        expected = 20_000 * found._index.around() / 50
        assert expected[0] == pytest.approx(400 * (horizon + 1) / 2)
        assert (np.abs(counts - expected) < 5 * np.sqrt(expected)).all()


def test_trap_training_batches_are_normalised_rewards_without_penalty() -> None:
    episodes = linear_episodes((9,) * 6, terminated=range(6))
    found = method(episodes, horizon=9)
    windows = found._index.locate(np.arange(6))
    rewards = found._gather(windows).rows[:, :9, -1].numpy()
    expected = (episodes.rewards - episodes.rewards.mean()) / episodes.rewards.std()
    np.testing.assert_allclose(rewards, expected.reshape(6, 9), atol=1e-4)


def test_trap_the_source_is_never_changed_in_place(tmp_path: Path) -> None:
    episodes = linear_episodes(terminated=(0, 5))
    before = {name: array.copy() for name, array in episodes.arrays().items()}
    found = method(episodes, reweighting="dense", alpha=2.0)
    returns = found._returns.to_go.copy()
    found.fit(tmp_path, progress=False)
    found.generate(0)
    assert all(np.array_equal(before[name], array) for name, array in episodes.arrays().items())
    assert np.array_equal(found._returns.to_go, returns)


@pytest.mark.parametrize("horizon", [1, 2, 7, 31])
def test_trap_a_horizon_of_h_has_h_transitions(tmp_path: Path, horizon: int) -> None:
    found = method(linear_episodes((40, 33)), horizon=horizon)
    found.fit(tmp_path, progress=False)
    made = Episodes.from_arrays(found.generate(0))
    assert set(made.lengths) == {horizon}
    assert len(made.observations) == made.num_episodes * (horizon + 1)


@pytest.mark.parametrize("reweighting", ["none", "dense", "sparse"])
def test_trap_reweighting_follows_its_field(reweighting: str) -> None:
    """Drawn frequencies against probabilities that are recomputed here."""
    lengths = (7,) * 30
    episodes = linear_episodes(lengths)
    rewards = np.repeat(np.linspace(-1, 0.5, 30, dtype=np.float32), 7)
    episodes = dataclasses.replace(episodes, rewards=rewards)
    found = method(episodes, reweighting=reweighting, bins=3, success_weight=10.0, train_batch_size=20_000)
    draws = TrainingDraws(episodes, found._index, found._returns.to_go, found._config.data, 0)
    frequency = np.bincount(draws.draw(0, 20_000).episode, minlength=30) / 20_000
    if reweighting == "none":
        expected = np.full(30, 1 / 30)
    elif reweighting == "sparse":
        expected = np.where(rewards[::7] > 0, 10.0, 1.0)
    else:
        returns = 0.01 * rewards[::7] * (1 - 0.99**7) / (1 - 0.99)
        edges = np.linspace(returns.min(), returns.max(), 4)
        bin_of = np.clip(np.searchsorted(edges, returns, side="right") - 1, 0, 2)
        share = np.bincount(bin_of, minlength=3) / 30
        midpoint = (edges[1:] + edges[:-1]) / 2
        weight = share / (share + 0.001) * np.exp(-(midpoint.max() - midpoint) / 5.0)
        expected = weight[bin_of] / share[bin_of]
    np.testing.assert_allclose(frequency, expected / expected.sum(), atol=0.006)


def test_what_the_weights_depend_on_and_what_a_shard_depends_on_besides() -> None:
    found = method(linear_episodes())
    assert set(found.model_identity["config"]) == {"data", "network", "training"}
    assert set(found.sampling_identity) == {"version", "sampling"}
    assert found.model_identity["version"] == gta_module.ALGORITHM_VERSION


@pytest.mark.parametrize("rewards", [0.0, 1.0, -0.1, 1 / 3])
def test_row_28_returns_that_are_all_equal(tmp_path: Path, rewards: float) -> None:
    """Standardising them must not blow rounding errors up."""
    episodes = linear_episodes((1,) * 30)
    episodes = dataclasses.replace(episodes, rewards=np.full(30, rewards))
    found = method(episodes, alpha=2.0, return_limit=0.0, horizon=1)
    found.fit(tmp_path, progress=False)
    shard = found.generate(0)
    assert np.ptp(shard["rewards"]) == 0
    condition = found._returns.condition(found._gather(found._draws.shard(0)), shard["asked_return"])
    assert condition.returns.abs().max() < 10


def test_context_columns_are_copied_and_seen_by_the_network(tmp_path: Path) -> None:
    """A goal that differs between episodes is copied bit by bit, and enters the network."""
    world = linear_episodes()
    goals = np.random.default_rng(0).normal(size=(world.num_episodes, 2)).astype(np.float32)
    rows = np.repeat(goals, world.lengths + 1, axis=0)
    found = method(dataclasses.replace(world, observations=np.concatenate([rows, world.observations], axis=1)))
    found.fit(tmp_path, progress=False)
    shard = found.generate(0)
    made = Episodes.from_arrays(shard)
    expected = np.repeat(goals[shard["source_episode"]], made.lengths + 1, axis=0)
    np.testing.assert_array_equal(made.observations[:, :2], expected)
    assert found._gather(found._draws.shard(0)).context.shape == (8, 2)
    assert found._columns.num_generated == 3 + 2 + 1
