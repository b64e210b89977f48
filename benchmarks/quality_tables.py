"""Tables of `benchmarks.quality` in Markdown, beside the GTA paper's numbers."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["METRICS", "PAPER", "show", "source_of"]

Found = dict[tuple[str, str], dict[str, Any]]
"""Lines of the ledger by dataset and variant."""

PAPER = Path(__file__).parent / "paper" / "gta_tables.csv"

METRICS = {
    "oracle_reward": ("Oracle reward", lambda scores: scores["oracle_reward"]),
    "dynamic_mse_x1e-2": ("Dynamics MSE x 100", lambda scores: _hundredfold(scores["dynamics_mse"])),
    "novelty_state": ("Novelty, state", lambda scores: _novelty(scores, "state")),
    "novelty_action": ("Novelty, action", lambda scores: _novelty(scores, "action")),
    "novelty_state_action": ("Novelty, both", lambda scores: _novelty(scores, "both")),
}
"""Metrics by their names in the paper's numbers."""

PAPER_NAMES = {
    "source": "None",
    "s4rl": "S4RL",
    "synther": "SynthER",
    "gta": "GTA",
    "gta reweighted": "GTA",  # which reweights everywhere but on halfcheetah-medium
    "gta fixed": "fixed",
    "gta unconditioned": "unconditioned",
    "gta reward inpainting": "reward inpainting",
    "horizon 1": "H=1",
    "horizon 15": "H=16",
    "horizon 31": "H=32",
    "horizon 63": "H=64",
}
"""Our variants by the paper's names; its windows of 16 rows hold 15 transitions."""

PAPER_TABLES = {
    "methods": ("21", "22", "23", "24", "25", "19"),
    "ablations": ("17",),
    "horizons": ("10",),
    "levels": (),
}
"""The paper's tables by experiment; the columns of table 29 have lost their headers."""


def show(experiment: str, datasets: Sequence[str], variants: Sequence[str], lines: Sequence[dict[str, Any]]) -> str:
    """The numbers in tables, `-` where nothing was measured, and in brackets what the paper has.

    One table per metric, a row per dataset and a column per variant; of one dataset, one with a row per variant
    and a column per metric.
    """
    found = {(line["unit"]["dataset"], line["unit"]["variant"]): line for line in lines}
    if len(datasets) == 1:
        tables = [_of_one_dataset(experiment, datasets[0], variants, found)]
    else:
        tables = [
            _table(
                [title, "source", *variants],
                [[dataset, *_cells(experiment, metric, dataset, variants, found)] for dataset in datasets],
            )
            for metric, (title, _) in METRICS.items()
        ]
        tables.append(_seconds(found, datasets, variants))
    return "\n\n".join(tables) + "\n\nIn brackets: the GTA paper, on D4RL's dataset of the same name."


def _of_one_dataset(experiment: str, dataset: str, variants: Sequence[str], found: Found) -> str:
    """A row for the source and every variant, a column for every metric and one for the seconds."""
    columns = [_cells(experiment, metric, dataset, variants, found) for metric in METRICS]
    lines = (found.get((dataset, variant)) for variant in variants)
    seconds = ["-", *("-" if line is None else _duration(line["seconds"]) for line in lines)]
    rows = [list(row) for row in zip(["source", *variants], *columns, seconds, strict=True)]
    return _table([dataset, *(title for title, _ in METRICS.values()), "Seconds"], rows)


def _cells(experiment: str, metric: str, dataset: str, variants: Sequence[str], found: Found) -> list[str]:
    """A metric of the source and of all variants, ours and the paper's."""
    measured = [found.get((dataset, variant)) for variant in variants]
    source = source_of([line for line in measured if line])
    scores = [source, *(line["quality"]["generated"] if line else None for line in measured)]
    ours = [_number(None if one is None else METRICS[metric][1](one)) for one in scores]
    paper = [_paper(experiment, metric, dataset, variant) for variant in ("source", *variants)]
    return [_beside(*pair) for pair in zip(ours, paper, strict=True)]


def source_of(lines: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Scores of the source, of its sample of most windows: where a method makes whole episodes, it is of few."""
    judged = [line["quality"] for line in lines]
    return max(judged, key=lambda quality: quality["checked_windows"])["source"] if judged else None


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    ruled = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in ruled)


def _seconds(found: Found, datasets: Sequence[str], variants: Sequence[str]) -> str:
    rows = []
    for dataset in datasets:
        cells = [found.get((dataset, variant)) for variant in variants]
        rows.append([dataset, *("-" if line is None else _duration(line["seconds"]) for line in cells)])
    return _table(["Seconds to fit + to generate", *variants], rows)


def _duration(seconds: dict[str, float | None]) -> str:
    fit = "shared" if seconds["fit"] is None else f"{seconds['fit']:.0f}"
    return f"{fit} + {seconds['generate']:.0f}"


def _paper(experiment: str, metric: str, dataset: str, variant: str) -> float | None:
    """The paper's number for one cell, if it has one; where tables overlap, the first of those listed counts."""
    name = PAPER_NAMES.get(variant)
    of_dataset = f"{dataset.partition('/')[2].replace('/', '-').removesuffix('-v0')}-v2"
    for table, row in itertools.product(PAPER_TABLES[experiment], _paper_rows()):
        # Table 10, on halfcheetah-medium alone, has the horizon in the place of the dataset.
        sought = ("GTA", name) if experiment == "horizons" else (name, of_dataset)
        if (row["table"], row["metric"]) == (table, metric) and (row["augmentation"], row["dataset"]) == sought:
            return float(row["mean"])
    return None


@cache
def _paper_rows() -> list[dict[str, str]]:
    with PAPER.open(newline="") as file:
        return list(csv.DictReader(file))


def _novelty(scores: dict[str, Any], space: str) -> float | None:
    return None if scores["novelty"] is None else scores["novelty"][space]


def _hundredfold(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _beside(ours: str, paper: float | None) -> str:
    return ours if paper is None else f"{ours} ({paper:.2f})"
