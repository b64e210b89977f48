"""Training of runs with evaluations on the way; each goes on where a killed or stopped process left it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import torch
from gymnasium.envs.registration import EnvSpec
from torch import Tensor

from benchmarks.episodes import summary
from benchmarks.stepping import Environments, opened
from benchmarks.vectorised.draws import Run
from benchmarks.vectorised.evaluation import evaluate
from benchmarks.vectorised.learner import MakeLearner
from benchmarks.vectorised.stack import Stack
from gta_datasets.errors import CacheError
from gta_datasets.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

__all__ = ["Course", "Scores", "Trained", "train_and_evaluate"]

MOST_ENVIRONMENTS = 320
"""Runs take turns in so many: a maze takes 12 MB and an eighth of a second to make."""

SLICE = 5_000
"""Updates after which training looks at the clock."""

VERSION = 1
"""Raised whenever what a learner keeps would be read wrongly."""

Scores = dict[int, dict[str, float]]
"""Mean and spread of a policy's returns, by number of updates."""


@dataclass(frozen=True)
class Course:
    """How runs are trained and evaluated."""

    algorithm: MakeLearner
    env_spec: EnvSpec
    batch_size: int
    updates: int
    every: int  # updates between two evaluations; there is one at the end in any case
    episodes: int  # of an evaluation of a run
    seed: int  # of the first episode of every evaluation
    device: torch.device | str = "cpu"
    processes: int = 1
    """That step the environments of an evaluation."""

    @property
    def looks(self) -> list[int]:
        """Updates at which there is an evaluation."""
        return [*range(self.every, self.updates, self.every), self.updates]


class Trained(NamedTuple):
    """A run that is over."""

    place: int  # among the runs that were given
    scores: Scores
    seconds: float  # its share of the time of all that were trained with it
    together: int  # how many these were at the end


@dataclass
class _Begun:
    """A run on its way."""

    place: int
    run: Run
    path: Path
    updates: int = 0
    seconds: float = 0.0
    scores: Scores = field(default_factory=dict)
    tensors: dict[str, Tensor] | None = None
    """What it goes on from."""


def train_and_evaluate(
    runs: Sequence[Run], course: Course, checkpoints: Sequence[Path], deadline: float | None = None
) -> Iterator[Trained]:
    """Train runs, those together that have come equally far, and yield those that are over.

    Args:
        runs: of equal shapes.
        course: the same for all.
        checkpoints: a file for every run, written before and after every evaluation and when time is up; who has kept
            the results removes it. A file of other data or another course, of another kind of device or another
            version of torch is not gone on from, nor is one that is damaged.
        deadline: of `time.time`; after it training stops within `SLICE` updates, or when an evaluation that has begun
            is over; what was done is kept. None: never.

    Raises:
        CacheError: a checkpoint cannot be written.
    """
    begun = [_begin(place, run, path, course) for place, (run, path) in enumerate(zip(runs, checkpoints, strict=True))]
    begun.sort(key=lambda each: -each.updates)
    at_once = min(len(runs), max(1, MOST_ENVIRONMENTS // course.episodes))
    with opened(course.env_spec, at_once * course.episodes, course.processes) as environments:
        for _, group in groupby(begun, key=lambda each: each.updates):
            if deadline is None or time.time() < deadline:
                yield from _Together(list(group), course).train(environments, deadline)


def _begin(place: int, run: Run, path: Path, course: Course) -> _Begun:
    try:
        found = load_checkpoint(path)
    except CacheError as error:
        print(f"{error}; it begins anew", file=sys.stderr)
        found = None
    if found is None:
        return _Begun(place, run, path)
    made_of, was_made_of = _made_of(run, course), found.record.get("of", {})
    if made_of != was_made_of:
        other = ", ".join(name for name, value in made_of.items() if was_made_of.get(name) != value)
        print(f"{path} is of another kind ({other}); it begins anew", file=sys.stderr)
        return _Begun(place, run, path)
    scores = {int(number): score for number, score in found.record["scores"].items()}
    return _Begun(place, run, path, found.record["updates"], found.record["seconds"], scores, found.tensors)


def _made_of(run: Run, course: Course) -> dict[str, Any]:
    """What a run must have in common with its checkpoint, besides what names the file."""
    return {
        "version": VERSION,
        "data": run.table.digest,
        "every": course.every,
        "device": torch.device(course.device).type,
        "torch": torch.__version__,
    }


class _Together:
    """Runs that are trained together."""

    def __init__(self, begun: Sequence[_Begun], course: Course) -> None:
        self._begun, self._course = begun, course
        runs = [each.run for each in begun]
        self.stack = Stack(runs, course.algorithm, batch_size=course.batch_size, device=course.device)
        for place, each in enumerate(begun):
            if each.tensors is not None:
                self.stack.load(place, each.tensors, each.updates)
        self._started = time.perf_counter()

    def train(self, environments: Environments, deadline: float | None) -> Iterator[Trained]:
        """Train and evaluate to the end, or until time is up."""

        def is_late() -> bool:
            return deadline is not None and time.time() >= deadline

        for look in self._course.looks:
            if look < self.stack.updates:
                continue
            before = self.stack.updates
            while self.stack.updates < look and not is_late():
                self.stack.train(min(SLICE, look - self.stack.updates))
            if self.stack.updates > before:
                self._keep()  # an evaluation may take longer than the time that is left
            if self.stack.updates < look:
                return
            if any(look not in each.scores for each in self._begun):
                if is_late():
                    return
                self._evaluate(look, environments)
                self._keep()
        for each in self._begun:
            yield Trained(each.place, each.scores, each.seconds, len(self._begun))

    def _evaluate(self, look: int, environments: Environments) -> None:
        course = self._course
        table = self._begun[0].run.table
        found = evaluate(self.stack, table, environments, episodes=course.episodes, seed=course.seed)
        for each, returns in zip(self._begun, found, strict=True):
            each.scores[look] = summary(returns)

    def _keep(self) -> None:
        """Write all checkpoints; the time since the last ones is shared."""
        now = time.perf_counter()
        share, self._started = (now - self._started) / len(self._begun), now
        for place, each in enumerate(self._begun):
            each.updates, each.seconds = self.stack.updates, each.seconds + share
            record = {name: getattr(each, name) for name in ("updates", "scores", "seconds")}
            record["of"] = _made_of(each.run, self._course)
            save_checkpoint(each.path, Checkpoint(self.stack.tensors_of(place), record), make_folder=True)
