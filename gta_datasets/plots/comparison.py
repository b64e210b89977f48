"""The pictures of several methods side by side; every method has one colour throughout, and one line and marker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gta_datasets.plots.drawing import (
    INK,
    PALETTE,
    SOURCE,
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
)
from gta_datasets.scores import Evidence, Quality, Scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["colour_of", "dynamics_errors", "line_of", "marker_of", "novelty_and_error", "rewards", "states", "strips"]

Qualities = Mapping[str, Quality]

LINES, MARKERS = ("-", ":", "-.", "--"), ("o", "s", "^", "D")

STRIP_STEPS = 32
"""Beyond these, small errors have added up to another trajectory."""


def colour_of(place: int) -> str:
    """Colour of the method in some place of the list."""
    return PALETTE[place % len(PALETTE)]


def line_of(place: int) -> str:
    """Style of the line of the method in some place: another one where the colours begin again."""
    return LINES[place // len(PALETTE) % len(LINES)]


def marker_of(place: int) -> str:
    """Marker of the method in some place: another one where the colours begin again."""
    return MARKERS[place // len(PALETTE) % len(MARKERS)]


def rewards(qualities: Qualities) -> Figure:
    """Distribution of the rewards per step: the judge's where there is one, otherwise the recorded ones."""
    figure, (axes,) = new_figure()
    real = next(iter(qualities.values())).evidence.source.windows.rewards
    made = {name: _judged_rewards(quality.evidence) for name, quality in qualities.items()}
    edges = edges_of(real, *made.values())
    histogram(axes, real, edges, color=SOURCE, label="source", filled=True)
    for place, (name, values) in enumerate(made.items()):
        histogram(axes, values, edges, color=colour_of(place), label=name, linestyle=line_of(place))
    axes.set(xlabel="reward of one step", ylabel="density", yticks=[], xlim=(edges[0], edges[-1]))
    legend(figure, axes)
    return figure


def dynamics_errors(qualities: Qualities) -> Figure | None:
    """Cumulative distribution of the dynamics error of steps."""
    first = next(iter(qualities.values()))
    if first.evidence.generated.errors is None:
        return None
    figure, (axes,) = new_figure()
    cumulative(axes, step_and_worst_errors(first.evidence.source)[0], color=SOURCE, label="source")
    for place, (name, quality) in enumerate(qualities.items()):
        errors = step_and_worst_errors(quality.evidence.generated)[0]
        cumulative(axes, errors, color=colour_of(place), label=name, linestyle=line_of(place))
    error_axes(figure, axes)
    return figure


def novelty_and_error(qualities: Qualities) -> Figure | None:
    """One dot per method: how new its transitions are against how wrong."""
    dots = {name: _novelty_and_error(quality.generated) for name, quality in qualities.items()}
    if not any(dots.values()):
        return None
    figure, (axes,) = new_figure()
    for place, (name, dot) in enumerate(dots.items()):
        if dot is not None:
            axes.plot(*dot, marker_of(place), color=colour_of(place), markersize=9)
            axes.annotate(f"  {name}", dot, color=INK, fontsize=9, va="center")
    axes.set(yscale="log", xlabel="novelty of state and action", ylabel="dynamics error, mean")
    axes.margins(x=0.25, y=0.2)
    return figure


def states(qualities: Qualities) -> Figure:
    """States on the two directions in which the source varies most, a panel per method."""
    plane = Plane(next(iter(qualities.values())).evidence.source.windows.observations)
    rows = -(-len(qualities) // 3)
    figure, panels = new_figure(columns=min(3, len(qualities)), rows=rows, height=0.4 + 2.5 * rows)
    for place, (axes, (name, quality)) in enumerate(zip(panels, qualities.items(), strict=False)):
        observations = quality.evidence.generated.windows.observations
        plane.draw(axes, observations, color=colour_of(place), title=name)
        if place:
            axes.sharex(panels[0])
            axes.sharey(panels[0])
    for axes in panels[len(qualities) :]:
        axes.set_visible(False)
    return figure


def strips(qualities: Qualities) -> Figure | None:
    """A window of median error per method as a strip: a row per state dimension, a column per step.

    At most its first 32 steps. Above what was generated, below what the judge makes of its first state and actions.
    Single transitions are no trajectories and have no strip.
    """
    shown = {
        name: quality.evidence
        for name, quality in qualities.items()
        if quality.evidence.example_steps is not None and len(quality.evidence.example_steps.rewards) > 1
    }
    if not shown:
        return None
    figure, panels = new_figure(columns=len(shown), rows=2, height=4.4)
    for place, (name, evidence) in enumerate(shown.items()):
        made, simulated = _example_states(evidence)
        for axes, values, title in (
            (panels[place], made, name),
            (panels[len(shown) + place], simulated, "simulated"),
        ):
            axes.imshow(values.T, aspect="auto", cmap="RdBu_r", vmin=-3, vmax=3, interpolation="nearest")
            axes.grid(visible=False)
            axes.set_title(title, fontsize=11, color=INK)
        panels[len(shown) + place].set(xlabel="step of the window")
    for row in (0, len(shown)):
        panels[row].set(ylabel="state dimension")
    return figure


def _novelty_and_error(scores: Scores) -> tuple[float, float] | None:
    if scores.novelty is None or not scores.dynamics_mse:
        return None
    return scores.novelty.both, scores.dynamics_mse


def _judged_rewards(evidence: Evidence) -> NDArray[np.floating]:
    judged = finite(evidence.generated.oracle_rewards)
    return judged if len(judged) else evidence.generated.windows.rewards


def _example_states(evidence: Evidence) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """States of the example and of its simulation, (steps + 1, obs_dim), in standard deviations of the source."""
    if evidence.example is None or evidence.example_steps is None:
        raise ValueError("there is no example")
    window = evidence.generated.windows.slice(evidence.example, evidence.example + 1)
    simulated = np.concatenate([window.observations[:1], evidence.example_steps.next_observations])
    source = evidence.source.windows
    centre, scale = source.observations.mean(axis=0, dtype=np.float64), spread(source)
    made, true = ((values[: STRIP_STEPS + 1] - centre) / scale for values in (window.observations, simulated))
    return made, true
