"""Small Minari datasets for tests: any spaces, lengths and flags, and a linear world whose physics are known exactly.

The datasets are written where `MINARI_DATASETS_PATH` points; a test sets it to a temporary folder first.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import h5py
import minari
import numpy as np
from gymnasium import Space, spaces
from minari.data_collector.episode_buffer import EpisodeBuffer

from gta_datasets.data.episodes import Episodes, end_flags
from gta_datasets.data.reading import Source
from gta_datasets.data.spaces import SpaceCodec
from gta_datasets.simulator import Steps

__all__ = [
    "LINEAR_ACTION_SPACE",
    "LINEAR_OBSERVATION_SPACE",
    "WALK_HIGH",
    "WALK_LOW",
    "LinearSimulator",
    "as_dataset",
    "edit_file",
    "episode_buffer",
    "linear_dataset",
    "linear_episodes",
    "linear_reward",
    "linear_source",
    "linear_step",
    "make_dataset",
    "stack",
    "walks",
    "write_buffers",
]

Ending = Literal["terminated", "truncated", "both", "none"]

LINEAR_OBSERVATION_SPACE = spaces.Box(-np.inf, np.inf, (3,), np.float32)
LINEAR_ACTION_SPACE = spaces.Box(-1.0, 1.0, (2,), np.float32)
_A = np.array([[0.9, 0.1, 0.0], [0.0, 0.8, 0.2], [0.1, 0.0, 0.7]])
_B = np.array([[0.3, 0.0], [0.0, 0.3], [0.2, -0.2]])


def stack(space: Space[Any], samples: Sequence[Any]) -> Any:
    """Single samples of `space` as one batch in the form of Minari's EpisodeData: leading axis in every leaf."""
    if isinstance(space, spaces.Dict):
        return {key: stack(child, [sample[key] for sample in samples]) for key, child in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(stack(child, [sample[i] for sample in samples]) for i, child in enumerate(space.spaces))
    return np.array(samples, dtype=space.dtype).reshape(len(samples), *(space.shape or ()))


def episode_buffer(
    observation_space: Space[Any], action_space: Space[Any], steps: int, ending: Ending = "truncated", seed: int = 0
) -> EpisodeBuffer:
    """One episode of random samples of the spaces: `steps` transitions, `steps + 1` observations."""
    observation_space.seed(seed)
    action_space.seed(seed + 1)
    rng = np.random.default_rng(seed)
    last = np.arange(steps) == steps - 1
    never = np.zeros(steps, bool)
    return EpisodeBuffer(
        observations=stack(observation_space, [observation_space.sample() for _ in range(steps + 1)]),
        actions=stack(action_space, [action_space.sample() for _ in range(steps)]),
        rewards=rng.normal(size=steps).astype(np.float32),
        terminations=last if ending in ("terminated", "both") else never,
        truncations=last if ending in ("truncated", "both") else never,
        infos={},
    )


def write_buffers(
    dataset_id: str,
    buffers: list[EpisodeBuffer],
    observation_space: Space[Any],
    action_space: Space[Any],
    **kwargs: Any,
) -> minari.MinariDataset:
    """`minari.create_dataset_from_buffers` without its warnings about metadata that tests leave out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset: minari.MinariDataset = minari.create_dataset_from_buffers(
            dataset_id,
            buffers,
            observation_space=observation_space,
            action_space=action_space,
            **kwargs,
        )
    return dataset


def make_dataset(
    dataset_id: str = "test/random-v0",
    *,
    observation_space: Space[Any] = LINEAR_OBSERVATION_SPACE,
    action_space: Space[Any] = LINEAR_ACTION_SPACE,
    lengths: Iterable[int] = (5, 3, 7),
    endings: Iterable[Ending] | Ending = "truncated",
    seed: int = 0,
    **kwargs: Any,
) -> minari.MinariDataset:
    """A dataset of random samples of the spaces; `endings` is one ending for all episodes or one each."""
    lengths = list(lengths)
    each = [endings] * len(lengths) if isinstance(endings, str) else list(endings)
    buffers = [
        episode_buffer(observation_space, action_space, steps, ending, seed=seed + 1000 * i)
        for i, (steps, ending) in enumerate(zip(lengths, each, strict=True))
    ]
    return write_buffers(dataset_id, buffers, observation_space, action_space, **kwargs)


def linear_step(states: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """Next states of the linear world, (n, 3) float32; actions are clipped to their bounds."""
    actions = np.clip(actions.astype(np.float64), -1.0, 1.0)
    return (states.astype(np.float64) @ _A.T + actions @ _B.T).astype(np.float32)


def linear_reward(states: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """Rewards of the linear world, (n,) float32, at most 1: near the origin with small actions is best."""
    cost = (states.astype(np.float64) ** 2).sum(1) + 0.1 * (actions.astype(np.float64) ** 2).sum(1)
    return (1.0 - cost).astype(np.float32)


def linear_episodes(lengths: Iterable[int] = (20,) * 8, *, terminated: Iterable[int] = (), seed: int = 0) -> Episodes:
    """Random-action episodes of the linear world in memory; episodes whose index is in `terminated` terminate."""
    lengths, terminated = list(lengths), set(terminated)
    rng = np.random.default_rng(seed)
    observations, actions, rewards, terminations, truncations = [], [], [], [], []
    for index, steps in enumerate(lengths):
        states = [rng.normal(size=(1, 3)).astype(np.float32)]
        chosen = rng.uniform(-1.0, 1.0, size=(steps, 2)).astype(np.float32)
        for action in chosen:
            states.append(linear_step(states[-1], action[None]))
        observations.extend(states)
        actions.append(chosen)
        rewards.append(linear_reward(np.concatenate(states[:-1]), chosen))
        last = np.arange(steps) == steps - 1
        terminations.append(last & (index in terminated))
        truncations.append(last & (index not in terminated))
    return Episodes(
        observations=np.concatenate(observations),
        actions=np.concatenate(actions),
        rewards=np.concatenate(rewards),
        terminations=np.concatenate(terminations),
        truncations=np.concatenate(truncations),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
    )


WALK_LOW, WALK_HIGH = -1.0, 1.5
"""Limits of the first and of the second column of `walks`."""


def walks(number: int = 200, *, steps: int = 50, seed: int = 0) -> Episodes:
    """Random walks in three columns, which terminate where a limit is passed, and else are cut after some steps."""
    rng = np.random.default_rng(seed)
    walked, terminated = [], []
    for _ in range(number):
        states = np.cumsum(0.2 * rng.normal(size=(steps + 1, 3)), axis=0).astype(np.float32)
        passed = np.flatnonzero((states[:, 0] < WALK_LOW) | (states[:, 1] > WALK_HIGH))
        walked.append(states[: passed[0] + 1] if len(passed) else states)
        terminated.append(len(passed) > 0)
    offsets = np.concatenate([[0], np.cumsum([len(states) - 1 for states in walked])])
    terminations, truncations = end_flags(offsets, np.array(terminated))
    return Episodes(
        observations=np.concatenate(walked),
        actions=rng.uniform(-1, 1, size=(offsets[-1], 2)).astype(np.float32),
        rewards=rng.normal(1, 0.1, size=offsets[-1]).astype(np.float32),
        terminations=terminations,
        truncations=truncations,
        offsets=offsets,
    )


class LinearSimulator:
    """The true dynamics of `linear_episodes`; states beyond `limit` are unstable."""

    name = "linear world"
    observation_size = 3
    action_size = 2

    def __init__(self, limit: float = np.inf) -> None:
        self.limit = limit

    def step(self, observations: np.ndarray, actions: np.ndarray) -> Steps:
        stable = (np.abs(observations) <= self.limit).all(axis=1)
        following = linear_step(observations, actions).astype(np.float64)
        rewards = linear_reward(observations, actions).astype(np.float64)
        following[~stable], rewards[~stable] = np.nan, np.nan
        return Steps(following, rewards, np.zeros(len(actions), bool), stable)


def linear_source(episodes: Episodes) -> Source:
    """Episodes in memory as if they had been read; their observations may have any number of columns."""
    box = spaces.Box(-np.inf, np.inf, (episodes.observations.shape[1],), episodes.observations.dtype.type)
    codecs = SpaceCodec.of(box), SpaceCodec.of(LINEAR_ACTION_SPACE, name="action")
    return Source(episodes, *codecs, np.arange(episodes.num_episodes), ())


def linear_dataset(
    dataset_id: str = "test/linear-v0",
    *,
    lengths: Iterable[int] = (20,) * 8,
    terminated: Iterable[int] = (),
    seed: int = 0,
    **kwargs: Any,
) -> minari.MinariDataset:
    """`linear_episodes` as a Minari dataset: Box(3) observations, Box(2) actions within -1 and 1."""
    return as_dataset(dataset_id, linear_episodes(lengths, terminated=terminated, seed=seed), **kwargs)


def as_dataset(dataset_id: str, episodes: Episodes, **kwargs: Any) -> minari.MinariDataset:
    """Episodes in the spaces of the linear world as a Minari dataset."""
    parts = [episodes.slice(i, i + 1) for i in range(episodes.num_episodes)]
    buffers = [
        EpisodeBuffer(
            observations=part.observations,
            actions=part.actions,
            rewards=part.rewards,
            terminations=part.terminations,
            truncations=part.truncations,
            infos={},
        )
        for part in parts
    ]
    return write_buffers(dataset_id, buffers, LINEAR_OBSERVATION_SPACE, LINEAR_ACTION_SPACE, **kwargs)


def edit_file(dataset: minari.MinariDataset, edit: Callable[[h5py.File], None]) -> minari.MinariDataset:
    """Apply `edit` to the dataset's hdf5 file (to break it, say) and open the dataset again."""
    with h5py.File(dataset.storage.data_path / "main_data.hdf5", "r+") as file:
        edit(file)
    return minari.MinariDataset(dataset.storage.data_path)
