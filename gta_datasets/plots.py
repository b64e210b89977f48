"""The pictures of the report, each a function of what was measured.

Grey is the source, blue what was generated, orange the truth or a limit, in every picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gta_datasets.data.episodes import Episodes
from gta_datasets.data.normalize import Standardizer
from gta_datasets.errors import requires_extra
from gta_datasets.scores import Checked, Evidence

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["asked_returns", "dynamics_errors", "example_window", "rewards", "states", "training_loss"]

SOURCE, GENERATED, TRUTH = "#8b9199", "#1c62a8", "#c4560a"
_INK = "#30343a"


def rewards(generated: Episodes, source: Episodes, evidence: Evidence) -> Figure:
    """Distribution of the rewards per step: source, generated, and what the environment gives for the generated."""
    figure, (axes,) = _figure()
    oracle = _finite(evidence.generated.oracle_rewards)
    edges = _edges(source.rewards, generated.rewards)
    _histogram(axes, source.rewards, edges, color=SOURCE, label="source", filled=True)
    _histogram(axes, generated.rewards, edges, color=GENERATED, label="generated, as recorded")
    if len(oracle):
        _histogram(axes, oracle, edges, color=TRUTH, label="generated, true reward", linestyle="--")
    axes.set(xlabel="reward of one step", ylabel="density", yticks=[], xlim=(edges[0], edges[-1]))
    _legend(figure, axes)
    return figure


def dynamics_errors(evidence: Evidence, threshold: float) -> Figure | None:
    """Cumulative distribution of the dynamics error of steps and of windows' worst steps."""
    if evidence.generated.errors is None:
        return None
    figure, (axes,) = _figure()
    for checked, color, name in ((evidence.source, SOURCE, "source"), (evidence.generated, GENERATED, "generated")):
        steps, worst = _step_and_worst_errors(checked)
        _cumulative(axes, steps, color=color, label=f"{name}: steps")
        _cumulative(axes, worst, color=color, label=f"{name}: worst step of a window", linestyle="--")
    axes.axvline(threshold, color=TRUTH, linewidth=1.2)
    axes.annotate(
        f" {threshold:g}", (threshold, 0.02), color=TRUTH, xycoords=("data", "axes fraction"), fontsize=9, va="bottom"
    )
    axes.set(xscale="log", xlabel="dynamics error", ylabel="share with an error of at most this", ylim=(0, 1.02))
    axes.set_xlim(_ERROR_RANGE[0] / 1.2, _ERROR_RANGE[1])
    _legend(figure, axes)
    return figure


def asked_returns(evidence: Evidence) -> Figure | None:
    """The return every window was asked for against the discounted sum of its rewards."""
    asked, got = evidence.asked_returns, evidence.returns
    if asked is None:
        return None
    figure, (axes,) = _figure()
    shown = _thin(len(asked), 4_000)
    axes.plot(asked[shown], got[shown], ".", color=GENERATED, markersize=4, alpha=0.35, markeredgewidth=0)
    axes.set(xlabel="return asked for, to the end of the episode", ylabel="return of the window's own steps")
    return figure


def states(generated: Episodes, source: Episodes) -> Figure:
    """States on the two directions in which the source varies most."""
    scale = Standardizer.fit(source.observations)
    real = scale.forward(source.observations[_thin(len(source.observations), 3_000)])
    made = scale.forward(generated.observations[_thin(len(generated.observations), 3_000)])
    _, strength, directions = np.linalg.svd(real - real.mean(axis=0), full_matrices=False)
    share = strength**2 / max(float((strength**2).sum()), 1e-12)
    plane = directions[:2].T
    figure, (left, right) = _figure(columns=2)
    for axes, rows, color, name in ((left, real, SOURCE, "source"), (right, made, GENERATED, "generated")):
        axes.plot(*_two_columns(real @ plane), ".", color="#dadde1", markersize=4, markeredgewidth=0)
        axes.plot(*_two_columns(rows @ plane), ".", color=color, markersize=3, alpha=0.6, markeredgewidth=0)
        axes.set_title(name, fontsize=11, color=_INK)
        axes.set(xlabel=f"first direction ({share[0]:.0%} of the variance)")
    left.set(ylabel=f"second direction ({share[1:2].sum():.0%})")
    right.sharex(left)
    right.sharey(left)
    return figure


def example_window(evidence: Evidence) -> Figure | None:
    """A window of median error and what the simulator makes of its first state and actions."""
    if evidence.example is None or evidence.example_steps is None:
        return None
    window = evidence.generated.windows.slice(evidence.example, evidence.example + 1)
    true = np.concatenate([window.observations[:1], evidence.example_steps.next_observations])
    busiest = np.argsort(-np.ptp(window.observations / _spread(evidence.source.windows), axis=0), kind="stable")[:3]
    figure, panels = _figure(columns=2, rows=2, height=4.6)
    curves = [
        (f"state dimension {column}", window.observations[:, column], true[:, column]) for column in sorted(busiest)
    ]
    curves.append(("reward", window.rewards, evidence.example_steps.rewards))
    for axes, (name, made, simulated) in zip(panels, curves, strict=False):
        axes.plot(simulated, color=TRUTH, linewidth=2.6, alpha=0.75, label="simulated")
        axes.plot(made, color=GENERATED, linewidth=1.5, label="generated")
        axes.set_title(name, fontsize=11, color=_INK)
        axes.set(xlabel="step of the window")
    for axes in panels[len(curves) :]:
        axes.set_visible(False)
    _legend(figure, panels[0])
    return figure


def training_loss(history: Sequence[tuple[int, float]]) -> Figure:
    """Loss against training step."""
    figure, (axes,) = _figure()
    steps, losses = _two_columns(np.asarray(history, np.float64))
    axes.plot(steps, losses, color=GENERATED, linewidth=1.5)
    axes.set(xlabel="training step", ylabel="loss")
    return figure


_ERROR_RANGE = 1e-6, 10.0


def _figure(*, columns: int = 1, rows: int = 1, height: float = 3.4) -> tuple[Figure, list[Axes]]:
    with requires_extra("report", "matplotlib", "plots need"):
        # Not pyplot: it keeps every figure and picks a window system.
        from matplotlib.figure import Figure
    figure = Figure(figsize=(7.2, height), layout="constrained", facecolor="white")
    panels = [figure.add_subplot(rows, columns, place + 1) for place in range(rows * columns)]
    for axes in panels:
        axes.grid(color="#e9ebee", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color("#a9aeb5")
        axes.tick_params(colors=_INK, labelsize=9)
        axes.xaxis.label.set_color(_INK)
        axes.yaxis.label.set_color(_INK)
    return figure, panels


def _legend(figure: Figure, axes: Axes) -> None:
    """Names of the curves above the picture, where they hide nothing."""
    curves, labels = axes.get_legend_handles_labels()
    columns = 2 if len(labels) == 4 else len(labels)
    figure.legend(curves, labels, loc="outside upper center", ncols=columns, frameon=False, fontsize=9, labelcolor=_INK)


def _edges(*samples: NDArray[Any]) -> NDArray[np.float64]:
    """Bins over the middle 99.8 % of the values, so that one outlier does not flatten the picture."""
    low = min(float(np.quantile(values, 0.001)) for values in samples)
    high = max(float(np.quantile(values, 0.999)) for values in samples)
    margin = 0.02 * (high - low) or 0.5
    return np.linspace(low - margin, high + margin, 61)


def _histogram(
    axes: Axes,
    values: NDArray[Any],
    edges: NDArray[np.float64],
    *,
    color: str,
    label: str,
    linestyle: str = "-",
    filled: bool = False,
) -> None:
    counts, _ = np.histogram(values, edges)
    density = counts / (len(values) * np.diff(edges))
    face = f"{color}55" if filled else "none"
    axes.stairs(
        density, edges, fill=filled, facecolor=face, edgecolor=color, linewidth=1.6, label=label, linestyle=linestyle
    )


def _cumulative(axes: Axes, values: NDArray[np.float64], *, color: str, label: str, linestyle: str = "-") -> None:
    ordered = np.sort(np.clip(values, *_ERROR_RANGE))
    shown = _thin(len(ordered), 2_000)
    # From the lower left corner to the right edge: exact data hug the upper left corner instead of vanishing.
    errors = np.concatenate([_ERROR_RANGE[:1], ordered[shown], _ERROR_RANGE[1:]])
    inside = (shown + 1) / len(ordered) * (ordered[shown] < _ERROR_RANGE[1])
    shares = np.maximum.accumulate(np.concatenate([[0], inside, [0]]))
    axes.plot(errors, shares, color=color, linewidth=1.8, label=label, linestyle=linestyle)


def _step_and_worst_errors(checked: Checked) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Errors of all steps (n,) and of the worst step of every window (E,); unstable steps are beyond the picture."""
    errors = np.nan_to_num(np.asarray(checked.errors), nan=np.inf, posinf=np.inf)
    return errors, np.maximum.reduceat(errors, checked.windows.offsets[:-1])


def _finite(values: NDArray[np.float64] | None) -> NDArray[np.float64]:
    return np.empty(0) if values is None else values[np.isfinite(values)]


def _spread(episodes: Episodes) -> NDArray[np.float64]:
    return Standardizer.fit(episodes.observations).scale


def _two_columns(rows: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The first two columns of `rows`; a single one is shown against zero."""
    return rows[:, 0], rows[:, 1] if rows.shape[1] > 1 else np.zeros(len(rows))


def _thin(size: int, most: int) -> NDArray[np.int64]:
    """At most `most` row numbers, evenly spread, the first and last among them."""
    return np.unique(np.linspace(0, size - 1, min(size, most)).astype(np.int64))
