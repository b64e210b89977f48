"""The ledger of the tables: a JSON line per unit.

A line is {"unit": its identity, "returns": {updates: {"mean", "std"}}, ...}, {"unit": ..., "quality": scores, ...} of
data that were judged, or {"unit": ..., "error": traceback}.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

from benchmarks import record
from benchmarks.record import Line
from benchmarks.units import Unit, question_id, unit_id

__all__ = ["RUNS", "Found", "extend", "read_all"]

RUNS = "runs.jsonl"


class Found(NamedTuple):
    """What the ledger of a folder says."""

    lines: dict[str, list[Line]]  # by id of the unit, as they were written one after the other
    answers: dict[str, list[Line]]  # the same without errors, by id of the unit's question
    problems: list[str]  # one sentence per line that could not be read

    @property
    def results(self) -> dict[str, Line]:
        """The latest line by id of all units that have a result, made with whichever defaults."""
        found = {key: [line for line in lines if "error" not in line] for key, lines in self.lines.items()}
        return {key: lines[-1] for key, lines in found.items() if lines}

    def answer(self, unit: Unit) -> Line | None:
        """The latest result of the unit whose data were made with what its settings mean today.

        Of a longer run it is the beginning.
        """
        lines = reversed(self.answers.get(unit.question, []))
        found = next((line for line in lines if unit.is_answered_by(line)), None)
        return found or self._beginning(unit)

    def _beginning(self, unit: Unit) -> Line | None:
        """Of a longer run that has an evaluation where this unit ends."""
        line = None if unit.longer is None else self.answer(unit.longer)
        last = unit.identity.get("updates", 0)
        if line is None or str(last) not in line["returns"]:
            return None
        return line | {
            "returns": {updates: score for updates, score in line["returns"].items() if int(updates) <= last}
        }

    def failures(self, unit: Unit) -> list[Line]:
        """Of the unit since its last result, if there is one; none if it is answered."""
        lines = self.lines.get(unit.id, [])
        last = max((place for place, line in enumerate(lines) if "error" not in line), default=-1)
        return [] if self.answer(unit) else lines[last + 1 :]


def extend(results: Path, lines: str) -> None:
    """Add lines that were written elsewhere."""
    path = results / RUNS
    with record.ready(path), path.open("a") as file:
        file.write(lines)


def read_all(results: Path) -> Found:
    """What was measured so far."""
    found: dict[str, list[Line]] = {}
    answers: dict[str, list[Line]] = {}
    lines, problems = record.read(results / RUNS, _check)
    for line in lines:
        found.setdefault(unit_id(line["unit"]), []).append(line)
        if "error" not in line:
            answers.setdefault(question_id(line["unit"]), []).append(line)
    return Found(found, answers, problems)


def _check(line: Line) -> None:
    """Raise KeyError, TypeError, ValueError or AttributeError unless the line has a result or an error."""
    question_id(line["unit"])
    for facts in ("versions", "machine", "transitions", "normalised"):
        line.get(facts, {}).items()
    if "transitions" in line:
        int(line["transitions"]["source"])
    config = line.get("config")
    for stage in () if config is None else config.values():
        stage.items()
    if "quality" in line:
        for sample in ("generated", "source"):
            line["quality"][sample].keys()
        int(line["quality"]["checked_windows"])
        line["unit"]["settings"].keys(), line["unit"]["preset"], line["unit"]["num_transitions"]
    elif "error" not in line:
        for update, score in line["returns"].items():
            if not math.isfinite(int(update) + score["mean"]):
                raise ValueError(f"the mean after {update} updates is {score['mean']}")
        max(line["returns"])
