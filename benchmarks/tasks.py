"""The datasets of the GTA paper by its names: ours, the remote ones of the same kind, and how scores are read."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import minari
import numpy as np

from benchmarks import datasets
from benchmarks.mazes import MAZES
from gta_datasets.data.screen import dataset_path, screen_id
from gta_datasets.errors import DatasetError

__all__ = [
    "ADROIT",
    "ANTMAZE",
    "EXPERTS",
    "GYM",
    "GYM_EXPERT",
    "GYM_MEDIUM",
    "KITCHEN",
    "MAZE2D",
    "MIXED",
    "SHARES",
    "Task",
    "points",
]


@dataclass(frozen=True)
class Task:
    """One dataset of a table."""

    name: str  # the paper's
    dataset: str  # ours, or the remote one where there is none of ours
    remote: str | None  # of the same kind
    kind: str  # of GTA's settings: a key of `gta_datasets.presets.TASKS`
    reference: tuple[float, float] | None  # returns of score 0 and 100; None: those stored with the dataset
    target_return: float | None = None  # that Decision Transformer is asked for
    episode_factor: int = 1  # of an evaluation, in multiples of the scale's
    overrides: Mapping[str, Any] = field(default_factory=dict)  # what the paper sets otherwise than for the kind
    share: float = 1.0  # of the episodes, the first ones
    steps: int = 1_000_000  # of the dataset, when it is made: about as many as D4RL's has
    experts_every: int | None = None  # episodes; the first of so many is an expert's, in a mixture
    experts_only: bool = False  # the others are left out
    terminates: bool = True  # whether episodes may end before their time is up

    @property
    def available(self) -> bool:
        """Whether the data are on this machine."""
        return self.transitions is not None

    @property
    def transitions(self) -> int | None:
        """Of the whole dataset on this machine; None if there is none, or one that nobody finished."""
        try:
            return int(json.loads((dataset_path(self.dataset) / "data" / "metadata.json").read_text())["total_steps"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def open(self, *, repeat_experts: bool = False) -> minari.MinariDataset:
        """The dataset, or the part of it; of a mixture with experts as often as others, if they are to be repeated.

        Raises:
            DatasetError: it is not on this machine; says how to get it.
        """
        if not self.available:
            raise DatasetError(f"dataset {self.dataset!r} is not on this machine; {self.remedy(self.steps)}")
        screen_id(self.dataset)
        dataset: minari.MinariDataset = minari.load_dataset(self.dataset)
        every = dataset.episode_indices
        episodes = every[: max(1, round(self.share * len(every)))]
        if self.experts_every is not None:
            experts = episodes[:: self.experts_every]
            more = experts.repeat(self.experts_every - 2 if repeat_experts else 0)
            episodes = experts if self.experts_only else np.concatenate([episodes, more]).astype(episodes.dtype)
        if np.array_equal(episodes, every):
            return dataset
        return minari.MinariDataset(dataset.storage, episode_indices=episodes)

    @property
    def good_quantile(self) -> float:
        """That the returns of the experts in a mixture reach; 0 where all episodes are alike."""
        return 0.0 if self.experts_every is None or self.experts_only else 1 - 1 / self.experts_every

    def remedy(self, most: int) -> str:
        """How to get the data, at most so many transitions where they are made."""
        ways = []
        if self.dataset in datasets.NAMES:
            steps = f" --steps {min(self.steps, most)}" if self.dataset in datasets.ROLLED_OUT else ""
            replace = " --replace" if self.available else ""
            ways.append(f"`python -m benchmarks.datasets make {self.dataset}{steps}{replace}` makes it")
        if self.dataset == self.remote:
            ways.append(f"`minari download {self.remote}` fetches it")
        elif self.remote is not None:
            ways.append(f"`minari download {self.remote}` fetches the one of the same kind, which --remote takes")
        return ", or ".join(ways)

    def normalise(self, score: float, dataset: minari.MinariDataset) -> float | None:
        """D4RL's normalised score of a return; None where no reference is known."""
        low, high = self.reference or (
            dataset.storage.metadata.get("ref_min_score"),
            dataset.storage.metadata.get("ref_max_score"),
        )
        return None if low is None or high is None else points(score, low, high)


def points(score: float, low: float, high: float) -> float:
    """D4RL's normalised score, by the returns of scores 0 and 100."""
    return 100 * (score - low) / (high - low)


TARGET_RETURNS = {"halfcheetah": 12_000.0, "hopper": 3_600.0, "walker2d": 5_000.0}
"""The first of those that CORL evaluates."""


STEPS = {
    ("halfcheetah", "medium-replay"): 202_000,
    ("hopper", "medium-replay"): 402_000,
    ("walker2d", "medium-replay"): 302_000,
    **dict.fromkeys(itertools.product(datasets.BODIES, ["medium-expert"]), 2_000_000),
    ("pointmaze", "medium"): 2_000_000,
    ("pointmaze", "large"): 4_000_000,
}
"""Transitions of D4RL's datasets that have not a million."""


def _gym(body: str, level: str) -> Task:
    known = datasets.BODIES[body]
    return Task(
        f"{body}-{level}-v2",
        f"sim/{body}/{level}-v0",
        f"mujoco/{body}/{level}-v0" if level in datasets.REMOTE_LEVELS else None,
        "locomotion",
        (known.random_return, known.expert_return),
        target_return=TARGET_RETURNS[body],
        terminates=body != "halfcheetah",
        steps=STEPS.get((body, level), 1_000_000),
    )


HALFCHEETAH_MEDIUM = replace(_gym("halfcheetah", "medium"), overrides={"reweighting": "none"})

GYM = (
    HALFCHEETAH_MEDIUM,
    *(_gym("halfcheetah", level) for level in ("medium-replay", "medium-expert")),
    *(_gym(body, level) for body in ("hopper", "walker2d") for level in ("medium", "medium-replay", "medium-expert")),
)
GYM_MEDIUM = tuple(task for task in GYM if task.name.endswith("-medium-v2"))
GYM_EXPERT = tuple(_gym(body, "expert") for body in datasets.BODIES)

SHARES = tuple(replace(HALFCHEETAH_MEDIUM, name=f"{percent}%", share=percent / 100) for percent in (5, 10, 15, 20, 100))
"""Table 12: shares of halfcheetah-medium."""

# The paper does not name the robot; its scores are those of halfcheetah. As many episodes as in D4RL's medium-replay.
MIXED = tuple(
    replace(
        _gym("halfcheetah", level),
        name=f"1:{others}",
        steps=200_000 + 200_000 // others,
        experts_every=1 + others,
    )
    for level, others in datasets.MIXTURES.items()
)
"""Table 11: few experts among many others."""

EXPERTS = tuple(replace(task, experts_only=True) for task in MIXED)
"""Table 11: the same few experts alone."""

# Neither Farama's point mazes nor ours are D4RL's: other physics, other references, which come with the dataset.
MAZE2D = tuple(
    Task(
        f"maze2d-{size}-v1",
        f"sim/pointmaze/{size}-v0",
        datasets.remote_id(f"sim/pointmaze/{size}-v0"),
        "maze2d",
        None,
        target_return=maze.expert_return,
        episode_factor=10,
        steps=STEPS.get(("pointmaze", size), 1_000_000),
        terminates=False,
    )
    for size, maze in MAZES.items()
)

ANTMAZE = tuple(
    Task(
        f"antmaze-{ours}-v2",
        f"D4RL/antmaze/{ours}-v1",
        f"D4RL/antmaze/{ours}-v1",
        "antmaze",
        (0.0, 1.0),
        episode_factor=10,
    )
    for ours in ("umaze", "medium-play", "large-play", "umaze-diverse", "medium-diverse", "large-diverse")
)

ADROIT = (
    Task(
        "pen-human-v0",
        "D4RL/pen/human-v2",
        "D4RL/pen/human-v2",
        "adroit",
        (96.262799, 3076.8331),
        episode_factor=10,
    ),
    Task(
        "door-human-v0",
        datasets.DOOR,
        datasets.remote_id(datasets.DOOR),
        "adroit",
        datasets.DOOR_RETURNS,
        episode_factor=10,
        terminates=False,
    ),
)

KITCHEN = tuple(
    Task(
        f"kitchen-{kind}-v0",
        f"D4RL/kitchen/{kind}-v2",
        f"D4RL/kitchen/{kind}-v2",
        "kitchen",
        (0.0, 4.0),
        episode_factor=10,
    )
    for kind in ("partial", "mixed", "complete")
)
