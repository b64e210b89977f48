"""What GTA asks for: amplified, fixed or expected returns, rewards painted in, and nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from gta_datasets.config import GTAConfig
from gta_datasets.data.episodes import Episodes
from gta_datasets.data.returns import n_step_returns
from gta_datasets.errors import ConfigError
from gta_datasets.methods.gta import GTA
from gta_datasets.store import content_key
from tests.builders import linear_episodes
from tests.methods.gta import method


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
