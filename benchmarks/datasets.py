"""Datasets of D4RL's kinds, made by policies that ship with the benchmarks or by a controller, or fetched.

python -m benchmarks.datasets make sim/halfcheetah/medium-v0 --steps 1000000 --workers 8
python -m benchmarks.datasets make sim/hopper/medium-expert-v0
python -m benchmarks.datasets make sim/pointmaze/umaze-v0 --steps 1000000
python -m benchmarks.datasets make human/door/demonstrations-v0        # which ship with the benchmarks
python -m benchmarks.datasets make sim/walker2d/medium-v0 --remote     # Farama's dataset of this kind, from the network
python -m benchmarks.datasets describe sim/hopper/medium-v0 sim/hopper/expert-v0     # results/datasets.json

Episode number n of a dataset depends on the seed and n alone, not on the number of workers.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from minari.data_collector.episode_buffer import EpisodeBuffer

from benchmarks import record
from benchmarks.mazes import MAZES, Maze, register_robotics, search, wander
from benchmarks.statistics import deviation
from gta_datasets.errors import DatasetError, MissingExtraError
from gta_datasets.rollouts import Policy, SquashedGaussian, Uniform, make_env, roll_out

BEHAVIOUR = Path(__file__).parent / "behaviour"
DEMONSTRATIONS = Path(__file__).parent / "demonstrations" / "door.npz"


@dataclass(frozen=True)
class Body:
    """One robot: its environment, how far its policies were trained, and D4RL's reference scores."""

    env_id: str
    medium: int  # training steps of the medium policy
    expert: int  # of the expert
    random_return: float
    expert_return: float


BODIES = {
    "halfcheetah": Body("HalfCheetah-v5", 120_000, 400_000, -280.178953, 12135.0),
    "hopper": Body("Hopper-v5", 120_000, 400_000, -20.272305, 3234.3),
    "walker2d": Body("Walker2d-v5", 180_000, 500_000, 1.629008, 4592.3),
}
MIXTURES = {"expert-replay-20": 20, "expert-replay-10": 10}
"""Episodes of medium-replay that follow each one of an expert's."""
LEVELS = ("random", "medium", "medium-replay", "medium-expert", "expert", *MIXTURES)
MAZE, REPLAY = "pointmaze", "-replay"
ROLLED_OUT = (
    *(f"sim/{body}/{level}-v0" for body, level in itertools.product(BODIES, LEVELS)),
    *(f"sim/{MAZE}/{size}{kind}-v0" for kind, size in itertools.product(("", REPLAY), MAZES)),
)
DOOR, DOOR_ENV = "human/door/demonstrations-v0", "AdroitHandDoor-v1"
DOOR_RETURNS = (-56.512833, 2880.5693)
"""D4RL's, of scores 0 and 100."""
NAMES = (*ROLLED_OUT, DOOR)
REMOTE_LEVELS = ("medium", "expert")
EVERY = 20_000  # training steps between two policies
STEPS = 200_000  # transitions of a dataset, unless told


def main(arguments: Sequence[str] | None = None) -> None:
    """Make or fetch one dataset, or say what is in some."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    making = actions.add_parser("make", help="make or fetch one dataset")
    making.add_argument("name", choices=NAMES)
    making.add_argument("--steps", type=positive, help=f"transitions, at least (default {STEPS:,})")
    making.add_argument("--seed", type=int, help="of what is random (default 0)")
    making.add_argument("--workers", type=positive, help="processes (default 1)")
    making.add_argument("--replace", action="store_true", help="delete what there is of this name")
    making.add_argument("--remote", action="store_true", help="fetch Farama's dataset instead")
    describing = actions.add_parser("describe", help="write sizes and returns to `results/datasets.json`")
    describing.add_argument("names", nargs="+", metavar="NAME", help="of all local Minari datasets that it is to hold")
    options = parser.parse_args(arguments)
    try:
        _act(options)
    except (DatasetError, MissingExtraError, FileNotFoundError) as error:
        parser.error(str(error))


def _act(options: argparse.Namespace) -> None:
    if options.action == "describe":
        found = {name: describe(minari.load_dataset(name)) for name in options.names}
        print(json.dumps(found, indent=2))
        print(record.write_record("datasets", "benchmarks.datasets", {"datasets": found}))
        return
    if options.remote:
        minari.download_dataset(remote_id(options.name))
        print(remote_id(options.name))
        return
    asked = {name: value for name in ("steps", "seed", "workers") if (value := getattr(options, name)) is not None}
    if asked and options.name == DOOR:
        raise DatasetError(f"{', '.join(f'--{name}' for name in asked)}: the demonstrations are what they are")
    dataset = make(options.name, **asked, replace=options.replace)
    print(f"{dataset.id}: {dataset.total_episodes} episodes, {dataset.total_steps} transitions")


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def make(
    name: str, *, steps: int = STEPS, seed: int = 0, workers: int = 1, replace: bool = False
) -> minari.MinariDataset:
    """Roll policies out until there are `steps` transitions, and store them under `name`; or store demonstrations.

    Raises:
        DatasetError: there is a dataset of this name already, and it is not to be replaced.
    """
    is_there = name in minari.list_local_datasets()
    if is_there and not replace:
        raise DatasetError(f"the dataset {name!r} is there already; --replace makes it anew")
    origin = origin_of(name)
    buffers = demonstrations() if name == DOOR else _rolled_out(name, steps, seed, workers)
    if is_there:
        minari.delete_dataset(name)
    dataset: minari.MinariDataset = minari.create_dataset_from_buffers(
        name,
        buffers,
        env=origin.env,
        eval_env=origin.env,
        algorithm_name=origin.algorithm,
        description=f"{origin.description}; {'' if name == DOOR else f'seed {seed}; '}made by benchmarks.datasets",
        author="gta-datasets",
        author_email="none@example.com",
        code_permalink="https://example.com",
        ref_min_score=origin.random_return,
        ref_max_score=origin.expert_return,
        data_format="hdf5",
    )
    return dataset


def _rolled_out(name: str, steps: int, seed: int, workers: int) -> list[EpisodeBuffer]:
    """The first episodes of a dataset that have so many transitions, or a few more."""
    buffers: list[EpisodeBuffer] = []
    lengths: list[int] = []
    with ExitStack() as stack:
        mapped = map if workers == 1 else stack.enter_context(ProcessPoolExecutor(workers)).map
        while sum(lengths) < steps:
            more = -(-(steps - sum(lengths)) // max(lengths, default=1_000))
            numbers = range(len(buffers), len(buffers) + more)
            buffers += mapped(partial(episode, name, seed=seed), numbers)
            lengths = [len(buffer.rewards) for buffer in buffers]
    return buffers[: int(np.searchsorted(np.cumsum(lengths), steps)) + 1]


def demonstrations() -> list[EpisodeBuffer]:
    """The human demonstrations that ship."""
    with np.load(DEMONSTRATIONS, allow_pickle=False) as found:
        lengths, fields = found["lengths"], {name: found[name] for name in ("observations", "actions", "rewards")}
    ends = np.cumsum(lengths)[:-1]
    # Minari stores arrays, though it declares lists.
    parts: dict[str, list[Any]] = {name: np.split(fields[name], ends) for name in ("actions", "rewards")}
    observations: list[Any] = np.split(fields["observations"], np.cumsum(lengths + 1)[:-1])
    last: list[Any] = [np.arange(length) == length - 1 for length in lengths]
    return [
        EpisodeBuffer(
            id=number,
            observations=observations[number],
            actions=parts["actions"][number],
            rewards=parts["rewards"][number],
            terminations=np.zeros_like(last[number]),
            truncations=last[number],
        )
        for number in range(len(lengths))
    ]


def describe(dataset: minari.MinariDataset) -> dict[str, Any]:
    """Episodes, transitions, mean and deviation of the undiscounted returns of episodes, and where they are from."""
    returns = [float(episode.rewards.sum()) for episode in dataset]
    return {
        "episodes": int(dataset.total_episodes),
        "transitions": int(dataset.total_steps),
        "mean_return": round(float(np.mean(returns)), 1),
        "std_return": round(deviation(returns), 1),
        "recording": recording(dataset),
        "description": dataset.storage.metadata.get("description"),
    }


def recording(dataset: minari.MinariDataset) -> str:
    """A few letters that tell recordings of one name apart: a digest of all actions and rewards.

    It is kept for as long as the process lives, as many units are of one dataset, and taken again if a file changes.
    """
    folder = Path(dataset.storage.data_path)
    changes = tuple(sorted((path.name, path.stat().st_mtime_ns) for path in folder.iterdir()))
    key = (folder, changes, tuple(dataset.episode_indices))
    if key not in _RECORDINGS:
        digest = hashlib.blake2b(digest_size=5)
        for episode in dataset:
            for values in (episode.actions, episode.rewards):
                digest.update(np.ascontiguousarray(values).data)
        _RECORDINGS[key] = digest.hexdigest()
    return _RECORDINGS[key]


_RECORDINGS: dict[tuple[Any, ...], str] = {}


@dataclass(frozen=True)
class Origin:
    """Where the data of a name come from."""

    env: str | EnvSpec
    algorithm: str
    description: str
    random_return: float
    expert_return: float


def origin_of(name: str) -> Origin:
    """What is written down about a dataset of ours.

    Raises:
        MissingExtraError: Gymnasium-Robotics is not installed, and the dataset needs it.
    """
    body, level = parse(name)
    if name == DOOR:
        register_robotics(DOOR_ENV)
        about = "25 human demonstrations (DAPG, Rajeswaran et al. 2018, Apache-2.0) replayed in AdroitHandDoor-v1"
        return Origin(DOOR_ENV, "human", about, *DOOR_RETURNS)
    if body == MAZE:
        maze, searching = _maze(level)
        about = "a controller on its way from one random place to the next, "
        about += "until it happens to choose the goal and stays" if searching else "which knows nothing of the goal"
        return Origin(maze.env_spec, "waypoints", f"{level}: {about}", maze.random_return, maze.expert_return)
    known = BODIES[body]
    about = DESCRIPTIONS[level].format(body=known)
    return Origin(known.env_id, "SAC", f"{level}: {about}", known.random_return, known.expert_return)


DESCRIPTIONS = {
    "random": "uniformly random actions",
    "medium": "stochastic roll-outs of a SAC policy after {body.medium:,} steps",
    "medium-replay": "stochastic roll-outs of a SAC policy at every stage up to {body.medium:,} steps, in turn",
    "medium-expert": "stochastic roll-outs of SAC policies after {body.medium:,} and {body.expert:,} steps, in turn",
    "expert": "stochastic roll-outs of a SAC policy after {body.expert:,} steps",
    **{
        level: f"an expert's episode and {others} of medium-replay, in turn: stochastic roll-outs of SAC policies"
        for level, others in MIXTURES.items()
    },
}


def episode(name: str, number: int, *, seed: int) -> EpisodeBuffer:
    """Episode `number` of a dataset."""
    body, level = parse(name)
    if body == MAZE:
        maze, searching = _maze(level)
        return (search if searching else wander)(maze, number, seed)
    policies = _policies(body, level)
    return roll_out(_env(BODIES[body].env_id), policies[number % len(policies)], number, seed)


def parse(name: str) -> tuple[str, str]:
    """Robot and level of a dataset's name, or "pointmaze" and the size with or without "-replay"."""
    _, body, level = name.split("/")
    return body, level.removesuffix("-v0")


def remote_id(name: str) -> str:
    """Farama's Minari dataset of the same kind.

    Raises:
        DatasetError: there is none.
    """
    body, level = parse(name)
    if body == MAZE and not _maze(level)[1]:
        return f"D4RL/{MAZE}/{level}-v2"
    if name == DOOR:
        return "D4RL/door/human-v2"
    if level not in REMOTE_LEVELS:
        raise DatasetError(
            f"there is no remote dataset of level {level!r}; those there are: {', '.join(REMOTE_LEVELS)}"
        )
    return f"mujoco/{body}/{level}-v0"


def _maze(level: str) -> tuple[Maze, bool]:
    """The maze, and whether its data are replay data."""
    return MAZES[level.removesuffix(REPLAY)], level.endswith(REPLAY)


_env: Callable[[str], gymnasium.Env[Any, Any]] = cache(make_env)


def behaviour(name: str) -> SquashedGaussian:
    """The one policy that acts in all episodes of a dataset such as `sim/hopper/medium-v0`.

    Raises:
        DatasetError: there are several, or it is a maze's controller.
    """
    body, level = parse(name) if name in NAMES else ("", "")
    policies = _policies(body, level) if body in BODIES else ()
    if len(policies) == 1 and isinstance(policies[0], SquashedGaussian):
        return policies[0]
    raise DatasetError(f"{name} was not recorded by one policy; the levels medium and expert are")


@cache
def _policies(body: str, level: str) -> tuple[Policy, ...]:
    """What acts in a dataset's episodes, in turn."""
    known = BODIES[body]
    medium, expert = (_load(body, step) for step in (known.medium, known.expert))
    replay: tuple[Policy, ...] = (_random(body), *(_load(body, step) for step in range(EVERY, known.medium + 1, EVERY)))
    if level == "medium-replay":
        return replay
    if level in MIXTURES:
        return (expert, *itertools.islice(itertools.cycle(replay), MIXTURES[level]))
    if level == "random":
        return (_random(body),)
    return {"medium": (medium,), "expert": (expert,), "medium-expert": (medium, expert)}[level]


def _load(body: str, step: int) -> SquashedGaussian:
    return SquashedGaussian.load(BEHAVIOUR / body / f"{step:07d}.npz")


def _random(body: str) -> Uniform:
    return Uniform(spaces.flatdim(_env(BODIES[body].env_id).action_space))


if __name__ == "__main__":
    main()
