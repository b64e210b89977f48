"""Units on the machines of a Ray cluster: each has the repository and the data, and this one keeps the ledger."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import ledger
from benchmarks.training import checkpoint_of
from benchmarks.units import Unit
from benchmarks.work import Order, do, waiting
from gta_datasets.errors import requires_extra
from gta_datasets.workers import ray_cluster

__all__ = ["connected", "require_ray", "share", "work_by_ray"]


def require_ray() -> Any:
    """The package.

    Raises:
        MissingExtraError: it is not installed.
    """
    with requires_extra("ray", "ray", "--backend ray needs"):
        import ray
    return ray


@contextmanager
def connected(workers: int) -> Iterator[tuple[bool, int]]:
    """The cluster that this process is connected to, or a local one until the end.

    Yields whether there are GPUs, and the cores that each of some workers can have on one machine.
    """
    with ray_cluster() as ray:
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        with_gpu = [machine for machine in machines if machine.get("GPU", 0) >= 1]
        yield bool(with_gpu), share([int(machine.get("CPU", 0)) for machine in with_gpu or machines], workers)


def share(cores: Sequence[int], workers: int) -> int:
    """The most cores that each of some workers can have on machines with so many; at least 1."""
    return next((each for each in range(max(cores), 1, -1) if sum(have // each for have in cores) >= workers), 1)


def work_by_ray(order: Order, workers: int) -> None:
    """Do the units that are left, some at a time."""
    ray = require_ray()
    needs = {"num_cpus": order.threads, "num_gpus": 1 if order.device.startswith("cuda") else 0}
    remote = ray.remote(**needs, scheduling_strategy="SPREAD")(_apart)
    running: dict[Any, tuple[Sequence[Unit], ExitStack]] = {}
    try:
        for units, seconds, held in waiting(order):
            running[remote.remote(units, order, seconds, sys.argv)] = units, held
            if len(running) == workers:
                _collect(running, order)
        while running:
            _collect(running, order)
    finally:
        for task in running:  # nobody would write down what comes out
            ray.cancel(task)


def _collect(running: dict[Any, tuple[Sequence[Unit], ExitStack]], order: Order) -> None:
    """Wait until the next ones are done, and write down what came out."""
    ray = require_ray()
    (done,), _ = ray.wait(list(running))
    units, held = running.pop(done)
    with held:
        try:
            found = ray.get(done)
        except ray.exceptions.RayError as error:
            print(f"a worker ended with {type(error).__name__}: {error}; its unit is still to do", file=sys.stderr)
            return
        ledger.extend(order.results, found)
        now = ledger.read_all(order.results)
        for unit in units:
            if now.answer(unit):
                checkpoint_of(unit, order.checkpoints).unlink(missing_ok=True)


def _apart(units: Sequence[Unit], order: Order, seconds: float, command: list[str]) -> str:
    """Do units on this machine, whichever it is; the lines that this adds."""
    sys.argv[1:] = command[1:]  # it is written down
    torch.set_num_threads(order.threads)
    with tempfile.TemporaryDirectory() as folder:
        do(units, replace(order, results=Path(folder), keeps_checkpoints=True), seconds)
        path = Path(folder) / ledger.RUNS
        return path.read_text() if path.exists() else ""
