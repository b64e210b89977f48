"""Runs the tables, as much of them as the time allows, and goes on where the last run ended.

python -m benchmarks.run --table 1 --scale cpu --budget 90m
python -m benchmarks.run --table 1 --scale gpu --algorithm TD3BC --dataset sim/hopper/medium-v0 --method GTA
python -m benchmarks.run --list                      # what there is to run, and what is missing

Every finished unit (dataset, method, algorithm, seed, scale) adds a line to `results/runs.jsonl`; what is there already
is not done again. A unit that crashes adds its traceback and is left alone until `--retry`.
`python -m benchmarks.tables` shows the results.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import ledger, record
from benchmarks.algorithms import ALGORITHMS
from benchmarks.cluster import connected, require_ray, work_by_ray
from benchmarks.datasets import positive
from benchmarks.experiments import TABLES, experiments_of
from benchmarks.scales import SCALES
from benchmarks.units import Unit, units_of
from benchmarks.work import Order, asked_to_end, work
from gta_datasets.augment import cache_root

__all__ = ["main", "select"]

ON_GPU = 32
"""Runs in one stack on a GPU. On a CPU they would take turns: one by one, an interruption costs less."""

FILTERS = ("dataset", "method", "algorithm", "seed")

SECONDS = {"s": 1, "m": 60, "h": 3_600}


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is missing; the number of units that failed now, and of processes that died."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.backend == "ray":
        require_ray()  # now, and not after the first look at the data
    units = select(options, parser)
    found = ledger.read_all(options.results)
    for problem in found.problems:
        print(problem, file=sys.stderr)
    if options.list:
        _list(units, found)
        return 0
    possible = [unit for unit in units if unit.obstacle is None]
    for obstacle, count in Counter(unit.obstacle for unit in units if unit.obstacle is not None).items():
        print(f"skipped {count}: {obstacle}")
    dead = 0
    if options.backend == "ray":
        with connected(options.workers) as (gpu, cores):
            work_by_ray(_order(possible, options, found, gpu, cores), options.workers)
    else:
        order = _order(possible, options, found, torch.cuda.is_available(), torch.get_num_threads() // options.workers)
        dead = _run(order, options.workers)
    return dead + _report(possible, found, ledger.read_all(options.results))


def _order(
    possible: Sequence[Unit], options: argparse.Namespace, found: ledger.Found, gpu: bool, threads: int
) -> Order:
    """What is to be done, with one GPU for a unit or none, and so many threads."""
    stack = options.stack or (ON_GPU if gpu else 1)
    return Order(
        units=one_method_after_the_other(possible) if stack > 1 else possible,
        results=options.results,
        checkpoints=cache_root() / "benchmarks" / record.digest_of(options.results),
        failures_allowed={unit.id: len(found.failures(unit)) for unit in possible} if options.retry else {},
        deadline=None if options.budget is None else time.time() + options.budget,
        stack=stack,
        threads=max(1, threads),
        device="cuda:0" if gpu else "cpu",
    )


def one_method_after_the_other(units: Sequence[Unit]) -> list[Unit]:
    """All seeds of a method's data before the next method's: a stack needs the data of few, and begins early."""
    methods = list(dict.fromkeys(unit.method.name for unit in units))
    return sorted(units, key=lambda unit: methods.index(unit.method.name))


def select(options: argparse.Namespace, parser: argparse.ArgumentParser) -> list[Unit]:
    """The units asked for; what two tables share, once. The parser ends the process if something is in no table."""
    experiments = experiments_of(options.table, remote=options.remote)
    for experiment in experiments:
        if experiment.skipped is not None:
            print(f"skipped table {experiment.name}: {experiment.skipped}")
    units = list(units_of(experiments, SCALES[options.scale]))
    asked = {name: set(chosen) for name in FILTERS if (chosen := getattr(options, name)) is not None}
    for name, values in asked.items() if units else ():
        known = set().union(*(_names(unit)[name] for unit in units))
        for unknown in values - known:
            every = ", ".join(map(str, sorted(known)))
            parser.error(f"--{name} {unknown}: these tables have at this scale none but {every}")
    found: dict[str, Unit] = {}
    for unit in units:
        if all(_names(unit)[name] & values for name, values in asked.items()):
            found.setdefault(unit.id, unit)
    if units and not found:
        parser.error(f"no unit of these tables has all of these: {', '.join(f'--{name}' for name in asked)}")
    return list(found.values())


def _names(unit: Unit) -> dict[str, set[Any]]:
    """What a unit may be asked for by."""
    return {
        "dataset": {unit.task.dataset, unit.task.name},
        "method": {unit.method.name},
        "algorithm": {unit.algorithm or "quality"},
        "seed": {unit.seed},
    }


def budget(text: str) -> float:
    """Seconds of "90m", "2h" or "45s"."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no length of time; write 90m, 2h or 45s")
    return float(found[1]) * SECONDS[found[2]]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="append", choices=TABLES, metavar="NAME", help="only these; may be repeated")
    parser.add_argument("--scale", choices=SCALES, default="cpu")
    parser.add_argument("--remote", action="store_true", help="Farama's datasets instead of ours")
    parser.add_argument("--dataset", action="append", help="only these, ours or the paper's names; may be repeated")
    parser.add_argument("--method", action="append", help="only these columns of the tables; may be repeated")
    parser.add_argument("--algorithm", action="append", choices=(*ALGORITHMS, "quality"), help="only these")
    parser.add_argument("--seed", action="append", type=int, help="only these; may be repeated")
    parser.add_argument("--workers", type=positive, default=1, help="processes; on one machine they share the threads")
    parser.add_argument(
        "--backend", choices=("process", "ray"), default="process", help="where they run: here, or on a Ray cluster"
    )
    parser.add_argument(
        "--budget",
        type=budget,
        help="90m, 2h or 45s: TD3+BC and IQL stop then and keep what they have, and no other data are begun; of other "
        "algorithms nothing is started that is not expected to end by then",
    )
    parser.add_argument(
        "--stack", type=positive, help=f"runs of TD3+BC or IQL trained at once (default: {ON_GPU} on a GPU, else 1)"
    )
    parser.add_argument("--retry", action="store_true", help="try again what has failed")
    parser.add_argument("--list", action="store_true", help="run nothing, list the units")
    parser.add_argument("--results", type=Path, default=record.RESULTS, help="folder of the ledger")
    return parser


def _list(units: Iterable[Unit], found: ledger.Found) -> None:
    for unit in units:
        if found.answer(unit):
            state = "done"
        elif found.failures(unit):
            state = "failed"
        else:
            state = "missing" if unit.obstacle is None else "no data"
        print(f"{state:8}{unit.id:60}table {unit.experiment.name}, {unit.task.name}, {unit.method.name}")


def _run(order: Order, workers: int) -> int:
    """Work here, or in some processes that choose among the same units, each on one of the GPUs if there are any.

    How many of these died.
    """
    if workers == 1:
        work(order)
        return 0
    context = multiprocessing.get_context("spawn")
    gpus = max(1, torch.cuda.device_count())
    orders = [replace(order, device=order.device.replace(":0", f":{number % gpus}")) for number in range(workers)]
    processes = [context.Process(target=work, args=(each,)) for each in orders]
    with asked_to_end():
        try:
            for process in processes:
                process.start()
            for process in processes:
                process.join()
        finally:
            for process in processes:
                process.terminate()  # of those that run: this one was interrupted
    for process in processes:
        if process.exitcode != 0:
            print(f"a worker ended with exit code {process.exitcode}; its unit is still to do", file=sys.stderr)
    return sum(process.exitcode != 0 for process in processes)


def _report(units: Sequence[Unit], before: ledger.Found, after: ledger.Found) -> int:
    done, old = (sum(found.answer(unit) is not None for unit in units) for found in (after, before))
    failed = [unit for unit in units if after.failures(unit)]
    new_failures = [unit for unit in failed if len(after.failures(unit)) > len(before.failures(unit))]
    old_failures = len(failed) - len(new_failures)
    left = len(units) - done - len(failed)
    print(f"{done - old} done now, {old} before, {len(new_failures)} failed now, {old_failures} before, {left} left")
    for unit in new_failures:
        print(f"failed: {unit.id}: {after.failures(unit)[-1]['error'].splitlines()[-1]}")
    if old_failures:
        print("--retry tries again what failed before")
    return len(new_failures)


if __name__ == "__main__":
    sys.exit(min(main(), 1))
