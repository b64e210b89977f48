"""The pictures of one method's report, each a function of what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gta_datasets.data.episodes import Episodes
from gta_datasets.plots.drawing import (
    GENERATED,
    INK,
    SOURCE,
    TRUTH,
    Plane,
    cumulative,
    edges_of,
    error_axes,
    finite,
    histogram,
    legend,
    new_figure,
    spread,
    step_and_worst_errors,
    thin,
    two_columns,
)
from gta_datasets.scores import Evidence

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["asked_returns", "dynamics_errors", "example_window", "rewards", "states", "training_loss"]


def rewards(generated: Episodes, source: Episodes, evidence: Evidence, judge: str) -> Figure:
    """Distribution of the rewards per step: source, generated, and what the judge gives for the generated."""
    figure, (axes,) = new_figure()
    oracle = finite(evidence.generated.oracle_rewards)
    edges = edges_of(source.rewards, generated.rewards)
    histogram(axes, source.rewards, edges, color=SOURCE, label="source", filled=True)
    histogram(axes, generated.rewards, edges, color=GENERATED, label="generated, as recorded")
    if len(oracle):
        histogram(axes, oracle, edges, color=TRUTH, label=f"generated, by the {judge}", linestyle="--")
    axes.set(xlabel="reward of one step", ylabel="density", yticks=[], xlim=(edges[0], edges[-1]))
    legend(figure, axes)
    return figure


def dynamics_errors(evidence: Evidence, threshold: float) -> Figure | None:
    """Cumulative distribution of the dynamics error of steps and of windows' worst steps."""
    if evidence.generated.errors is None:
        return None
    figure, (axes,) = new_figure()
    for checked, color, name in ((evidence.source, SOURCE, "source"), (evidence.generated, GENERATED, "generated")):
        steps, worst = step_and_worst_errors(checked)
        cumulative(axes, steps, color=color, label=f"{name}: steps")
        cumulative(axes, worst, color=color, label=f"{name}: worst step of a window", linestyle="--")
    axes.axvline(threshold, color=TRUTH, linewidth=1.2)
    axes.annotate(
        f" {threshold:g}", (threshold, 0.02), color=TRUTH, xycoords=("data", "axes fraction"), fontsize=9, va="bottom"
    )
    error_axes(figure, axes)
    return figure


def asked_returns(evidence: Evidence) -> Figure | None:
    """The return every window was asked for against the discounted sum of its rewards."""
    asked, got = evidence.asked_returns, evidence.returns
    if asked is None:
        return None
    figure, (axes,) = new_figure()
    shown = thin(len(asked), 4_000)
    axes.plot(asked[shown], got[shown], ".", color=GENERATED, markersize=4, alpha=0.35, markeredgewidth=0)
    axes.set(xlabel="return asked for, with what follows the window", ylabel="return of the window's own steps")
    return figure


def states(generated: Episodes, source: Episodes) -> Figure:
    """States on the two directions in which the source varies most."""
    plane = Plane(source.observations)
    figure, (left, right) = new_figure(columns=2)
    for axes, part, color, name in ((left, source, SOURCE, "source"), (right, generated, GENERATED, "generated")):
        plane.draw(axes, part.observations, color=color, title=name)
        axes.set(xlabel=f"first direction ({plane.shares[0]:.0%} of the variance)")
    left.set(ylabel=f"second direction ({plane.shares[1:2].sum():.0%})")
    right.sharex(left)
    right.sharey(left)
    return figure


def example_window(evidence: Evidence) -> Figure | None:
    """A window of median error and what the simulator makes of its first state and actions."""
    if evidence.example is None or evidence.example_steps is None:
        return None
    window = evidence.generated.windows.slice(evidence.example, evidence.example + 1)
    true = np.concatenate([window.observations[:1], evidence.example_steps.next_observations])
    busiest = np.argsort(-np.ptp(window.observations / spread(evidence.source.windows), axis=0), kind="stable")[:3]
    figure, panels = new_figure(columns=2, rows=2, height=4.6)
    curves = [
        (f"state dimension {column}", window.observations[:, column], true[:, column]) for column in sorted(busiest)
    ]
    curves.append(("reward", window.rewards, evidence.example_steps.rewards))
    for axes, (name, made, simulated) in zip(panels, curves, strict=False):
        axes.plot(simulated, color=TRUTH, linewidth=2.6, alpha=0.75, label="simulated")
        axes.plot(made, color=GENERATED, linewidth=1.5, label="generated")
        axes.set_title(name, fontsize=11, color=INK)
        axes.set(xlabel="step of the window")
    for axes in panels[len(curves) :]:
        axes.set_visible(False)
    legend(figure, panels[0])
    return figure


def training_loss(history: Sequence[tuple[int, float]]) -> Figure:
    """Loss against training step."""
    figure, (axes,) = new_figure()
    steps, losses = two_columns(np.asarray(history, np.float64))
    axes.plot(steps, losses, color=GENERATED, linewidth=1.5)
    axes.set(xlabel="training step", ylabel="loss")
    return figure
