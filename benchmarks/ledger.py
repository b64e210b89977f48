"""Ledgers of results: one JSON line per unit, written by any number of processes, read in spite of damage.

A line is {"unit": its identity, "returns": {updates: {"mean", "std"}}, ...} or {"unit": ..., "error": traceback}.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from benchmarks import policies, record
from benchmarks.units import Unit, unit_id

__all__ = [
    "JUDGED",
    "POLICIES",
    "RUNS",
    "Found",
    "append",
    "digest_of",
    "extend",
    "ledger_of",
    "lock_of",
    "read",
    "read_all",
]

RUNS, JUDGED, POLICIES = "runs.jsonl", "quality.jsonl", "policies.jsonl"

Line = dict[str, Any]


class Found(NamedTuple):
    """What the ledgers of a folder say."""

    results: dict[str, Line]  # the latest line by id of the unit
    failures: dict[str, list[Line]]  # by id, since the last result if there is one
    problems: list[str]  # one sentence per line that could not be read


def ledger_of(unit: Unit, results: Path) -> Path:
    """Where the line of a unit goes."""
    return results / (JUDGED if unit.algorithm is None else RUNS)


def append(ledger: Path, module: str, measured: Mapping[str, Any], *, packages: Sequence[str] = ()) -> None:
    """Add a line; one that another process left unfinished stays a line of its own."""
    with _ready(ledger):
        record.append_line(ledger, module, measured, packages=packages)


def extend(ledger: Path, lines: str) -> None:
    """Add lines that were written elsewhere."""
    with _ready(ledger), ledger.open("a") as file:
        file.write(lines)


@contextmanager
def _ready(ledger: Path) -> Iterator[None]:
    """Nobody else writes, and the last line is at its end."""
    ledger.parent.mkdir(parents=True, exist_ok=True)
    with lock_of(ledger, "append"):
        if ledger.exists() and not ledger.read_bytes().endswith(b"\n") and ledger.stat().st_size:
            with ledger.open("a") as file:
                file.write("\n")
        yield


def read_all(results: Path) -> Found:
    """What was measured so far, by whichever command."""
    found = Found({}, {}, [])
    for name in (POLICIES, JUDGED, RUNS):
        lines, problems = read(results / name)
        found.problems.extend(problems)
        for line in map(_of_policies, lines) if name == POLICIES else lines:
            key = unit_id(line["unit"])
            if "error" in line:
                found.failures.setdefault(key, []).append(line)
            else:
                found.results[key] = line
                found.failures.pop(key, None)  # it was tried again
    return found


def read(ledger: Path) -> tuple[list[Line], list[str]]:
    """The sound lines, and a sentence about every other."""
    lines, problems = [], []
    for number, text in enumerate(ledger.read_text().splitlines() if ledger.exists() else [], start=1):
        try:
            line = json.loads(text)
            if not isinstance(line["unit"], dict) or not {"dataset", "seed"} <= line["unit"].keys():
                raise KeyError("unit")
        except (ValueError, KeyError, TypeError) as error:
            problems.append(f"{ledger}, line {number} is no result ({type(error).__name__}: {error}); it is left out")
        else:
            lines.append(line)
    return lines, problems


def lock_of(ledger: Path, name: str) -> FileLock:
    """A lock that all processes of this machine share which write to the ledger's folder."""
    locks = Path(tempfile.gettempdir()) / f"gta-benchmarks-{digest_of(ledger.parent)}"
    locks.mkdir(exist_ok=True)
    return FileLock(locks / f"{name}.lock")


def digest_of(results: Path) -> str:
    """A name for what belongs to a folder of ledgers and lies elsewhere."""
    return hashlib.blake2b(str(results.resolve()).encode(), digest_size=8).hexdigest()


def _of_policies(line: Line) -> Line:
    """A line of `benchmarks.policies` as one of ours."""
    unit = line["unit"]
    settings = policies.VARIANTS.get(unit["variant"], {"unknown variant": unit["variant"]})
    generated = settings is not None
    identity = {
        "dataset": unit["dataset"],
        "share": 1.0,
        "settings": settings,
        "preset": unit["preset"] if generated else None,
        "num_transitions": unit["num_transitions"] if generated else None,
        "real_fraction": unit["real_fraction"],
        # Its IQL has a constant learning rate, where the tables' is annealed: another algorithm to them.
        "algorithm": {"td3_bc": "TD3BC", "iql": "IQL, constant rate"}[unit.get("algorithm", "td3_bc")],
        **{name: unit[name] for name in ("updates", "batch_size", "episodes", "seed")},
    }
    return {**line, "unit": identity, "trainer": "d3rlpy" if unit["engine"] == "d3rlpy" else "stack"}
