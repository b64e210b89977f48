"""A line to walk along, whose episodes and physics are known exactly, and buffers that learn it in no time."""

from __future__ import annotations

from typing import Any

import gymnasium
import minari
import numpy as np
from gymnasium import spaces
from minari.data_collector.episode_buffer import EpisodeBuffer

from gta_datasets.online import ATraDiffReplayBuffer
from tests.builders import write_buffers

__all__ = ["GOAL", "QUICK", "Line", "line_dataset", "quick_buffer"]

OBSERVATIONS = spaces.Box(-np.inf, np.inf, (2,), np.float64)
ACTIONS = spaces.Box(np.array([-1.0], np.float32), np.array([3.0], np.float32))
GOAL = 10.0

QUICK: dict[str, Any] = {
    "preset": "smoke",
    "device": "cpu",
    "progress": False,
    "buffer_size": 500,
    "lengths": (2, 5),
    "width": 8,
    "depth": 1,
    "precision": "float32",
    "training_steps": 3,
    "train_batch_size": 8,
    "dynamics_members": 1,
    "dynamics_width": 8,
    "dynamics_depth": 1,
    "dynamics_steps": 3,
    "sampler_steps": 2,
    "starts_per_batch": 2,
    "adapt_steps": 3,
    "adapt_batch_size": 8,
}
"""The smallest settings there are."""


class Line(gymnasium.Env):
    """Walks by a quarter of the action; the task ends at the goal. The second number is the height, which stays."""

    def __init__(self) -> None:
        self.observation_space, self.action_space = OBSERVATIONS, ACTIONS

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._state, self._step = np.array([0.0, self.np_random.normal()]), 0
        return self._state.copy(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self._step += 1
        self._state[0] += float(action[0]) / 4
        return self._state.copy(), float(action[0]), bool(self._state[0] >= GOAL), self._step == 30, {}


def line_dataset(
    dataset_id: str, *, episodes: int = 20, seed: int = 0, terminated: bool = True, actions: spaces.Box = ACTIONS
) -> minari.MinariDataset:
    """Walks to the goal by about 0.7 per step; reaching it ends the task, or else the recording alone."""
    rng = np.random.default_rng(seed)
    buffers = []
    for _ in range(episodes):
        places, height = [rng.uniform(0, 2)], rng.normal()
        while places[-1] < GOAL:
            places.append(places[-1] + rng.uniform(0.9, 1.0) * 0.75)
        states = np.stack([places, np.full(len(places), height) + 0.01 * rng.normal(size=len(places))], axis=1)
        moves = (4 * np.diff(places)).astype(np.float32)
        last = np.arange(len(moves)) == len(moves) - 1
        buffers.append(
            EpisodeBuffer(
                observations=states,
                actions=moves[:, None],
                rewards=moves,
                terminations=last & terminated,
                truncations=last & (not terminated),
                infos={},
            )
        )
    return write_buffers(dataset_id, buffers, OBSERVATIONS, actions)


def quick_buffer(dataset: minari.MinariDataset, **arguments: Any) -> ATraDiffReplayBuffer:
    """A buffer with the smallest settings there are; those of `arguments` win."""
    return ATraDiffReplayBuffer.from_dataset(dataset, Line(), **{**QUICK, **arguments})
