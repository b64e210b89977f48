"""Training and evaluating the policies of units: in stacks where an algorithm has them, else one by one by d3rlpy."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium

import gta_datasets
from benchmarks.algorithms import ALGORITHMS
from benchmarks.environments import evaluation_spec, facts, make_flat
from benchmarks.episodes import EVALUATION_SEED, episode_returns, evaluation_seeds, summary
from benchmarks.quiet import fit, import_d3rlpy
from benchmarks.stepping import Group
from benchmarks.units import Unit
from benchmarks.vectorised.draws import Run
from benchmarks.vectorised.tables import Table, read_table
from benchmarks.vectorised.training import Course, Scores, train_and_evaluate
from gta_datasets.adapters import to_d3rlpy

__all__ = ["Prepared", "checkpoint_of", "train_alone", "train_stack"]

DATA = ("dataset", "share", "experts", "settings", "preset", "num_transitions")
"""What tells the data of units apart."""


class Prepared:
    """A unit with its data, generated where they were missing.

    Raises:
        DatasetError: the source is not on this machine.
    """

    def __init__(self, unit: Unit) -> None:
        started = time.perf_counter()
        self.unit, self.identity = unit, unit.identity
        self.source = unit.task.open()
        self.data: Any = unit.task.open(repeat_experts=True) if unit.method.repeats_experts else self.source
        if self.identity["settings"] is not None:
            self.data = gta_datasets.augment(
                self.source,
                preset=self.identity["preset"],
                num_transitions=self.identity["num_transitions"],
                progress=False,
                **self.identity["settings"],
            )
            self.data.generate()
        self.seconds = time.perf_counter() - started

    def run(self, tables: dict[str, Table]) -> Run:
        """What a stack learns from, by a table of `tables`, where one that is read now is added for others.

        Raises:
            DatasetError: the actions are not continuous.
            ConfigError: a share of real data is asked for that these data cannot give.
        """
        key = repr([self.identity.get(name) for name in DATA])
        if key not in tables:
            buffer, known = to_d3rlpy(self.source), ALGORITHMS[self.identity["algorithm"]]
            rewards = known.rewards(buffer, self.unit.task.kind)
            tables[key] = read_table(self.data, buffer.observation_scaler(), rewards)
        return Run(tables[key], self.identity["seed"], self.identity["real_fraction"])

    def measured(self, scores: Scores, seconds: float, runs: int, trainer: str) -> dict[str, Any]:
        """What goes into the ledger, of the scores by number of updates."""
        normalise = self.unit.task.normalise
        return {
            "id": self.unit.id,
            "unit": self.identity,
            "returns": scores,
            "normalised": {updates: normalise(score["mean"], self.source) for updates, score in scores.items()},
            "seconds": round(seconds, 1),
            "seconds_for_data": round(self.seconds, 1),
            "runs_at_once": runs,
            "trainer": trainer,
            "config": None if self.identity["settings"] is None else self.data.config.to_dict(),
            **facts(self.source, self.data, evaluation_spec(self.source)),
        }


def train_stack(
    runs: Sequence[tuple[Prepared, Run]], device: str, threads: int, checkpoints: Path, deadline: float | None
) -> Iterator[dict[str, Any]]:
    """Several units at once, of one algorithm and kind of task, equal shapes, batches and numbers of updates.

    Each goes on where it was interrupted, also among others, and stops soon after the deadline. The
    caller removes a unit's checkpoint when its line is written. While a GPU waits for evaluations, as many processes
    as there are threads step the environments.
    """
    prepared = [each for each, _ in runs]
    first, learner = prepared[0].identity, prepared[0].unit.learner
    assert learner is not None  # noqa: S101 - as whoever calls knows
    course = Course(
        learner,
        evaluation_spec(prepared[0].source),
        batch_size=first["batch_size"],
        updates=first["updates"],
        every=prepared[0].unit.every,
        episodes=first["episodes"],
        seed=EVALUATION_SEED,
        device=device,
        processes=threads if device.startswith("cuda") else 1,
    )
    kept = [checkpoint_of(each.unit, checkpoints) for each in prepared]
    trained = train_and_evaluate([run for _, run in runs], course, kept, deadline)
    for place, scores, seconds, together in trained:
        yield prepared[place].measured(scores, seconds, together, "stack")


def checkpoint_of(unit: Unit, checkpoints: Path) -> Path:
    """Where a unit is kept while it is trained."""
    return checkpoints / f"{unit.id}.safetensors"


def train_alone(prepared: Prepared, device: str) -> dict[str, Any]:
    """One unit by d3rlpy."""
    started = time.perf_counter()
    identity, task = prepared.identity, prepared.unit.task
    known, updates, every = ALGORITHMS[identity["algorithm"]], identity["updates"], prepared.unit.every
    import_d3rlpy().seed(identity["seed"])
    algorithm = known.create(
        to_d3rlpy(prepared.source), task.kind, updates=updates, batch_size=identity["batch_size"], device=device
    )
    environments, seeds = make_flat(prepared.source, identity["episodes"]), evaluation_seeds(identity["episodes"])
    scores: Scores = {}

    def look(trained: Any, _epoch: int, done: int) -> None:
        if done % every == 0 or done == updates:
            returns = (
                [_asked_return(trained, task.target_return, *each) for each in zip(environments, seeds, strict=True)]
                if known.is_transformer
                else episode_returns(trained.predict, Group(environments), seeds)
            )
            scores[done] = summary(returns)

    fit(
        algorithm,
        to_d3rlpy(prepared.data, seed=identity["seed"], real_fraction=identity["real_fraction"]),
        updates,
        epoch=math.gcd(every, updates),  # what is left over of an epoch would not be trained
        callback=look,
    )
    for env in environments:
        env.close()
    return prepared.measured(scores, time.perf_counter() - started, 1, "d3rlpy")


def _asked_return(algorithm: Any, target: float | None, env: gymnasium.Env[Any, Any], seed: int) -> float:
    """Sum of rewards of one episode of a Decision Transformer that is asked for a return."""
    policy = algorithm.as_stateful_wrapper(target_return=target)
    observation, _ = env.reset(seed=seed)
    reward, total, over = 0.0, 0.0, False
    while not over:
        action = policy.predict(observation, reward)
        observation, paid, terminated, truncated, _ = env.step(action)
        reward = float(paid)
        total, over = total + reward, terminated or truncated
    return total
