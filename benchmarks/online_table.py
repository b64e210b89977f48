"""What the runs of `benchmarks.online` say: steps to a return, returns at the end, what a step costs; and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import markdown
from benchmarks.charts import draw_curves
from benchmarks.statistics import spread, welch
from gta_datasets.plots.drawing import legend, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["picture", "steps_to", "table"]

Line = Mapping[str, Any]

BASELINES = ("offline-half", "offline")

COLUMNS = (
    "variant", "runs", "reached it", "after steps (median)", "mean over all evaluations", "p against offline",
    "at the end", "ms per step", "generating", "adapting",
)  # fmt: skip


def steps_to(line: Line, target: float) -> int | None:
    """Steps of the environment at the first evaluation whose mean return is at least `target`."""
    reached = (int(steps) for steps, found in line["returns"].items() if found["mean"] >= target)
    return min(reached, default=None)


def table(found: Mapping[str, Sequence[Line]], target: float) -> str:
    """A row of Markdown for every variant.

    The median counts runs that did not reach the target as slower than all others. Tests are against the agent with the
    same data in its buffer, the one that draws half of its batches from them if it was run.
    """
    against = next((name for name in BASELINES if found.get(name)), BASELINES[-1])
    baseline = [_mean_return(line) for line in found.get(against, ())]
    rows = []
    for variant, lines in found.items():
        if not lines:
            continue
        steps = [steps_to(line, target) for line in lines]
        median = float(np.median([np.inf if number is None else number for number in steps]))
        means = [_mean_return(line) for line in lines]
        test = None if variant == against else welch([means], [baseline])
        rows.append(
            (
                variant,
                str(len(lines)),
                str(len(steps) - steps.count(None)),
                f"{median:,.0f}" if np.isfinite(median) else "-",
                spread(means, 1),
                "-" if test is None else f"{test.p:.3f}",
                spread([list(line["returns"].values())[-1]["mean"] for line in lines], 1),
                *(
                    _milliseconds(lines, name)
                    for name in ("seconds_per_step", "seconds_per_step_generation", "seconds_per_step_adaptation")
                ),
            )
        )
    return markdown.table(COLUMNS, rows)


def picture(found: Mapping[str, Sequence[Line]], target: float) -> Figure:
    """Returns by steps of all variants, and the target."""
    figure, (axes,) = new_figure()
    draw_curves(axes, {f"{name}, {len(lines)} runs": lines for name, lines in found.items() if lines})
    axes.axhline(target, color="#8b9199", linewidth=1, linestyle="--")
    axes.set(xlabel="steps of the environment")
    legend(figure, axes)
    return figure


def _mean_return(line: Line) -> float:
    """Over all evaluations: how soon and how much at once."""
    return float(np.mean([each["mean"] for each in line["returns"].values()]))


def _milliseconds(lines: Sequence[Line], name: str) -> str:
    return f"{1e3 * np.mean([line[name] for line in lines]):.1f}" if name in lines[0] else "-"
