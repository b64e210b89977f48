"""Results beside the GTA paper's: one Markdown file of all tables of a scale, and a page with pictures of each.

python -m benchmarks.tables --scale cpu
python -m benchmarks.tables --scale cpu --table 1 --output /tmp/tables

Every number of ours is from a line of `results/runs.jsonl`. Some tables alone are written to a file of their names.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import ledger, markdown, record
from benchmarks.charts import distributions, learning_curves
from benchmarks.experiments import EXPERIMENTS, PAPERS, TABLES, Experiment, experiments_of
from benchmarks.ledger import Found
from benchmarks.results_table import Grid, Row, Runs, grid_of
from benchmarks.scales import SCALES, Scale
from benchmarks.units import unit_id, units_of
from gta_datasets.page import Line, Picture, Sheet, write_page

__all__ = ["main"]

ABOUT = ("dataset", "algorithm", "seed")
"""What a line is about, before how it was made."""

HOW = (
    "Scores are those of the last evaluation, normalised as D4RL does (0: random, 100: expert); 'second half' is "
    "the mean of the evaluations in the second half of the training. Mean and standard deviation over seeds of the "
    "policy; what they learn from is generated once, and every evaluation has the same seeds of the environment. "
    "IQM is the mean of the middle half of four runs or more, from five seeds of a dataset on with a 95 % bootstrap "
    "interval that draws seeds within datasets; p is of Welch's two-sided test, of the ends and of the second "
    "halves, with the difference and its 95 % interval, not corrected for the number of tests, and says nothing of "
    "how data differ that are generated anew. A mean over datasets is of those datasets and seeds that both methods "
    "of a test have. 'paper' is the GTA paper's number on D4RL's dataset of the same name, and scores of locomotion "
    "are by D4RL's references of the v2 environments: compare columns of a row, not ours with the paper's."
)

OURS = (
    "Ours are recordings of this project's SAC policies and controllers in Gymnasium's v5 environments and "
    "Gymnasium-Robotics' mazes; `results/datasets.json` says which, of what size, and which of them "
    "`benchmarks.datasets` made: what it makes of the same name differs by chance alone, but for medium-replay."
)

REMOTE = "Our numbers here are of Farama's datasets."


def main(arguments: Sequence[str] | None = None) -> int:
    """Write `<scale>.md` or `<scale>-remote.md`, and a page for every table with results; how many these are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="append", choices=TABLES, metavar="NAME", help="only these; may be repeated")
    parser.add_argument("--scale", choices=SCALES, default="cpu")
    parser.add_argument("--remote", action="store_true", help="Farama's datasets instead of ours")
    parser.add_argument("--results", type=Path, default=record.RESULTS, help="folder of the ledger")
    parser.add_argument("--output", type=Path, help="folder of the tables (default: `tables` beside the ledger)")
    options = parser.parse_args(arguments)
    chosen = experiments_of(options.table, remote=options.remote)
    output, scale = options.output or options.results / "tables", SCALES[options.scale]
    name, how = (f"{scale.name}-remote", f"{HOW} {REMOTE}") if options.remote else (scale.name, f"{HOW} {OURS}")
    output.mkdir(parents=True, exist_ok=True)
    found = ledger.read_all(options.results)
    parts, shown = [f"# Tables at scale `{scale.name}`", _scale(scale), how], 0
    for experiment in chosen:
        page = output / f"{name}-{experiment.name}.html"
        for old in (page, *(_curves_beside(page, algorithm) for algorithm in experiment.algorithms)):
            old.unlink(missing_ok=True)  # its numbers may be no longer in the ledger
        grid = grid_of(experiment, scale, found)
        parts += [f"## {_title(experiment)}", _state(grid)]
        if grid.runs:
            shown += 1
            parts += [_markdown(grid), *grid.notes]
            _page(page, grid, _scale(scale), how)
    if strangers := [*found.problems, *_strangers(found, scale)]:
        parts += ["## Lines that are in no table", "\n".join(f"- {text}" for text in strangers)]
    path = output / ("-".join([name, *(options.table or ())]) + ".md")
    path.write_text("\n\n".join(parts) + "\n")
    print(path)
    return shown


def _title(experiment: Experiment) -> str:
    return f"Table {experiment.name}" + (f": {experiment.title}" if experiment.title else "")


def _scale(scale: Scale) -> str:
    ends = "" if scale.tuned else " Policies learn from data with the library's terminations, SynthER's too."
    return (
        f"{scale.updates:,} updates of batch {scale.batch_size:,}, {scale.seeds} seeds, {scale.episodes} episodes per "
        f"evaluation; preset `{scale.preset}`, {scale.num_transitions:,} generated transitions. Data quality: preset "
        f"`{scale.quality_preset}`, {scale.quality_transitions:,} generated transitions; by GTA with "
        f"`alpha` {PAPERS['gta']['alpha']}, the paper's for locomotion, where no other is named, and with the source's "
        f"terminations; by SynthER with those that it generates.{ends}"
    )


def _state(grid: Grid) -> str:
    if grid.experiment.skipped:
        return f"Skipped: {grid.experiment.skipped}."
    failed = f", {grid.failed} of them failed" if grid.failed else ""
    return f"{grid.missing} of {grid.total} units are missing{failed}."


def _markdown(grid: Grid) -> str:
    """A table for every algorithm, or one of all metrics."""
    algorithms = [[row for row in grid.rows if row.meaning == name] for name in grid.experiment.algorithms]
    return "\n\n".join(_table(grid.columns, rows) for rows in algorithms or [grid.rows])


def _table(columns: Sequence[str], rows: Sequence[Row]) -> str:
    shown = _shown(columns, rows)
    lines = [[row.label, row.meaning, *("<br>".join(row.cells[place]) or "-" for place in shown)] for row in rows]
    return markdown.table(["", "", *(columns[place] for place in shown)], lines, labels=2)


def _shown(columns: Sequence[str], rows: Sequence[Row]) -> list[int]:
    """Columns but for tests that there are none of yet."""
    return [
        place
        for place, name in enumerate(columns)
        if not name.startswith("p: ") or any(row.cells[place] for row in rows)
    ]


def _page(path: Path, grid: Grid, size: str, how: str) -> None:
    experiment = grid.experiment
    write_page(
        path,
        title=_title(experiment),
        summary=_state(grid),
        size=size.replace("`", ""),
        sheets=list(_sheets(grid)),
        notes=grid.notes,
        method=how.replace("`", ""),
        pictures=list(_pictures(path, experiment, grid.runs)),
        settings={"methods": {each.name: dict(each.settings or {}) or "as it is" for each in experiment.methods}},
    )


def _sheets(grid: Grid) -> Iterator[Sheet]:
    """One for every algorithm or metric."""
    for name in dict.fromkeys(row.meaning for row in grid.rows):
        rows = [row for row in grid.rows if row.meaning == name]
        shown = _shown(grid.columns, rows)
        lines = [Line(row.label, "", ["\n".join(row.cells[place]) or "-" for place in shown]) for row in rows]
        yield Sheet(name, "Dataset", [grid.columns[place] for place in shown], lines)


def _pictures(path: Path, experiment: Experiment, runs: Runs) -> Iterator[Picture]:
    """For the page; the learning curves also as a file beside it."""
    for algorithm in experiment.algorithms:
        curves, shares = learning_curves(experiment, algorithm, runs), distributions(experiment, algorithm, runs)
        if curves is not None:
            curves.savefig(_curves_beside(path, algorithm), dpi=120)
            caption = "Mean over seeds of the return of an evaluation; the band is a standard deviation between seeds."
            yield Picture(f"{algorithm}: learning curves", curves, caption)
        if shares is not None:
            caption = "Share of the runs that end above a score, on the datasets that all of these methods have."
            yield Picture(f"{algorithm}: distribution of scores", shares, caption)


def _curves_beside(page: Path, algorithm: str) -> Path:
    return page.with_name(f"{page.stem}-{algorithm}.png")


def _strangers(found: Found, scale: Scale) -> list[str]:
    """Lines that are no unit of any scale, and in what they differ from the nearest of this one."""
    units = {unit.id: unit for unit in units_of(EXPERIMENTS.values(), scale)}
    everywhere = [
        unit
        for other in SCALES.values()
        for remote in (False, True)
        for unit in units_of(experiments_of(None, remote=remote), other)
    ]
    answers = {unit_id(line["unit"]) for unit in everywhere if (line := found.answer(unit))}
    elsewhere = {unit.id for unit in everywhere} - units.keys()
    sentences = []
    for key, line in found.results.items():
        identity = line["unit"]
        if key in answers or key in elsewhere:
            continue
        if key in units:
            sentences.append(f"{key}: the settings of its data are no longer what the library takes.")
            continue
        differences = [
            [name for name in identity if identity[name] != unit.identity.get(name)]
            for unit in units.values()
            if all(identity.get(name) == unit.identity.get(name) for name in ABOUT)
        ]
        nearest = min(differences, key=len, default=ABOUT)
        values = ", ".join(f"{name} {identity[name]}" for name in nearest if name in identity)
        sentences.append(f"{key}: no unit of this scale has {values}.")
    return sentences


if __name__ == "__main__":
    main()
