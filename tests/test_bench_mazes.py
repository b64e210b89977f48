"""Point mazes: the ways through them, what the controller's data mean, and policies that are trained on them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import minari
import numpy as np
import pytest
from minari.data_collector.episode_buffer import EpisodeBuffer

from benchmarks import datasets, online_tasks, record, run
from benchmarks.environments import evaluation_spec, make_flat
from benchmarks.mazes import MAZES, make_env, references, steps_to
from benchmarks.tasks import MAZE2D
from gta_datasets.adapters import to_d3rlpy
from gta_datasets.errors import DatasetError, MissingExtraError
from tests.smoke import assert_same_episode

NAME = "sim/pointmaze/umaze-v0"


@pytest.fixture(scope="module", autouse=True)
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Iterator[minari.MinariDataset]:
    """A folder with one small maze dataset."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(tmp_path_factory.mktemp("minari")))
        yield datasets.make(NAME, steps=1_000)


@pytest.mark.parametrize("size", MAZES)
def test_the_ways_are_shortest(size: str) -> None:
    maze = MAZES[size]
    cells = np.array(maze.free)
    adjacent = np.abs(cells[:, None] - cells[None]).sum(axis=2) == 1
    reached, distance = np.eye(len(cells), dtype=bool), np.zeros((len(cells), len(cells)), int)
    for steps in range(1, len(cells)):
        following = reached | (reached.astype(int) @ adjacent > 0)
        distance[following & ~reached], reached = steps, following
    assert reached.all()
    for place, goal in enumerate(maze.free):
        way = steps_to(maze, goal)
        for other, cell in enumerate(maze.free):
            steps = 0
            while cell != goal:
                assert np.abs(np.subtract(cell, way[cell])).sum() == 1
                cell, steps = way[cell], steps + 1
            assert steps == distance[place, other]


@pytest.mark.parametrize("size", MAZES)
def test_a_maze_is_that_of_the_environment(size: str) -> None:
    maze = MAZES[size]
    theirs = gymnasium.make(maze.env_id).unwrapped
    walls = {
        (row, column) for row, line in enumerate(theirs.maze.maze_map) for column, one in enumerate(line) if one == 1
    }
    cells = {(row, column) for row, line in enumerate(maze.walls) for column in range(len(line))}
    assert cells - set(maze.free) == walls
    for cell in maze.free:
        np.testing.assert_array_equal(maze.middle(cell), theirs.maze.cell_rowcol_to_xy(cell))
        assert maze.cell(maze.middle(cell) + 0.4) == maze.cell(maze.middle(cell) - 0.4) == cell
    (goal,) = make_env(maze).unwrapped.maze.unique_goal_locations
    row, column = maze.cell(goal)
    assert maze.walls[row][column] == "G"


def test_rewards_are_for_a_goal_that_stays(dataset: minari.MinariDataset) -> None:
    assert dataset.total_steps == 1_200
    returns = []
    for episode in dataset:
        goal = episode.observations["desired_goal"]
        assert (goal == goal[0]).all()
        assert MAZES["umaze"].cell(goal[0]) == (1, 1)
        distance = np.linalg.norm(episode.observations["observation"][1:, :2] - goal[1:], axis=1)
        np.testing.assert_array_equal(episode.rewards, distance <= 0.45)
        assert not episode.terminations.any()
        assert np.flatnonzero(episode.truncations).tolist() == [299]
        returns.append(episode.rewards.sum())
    assert 0 < np.mean(returns) < 100, "the controller should pass the goal, and not stay there"


def test_the_ball_gets_everywhere(dataset: minari.MinariDataset) -> None:
    maze = MAZES["umaze"]
    places = np.concatenate([episode.observations["observation"][:, :2] for episode in dataset])
    assert {maze.cell(place) for place in places} == set(maze.free)
    crossed = np.abs(np.diff([maze.cell(place) for place in dataset[0].observations["observation"][:, :2]], axis=0))
    assert crossed.sum() > 10, "the controller should go from place to place within an episode"


def test_replay_data_find_the_goal_more_and_more() -> None:
    name = "sim/pointmaze/umaze-replay-v0"
    returns = [
        [sum(datasets.episode(name, number, seed=0).rewards) for number in range(luck, 32, 4)] for luck in range(4)
    ]
    wandering = [sum(datasets.episode(NAME, number, seed=0).rewards) for number in range(0, 32, 4)]
    means = np.mean(returns, axis=1)
    assert (np.diff(means) > 0).all()
    assert means[3] > MAZES["umaze"].expert_return / 2 > np.mean(wandering) * 2
    assert means[0] < MAZES["umaze"].expert_return / 4


def test_data_do_not_depend_on_the_number_of_workers(
    dataset: minari.MinariDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    again = datasets.make(NAME, steps=500, workers=2)
    assert again.total_episodes == 2
    for one, other in zip(again, dataset, strict=False):
        assert_same_episode(one, other)
    other_seed = datasets.episode(NAME, 0, seed=1)
    assert not np.array_equal(other_seed.observations["observation"], dataset[0].observations["observation"])


def test_scores_are_between_chance_and_knowing_the_goal(dataset: minari.MinariDataset) -> None:
    maze, task = MAZES["umaze"], MAZE2D[0]
    low, high = references(maze, 40)
    assert low == pytest.approx(maze.random_return, abs=5)
    assert high == pytest.approx(maze.expert_return, rel=0.05)
    assert task.dataset == NAME
    assert task.normalise(maze.random_return, dataset) == 0
    assert task.normalise(maze.expert_return, dataset) == 100


@pytest.mark.parametrize(("table", "algorithm"), [("1-maze", "IQL"), ("14", "DT")])
def test_a_unit_of_the_mazes_is_run(
    table: str, algorithm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = {"umaze": replace(MAZES["umaze"], horizon=6)}
    monkeypatch.setattr(datasets, "MAZES", short)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    datasets.make(NAME, steps=60)
    only = ["--scale", "smoke", "--results", str(tmp_path), "--dataset", NAME, "--method", "S4RL"]
    assert run.main(["--table", table, *only]) == 0
    (line,) = record.read_lines(tmp_path / "runs.jsonl")
    assert (line["unit"]["algorithm"], line["unit"]["episodes"]) == (algorithm, 10)
    assert line["environment"] == "PointMaze_UMaze-v3"
    low, high = short["umaze"].random_return, short["umaze"].expert_return
    expected = 100 * (line["returns"]["4"]["mean"] - low) / (high - low)
    assert line["normalised"]["4"] == pytest.approx(expected)


def test_policies_see_what_they_were_trained_on(dataset: minari.MinariDataset) -> None:
    (env,) = make_flat(dataset, 1)
    seen, _ = env.reset(seed=5)
    raw, _ = gymnasium.make(MAZES["umaze"].env_spec).reset(seed=5)
    expected = np.concatenate([raw["observation"], raw["desired_goal"]]).astype(np.float32)
    np.testing.assert_array_equal(seen, expected)
    assert env.observation_space.contains(seen)
    trained_on = to_d3rlpy(dataset).transition(7).observation
    stored = dataset[0].observations
    np.testing.assert_allclose(trained_on, np.concatenate([stored["observation"][7], stored["desired_goal"][7]]))


def test_evaluations_are_in_the_environment_that_is_meant_for_them(dataset: minari.MinariDataset) -> None:
    spec = MAZES["umaze"].env_spec
    first = dataset[0]
    buffer = EpisodeBuffer(
        0, 0, None, first.observations, first.actions, list(first.rewards), list(first.terminations),
        list(first.truncations), {},
    )  # fmt: skip
    about = dict.fromkeys(("author", "author_email", "code_permalink", "algorithm_name", "description"), "x")
    for_data, for_evaluation = (replace(spec, max_episode_steps=steps) for steps in (10**6, 300))
    both = minari.create_dataset_from_buffers(
        "test/both-v0", [buffer], env=for_data, eval_env=for_evaluation, data_format="hdf5", **about
    )
    assert evaluation_spec(both).max_episode_steps == 300
    with pytest.warns(UserWarning, match="`eval_env` is set to None"):
        one = minari.create_dataset_from_buffers("test/one-v0", [buffer], env=for_data, data_format="hdf5", **about)
    assert evaluation_spec(one).max_episode_steps == 10**6


def test_an_ants_episode_ends_at_the_goal() -> None:
    """As D4RL's do: its score is the share of episodes that come there."""
    gymnasium.register_envs(pytest.importorskip("gymnasium_robotics"))
    recorded = gymnasium.spec("AntMaze_UMaze-v5")
    recorded.kwargs["continuing_task"] = True
    storage = SimpleNamespace(metadata={"eval_env_spec": "as it was recorded"})
    env = SimpleNamespace(spec=recorded, close=lambda: None)
    stored = SimpleNamespace(storage=storage, recover_environment=lambda *, eval_env: env)
    spec = evaluation_spec(stored)
    assert (spec.id, spec.kwargs["continuing_task"], recorded.kwargs["continuing_task"]) == (recorded.id, False, True)
    env = gymnasium.make(spec)
    assert env.unwrapped.continuing_task is False


def test_names_say_what_there_is_and_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [task.remote for task in MAZE2D] == [f"D4RL/pointmaze/{size}-v2" for size in ("umaze", "medium", "large")]
    with pytest.raises(DatasetError, match="make sim/pointmaze/large-v0 --steps 4000000` makes it, or `minari down"):
        MAZE2D[2].open()
    monkeypatch.setitem(sys.modules, "gymnasium_robotics", None)
    with pytest.raises(MissingExtraError, match=r"PointMaze_UMaze-v3 needs .*gta-datasets\[robotics\]"):
        MAZES["umaze"].env_spec  # noqa: B018 - asking is enough


def test_agents_online_see_the_maze_as_the_recorded_ones_did(dataset: minari.MinariDataset) -> None:
    offline = online_tasks.offline_part(dataset, "own", 1)
    assert len(offline) == 1
    env = online_tasks.make_env(dataset, "own", None)
    assert offline.observation_space == env.observation_space
    stored = dataset[0].observations
    expected = np.concatenate([stored["observation"], stored["desired_goal"]], axis=1).astype(np.float32)
    np.testing.assert_array_equal(offline[0].observations, expected)
