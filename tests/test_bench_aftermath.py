"""What becomes of the last states of windows, in a world where that is known."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import aftermath, datasets, record
from gta_datasets.errors import DatasetError
from gta_datasets.rollouts import SquashedGaussian, make_env
from tests.builders import linear_episodes


class Countdown:
    """A position says how many steps are left, whatever happens; each step earns 1, and 10 where the velocity is 1."""

    def __init__(self) -> None:
        self.unwrapped, self.model = self, SimpleNamespace(nq=2)

    def reset(self, *, seed: int) -> None:
        self.state = np.full(2, np.nan)

    def set_state(self, positions: np.ndarray, velocities: np.ndarray) -> None:
        assert positions[0] == 0
        self.state = np.append(positions[1:], velocities)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, float]]:
        assert action.shape == (1,)
        self.state = self.state - [1, 0]
        return self.state, 1.0 + 9 * self.state[1], bool(self.state[0] <= 0), False, {}


def small_policy() -> SquashedGaussian:
    layers = ("hidden_0", "hidden_1", "mean", "log_std")
    weights = {f"{name}.weight": np.zeros((2 if name == "hidden_0" else 1, 1), np.float32) for name in layers}
    return SquashedGaussian(weights | {f"{name}.bias": np.zeros(1, np.float32) for name in layers})


def test_states_are_followed_until_they_end() -> None:
    states = np.array([[3, 0], [1, 1], [50, 0]], np.float32)
    lasted, earned = aftermath.follow(states, Countdown(), small_policy(), steps=10, seed=0)
    np.testing.assert_array_equal(lasted, [2, 0, 10])
    np.testing.assert_array_equal(earned, [3.0, 10.0, 10.0])


def test_the_environment_goes_on_from_the_observed_state() -> None:
    episode = datasets.episode("sim/hopper/medium-v0", 0, seed=0)
    state = np.asarray(episode.observations)[40]

    class Recorded(SquashedGaussian):
        def act(self, observation: np.ndarray, rng: np.random.Generator) -> np.ndarray:
            return np.asarray(episode.actions)[40]

    _, earned = aftermath.follow(state[None], make_env("Hopper-v5"), Recorded({}), steps=1, seed=0)
    np.testing.assert_allclose(earned, episode.rewards[40], rtol=1e-6)


def test_recorded_windows_go_on_or_end_a_recording() -> None:
    episodes = linear_episodes((6, 4, 2, 9), terminated=(0, 2))
    windows = aftermath.recorded_windows(episodes, 4, 8)
    assert windows.num_episodes == 8
    assert not windows.terminations.any()
    whole = {
        episodes.observations[row : row + 5].tobytes()
        for episode, starts in ((0, (0, 1)), (1, (0,)), (3, range(6)))
        for row in (episodes.observation_offsets[episode] + start for start in starts)
    }
    found = {windows.slice(window, window + 1).observations.tobytes() for window in range(8)}
    assert len(found) == 8
    assert found <= whole
    for window in range(8):
        one = windows.slice(window, window + 1)
        (row,) = np.flatnonzero((episodes.observations == one.observations[0]).all(axis=1))
        first = row - np.searchsorted(episodes.observation_offsets, row, side="right") + 1
        np.testing.assert_array_equal(one.rewards, episodes.rewards[first : first + 4])


def test_recorded_and_generated_windows_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results")
    datasets.make("sim/hopper/medium-v0", steps=600)
    arguments = ["sim/hopper/medium-v0", "--preset", "smoke", "--windows", "20"]
    aftermath.main([*arguments, "--variant", "alpha=1.3", "--variant", "alpha=1.0,returns=expected"])
    found = json.loads((tmp_path / "results" / "aftermath" / "sim-hopper-medium-v0.json").read_text())["windows_end_in"]
    assert list(found) == ["source", "alpha=1.3", "alpha=1.0,returns=expected"]
    for judged in found.values():
        assert judged["windows"] == 20
        within = list(judged["fallen_within"].values())
        assert within == sorted(within)
    assert found["source"]["reward_per_step"] > 1
    assert found["source"]["return_of_next_200"] > 100


@pytest.mark.parametrize(
    "name",
    [
        "sim/hopper/medium-replay-v0",
        "sim/pointmaze/umaze-v0",
        "sim/hopper/random-v0",
        "mujoco/hopper/medium-v0",
        "cartpole-v0",
    ],
)
def test_only_a_policy_of_one_recording_can_go_on(name: str) -> None:
    with pytest.raises(DatasetError, match="was not recorded by one policy"):
        datasets.behaviour(name)


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ("alpha", "alpha is not name=value with one of"),
        ("alpha=1.1,beta=1", "beta=1 is not name=value with one of"),
        ("horizon=7", "changes how long windows are"),
    ],
)
def test_variants_are_settings_that_leave_windows_as_long(
    variant: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        aftermath.main(["sim/hopper/medium-v0", "--variant", variant])
    assert message in capsys.readouterr().err
