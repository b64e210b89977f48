"""The benchmark of online augmentation: its environments, and one tiny run of every kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
import pytest
from stable_baselines3 import SAC

from benchmarks import lengths, online, online_tasks, record
from benchmarks.online_table import table
from gta_datasets.config import ATraDiffConfig
from tests.benches import HOPPER, small_hopper
from tests.online.worlds import line_dataset

_hopper = pytest.fixture(scope="module", autouse=True)(small_hopper)


def test_recorded_milestones_are_those_of_the_environment() -> None:
    source = minari.load_dataset(HOPPER)
    dataset = online_tasks.offline_part(source, "milestones", 100)
    assert dataset.total_steps >= 100
    env = online_tasks.make_env(source, "milestones", None)
    episode, dense = dataset[0], source[0]
    env.reset(seed=0)
    simulator = env.unwrapped
    simulator.set_state(np.append(0.0, dense.observations[0][:5]), dense.observations[0][5:])
    env._start = 0.0
    for step in range(min(120, len(episode.rewards))):
        observation, reward, *_ = env.step(episode.actions[step])
        np.testing.assert_allclose(observation[-1], episode.observations[step + 1, -1], atol=2e-2)
        if abs(observation[-1]) > 0.05 and abs(observation[-1]) < 0.95:
            assert reward == episode.rewards[step]
    assert env.observation_space == dataset.observation_space
    assert dataset[0].rewards.sum() > 0


def test_a_dataset_of_its_own_rewards_is_as_the_agents_see_it() -> None:
    source = minari.load_dataset(HOPPER)
    dataset = online_tasks.offline_part(source, "own", 100)
    assert source.total_steps > dataset.total_steps >= 100
    assert dataset.observation_space == online_tasks.make_env(source, "own", None).observation_space
    np.testing.assert_allclose(dataset[0].observations, source[0].observations, rtol=1e-6)
    np.testing.assert_array_equal(dataset[0].rewards, source[0].rewards)
    assert online_tasks.offline_part(source, "own", 100).id == dataset.id, "made once"


def test_where_the_goal_counts_the_first_reward_ends_the_task() -> None:
    source = minari.load_dataset(HOPPER)  # upright is rewarded at every step
    dataset = online_tasks.offline_part(source, "goal", 2)
    assert [(len(episode.rewards), bool(episode.terminations[-1])) for episode in dataset] == [(1, True)] * 2
    np.testing.assert_allclose(dataset[0].observations, source[0].observations[:2], rtol=1e-6)
    env = online_tasks.make_env(source, "goal", None)
    env.reset(seed=0)
    _, reward, terminated, *_ = env.step(np.zeros(3, np.float32))
    assert reward > 0
    assert terminated


@pytest.mark.parametrize("shift", [None, *online_tasks.SHIFTS])
def test_shifts_change_the_physics(shift: str | None) -> None:
    states, source = [], minari.load_dataset(HOPPER)
    for env in (gymnasium.make("Hopper-v5"), online_tasks.make_env(source, "own", shift)):
        env.reset(seed=1)
        for _ in range(40):
            observation, *_ = env.step(np.array([0.3, -0.3, 0.2], np.float32))
        states.append(observation.astype(np.float32))
    assert np.array_equal(*states) == (shift is None)


def test_runs_are_done_once_and_say_what_they_cost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = ["--steps", "120", "--every", "60", "--episodes", "1", "--offline-steps", "100", "--preset", "smoke"]
    every = [word for variant in ("none", "offline", "offline-half", "atradiff") for word in ("--variant", variant)]
    for _ in range(2):
        online.main([HOPPER, *every, *tiny, "--shift", "mass", "--device", "cpu", "--results", str(tmp_path)])
    assert capsys.readouterr().out.count("done already") == 4
    lines = record.read_lines(tmp_path / "online.jsonl")
    assert [line["unit"]["variant"] for line in lines] == ["none", "offline", "offline-half", "atradiff"]
    for line in lines:
        assert line["returns"].keys() == {"60", "120"}
        assert line["seconds_per_step"] > 0
    assert lines[1]["returns"] != lines[2]["returns"], "their batches differ"
    assert lines[3]["seconds_per_step"] > lines[3]["seconds_per_step_generation"] > 0
    assert "generated" not in lines[1]
    assert lines[3]["generated"] > 0


def test_rare_settings_are_part_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    tiny = ["--steps", "120", "--every", "60", "--episodes", "1", "--offline-steps", "100", "--preset", "smoke"]
    variants = ["--variant", "atradiff", "--variant", "no-adaptation"]
    options = ["--adapt-every", "50", "--entropy", "0.1", "--device", "cpu", "--results", str(tmp_path)]
    monkeypatch.setattr(online, "SAC", lambda *_, **options: asked.append(options["ent_coef"]) or SAC(*_, **options))
    online.main([HOPPER, *variants, *tiny, *options])
    lines = record.read_lines(tmp_path / "online.jsonl")
    assert [(line["unit"].get("adapt_every"), line["adaptations"]) for line in lines] == [(50, 2), (None, 0)]
    assert [line["unit"]["entropy"] for line in lines] == [0.1, 0.1]
    lines[1]["unit"]["adapt_every"] = 50  # it says nothing there
    (tmp_path / "online.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    online.main([HOPPER, *variants, *tiny, *options])
    assert len(record.read_lines(tmp_path / "online.jsonl")) == 2
    assert asked == ["auto_0.1"] * 2
    assert all(line["pruned"] >= 0 for line in lines)


def test_runs_are_compared_by_when_they_reach_a_return(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    usual = {
        "dataset": "a/b-v0", "offline_steps": 100_000, "reward": "own", "shift": None, "steps": 50_000, "every": 5_000,
        "episodes": 10, "rho": 0.5, "preset": "cpu",
    }  # fmt: skip
    returns = {
        "offline": [[0, 4, 9], [2, 12, 10], [0, 0, 0]],
        "atradiff": [[10, 12, 14], [2, 11, 10]],
    }
    for variant, runs in returns.items():
        for seed, means in enumerate(runs):
            line = {
                "unit": usual | {"variant": variant, "seed": seed},
                "returns": {str(100 * step): {"mean": mean} for step, mean in enumerate(means, 1)},
                "seconds_per_step": 0.02,
                **({"seconds_per_step_generation": 0.004} if variant == "atradiff" else {}),
                **({"seconds_per_step_adaptation": 0.001} if variant == "atradiff" else {}),
            }
            record.append_line(tmp_path / "online.jsonl", "benchmarks.online", line)
    other = {"unit": usual | {"variant": "none", "seed": 0, "shift": "mass"}, "returns": {"100": {"mean": 99.0}}}
    record.append_line(tmp_path / "online.jsonl", "benchmarks.online", other)
    online.main(["a/b-v0", "--show", "10", "--results", str(tmp_path)])
    _, _, offline, atradiff, path = capsys.readouterr().out.splitlines()
    # Of three runs one reached it: the median did not.
    assert offline == "| offline | 3 | 1 | - | 4.1 ± 4.0 | - | 6.3 ± 5.5 | 20.0 | - | - |"
    assert atradiff.startswith("| atradiff | 2 | 2 | 150 | 9.8 ± 3.1 | 0.")
    assert atradiff.endswith("| 12.0 ± 2.8 | 20.0 | 4.0 | 1.0 |")
    assert path.endswith("online-a-b-v0-own.png")
    assert Path(path).read_bytes().startswith(b"\x89PNG")


def test_tests_are_against_the_agent_with_half_of_its_batches_offline() -> None:
    def runs(*means: float) -> list[dict[str, Any]]:
        return [{"returns": {"100": {"mean": mean}}, "seconds_per_step": 0.02} for mean in means]

    found = {"offline": runs(1, 2, 3), "offline-half": runs(4, 5, 6), "atradiff": runs(4, 5, 6)}
    rows = [row.split(" | ") for row in table(found, 3.0).splitlines()[2:]]
    assert [row[5] for row in rows] == ["0.021", "-", "1.000"]


def test_ablations_are_settings_of_atradiff() -> None:
    for name, settings in online.VARIANTS.items():
        if settings is not None:
            config = ATraDiffConfig().replace(**settings)
            assert (config == ATraDiffConfig()) == (name == "atradiff")


def test_estimated_lengths_are_judged_by_episodes_that_were_held_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = line_dataset("bench/line-v0", episodes=30)
    seen, unseen = lengths.split(dataset)
    assert unseen.episode_ids.tolist() == [0, 10, 20]
    assert sorted([*seen.episode_ids, *unseen.episode_ids]) == list(range(30))
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    lengths.main([dataset.id, "--preset", "smoke"])
    found = json.loads((tmp_path / "lengths" / "bench-line-v0.json").read_text())
    assert found["states"] == unseen.episodes.num_transitions
    assert found["estimated"].keys() == found["median_of_seen"].keys()
    assert found["median_of_seen"]["rank_correlation"] is None
    assert (tmp_path / "lengths" / "bench-line-v0.png").stat().st_size > 0


def test_how_lengths_are_judged() -> None:
    found = lengths.judge(np.array([5.0, 6.0, 40.0, 10.0]), np.array([5, 3, 20, 31]), (5, 15, 31))
    assert found == {"rank_correlation": 0.6, "median_factor": 2.0, "within_factor_2": 0.75, "right_model": 0.5}
