"""Point mazes with the meaning of D4RL's maze2d: a ball is driven from place to place and not told of the goal.

Every step near the task's goal, which stays where D4RL has it, is worth 1. The controller of the data knows nothing of
it: it goes on from one random place of the maze to the next until the time is over, so that a way to the goal has to be
put together from parts of trajectories. The controllers of replay data do the same until they happen to choose the
goal, which is seldom or often, and stay there: data of an agent that is learning the task.

python -m benchmarks.mazes --episodes 200      # the returns that the scores are normalised by
"""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from minari.data_collector.episode_buffer import EpisodeBuffer
from numpy.typing import NDArray

from gta_datasets.errors import requires_extra
from gta_datasets.rollouts import Policy, Uniform, roll_out

__all__ = ["MAZES", "Maze", "make_env", "search", "wander"]

Cell = tuple[int, int]  # row and column
Observation = Mapping[str, NDArray[np.float64]]
Choose = Callable[[Observation, np.random.Generator], NDArray[np.float64]]
"""The place (2,) to go to next."""

PULL, BRAKE = 10.0, 1.0  # D4RL's gains, of the distance and of the velocity
NOISE = 0.5  # D4RL's, a standard deviation of forces between -1 and 1
NEAR = 0.3  # from a place that is reached
LUCK = (0.0, 0.1, 0.2, 0.4)  # how likely the controllers of replay data, in turn, choose the goal next
SPREAD = 0.25  # of places around the middle of a cell, as the environment has it


@dataclass(frozen=True)
class Maze:
    """One size of maze."""

    env_id: str  # of Gymnasium-Robotics
    walls: tuple[str, ...]  # the map, a word per row of cells; `#` is a wall and `G` the goal
    horizon: int  # steps of an episode
    random_return: float  # mean of uniformly random actions, of 200 episodes
    expert_return: float  # of the controller when it goes to the goal and stays there

    @property
    def env_spec(self) -> EnvSpec:
        """The environment of data and of evaluations.

        Raises:
            MissingExtraError: Gymnasium-Robotics is not installed.
        """
        register_robotics(self.env_id)
        spec = gymnasium.spec(self.env_id)
        cells = {"#": 1, "G": "g"}
        rows = [[cells.get(cell, 0) for cell in row] for row in self.walls]
        kwargs = {**spec.kwargs, "maze_map": rows, "continuing_task": True, "reset_target": False}
        return replace(spec, kwargs=kwargs, max_episode_steps=self.horizon, disable_env_checker=True)

    @property
    def free(self) -> tuple[Cell, ...]:
        """The cells without walls."""
        return tuple((row, column) for row, line in enumerate(self.walls) for column in _free_columns(line))

    def middle(self, cell: Cell) -> NDArray[np.float64]:
        """Where a cell is, (2,): x to the right and y upwards from the middle of the maze."""
        row, column = cell
        return np.array([column + 0.5 - len(self.walls[0]) / 2, len(self.walls) / 2 - row - 0.5])

    def cell(self, place: NDArray[np.float64]) -> Cell:
        """The cell at a place (2,)."""
        x, y = place
        return int(np.floor(len(self.walls) / 2 - y)), int(np.floor(x + len(self.walls[0]) / 2))


MAZES = {
    "umaze": Maze("PointMaze_UMaze-v3", ("#####", "#G..#", "###.#", "#...#", "#####"), 300, 8.975, 228.38),
    "medium": Maze(
        "PointMaze_Medium-v3",
        ("########", "#..##..#", "#..#...#", "##...###", "#..#...#", "#.#..#.#", "#...#.G#", "########"),
        600,
        10.545,
        474.55,
    ),
    "large": Maze(
        "PointMaze_Large-v3",
        (
            "############",
            "#....#.....#",
            "#.##.#.#.#.#",
            "#......#...#",
            "#.####.###.#",
            "#..#.#.....#",
            "##.#.#.#.###",
            "#..#...#.G.#",
            "############",
        ),
        800,
        8.635,
        624.505,
    ),
}


@cache
def steps_to(maze: Maze, goal: Cell) -> Mapping[Cell, Cell]:
    """For every cell the next one on a shortest way to the goal, by breadth-first search; the goal's is the goal."""
    free, following, waiting = set(maze.free), {goal: goal}, deque([goal])
    while waiting:
        row, column = here = waiting.popleft()
        for cell in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            if cell in free and cell not in following:
                following[cell] = here
                waiting.append(cell)
    return following


@dataclass
class Controller:
    """Drives the ball along the middles of cells to one place after the other, with noise."""

    maze: Maze
    choose: Choose
    place: NDArray[np.float64] | None = field(default=None, init=False)
    """Where it is going."""

    def act(self, observation: Observation, rng: np.random.Generator) -> NDArray[np.float32]:
        """Forces (2,) between -1 and 1."""
        position, velocity = observation["observation"][:2], observation["observation"][2:]
        if self.place is None or np.linalg.norm(self.place - position) < NEAR:
            self.place = self.choose(observation, rng)
        goal, here = self.maze.cell(self.place), self.maze.cell(position)
        following = steps_to(self.maze, goal).get(here, here)  # the ball may stick in a wall by a little
        waypoint = self.place if here == goal else self.maze.middle(following)
        forces = PULL * (waypoint - position) - BRAKE * velocity + NOISE * rng.standard_normal(2)
        return np.clip(forces, -1, 1).astype(np.float32)


def somewhere(maze: Maze) -> Choose:
    """Any place of the maze."""

    def choose(_observation: Observation, rng: np.random.Generator) -> NDArray[np.float64]:
        middle = maze.middle(maze.free[rng.integers(len(maze.free))])
        return middle + rng.uniform(-SPREAD, SPREAD, 2)

    return choose


def home(observation: Observation, _rng: np.random.Generator) -> NDArray[np.float64]:
    """The task's goal."""
    return observation["desired_goal"]


def until_home(elsewhere: Choose, luck: float) -> Choose:
    """The goal with probability `luck`, and from then on always; before that, `elsewhere`."""
    found = False

    def choose(observation: Observation, rng: np.random.Generator) -> NDArray[np.float64]:
        nonlocal found
        found = found or rng.random() < luck
        return (home if found else elsewhere)(observation, rng)

    return choose


def wander(maze: Maze, number: int, seed: int) -> EpisodeBuffer:
    """Episode `number` of the controller that knows nothing of the goal."""
    return _drive(maze, somewhere(maze), number, seed)


def search(maze: Maze, number: int, seed: int) -> EpisodeBuffer:
    """Episode `number` of controllers that come across the goal and stay."""
    return _drive(maze, until_home(somewhere(maze), LUCK[number % len(LUCK)]), number, seed)


def _drive(maze: Maze, choose: Choose, number: int, seed: int) -> EpisodeBuffer:
    buffer = roll_out(make_env(maze), Controller(maze, choose), number, seed)
    rows: Any = buffer.observations
    return replace(buffer, observations={name: np.stack([row[name] for row in rows]) for name in rows[0]})


@cache
def make_env(maze: Maze) -> gymnasium.Env[Any, Any]:
    """The environment, made once per process."""
    return gymnasium.make(maze.env_spec)


def references(maze: Maze, episodes: int) -> tuple[float, float]:
    """Mean returns of uniformly random actions, and of the controller that goes to the goal and stays there."""
    makers: tuple[Callable[[], Policy], ...] = (lambda: Uniform(2), lambda: Controller(maze, home))
    low, high = (
        float(np.mean([sum(roll_out(make_env(maze), maker(), number, 0).rewards) for number in range(episodes)]))
        for maker in makers
    )
    return low, high


def main() -> None:
    """Print the reference returns of all mazes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=200)
    episodes = parser.parse_args().episodes
    for size, maze in MAZES.items():
        print(size, *references(maze, episodes))


def register_robotics(env_id: str) -> None:
    """Have Gymnasium know the environments of Gymnasium-Robotics, of which `env_id` is one.

    Raises:
        MissingExtraError: Gymnasium-Robotics is not installed.
    """
    with requires_extra("robotics", "gymnasium_robotics", f"{env_id} needs"):
        import gymnasium_robotics
    gymnasium.register_envs(gymnasium_robotics)


def _free_columns(line: str) -> list[int]:
    return [column for column, cell in enumerate(line) if cell != "#"]


if __name__ == "__main__":
    main()
