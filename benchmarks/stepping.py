"""Environments of one kind that are stepped together: in this process, or spread over several."""

from __future__ import annotations

import signal
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, Protocol

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector.utils import concatenate, create_empty_array
from numpy.typing import NDArray

__all__ = ["Environments", "Group", "Step", "opened"]

PATIENCE = 5.0
"""Seconds for processes to end in."""

SPAWN = get_context("spawn")  # a fork would inherit torch's threads, and what is on a GPU


class Step(NamedTuple):
    """What a step in every environment leads to."""

    observations: Any  # a batch (E, ...) of the observation space
    rewards: NDArray[np.float64]  # (E,) 0 where an episode was over before
    over: NDArray[np.bool_]  # (E,) whether it is over now


class Environments(Protocol):
    """Some environments of one kind, each of them in an episode."""

    def __len__(self) -> int: ...

    def reset(self, seeds: Sequence[int]) -> Any:
        """Begin an episode with each of these seeds, at most one per environment; a batch of first observations.

        Raises:
            ValueError: there are more seeds than environments.
        """

    def step(self, actions: NDArray[Any]) -> Step:
        """Go on with actions `(E, A)`, for all that were reset; where an episode is over they change nothing."""


class Group:
    """Environments in this process."""

    def __init__(self, environments: Sequence[gymnasium.Env[Any, Any]]) -> None:
        self._environments = environments

    def __len__(self) -> int:
        return len(self._environments)

    def reset(self, seeds: Sequence[int]) -> Any:
        if len(seeds) > len(self):
            raise ValueError(f"{len(seeds)} episodes in {len(self)} environments")
        self._seen = [env.reset(seed=seed)[0] for env, seed in zip(self._environments, seeds, strict=False)]
        self._over = np.zeros(len(self._seen), np.bool_)
        return self._together()

    def step(self, actions: NDArray[Any]) -> Step:
        rewards = np.zeros(len(self._seen))
        for place in np.flatnonzero(~self._over).tolist():
            self._seen[place], rewards[place], terminated, truncated, _ = self._environments[place].step(actions[place])
            self._over[place] = terminated or truncated
        return Step(self._together(), rewards, self._over.copy())

    def close(self) -> None:
        """Close all of them."""
        for env in self._environments:
            env.close()

    def _together(self) -> Any:
        space = self._environments[0].observation_space
        batch: Any = create_empty_array(space, len(self._seen))
        return concatenate(space, self._seen, batch)


@contextmanager
def opened(spec: EnvSpec, number: int, processes: int = 1) -> Iterator[Environments]:
    """So many environments, spread over so many processes; what they do does not depend on how many these are.

    Raises:
        RuntimeError: a process failed, now or later; says why.
    """
    if processes == 1:
        group = Group([gymnasium.make(spec) for _ in range(number)])
        try:
            yield group
        finally:
            group.close()
        return
    shares = [len(part) for part in np.array_split(range(number), min(processes, number))]
    workers: list[_Worker] = []
    try:
        workers.extend(_Worker(spec, share) for share in shares)
        for worker in workers:
            worker.answer()  # it is ready
        yield _Spread(workers, shares)
    finally:
        for worker in workers:
            worker.pipe.close()  # which ends it, unless it is stuck in a step
        patience = time.monotonic() + PATIENCE
        for worker in workers:
            worker.end(patience - time.monotonic())


class _Worker:
    """A process with some environments, and the pipe to it."""

    def __init__(self, spec: EnvSpec, number: int) -> None:
        self.pipe, theirs = SPAWN.Pipe()
        self._process = SPAWN.Process(target=_serve, args=(theirs, spec, number), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, what: str, argument: Any) -> None:
        with suppress(ConnectionError):  # it is dead; the answer tells
            self.pipe.send((what, argument))

    def answer(self) -> Any:
        try:
            found, error = self.pipe.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            found, error = None, f"it ended with exit code {self._process.exitcode}"
        if error is not None:
            raise RuntimeError(f"a process with environments failed: {error}")
        return found

    def end(self, patience: float) -> None:
        """Wait for its end, but not forever."""
        self._process.join(max(0.0, patience))
        self._process.kill()
        self._process.join()


def _serve(pipe: Connection, spec: EnvSpec, number: int) -> None:
    """Do what is asked until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the other end's to answer
    try:
        with opened(spec, number) as group:
            pipe.send((None, None))
            while True:
                what, argument = pipe.recv()
                pipe.send((getattr(group, what)(argument), None))
    except (EOFError, ConnectionError):
        pass
    except Exception:
        with suppress(ConnectionError):
            pipe.send((None, traceback.format_exc()))


class _Spread:
    """Environments in other processes."""

    def __init__(self, workers: Sequence[_Worker], shares: Sequence[int]) -> None:
        self._workers, self._shares = workers, shares

    def __len__(self) -> int:
        return sum(self._shares)

    def reset(self, seeds: Sequence[int]) -> Any:
        parts = [part.tolist() for part in np.array_split(np.asarray(seeds), len(self._workers)) if len(part)]
        self._ends = np.cumsum([len(part) for part in parts])[:-1]
        return _joined(self._asked("reset", parts))

    def step(self, actions: NDArray[Any]) -> Step:
        found = self._asked("step", np.split(actions, self._ends))
        observations, rewards, over = zip(*found, strict=True)
        return Step(_joined(observations), np.concatenate(rewards), np.concatenate(over))

    def _asked(self, what: str, arguments: Sequence[Any]) -> list[Any]:
        busy = self._workers[: len(arguments)]
        for worker, argument in zip(busy, arguments, strict=True):
            worker.ask(what, argument)
        return [worker.answer() for worker in busy]


def _joined(batches: Sequence[Any]) -> Any:
    """Batches of observations, one after the other."""
    if isinstance(batches[0], dict):
        return {key: _joined([batch[key] for batch in batches]) for key in batches[0]}
    if isinstance(batches[0], tuple):
        return tuple(_joined(parts) for parts in zip(*batches, strict=True))
    return np.concatenate(batches)
