"""Environments in several processes do what they do in one."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from benchmarks import training
from benchmarks.episodes import episode_returns
from benchmarks.stepping import opened
from benchmarks.training import Prepared
from benchmarks.vectorised.training import Course
from tests.benches import HOPPER, small_hopper, unit_of

_hopper = pytest.fixture(scope="module", autouse=True)(small_hopper)


class Counting(gymnasium.Env[Any, Any]):
    """Ends after as many steps as its seed; every step is worth the action; fails at action 9, and dies at 8."""

    observation_space = spaces.Dict(
        {"pair": spaces.Tuple([spaces.Discrete(100), spaces.Box(0, 100, (2,))]), "seed": spaces.Box(0, 100, ())}
    )
    action_space = spaces.Box(0, 9, (1,))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        assert seed is not None
        self.seed, self.steps = seed, 0
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        if action[0] == 9:
            raise ValueError("no nines")
        if action[0] == 8:
            os._exit(7)
        return self._seen(), float(action[0]), self.steps == self.seed, False, {}

    def _seen(self) -> Any:
        steps = np.full(2, self.steps, np.float32)
        return {"pair": (np.int64(self.steps), steps), "seed": np.array(self.seed, np.float32)}


SPEC = EnvSpec("Counting-v0", entry_point=f"{__name__}:Counting", disable_env_checker=True)


def act(seen: Any) -> np.ndarray:
    """A thousandth of the number of steps, plus one for odd seeds."""
    counted, steps = seen["pair"]
    np.testing.assert_array_equal(counted, steps[:, 1])
    return (counted / 1_000 + seen["seed"] % 2)[:, None]


def test_environments_in_processes_do_what_they_do_in_one() -> None:
    seeds = [5, 2, 3, 7, 1]
    with opened(SPEC, 5) as here, opened(SPEC, 5, 3) as spread:
        assert len(here) == len(spread) == 5
        for some in (seeds, seeds[:4], seeds[:2]):  # fewer episodes than environments, or than processes
            expected = [sum(range(seed)) / 1_000 + seed * (seed % 2) for seed in some]
            for environments in (here, spread):
                np.testing.assert_allclose(episode_returns(act, environments, some), expected)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(("action", "why"), [(9.0, "ValueError: no nines"), (8.0, "failed: it ended with exit code 7")])
def test_what_fails_in_another_process_fails_here(action: float, why: str) -> None:
    with pytest.raises(RuntimeError, match=why), opened(SPEC, 2, 2) as spread:
        episode_returns(lambda seen: np.full((2, 1), action), spread, [1, 2])
    assert not multiprocessing.active_children()


def test_environments_that_cannot_be_made_fail_at_once() -> None:
    with pytest.raises(RuntimeError, match="No module named 'nowhere'"), opened(EnvSpec("X-v0", "nowhere:X"), 2, 2):
        pytest.fail("there are none")
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("processes", [1, 2])
def test_there_are_no_more_episodes_than_environments(processes: int) -> None:
    with pytest.raises((ValueError, RuntimeError), match="environments"), opened(SPEC, 2, processes) as environments:
        environments.reset([1, 2, 3])


@pytest.mark.parametrize(("device", "processes"), [("cpu", 1), ("cuda:0", 7)])
def test_a_gpu_does_not_wait_for_a_single_process(
    device: str, processes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    courses: list[Course] = []
    monkeypatch.setattr(training, "train_and_evaluate", lambda _runs, course, *_: courses.append(course) or [])
    unit = Prepared(unit_of("1-gym", HOPPER, "None"))
    assert list(training.train_stack([(unit, unit.run({}))], device, 7, tmp_path, None)) == []
    assert [course.processes for course in courses] == [processes]
