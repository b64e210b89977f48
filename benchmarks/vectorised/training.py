"""Training of a stack with evaluations on the way, which goes on where a killed process left it."""

from __future__ import annotations

import time
from pathlib import Path

import gymnasium
from gymnasium.envs.registration import EnvSpec

from benchmarks.episodes import summary
from benchmarks.vectorised.evaluation import evaluate
from benchmarks.vectorised.stack import Stack
from benchmarks.vectorised.tables import Table
from gta_datasets.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

__all__ = ["Scores", "train_and_evaluate"]

Scores = dict[int, dict[str, float]]
"""Mean and spread of a policy's returns, by number of updates."""


def train_and_evaluate(
    stack: Stack,
    table: Table,
    env_spec: EnvSpec,
    *,
    updates: int,
    every: int,
    episodes: int,
    seed: int,
    checkpoint: Path | None = None,
) -> tuple[list[Scores], float]:
    """Scores of every run, and the seconds that all of them took.

    Args:
        stack: new; it goes on from the checkpoint if there is one.
        table: of any of its runs.
        env_spec: where the policies act.
        updates: in total.
        every: updates between two evaluations; there is one at the end in any case.
        episodes: of an evaluation of a run.
        seed: of the first episode of every evaluation.
        checkpoint: a file written at every evaluation; None keeps nothing.

    Raises:
        CacheError: the checkpoint is damaged or cannot be written.
    """
    scores, spent = _resume(stack, checkpoint)
    started = time.perf_counter() - spent
    environments = [[gymnasium.make(env_spec) for _ in range(episodes)] for _ in range(stack.num_runs)]
    for target in [*range(every, updates, every), updates]:
        if target <= stack.updates:
            continue
        stack.train(target - stack.updates)
        for of_run, returns in zip(scores, evaluate(stack, table, environments, seed=seed), strict=True):
            of_run[target] = summary(returns)
        if checkpoint is not None:
            record = {"updates": target, "scores": scores, "seconds": time.perf_counter() - started}
            save_checkpoint(checkpoint, Checkpoint(stack.tensors, record))
    for env in (env for of_run in environments for env in of_run):
        env.close()
    return scores, time.perf_counter() - started


def _resume(stack: Stack, checkpoint: Path | None) -> tuple[list[Scores], float]:
    """Scores and seconds so far."""
    found = None if checkpoint is None else load_checkpoint(checkpoint)
    if found is None:
        return [{} for _ in range(stack.num_runs)], 0.0
    stack.load(found.tensors, found.record["updates"])
    scores = [{int(number): score for number, score in of_run.items()} for of_run in found.record["scores"]]
    return scores, found.record["seconds"]
