"""What all pictures have in common: colours, axes, histograms, cumulative curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gta_datasets.data.episodes import Episodes
from gta_datasets.data.normalize import Standardizer
from gta_datasets.errors import requires_extra
from gta_datasets.scores import Checked

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "ERROR_RANGE",
    "GENERATED",
    "INK",
    "PALETTE",
    "SOURCE",
    "TRUTH",
    "Plane",
    "cumulative",
    "edges_of",
    "error_axes",
    "figure_class",
    "finite",
    "histogram",
    "legend",
    "new_figure",
    "spread",
    "step_and_worst_errors",
    "thin",
    "two_columns",
]

SOURCE, GENERATED, TRUTH = "#8b9199", "#1c62a8", "#c4560a"
INK = "#30343a"
PALETTE = ("#1c62a8", "#c4560a", "#3d8b5f", "#8a4fa3", "#b3932e", "#c04f76", "#3b9db3")
"""Colours of methods side by side."""

ERROR_RANGE = 1e-6, 10.0

LEGEND_LETTERS, LINE_LETTERS = 95, 7
"""Letters that a line of a legend holds, and how many the line before a name takes."""


def figure_class() -> type[Figure]:
    """Matplotlib's; also called before long work whose result is to be drawn.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    with requires_extra("report", "matplotlib", "plots need"):
        # Not pyplot: it keeps every figure and picks a window system.
        from matplotlib.figure import Figure
    return Figure


def new_figure(*, columns: int = 1, rows: int = 1, height: float = 3.4) -> tuple[Figure, list[Axes]]:
    """An empty picture and its panels, row by row."""
    figure = figure_class()(figsize=(7.2, height), layout="constrained", facecolor="white")
    panels = [figure.add_subplot(rows, columns, place + 1) for place in range(rows * columns)]
    for axes in panels:
        axes.grid(color="#e9ebee", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color("#a9aeb5")
        axes.tick_params(colors=INK, labelsize=9)
        axes.xaxis.label.set_color(INK)
        axes.yaxis.label.set_color(INK)
    return figure, panels


def legend(figure: Figure, axes: Axes) -> None:
    """Names of the curves above the picture, where they hide nothing, in as many columns as fit."""
    curves, labels = axes.get_legend_handles_labels()
    columns = next(count for count in range(len(labels), 0, -1) if count == 1 or _fits(labels, count))
    figure.legend(curves, labels, loc="outside upper center", ncols=columns, frameon=False, fontsize=9, labelcolor=INK)


def _fits(labels: Sequence[str], columns: int) -> bool:
    """Whether the names in some columns, each with its line, are no wider than the picture."""
    parts = np.array_split(np.array([len(label) for label in labels]), columns)
    return sum(int(part.max()) + LINE_LETTERS for part in parts) <= LEGEND_LETTERS


def edges_of(*samples: NDArray[Any]) -> NDArray[np.float64]:
    """Bins over the middle 99.8 % of the values, so that one outlier does not flatten the picture."""
    low = min(float(np.quantile(values, 0.001)) for values in samples)
    high = max(float(np.quantile(values, 0.999)) for values in samples)
    margin = 0.02 * (high - low) or 0.5
    return np.linspace(low - margin, high + margin, 61)


def histogram(
    axes: Axes,
    values: NDArray[Any],
    edges: NDArray[np.float64],
    *,
    color: str,
    label: str,
    linestyle: str = "-",
    filled: bool = False,
) -> None:
    """The distribution of some values, as an outline."""
    counts, _ = np.histogram(values, edges)
    density = counts / (len(values) * np.diff(edges))
    face = f"{color}55" if filled else "none"
    axes.stairs(
        density, edges, fill=filled, facecolor=face, edgecolor=color, linewidth=1.6, label=label, linestyle=linestyle
    )


def cumulative(axes: Axes, values: NDArray[np.float64], *, color: str, label: str, linestyle: str = "-") -> None:
    """Share of the values at or below each error."""
    ordered = np.sort(np.clip(values, *ERROR_RANGE))
    shown = thin(len(ordered), 2_000)
    # From the lower left corner to the right edge: exact data hug the upper left corner instead of vanishing.
    errors = np.concatenate([ERROR_RANGE[:1], ordered[shown], ERROR_RANGE[1:]])
    inside = (shown + 1) / len(ordered) * (ordered[shown] < ERROR_RANGE[1])
    shares = np.maximum.accumulate(np.concatenate([[0], inside, [0]]))
    axes.plot(errors, shares, color=color, linewidth=1.8, label=label, linestyle=linestyle)


def error_axes(figure: Figure, axes: Axes) -> None:
    """Axes and names of cumulative curves of errors, when all are drawn."""
    axes.set(xscale="log", xlabel="dynamics error", ylabel="share with an error of at most this", ylim=(0, 1.02))
    axes.set_xlim(ERROR_RANGE[0] / 1.2, ERROR_RANGE[1])
    legend(figure, axes)


class Plane:
    """The two directions in which the states of a source (N, obs_dim) vary most."""

    def __init__(self, observations: NDArray[Any]) -> None:
        self._scale = Standardizer.fit(observations)
        self._real = self._shown(observations)
        _, strength, directions = np.linalg.svd(self._real - self._real.mean(axis=0), full_matrices=False)
        self._directions = directions[:2].T
        self.shares: NDArray[np.float64] = strength**2 / max(float((strength**2).sum()), 1e-12)
        """Of the variance, by direction."""

    def draw(self, axes: Axes, observations: NDArray[Any], *, color: str, title: str) -> None:
        """States (n, obs_dim) before those of the source."""
        real, made = (two_columns(rows @ self._directions) for rows in (self._real, self._shown(observations)))
        axes.plot(*real, ".", color="#dadde1", markersize=4, markeredgewidth=0)
        axes.plot(*made, ".", color=color, markersize=3, alpha=0.6, markeredgewidth=0)
        axes.set_title(title, fontsize=11, color=INK)

    def _shown(self, observations: NDArray[Any]) -> NDArray[Any]:
        return self._scale.forward(observations[thin(len(observations), 3_000)])


def step_and_worst_errors(checked: Checked) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Errors of all steps (n,) and of the worst step of every window (E,); unstable steps are beyond the picture."""
    errors = np.nan_to_num(np.asarray(checked.errors), nan=np.inf, posinf=np.inf)
    return errors, np.maximum.reduceat(errors, checked.windows.offsets[:-1])


def finite(values: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """The values that are finite; none where there are none."""
    return np.empty(0) if values is None else values[np.isfinite(values)]


def spread(episodes: Episodes) -> NDArray[np.float64]:
    """Standard deviation of every state dimension."""
    return Standardizer.fit(episodes.observations).scale


def two_columns(rows: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The first two columns of `rows`; a single one is shown against zero."""
    return rows[:, 0], rows[:, 1] if rows.shape[1] > 1 else np.zeros(len(rows))


def thin(size: int, most: int) -> NDArray[np.int64]:
    """At most `most` row numbers, evenly spread, the first and last among them."""
    return np.unique(np.linspace(0, size - 1, min(size, most)).astype(np.int64))
