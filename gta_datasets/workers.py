"""Shards made by several processes. A process is given the number of a shard, makes and commits it, and gets the next.

Nothing else is shared: a shard is a pure function of the maker and its number. A process that dies therefore costs the
shard it was making, and nobody can see from the shards how many processes there were.
"""

from __future__ import annotations

import copy
import logging
import multiprocessing
import os
import pickle
import signal
import sys
import traceback
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import Any, Literal, Protocol

import torch

from gta_datasets.config.fields import whole_number
from gta_datasets.errors import ConfigError, WorkerError, requires_extra
from gta_datasets.warn import warn

__all__ = ["Backend", "Maker", "check_children", "check_workers", "make_shards", "ray_cluster"]

logger = logging.getLogger(__name__)

Backend = Literal["process", "ray"]

MOST_DEATHS = 3
"""How many processes may die of one shard."""

GRACE = 10.0
"""Seconds that a process may take to clean up behind itself."""

WORKER = "gta-datasets worker"
"""Name of a process that makes shards, also while it still imports the script of who started it."""

UNGUARDED = 113
"""Exit code of one that found this script asking for workers."""

_SPAWN = multiprocessing.get_context("spawn")  # a fork would inherit locked locks of torch's threads


class Maker(Protocol):
    """What makes shards. Every process has its own copy, which is sent to it by pickling."""

    device: str

    def shard(self, number: int) -> object:
        """Make a shard and commit it; what is returned stays in the process."""
        ...


def check_workers(workers: int, backend: str) -> int:
    """The number of workers, if shards can be made in this way; before any work is done.

    Raises:
        ConfigError: a number of workers or a backend that is not allowed.
        MissingExtraError: the backend is not installed.
    """
    workers = whole_number("workers", workers, 1)
    if backend not in ("process", "ray"):
        raise ConfigError(f"backend={backend!r} is not known; choose 'process' (this machine) or 'ray' (a Ray cluster)")
    if backend == "ray":
        with requires_extra("ray", "ray", "backend='ray' needs"):
            import ray  # noqa: F401 - whether it is there
    return workers


def check_children(workers: int) -> None:
    """Raise ConfigError where this process may have no children, or they could not import its script."""
    process = multiprocessing.current_process()
    if getattr(process, "_inheriting", False):  # it imports the script of who started it
        if process.name == WORKER:
            sys.exit(UNGUARDED)
        raise ConfigError(
            f"{workers=} in a process that multiprocessing is starting, which imports the script: call "
            'generate(workers=...) below `if __name__ == "__main__":`'
        )
    if process.daemon:
        raise ConfigError(
            f"{workers=} in a daemonic process, which may have no children; call it with workers=1 here, or from a "
            "process that may, such as one of concurrent.futures.ProcessPoolExecutor"
        )
    script = sys.modules["__main__"]
    path = getattr(script, "__file__", None)
    if getattr(script, "__spec__", None) is None and path is not None and not os.path.exists(path):
        raise ConfigError(
            f"{workers=} in a script that is no file ({path}), which worker processes could not import; write it to a "
            "file, or choose workers=1"
        )


def make_shards(
    maker: Maker, numbers: Iterable[int], *, workers: int, backend: Backend, done: Callable[[], object]
) -> None:
    """Have several processes make shards.

    A process that dies is replaced, and its shard is made again. No process is left behind, however this ends.

    Args:
        maker: what makes them.
        numbers: of the shards.
        workers: processes at a time.
        backend: "process" on this machine; "ray" on the cluster this process is connected to, or else on a local one.
        done: called after every shard.

    Raises:
        WorkerError: several processes in a row died of the same shard, or the script asks for workers where they
            import it. Other shards are kept.
        Exception: whatever the maker raised.
    """
    (_by_ray if backend == "ray" else _by_processes)(maker, list(numbers), workers, done)


class _Worker:
    """A process that makes shards, and the pipe to it."""

    def __init__(self, maker: Maker, threads: int) -> None:
        self.pipe, theirs = _SPAWN.Pipe()
        self.number = -1  # of the shard it makes
        self._process = _SPAWN.Process(target=_serve, args=(theirs, maker, threads), name=WORKER, daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, number: int) -> None:
        self.number = number
        with suppress(ConnectionError):  # it is dead; the next look at the pipe tells
            self.pipe.send(number)

    def answer(self) -> Exception | None:
        """What went wrong with the shard, if anything; an EOFError or a ConnectionError if the process is dead."""
        error: Exception | None = self.pipe.recv()
        return error

    def stop(self) -> None:
        """Tell it to end, whatever it is doing."""
        self.pipe.close()
        self._process.terminate()

    def end(self) -> int:
        """See to it that it has ended; returns the exit code."""
        self.pipe.close()  # idle, it leaves by itself
        self._process.join(GRACE)
        self._process.terminate()
        self._process.join(GRACE)
        self._process.kill()
        self._process.join()
        return self._process.exitcode or 0


def _by_processes(maker: Maker, numbers: list[int], workers: int, done: Callable[[], object]) -> None:
    waiting, deaths, finished = deque(numbers), Counter[int](), 0
    threads = min(torch.get_num_threads(), max(1, _usable_cores() // workers))
    busy: dict[object, _Worker] = {}  # by their pipes

    def ask(worker: _Worker) -> None:
        busy[worker.pipe] = worker
        worker.ask(waiting.popleft())

    try:
        for _ in range(min(workers, len(numbers))):
            ask(_Worker(maker, threads))
        while busy:
            for pipe in wait([worker.pipe for worker in busy.values()]):
                worker = busy[pipe]
                try:
                    error = worker.answer()
                except (EOFError, ConnectionError):
                    del busy[pipe]
                    deaths[worker.number] += 1
                    _mourn(worker, deaths, f"{finished} of {len(numbers)}")
                    waiting.appendleft(worker.number)
                    ask(_Worker(maker, threads))
                    continue
                if error is not None:
                    raise error
                finished += 1
                done()
                if waiting:
                    ask(worker)
                else:
                    busy.pop(pipe).end()
    finally:
        for worker in busy.values():
            worker.stop()
        for worker in busy.values():
            worker.end()


def _mourn(worker: _Worker, deaths: Counter[int], finished: str) -> None:
    """A warning at the first death of all; an error where one shard has cost too many lives."""
    code = worker.end()
    if code == UNGUARDED:
        raise WorkerError(
            "the script asks for workers where these import it, too: call generate(workers=...) below `if __name__ == "
            '"__main__":`'
        )
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    if deaths[worker.number] == MOST_DEATHS:
        raise WorkerError(
            f"{MOST_DEATHS} workers in a row died of shard {worker.number}; the last one {how}. {finished} shards are "
            "made and kept. If memory ran out, take fewer workers; workers=1 shows any other cause"
        )
    if deaths.total() == 1:
        warn(
            f"a worker {how} while it made shard {worker.number}, which another one now makes; further deaths are not "
            f"reported (a common cause is memory: fewer workers need less)"
        )


def _serve(pipe: Connection, maker: Maker, threads: int) -> None:
    """What a process does: make the shards it is asked for until nobody listens any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; who started this process ends it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # not at once: half a file would stay behind
    _prepare(threads)
    with suppress(EOFError, ConnectionError):
        while True:
            pipe.send(_error_of(maker, pipe.recv()))


def _prepare(threads: int) -> None:
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore", UserWarning)  # whoever started this process has seen them


def _error_of(maker: Maker, number: int) -> Exception | None:
    """Make a shard; the error that this raised, in a form that can be sent."""
    try:
        maker.shard(number)
    except Exception as error:
        error.add_note(f"(shard {number}, in a worker)\n{traceback.format_exc()}")
        try:
            pickle.dumps(copy.copy(error))
        except Exception:
            return WorkerError(f"shard {number}: {traceback.format_exc()}")
        return error
    return None


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def ray_cluster() -> Iterator[Any]:
    """The package, connected: to the cluster this process is connected to, or else to a local one, ended on leaving.

    Raises:
        ImportError: Ray is not installed.
    """
    import ray

    own = not ray.is_initialized()
    try:
        if own:
            ray.init(include_dashboard=False)
        yield ray
    finally:
        if own:
            ray.shutdown()


class _Actor:
    """A maker on some machine of the cluster."""

    def __init__(self, maker: Maker) -> None:
        _prepare(1)  # Ray, too, gives every actor one core
        self._maker = maker

    def make(self, number: int) -> None:
        self._maker.shard(number)


def _room(ray: Any, maker: Maker, wanted: int) -> int:
    """How many actors find a place now: one without would keep its shard, and everybody, waiting.

    Raises:
        WorkerError: there is no place in the whole cluster.
    """
    kind = "GPU" if maker.device.startswith("cuda") else "CPU"
    if ray.cluster_resources().get(kind, 0) < 1:
        raise WorkerError(f"the Ray cluster has no {kind}, and every worker needs one; choose another device")
    free = max(1, int(ray.available_resources().get(kind, 0)))
    if free < wanted:
        logger.warning("Ray has room for %d of %d workers now", free, wanted)
    return min(free, wanted)


def _by_ray(maker: Maker, numbers: list[int], workers: int, done: Callable[[], object]) -> None:
    from ray.exceptions import RayError, RayTaskError
    from ray.util import ActorPool

    with ray_cluster() as ray:
        remote = ray.remote(
            num_gpus=1 if maker.device.startswith("cuda") else 0,
            max_restarts=-1,
            max_task_retries=MOST_DEATHS - 1,
            scheduling_strategy="SPREAD",
        )(_Actor)
        actors: list[Any] = []
        try:
            for _ in range(_room(ray, maker, min(workers, len(numbers)))):
                actors.append(remote.remote(maker))
            for _ in ActorPool(actors).map_unordered(lambda actor, number: actor.make.remote(number), numbers):
                done()
        except RayTaskError as error:
            raise error.cause from error
        except RayError as error:
            raise WorkerError(f"Ray gave up: {error}. The shards that were made are kept") from error
        finally:
            for actor in actors:
                ray.kill(actor)
