"""What one process does: take units that nobody else has, train or judge, write down what came out."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from filelock import Timeout

from benchmarks import costs, ledger, quality, record
from benchmarks.deaths import check_survives, noted
from benchmarks.training import Prepared, checkpoint_of, train_alone, train_stack
from benchmarks.units import Unit, unit_id
from benchmarks.vectorised.draws import Run
from benchmarks.vectorised.tables import Table
from gta_datasets.device import is_shortage

__all__ = ["Order", "asked_to_end", "do", "waiting", "work"]

RING_AGAIN = 5.0
"""Seconds after which what was not ended by an alarm gets another one."""

ASK_AGAIN = 20.0
"""Seconds after which what was not ended by SIGTERM gets another one: cleaning up may take some."""


@dataclass(frozen=True)
class Order:
    """What is to be done, and how."""

    units: Sequence[Unit]
    results: Path
    checkpoints: Path
    failures_allowed: Mapping[str, int]  # by id, when the unit is tried nevertheless
    deadline: float | None  # of `time.time`: what has checkpoints stops then, nothing is begun too late
    stack: int  # runs trained at once
    threads: int
    device: str
    keeps_checkpoints: bool = False  # of units whose lines are written; somebody else removes them


def work(order: Order) -> None:
    """Do the units that are left, one job after the other."""
    torch.set_num_threads(order.threads)
    if order.device.startswith("cuda"):
        torch.cuda.set_device(order.device)  # also for graphs, and for what generates data
    with asked_to_end():  # who is has not died of a unit
        for units, seconds, held in waiting(order):
            with held:
                do(units, order, seconds)


@contextmanager
def asked_to_end() -> Iterator[None]:
    """SIGTERM ends the process as an error would, so that it cleans up."""
    reminders: list[threading.Timer] = []

    def end(*_: object) -> None:
        # A finalizer that happens to be running would swallow the exit.
        reminders.append(threading.Timer(ASK_AGAIN, os.kill, (os.getpid(), signal.SIGTERM)))
        reminders[-1].daemon = True
        reminders[-1].start()
        sys.exit(143)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        for reminder in reminders:
            reminder.cancel()
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _until(deadline: float | None) -> Iterator[None]:
    """Interrupt what is done here when time is up, as Ctrl-C would: training keeps its step, and generating its shards.

    Signals reach the first thread alone; in another one nothing is interrupted.
    """
    if deadline is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    rang = False

    def ring(*_: object) -> None:
        nonlocal rang
        rang = True
        signal.raise_signal(signal.SIGINT)

    # In the background of a shell Ctrl-C is ignored, and this would be, too.
    handlers = {
        number: signal.signal(number, handler)
        for number, handler in ((signal.SIGALRM, ring), (signal.SIGINT, signal.default_int_handler))
    }
    try:
        signal.setitimer(signal.ITIMER_REAL, max(deadline - time.time(), 1e-3), RING_AGAIN)
        yield
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        if not rang:
            raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def waiting(order: Order) -> Iterator[tuple[list[Unit], float, ExitStack]]:
    """Units to be done together that are left and fit into the time, and the seconds that their training must have.

    Nobody else does them until the stack is closed.
    """
    found = ledger.read_all(order.results)
    too_long: list[float] = []
    for job in jobs([unit for unit in order.units if _is_left(unit, order, found)], order.stack):
        if _is_too_late(order):
            break
        with ExitStack() as held:
            taken = [unit for unit in job if _take(unit, order, held)]
            found = ledger.read_all(order.results)  # again: others work too
            left = [unit for unit in taken if _is_left(unit, order, found)]
            seconds = _seconds_to_end(left, order, found)
            if seconds and _is_too_late(order, seconds):
                too_long.append(seconds)
            elif left:
                yield left, seconds, held.pop_all()
    if too_long:
        hours = min(too_long) / 3_600
        print(f"{len(too_long)} not begun, they would not end in time; the shortest takes {hours:.1f} h")


def jobs(units: Sequence[Unit], stack: int) -> Iterator[list[Unit]]:
    """Units that are trained together: runs of one algorithm in the same environment and of the same size."""
    waiting: dict[tuple[Any, ...], list[Unit]] = {}
    for unit in units:
        if unit.learner is None:
            yield [unit]
            continue
        # Datasets of a robot share its environment; of mazes each has its own.
        place = unit.task.dataset.rpartition("/")[0] if unit.task.kind == "locomotion" else unit.task.dataset
        sizes = (unit.identity[name] for name in ("algorithm", "updates", "batch_size", "episodes"))
        key = (place, unit.task.kind, *sizes)
        waiting.setdefault(key, []).append(unit)
        if len(waiting[key]) == stack:
            yield waiting.pop(key)
    yield from waiting.values()


def _take(unit: Unit, order: Order, held: ExitStack) -> bool:
    """Whether nobody else is at the unit; then it is ours until `held` ends."""
    try:
        held.enter_context(record.lock_of(order.results / ledger.RUNS, unit.id).acquire(blocking=False))
    except Timeout:
        return False
    return True


def _is_left(unit: Unit, order: Order, found: ledger.Found) -> bool:
    failures = len(found.failures(unit))
    return found.answer(unit) is None and failures <= order.failures_allowed.get(unit.id, 0)


def _is_too_late(order: Order, seconds: float = 0.0) -> bool:
    """Whether there is a deadline, and what takes so long would end after it."""
    return order.deadline is not None and time.time() + seconds >= order.deadline


def _seconds_to_end(units: Sequence[Unit], order: Order, found: ledger.Found) -> float:
    """How long the units are expected to take; 0 if they can go on another day, or nobody knows."""
    gpu = order.device.startswith("cuda")
    return sum(expected_seconds(unit, found, gpu=gpu) or 0.0 for unit in units if unit.learner is None)


def expected_seconds(unit: Unit, found: ledger.Found, *, gpu: bool) -> float | None:
    """From what d3rlpy took per update of the same algorithm at this size of batches on a GPU, or on none.

    Where there is no such result, what one core takes, though a GPU may be faster: a run without a budget will tell.
    None if that was not measured either. To judge data takes as long as others of this preset and method in the median.
    """
    identity = unit.identity
    timed = [line for line in found.results.values() if "seconds" in line]
    alike = [line for line in timed if bool(line.get("machine", {}).get("gpu")) == gpu]
    if unit.algorithm is None:
        same = [line for line in alike if "quality" in line and _maker(line["unit"]) == _maker(identity)]
        taken = [sum(part or 0 for part in line["seconds"].values()) for line in same]
        return median(taken) if taken else None
    rates = [
        line["seconds"] / line["unit"]["updates"]
        for line in alike
        if line.get("trainer") == "d3rlpy"
        and all(line["unit"].get(name) == identity[name] for name in ("algorithm", "batch_size"))
    ]
    return median(rates) * identity["updates"] if rates else costs.measured_seconds(unit)


def _maker(identity: Mapping[str, Any]) -> tuple[Any, ...]:
    """What made judged data."""
    return identity["preset"], identity["num_transitions"], identity["settings"].get("method", "gta")


def do(units: Sequence[Unit], order: Order, seconds: float) -> None:
    """Train or judge; what fails is written down and the others go on.

    Data are made, and read, of one unit after the other until the deadline, and none are begun so many seconds before
    it. What is not being trained by then is left to another run, which finds in the cache what there is of these data.
    """
    print(f"{time.strftime('%H:%M:%S')} {', '.join(unit.id for unit in units)}", flush=True)
    if units[0].algorithm is None:
        _attempt(units, order, lambda: _judged(units[0], order))
        return
    prepared: list[Prepared] = []
    for unit in units:
        if _is_too_late(order, seconds):
            break

        def prepare(unit: Unit = unit) -> None:
            prepared.append(_prepare(unit, order))

        with _until(order.deadline):
            _attempt([unit], order, prepare)
    with noted([checkpoint_of(each.unit, order.checkpoints) for each in prepared]):
        runs = [] if units[0].learner is None else _read(prepared, order)
        if _is_too_late(order, seconds):
            print(f"time is up with the data of {len(prepared)} of {len(units)}; a later run trains them", flush=True)
        elif units[0].learner is None:
            _attempt(units, order, lambda: [train_alone(each, order.device) for each in prepared])
        else:
            _train(runs, order)


def _prepare(unit: Unit, order: Order) -> Prepared:
    """With its data, unless it has cost too many processes."""
    check_survives(checkpoint_of(unit, order.checkpoints))
    return Prepared(unit)


def _read(prepared: Sequence[Prepared], order: Order) -> list[tuple[Prepared, Run]]:
    """What each learns from."""
    tables: dict[str, Table] = {}
    runs: list[tuple[Prepared, Run]] = []
    for each in prepared:
        if _is_too_late(order):
            break

        def read(each: Prepared = each) -> None:
            runs.append((each, each.run(tables)))

        _attempt([each.unit], order, read)
    return runs


def _train(runs: Sequence[tuple[Prepared, Run]], order: Order) -> None:
    """Train together; where memory does not suffice for that, either half by itself."""
    left = {each.unit.id: (each, run) for each, run in runs}
    is_short = False

    def lines() -> Iterator[dict[str, Any]]:
        nonlocal is_short
        try:
            for line in train_stack(runs, order.device, order.threads, order.checkpoints, order.deadline):
                del left[line["id"]]
                yield line
        except RuntimeError as error:
            if len(runs) == 1 or not is_shortage(error):
                raise
            is_short = True

    if runs:
        gc.collect()  # the stack before this one, whose parts know each other
        _attempt([each.unit for each, _ in runs], order, lines)
    if is_short:
        half = (len(left) + 1) // 2
        print(f"out of memory: going on with {half} of {len(runs)} at once", flush=True)
        _train(list(left.values())[:half], order)
        _train(list(left.values())[half:], order)


def _judged(unit: Unit, order: Order) -> Iterator[dict[str, Any]]:
    """The line of judged data, if time suffices for it."""
    measured = None
    with _until(order.deadline):
        measured = quality.measure(unit.task.open(), unit.identity, unit.scale.quality_novelty_sample)
    if measured is not None:
        yield {"id": unit.id, "unit": unit.identity} | measured


def _attempt(units: Sequence[Unit], order: Order, action: Callable[[], Iterable[dict[str, Any]] | None]) -> None:
    """Write down what the action yields, if anything: lines of units; or why those failed that it did not get to."""
    left = {unit.id: unit for unit in units}
    try:
        for line in action() or ():
            unit = left.pop(unit_id(line["unit"]))
            _write(unit, order, line)
            if not order.keeps_checkpoints:
                checkpoint_of(unit, order.checkpoints).unlink(missing_ok=True)
    except Exception:
        error = traceback.format_exc()
        print(error, flush=True)
        for unit in left.values():
            _write(unit, order, {"id": unit.id, "unit": unit.identity, "error": error})


def _write(unit: Unit, order: Order, line: dict[str, Any]) -> None:
    packages = () if unit.algorithm is None else ("d3rlpy",)
    record.append_line(order.results / ledger.RUNS, "benchmarks.run", line, packages=packages)
