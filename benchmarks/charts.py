"""Pictures of results: how scores grow with training, and how many runs reach which score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.experiments import Experiment
from benchmarks.results_table import Runs, score
from benchmarks.statistics import deviation, share_above
from benchmarks.tasks import Task
from gta_datasets.plots.comparison import colour_of, line_of
from gta_datasets.plots.drawing import legend, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["distributions", "draw_curves", "learning_curves"]

COLUMNS = 3


def learning_curves(experiment: Experiment, algorithm: str, runs: Runs) -> Figure | None:
    """Mean return over seeds by updates, a panel per dataset; the band is a standard deviation between seeds."""
    tasks = _measured(experiment, algorithm, runs)
    if not tasks:
        return None
    columns = min(COLUMNS, len(tasks))
    rows = -(-len(tasks) // columns)
    figure, panels = new_figure(columns=columns, rows=rows, height=0.6 + 2.4 * rows)
    names = _names(experiment, algorithm, runs)
    for axes, task in zip(panels, tasks, strict=False):
        draw_curves(axes, {name: runs.get((algorithm, task.name, name), []) for name in names})
        axes.set_title(task.name, fontsize=9)
    for axes in panels[len(tasks) :]:
        axes.set_visible(False)
    legend(figure, panels[0])
    return figure


def draw_curves(axes: Axes, found: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Mean return over the lines of a ledger by updates, for every name; the band is their sample's deviation."""
    for place, (name, lines) in enumerate(found.items()):
        updates = sorted({int(update) for line in lines for update in line["returns"]})
        means = [[line["returns"][str(u)]["mean"] for line in lines if str(u) in line["returns"]] for u in updates]
        centre, spread = np.array([np.mean(found) for found in means]), np.array([deviation(found) for found in means])
        # Also without a line: the legend is that of the first panel.
        axes.plot(updates, centre, line_of(place), color=colour_of(place), label=name, linewidth=1.6)
        axes.fill_between(updates, centre - spread, centre + spread, color=colour_of(place), alpha=0.15, linewidth=0)
    axes.set(xlabel="updates", ylabel="return")
    axes.xaxis.set_major_formatter(lambda number, _: f"{number / 1_000:g}k" if number >= 1_000 else f"{number:g}")


def distributions(experiment: Experiment, algorithm: str, runs: Runs) -> Figure | None:
    """Share of the runs that end above a score, on the datasets that all methods with any run have in common."""
    names = _names(experiment, algorithm, runs)
    tasks = [task for task in experiment.tasks if all(runs.get((algorithm, task.name, name)) for name in names)]
    if not names or not tasks:
        return None
    scores = {
        name: [
            points.end
            for task in tasks
            for line in runs[algorithm, task.name, name]
            if (points := score(line, task)) is not None
        ]
        for name in names
    }
    if not all(scores.values()):
        return None
    every = np.concatenate(list(scores.values()))
    margin = 0.05 * float(np.ptp(every)) or 1.0
    levels = np.linspace(every.min() - margin, every.max() + margin, 400)
    figure, (axes,) = new_figure()
    for place, (name, found) in enumerate(scores.items()):
        shares = share_above(found, levels)
        axes.plot(levels, shares, line_of(place), color=colour_of(place), label=name, linewidth=1.6)
    axes.set(xlabel="normalised score at the end", ylabel="share of runs above it", ylim=(-0.02, 1.02))
    legend(figure, axes)
    return figure


def _measured(experiment: Experiment, algorithm: str, runs: Runs) -> Sequence[Task]:
    return [
        task
        for task in experiment.tasks
        if any(runs.get((algorithm, task.name, method.name)) for method in experiment.methods)
    ]


def _names(experiment: Experiment, algorithm: str, runs: Runs) -> Sequence[str]:
    """Of the methods that have a run on any dataset, in the order of the table."""
    measured = {name for used, _, name in runs if used == algorithm}
    return [method.name for method in experiment.methods if method.name in measured]
