"""One table of results beside the paper's, as text: every number from a line of a ledger."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.experiments import Experiment, Method
from benchmarks.ledger import Found
from benchmarks.quality import METRICS
from benchmarks.record import RESULTS, Line
from benchmarks.scales import Scale
from benchmarks.statistics import Summary, summarise, welch
from benchmarks.tasks import Task, points
from benchmarks.units import units_of

__all__ = ["PAPER", "Grid", "Row", "Runs", "grid_of", "mixtures", "score"]

Scores = Mapping[tuple[str, str], Mapping[int, "Score"]]
"""By task and method, of the seeds."""

Runs = dict[tuple[str | None, str, str], list[Line]]
"""Lines by algorithm, task and method, in the order of seeds."""

PAPER = Path(__file__).parent / "paper" / "gta_tables.csv"
NOVELTY = METRICS["novelty_state_action"]
EVERY = "mean of all"
FEWEST = 4
"""Runs of which an interquartile mean leaves some out."""
FEW = 500
"""Windows of a judged sample; a cell of fewer says so."""
VERSIONS = ("gta-datasets", "torch", "numpy", "d3rlpy", "gymnasium", "mujoco", "minari")


class Score(NamedTuple):
    """Normalised returns of a policy."""

    end: float  # of the last evaluation
    later: float | None  # mean of the second half of the evaluations, if these are several: returns go up and down


class Part(NamedTuple):
    """What a row is of."""

    names: tuple[str, ...]  # of tasks
    seeds: frozenset[int] | None  # None: all that each method has
    methods: frozenset[str]

    def samples(self, found: Scores, method: str) -> list[list[Score]]:
        """Scores by task, in the order of seeds."""
        if method not in self.methods:
            return [[] for _ in self.names]
        return [
            [each for seed, each in sorted(found[name, method].items()) if self.seeds is None or seed in self.seeds]
            for name in self.names
        ]


class Row(NamedTuple):
    """A line of a table."""

    label: str
    meaning: str
    cells: list[tuple[str, ...]]  # each of several parts, none where there is nothing to say


@dataclass
class Grid:
    """A table, and what it was made from."""

    experiment: Experiment
    runs: Runs
    columns: list[str]
    rows: list[Row]
    missing: int
    total: int
    failed: int
    notes: list[str]


def grid_of(experiment: Experiment, scale: Scale, found: Found) -> Grid:
    """The table of what was measured of an experiment."""
    runs: Runs = {}
    units = list(units_of([experiment], scale))
    answers = [found.answer(unit) for unit in units]
    for unit, line in zip(units, answers, strict=True):
        if line is not None:
            runs.setdefault((unit.algorithm, unit.task.name, unit.method.name), []).append(line)
    columns, rows = (_quality if experiment.kind == "quality" else _policies)(experiment, runs)
    sizes = {(unit.identity["updates"], unit.identity["batch_size"]) for unit in units if unit.algorithm is not None}
    if len(sizes) == 1:
        notes = [
            f"{updates:,} updates of batch {size:,}." for updates, size in sizes - {(scale.updates, scale.batch_size)}
        ]
    else:  # columns are named by batches
        notes = [f"{updates:,} updates." for updates in sorted({updates for updates, _ in sizes} - {scale.updates})]
    notes += [experiment.note] if experiment.note else []
    return Grid(
        experiment,
        runs,
        columns,
        rows,
        missing=answers.count(None),
        total=len(units),
        failed=sum(bool(found.failures(unit)) for unit in units),
        notes=notes + _without_score(experiment, runs) + mixtures([line for lines in runs.values() for line in lines]),
    )


def _policies(experiment: Experiment, runs: Runs) -> tuple[list[str], list[Row]]:
    """Scores of policies: a row per algorithm and dataset, a column per method and per test."""
    rows: list[Row] = []
    for algorithm in experiment.algorithms:
        found = {
            (task.name, method.name): {
                line["unit"]["seed"]: points
                for line in runs.get((algorithm, task.name, method.name), [])
                if (points := score(line, task)) is not None
            }
            for task in experiment.tasks
            for method in experiment.methods
        }
        for part in _parts(experiment, found):
            samples = {each.name: part.samples(found, each.name) for each in experiment.methods}
            label, shown = _label(part, experiment)
            if any(row[:2] == (label, algorithm) for row in rows):
                label += f" ({', '.join(each.name for each in experiment.methods if each.name in part.methods)})"
            cells = [
                _cell(samples[each.name], _paper(experiment, algorithm, each, shown, "d4rl_score"))
                for each in experiment.methods
            ]
            cells += [_test(samples[ours], samples[theirs]) for ours, theirs in experiment.tests]
            rows.append(Row(label, algorithm, cells))
        averages = [
            _paper_part(_paper(experiment, algorithm, each, experiment.average, "d4rl_score"), 1)
            for each in experiment.methods
        ]
        if any(averages) and len(experiment.tasks) > 1 and not any(row[:2] == (EVERY, algorithm) for row in rows):
            rows.append(Row(EVERY, algorithm, averages + [()] * len(experiment.tests)))
    columns = [method.name for method in experiment.methods]
    columns += [f"p: {ours} against {theirs}" for ours, theirs in experiment.tests]
    return columns, rows


def _quality(experiment: Experiment, runs: Runs) -> tuple[list[str], list[Row]]:
    """What generated data are like: a row per metric and dataset, a column for the source and for every method."""
    source = Method("source", None, paper="None")
    rows: list[Row] = []
    for metric in experiment.metrics:
        title, value = METRICS.get(metric, NOVELTY)
        for task in experiment.tasks:
            lines = {
                each.name: line for each in experiment.methods for line in runs.get((None, task.name, each.name), [])
            }
            judged: dict[str, tuple[Any, Any]] = {
                name: (line["quality"]["generated"], line["quality"]) for name, line in lines.items()
            }
            if lines:
                most = max((line["quality"] for line in lines.values()), key=lambda quality: quality["checked_windows"])
                judged[source.name] = most["source"], most
            cells: list[tuple[str, ...]] = []
            for method in (source, *experiment.methods):
                scores, quality = judged.get(method.name, (None, None))
                number = None if scores is None else value(scores)
                ours = () if number is None else (f"{number:.2f}{_of_few(quality)}",)
                cells.append((*ours, *_paper_part(_paper(experiment, "-", method, task.name, metric), 2)))
            rows.append(Row(task.name, title, cells))
    return [source.name, *(method.name for method in experiment.methods)], rows


def _of_few(quality: Mapping[str, Any]) -> str:
    """How many windows were judged, if they were few; transitions of one window are much alike."""
    windows = quality["checked_windows"]
    return "" if windows >= FEW else f" ({windows} windows)"


def score(line: Line, task: Task) -> Score | None:
    """Of a run; None where no references are known."""
    looks = sorted(line["returns"], key=int)
    if task.reference is None:
        found = [line.get("normalised", {}).get(look) for look in looks]
    else:
        found = [points(line["returns"][look]["mean"], *task.reference) for look in looks]
    if None in found:
        return None
    half = found[len(found) // 2 :]
    return Score(found[-1], float(np.mean(half)) if len(half) > 1 else None)


def _without_score(experiment: Experiment, runs: Runs) -> list[str]:
    """A sentence for every dataset with runs that have no score."""
    counts = Counter(
        task.name
        for task in experiment.tasks
        for (_, name, _), lines in runs.items()
        for line in lines
        if name == task.name and "returns" in line and score(line, task) is None
    )
    return [
        f"{number} runs on {name} are left out: no returns are known for scores 0 and 100."
        for name, number in counts.items()
    ]


def _parts(experiment: Experiment, found: Scores) -> list[Part]:
    """Every dataset, then means over the datasets and seeds that both methods of a test have, or else all methods."""
    everybody = frozenset(method.name for method in experiment.methods)
    parts = [Part((task.name,), None, everybody) for task in experiment.tasks]
    measured = [method for method in everybody if any(found[task.name, method] for task in experiment.tasks)]
    together: dict[tuple[tuple[str, ...], frozenset[int]], set[str]] = {}
    tested: Sequence[Sequence[str]] = experiment.tests or ([measured] if len(measured) > 1 else [])
    for methods in tested:
        tasks = [task for task in experiment.tasks if _differ([found[task.name, method] for method in methods])]
        names = tuple(task.name for task in tasks)
        if len({task.dataset for task in tasks}) > 1:
            seeds = [set(found[name, method]) for name in names for method in methods]
            together.setdefault((names, frozenset(set.intersection(*seeds))), set()).update(methods)
    return parts + [Part(*key, frozenset(methods)) for key, methods in together.items() if key[1]]


def _differ(scores: Sequence[Mapping[int, Score]]) -> bool:
    """Whether all have some, and not the same: on some datasets two methods are one."""
    return all(scores) and any(each != scores[0] for each in scores)


def _label(part: Part, experiment: Experiment) -> tuple[str, str | None]:
    """What a row is called, and the paper's row that it stands beside, if there may be one."""
    if len(part.names) == 1:
        return part.names[0], part.names[0]
    if len(part.names) == len(experiment.tasks):
        return EVERY, experiment.average
    return f"mean of {' and '.join(part.names)}", None


def _cell(samples: list[list[Score]], paper: tuple[float, float | None] | None) -> tuple[str, ...]:
    if not all(samples):
        return _paper_part(paper, 1)
    found, later = summarise(_ends(samples)), _later(samples)
    parts = [f"{_with_spread(found)} ({found.number} {'run' if found.number == 1 else 'runs'})"]
    if all(later):
        parts.append(f"second half {_with_spread(summarise(later))}")
    if found.number >= FEWEST:
        interval = "" if found.interval is None else f" [{found.interval[0]:.1f}, {found.interval[1]:.1f}]"
        parts.append(f"IQM {found.iqm:.1f}{interval}")
    return (*parts, *_paper_part(paper, 1))


def _with_spread(found: Summary) -> str:
    return f"{found.mean:.1f}" + ("" if found.std is None else f" ± {found.std:.1f}")


def _ends(samples: list[list[Score]]) -> list[list[float]]:
    return [[each.end for each in scores] for scores in samples]


def _later(samples: list[list[Score]]) -> list[list[float]]:
    """None of a dataset on which nothing but the end is known of some run."""
    later = [[each.later for each in scores if each.later is not None] for scores in samples]
    return [each if len(each) == len(scores) else [] for each, scores in zip(later, samples, strict=True)]


def _test(ours: list[list[Score]], theirs: list[list[Score]]) -> tuple[str, ...]:
    """Of the ends, and of the second halves; nothing where both are the same runs."""
    if not all(ours) or not all(theirs) or ours == theirs:
        return ()
    parts = []
    for name, first, second in (("", _ends(ours), _ends(theirs)), ("second half ", _later(ours), _later(theirs))):
        found = welch(first, second) if all(first) and all(second) else None
        if found is not None:
            parts.append(f"{name}{found}")
    return tuple(parts)


def _paper_part(paper: tuple[float, float | None] | None, digits: int) -> tuple[str, ...]:
    if paper is None:
        return ()
    spread = "" if paper[1] is None else f" ± {paper[1]:.{digits}f}"
    return (f"paper {paper[0]:.{digits}f}{spread}",)


def mixtures(lines: Sequence[Line]) -> list[str]:
    """A sentence for everything in which the lines of one table differ and should not."""
    seen: dict[str, Counter[str]] = {}
    for line in lines:
        facts = {name: line.get("versions", {}).get(name) for name in VERSIONS}
        facts[f"trainer of {line['unit'].get('algorithm')}"] = line.get("trainer")
        facts[f"environment of {line['unit']['dataset']}"] = line.get("environment")
        facts["machine"] = line.get("machine", {}).get("gpu") or "no GPU"
        if line.get("source") != line["unit"]["dataset"]:
            facts["data of another name"] = line.get("source")
        if "transitions" in line:
            share = line["unit"].get("share", 1.0)
            of = line["unit"]["dataset"] if share == 1 else f"{share:.0%} of {line['unit']['dataset']}"
            facts[f"transitions of {of}"] = line["transitions"]["source"]
            facts[f"recording of {of}"] = line.get("recording") or (
                _recordings().get(line["source"]) if share == 1 else None
            )
        for name, value in facts.items():
            if value is not None:
                seen.setdefault(name, Counter())[str(value)] += 1
    revisions = {line.get("revision") for line in lines} - {None}
    notes = [f"Runs of {len(revisions)} revisions of the benchmarks."] if len(revisions) > 1 else []
    return notes + [
        f"Mixed: {name} " + ", ".join(f"{value} ({number} runs)" for value, number in sorted(counts.items())) + "."
        for name, counts in seen.items()
        if len(counts) > 1 or name == "data of another name"
    ]


@cache
def _recordings() -> dict[str, str]:
    """Of the datasets that lines are of which do not name theirs."""
    found = json.loads((RESULTS / "datasets.json").read_text())["datasets"]
    return {name: facts["recording"] for name, facts in found.items()}


def _paper(
    experiment: Experiment, algorithm: str, method: Method, row: str | None, metric: str
) -> tuple[float, float | None] | None:
    sought = (
        experiment.table or experiment.name,
        algorithm,
        method.paper or method.name,
        row if method.paper_row is None else method.paper_row,
        metric,
    )
    return _paper_numbers().get(sought)


@cache
def _paper_numbers() -> dict[tuple[str | None, ...], tuple[float, float | None]]:
    names = ("table", "algorithm", "augmentation", "dataset", "metric")
    with PAPER.open(newline="") as file:
        return {
            tuple(row[name] for name in names): (float(row["mean"]), float(row["std"]) if row["std"] else None)
            for row in csv.DictReader(file)
        }
