"""What the runs of `benchmarks.gtp` say: returns and the time of an action by number of jumps; and a picture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from benchmarks import markdown
from benchmarks.statistics import deviation, spread
from gta_datasets.plots.comparison import colour_of, line_of, marker_of
from gta_datasets.plots.drawing import PALETTE, legend, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Way", "picture", "table", "ways"]

COLUMNS = ("policy", "noise", "best of", "K", "runs", "return", "least run", "ms per action")


USUAL = {"eta": 1.0, "batch_size": 256, "preset": "cpu", "num_transitions": 200_000}
"""Settings that are not named where they are these."""


class Way(NamedTuple):
    """How actions are made; what the runs of all seeds say of it."""

    policy: str
    temperature: float | None
    samples: int
    """Actions of which the critics choose one."""
    steps: int | None
    """K, jumps per action; None for policies that do not jump."""
    returns: tuple[float, ...]
    milliseconds: float

    @property
    def label(self) -> str:
        """Name in the legend."""
        noise = "" if self.temperature is None else f", noise {self.temperature:g}"
        return self.policy + noise + (f", best of {self.samples}" if self.samples > 1 else "")


def ways(lines: Iterable[Mapping[str, Any]], dataset: str, updates: int) -> list[Way]:
    """All ways to act that were measured on a dataset after so many updates, runs of one kind together."""
    by_way: dict[tuple[str, float | None, int, int | None], dict[int, Mapping[str, float]]] = {}
    for line in lines:
        unit = line["unit"]
        if (unit["dataset"], unit["updates"]) == (dataset, updates):
            for one in line["evaluations"]:
                way = _policy(unit), one.get("temperature"), one.get("samples", 1), one.get("steps")
                by_way.setdefault(way, {})[unit["seed"]] = one  # a seed counts once
    found = {way: list(by_seed.values()) for way, by_seed in by_way.items()}
    every_way = [
        Way(
            *key,
            tuple(one["mean"] for one in all_of),
            float(np.median([one["milliseconds_per_action"] for one in all_of])),
        )
        for key, all_of in found.items()
    ]
    order = list(dict.fromkeys(way.label for way in every_way))
    return sorted(every_way, key=lambda way: (order.index(way.label), way.steps or 0))


def table(found: Sequence[Way]) -> str:
    """A row of Markdown for every way."""
    rows = [
        (
            way.policy,
            "-" if way.temperature is None else f"{way.temperature:g}",
            str(way.samples),
            "-" if way.steps is None else str(way.steps),
            str(len(way.returns)),
            spread(way.returns, 0),
            f"{min(way.returns):,.0f}",
            f"{way.milliseconds:.2f}",
        )
        for way in found
    ]
    return markdown.table(COLUMNS, rows)


def picture(found: Sequence[Way]) -> Figure:
    """Returns and milliseconds by K, bands a standard deviation between runs; policies that do not jump are level."""
    figure, (returns, cost) = new_figure(columns=2)
    for place, label in enumerate(dict.fromkeys(way.label for way in found)):
        drawn, colour = [way for way in found if way.label == label], colour_of(place)
        means, spreads = (np.array([measure(way.returns) for way in drawn]) for measure in (np.mean, deviation))
        milliseconds = [way.milliseconds for way in drawn]
        if drawn[0].steps is None:
            level = line_of(place - len(PALETTE))  # dashed, the first of them
            returns.axhline(means[0], color=colour, label=label, linewidth=1.6, linestyle=level)
            cost.axhline(milliseconds[0], color=colour, linewidth=1.6, linestyle=level)
            continue
        jumps, curve = [way.steps for way in drawn if way.steps is not None], marker_of(place) + line_of(place)
        returns.plot(jumps, means, curve, color=colour, label=label, linewidth=1.6, markersize=4)
        returns.fill_between(jumps, means - spreads, means + spreads, color=colour, alpha=0.12, linewidth=0)
        cost.plot(jumps, milliseconds, curve, color=colour, linewidth=1.6, markersize=4)
    for axes, name in ((returns, "return"), (cost, "ms per action")):
        axes.set(xlabel="K, jumps per action", ylabel=name, ylim=(0, None))
    legend(figure, returns)
    return figure


def _policy(unit: Mapping[str, Any]) -> str:
    """Name, and what is not as usual."""
    name = unit["variant"].upper()
    if unit["data"] != "source":
        name += f" on {unit['data'].upper()} data"
    if unit["variant"] != "bc" and not unit["score_targets"]:
        name += ", solver's targets"
    others = [f"{setting} {unit[setting]}" for setting, usual in USUAL.items() if unit.get(setting, usual) != usual]
    return ", ".join([name, *others])
