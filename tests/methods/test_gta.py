"""GTA: what it trains on, what it asks for, and the traps of the released code, one test each."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gta_datasets.config import GTAConfig
from gta_datasets.data.draws import TrainingDraws
from gta_datasets.data.episodes import Episodes
from gta_datasets.data.returns import n_step_returns
from gta_datasets.errors import ConfigError
from gta_datasets.methods import gta as gta_module
from gta_datasets.methods.gta import GTA
from gta_datasets.presets import PRESETS
from gta_datasets.store import content_key
from tests.builders import linear_episodes, linear_source
from tests.smoke import TINY

SETTINGS = {name: value for name, value in TINY.items() if name not in ("preset", "device", "progress")}
CPU = torch.device("cpu")


def method(episodes: Episodes, *, seed: int = 0, **overrides: Any) -> GTA:
    """GTA on episodes in memory, with the smallest settings there are."""
    config = GTAConfig().replace(**PRESETS["smoke"]).replace(**{**SETTINGS, **overrides})
    return GTA(linear_source(episodes), config, seed=seed, device=CPU)


@pytest.fixture
def trained(tmp_path: Path) -> GTA:
    found = method(linear_episodes(terminated=(0, 5)))
    found.fit(tmp_path, progress=False)
    return found


def watch_denoiser(found: GTA, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor]]:
    """The returns and their keep flags of every evaluation from now on."""
    calls: list[tuple[Tensor, Tensor]] = []
    denoiser = found._fitted.module
    forward = denoiser.forward

    def watched(x: Tensor, sigma: Tensor, condition: Any) -> Tensor:
        calls.append((condition.returns.clone(), condition.keep.clone()))
        return forward(x, sigma, condition)

    monkeypatch.setattr(denoiser, "forward", watched)
    return calls


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


@pytest.mark.parametrize(("guidance", "second"), [(1.0, 1.0), (2.0, 0.0)])
def test_trap_no_condition_is_dropped_when_generating(
    trained: GTA, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, guidance: float, second: float
) -> None:
    """The released code goes on dropping a quarter of the conditions, and pays for a pass that cancels at scale 1."""
    found = method(linear_episodes(terminated=(0, 5)), guidance=guidance, guidance_start=0.0)
    found.fit(tmp_path, progress=False)
    calls = watch_denoiser(found, monkeypatch)
    found.generate(0)
    assert calls
    for _, keep in calls:
        # At scale 1 only copies that fill the block of 32 follow the 8 windows, else their unconditional half does.
        assert keep.tolist() == [1.0] * 8 + [second] * 8 + [1.0] * 16
    assert not found._fitted.module.training
    assert not any(parameter.requires_grad for parameter in found._fitted.module.parameters())


def test_trap_the_condition_is_the_amplified_return(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Standardised like the returns of the data, recomputed here from the rewards; negative returns move up."""
    episodes = linear_episodes(terminated=(0, 1, 2))
    found = method(episodes, alpha=2.0, guidance=1.0, return_limit=0.0)
    found.fit(tmp_path, progress=False)
    calls = watch_denoiser(found, monkeypatch)
    shard = found.generate(3)

    def return_to_go(episode: int, start: int) -> float:
        part = episodes.slice(episode, episode + 1)
        rewards = part.rewards.astype(np.float64) - 100.0 * part.terminations
        return float(sum(0.99**step * reward for step, reward in enumerate(rewards[start:])))

    every = np.array([return_to_go(e, t) for e in range(episodes.num_episodes) for t in range(episodes.lengths[e])])
    source = np.array(
        [return_to_go(*place) for place in zip(shard["source_episode"], shard["source_start"], strict=True)]
    )
    asked = source + np.abs(source)
    assert source.min() < -20 < 0 < source.max()
    np.testing.assert_allclose(shard["source_return"], source, rtol=1e-5)
    np.testing.assert_allclose(shard["asked_return"], asked, rtol=1e-5)
    assert (shard["asked_return"] >= shard["source_return"]).all()
    np.testing.assert_allclose(calls[0][0][:8].numpy(), (asked - every.mean()) / every.std(), rtol=1e-4, atol=1e-4)


def test_a_fixed_condition_asks_everybody_for_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = method(linear_episodes(terminated=(0, 5)), condition="fixed", guidance=1.0)
    found.fit(tmp_path, progress=False)
    calls = watch_denoiser(found, monkeypatch)
    shard = found.generate(0)
    assert len(set(shard["source_return"].tolist())) > 1
    np.testing.assert_allclose(shard["asked_return"], found._returns.best, rtol=1e-6)
    assert len(set(calls[0][0].tolist())) == 1


def test_without_a_condition_every_evaluation_is_unconditional(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = method(linear_episodes(terminated=(0, 5)), condition="none", guidance=3.0, guidance_start=0.0)
    found.fit(tmp_path, progress=False)
    calls = watch_denoiser(found, monkeypatch)
    shard = found.generate(0)
    assert calls
    assert all(len(keep) == 32 and not keep.any() for _, keep in calls)
    assert np.isnan(shard["asked_return"]).all()


def test_inpainted_rewards_are_the_windows_amplified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = method(linear_episodes(terminated=(0, 5)), condition="rewards", alpha=1.5, guidance=3.0)
    found.fit(tmp_path, progress=False)
    calls = watch_denoiser(found, monkeypatch)
    shard, windows = found.generate(0), found._draws.shard(0)
    assert calls
    assert not any(keep.any() for _, keep in calls)
    rewards = found._source.episodes.rewards
    of_windows = np.concatenate(
        [
            rewards[first : first + length]
            for first, length in zip(
                found._source.episodes.offsets[windows.episode] + windows.start, windows.length, strict=True
            )
        ]
    )
    np.testing.assert_allclose(shard["rewards"], of_windows + 0.5 * np.abs(of_windows), rtol=1e-4, atol=1e-4)
    others = method(linear_episodes(terminated=(0, 5)), condition="none")
    others.fit(tmp_path, progress=False)
    assert np.abs(others.generate(0)["rewards"] - shard["rewards"]).max() > 0.1


def test_expected_returns_are_of_the_windows_own_rewards_and_the_value_after_them(tmp_path: Path) -> None:
    episodes = linear_episodes((20,) * 8, terminated=(0, 5))
    recorded, found = method(episodes), method(episodes, returns="expected", discount=0.9)
    assert not recorded.teachers
    value = found.teachers["value"]
    value.fit(tmp_path, progress=False)
    expected = n_step_returns(
        episodes,
        value.predict(episodes.observations),
        steps=found._config.data.horizon,
        discount=0.9,
        terminal_penalty=100.0,
    )
    np.testing.assert_array_equal(found._returns.to_go, expected)
    windows = found._draws.shard(0)
    (tmp_path / "model").mkdir()
    found.fit(tmp_path / "model", progress=False)
    at = episodes.offsets[windows.episode] + windows.start
    np.testing.assert_array_equal(found.generate(0)["source_return"], expected[at].astype(np.float32))


def test_a_model_told_expected_returns_depends_on_the_value_model() -> None:
    """One that is told recorded returns does not."""
    for returns in ("recorded", "expected"):
        one, other = (
            content_key(method(linear_episodes(), returns=returns, dynamics_steps=steps).model_identity)
            for steps in (30, 31)
        )
        assert (one != other) == (returns == "expected")


def test_a_return_without_end_cannot_be_expected() -> None:
    with pytest.raises(ConfigError, match=r"discount=1\.0 is not allowed; choose below 1 with returns='expected'"):
        GTAConfig().replace(returns="expected", discount=1.0)


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


def test_trap_the_terminal_penalty_is_in_the_condition_only(tmp_path: Path) -> None:
    """The released code trains on penalised rewards, and leaves the penalty in what it generates."""
    episodes = linear_episodes((9,) * 6, terminated=range(6))
    spread = np.ptp(episodes.rewards)
    found = method(episodes, terminal_penalty=1e6, mu=0.05, windows_per_shard=32)
    found.fit(tmp_path, progress=False)
    made = Episodes.from_arrays(found.generate(0))
    assert made.terminations.sum() >= 3
    terminal = made.rewards[made.terminations]
    assert terminal.min() > episodes.rewards.min() - spread
    assert terminal.max() < episodes.rewards.max() + spread
    assert found.generate(0)["source_return"].max() < -1e5


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


@pytest.mark.parametrize("limit", [1.0, 1.2, 0.0])
def test_no_window_is_asked_for_more_than_the_best_return_amplified_by_the_limit(limit: float, tmp_path: Path) -> None:
    found = method(linear_episodes(), alpha=1.8, return_limit=limit)
    found.fit(tmp_path, progress=False)
    shards = [found.generate(number) for number in range(6)]
    source = np.concatenate([shard["source_return"] for shard in shards])
    asked = np.concatenate([shard["asked_return"] for shard in shards])
    best = found._returns.best
    ceiling = np.inf if limit == 0 else best + (limit - 1) * abs(best)
    expected = np.minimum(source + 0.8 * np.abs(source), ceiling)
    assert (source + 0.8 * np.abs(source) > best).any()
    np.testing.assert_allclose(asked, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("reweighting", "lowest", "told"), [("sparse", -1, -1), ("sparse", 0, None), ("dense", -1, None)]
)
def test_which_reward_is_a_failure_is_in_the_key_unless_it_is_zero(
    reweighting: str, lowest: float, told: float | None
) -> None:
    episodes = linear_episodes((7, 7))
    rewards = np.float32(lowest) + (np.arange(14) == 13)
    found = method(dataclasses.replace(episodes, rewards=rewards.astype(np.float32)), reweighting=reweighting)
    assert found.model_identity.get("failure") == told
