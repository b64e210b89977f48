"""Ledgers of the tables: one JSON line per unit, from whichever command.

A line is {"unit": its identity, "returns": {updates: {"mean", "std"}}, ...} or {"unit": ..., "error": traceback}.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from benchmarks import policies, record
from benchmarks.record import Line
from benchmarks.units import Unit, unit_id

__all__ = ["JUDGED", "POLICIES", "RUNS", "Found", "extend", "ledger_of", "read_all"]

RUNS, JUDGED, POLICIES = "runs.jsonl", "quality.jsonl", "policies.jsonl"


class Found(NamedTuple):
    """What the ledgers of a folder say."""

    results: dict[str, Line]  # the latest line by id of the unit
    failures: dict[str, list[Line]]  # by id, since the last result if there is one
    problems: list[str]  # one sentence per line that could not be read


def ledger_of(unit: Unit, results: Path) -> Path:
    """Where the line of a unit goes."""
    return results / (JUDGED if unit.algorithm is None else RUNS)


def extend(ledger: Path, lines: str) -> None:
    """Add lines that were written elsewhere."""
    with record.ready(ledger), ledger.open("a") as file:
        file.write(lines)


def read_all(results: Path) -> Found:
    """What was measured so far, by whichever command."""
    found = Found({}, {}, [])
    for name in (POLICIES, RUNS, JUDGED):  # failures of judged data are among the runs
        lines, problems = record.read(results / name, _of_policies if name == POLICIES else _checked)
        found.problems.extend(problems)
        for line in lines:
            key = unit_id(line["unit"])
            if "error" in line:
                found.failures.setdefault(key, []).append(line)
            else:
                found.results[key] = line
                found.failures.pop(key, None)  # it was tried again
    return found


def _checked(line: Line) -> Line:
    """The line, if it has a result or an error; KeyError, TypeError or ValueError if not."""
    if "quality" in line:
        line["quality"]["generated"].keys()
    elif "error" not in line:
        for update, score in line["returns"].items():
            float(int(update) + score["mean"])
        max(line["returns"])
    return line


def _of_policies(line: Line) -> Line:
    """A line of `benchmarks.policies` as one of ours; another engine than the runner's makes it no unit of a table."""
    unit, stacked = _checked(line)["unit"], line["unit"]["engine"] == "vectorised"
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
        **({} if stacked else {"engine": unit["engine"]}),
    }
    return {**line, "unit": identity, "trainer": "stack" if stacked else unit["engine"]}
