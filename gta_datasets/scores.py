"""What `gta_datasets.metrics` finds: numbers for generated and source data side by side, as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gta_datasets.data.episodes import Episodes
from gta_datasets.novelty import Novelty
from gta_datasets.simulator import Steps

__all__ = ["Checked", "Evidence", "Quality", "Row", "Scores"]


@dataclass(frozen=True)
class Scores:
    """One set of trajectories, measured on a sample of windows; None where something could not be measured."""

    reward: float  # mean recorded reward of all transitions
    oracle_reward: float | None  # mean reward the true environment gives for the same states and actions
    dynamics_mse: float | None  # mean over steps of the error below
    dynamics_median: float | None
    dynamics_p99: float | None
    bad_step_share: float | None  # steps whose error exceeds `Quality.threshold`, in [0, 1]
    bad_window_share: float | None  # windows with such a step, in [0, 1]
    reward_mse: float | None  # recorded against oracle reward
    reward_bias: float | None  # mean of recorded minus oracle reward
    unstable_share: float | None  # steps whose state the simulator rejected: in no mean above, but bad; in [0, 1]
    wrong_terminations: float | None  # steps that end the task in the data or for the simulator, not both, in [0, 1]
    novelty: Novelty | None


@dataclass(frozen=True)
class Checked:
    """The windows that were compared with the true dynamics."""

    windows: Episodes  # one window per episode, n transitions in all
    errors: NDArray[np.float64] | None  # (n,) mean over state dimensions of the squared standardised difference
    oracle_rewards: NDArray[np.float64] | None  # (n,); here and in `errors` NaN where the simulation was unstable
    terminations: NDArray[np.bool_] | None  # (n,) where the task ends by the simulator; None where it does not know


@dataclass(frozen=True)
class Evidence:
    """The arrays behind the numbers, for plots."""

    generated: Checked
    source: Checked
    returns: NDArray[np.float64]  # (E,) discounted sum of every generated window's rewards
    asked_returns: NDArray[np.floating[Any]] | None  # (E,)
    example: int | None  # episode of `generated.windows`: the one of median error
    example_steps: Steps | None  # the simulator started in that window's first state and given its actions


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    label: str
    source: str
    generated: str
    meaning: str


@dataclass(frozen=True)
class Quality:
    """Generated data beside the source they were made from."""

    generated: Scores
    source: Scores
    pearson: float | None  # asked return against `Evidence.returns`
    spearman: float | None
    simulator: str | None  # environment and versions of the physics, or what stood in for them
    learned: bool  # the "true" rewards and dynamics are a learned model's
    threshold: float  # error of one step above which its window counts as bad
    checked_windows: int
    checked_transitions: int
    seed: int
    notes: tuple[str, ...]  # what could not be measured, and why, and what else to know
    evidence: Evidence = field(repr=False, compare=False)

    def __str__(self) -> str:
        return self.table()

    def to_json(self) -> str:
        """All numbers and notes, without the evidence; what could not be measured is null."""
        values = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "evidence"}
        return json.dumps(values, indent=2, default=asdict, allow_nan=False)

    @property
    def judge(self) -> str:
        """What gave the "true" rewards and dynamics."""
        return "learned model" if self.learned else "true environment"

    def rows(self) -> tuple[Row, ...]:
        """The table: one row per metric that could be measured."""
        rows = [
            Row(line.label.format(threshold=self.threshold), *self._cells(line), line.meaning.format(judge=self.judge))
            for line in _LINES
        ]
        rows.append(Row("Return correlation", _MISSING, _number(self.pearson), _CORRELATION.format("Pearson's")))
        rows.append(Row("Rank correlation", _MISSING, _number(self.spearman), _CORRELATION.format("Spearman's")))
        return tuple(row for row in rows if (row.source, row.generated) != (_MISSING, _MISSING))

    def table(self) -> str:
        """The rows as aligned text, followed by the notes."""
        rows = [("", "source", "generated"), *((row.label, row.source, row.generated) for row in self.rows())]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            f"{label:<{widths[0]}}  {source:>{widths[1]}}  {made:>{widths[2]}}".rstrip() for label, source, made in rows
        ]
        return "\n".join([*lines, *self.notes])

    def _cells(self, line: _Line) -> tuple[str, str]:
        return line.format(line.value(self.source)), line.format(line.value(self.generated))


_MISSING = "-"
_CORRELATION = (
    "{} correlation between the return that a window was asked for, up to the end of its episode, and the discounted"
    " sum of the rewards in the window. It is high where windows reach to the end of an episode; where they are much"
    " shorter, what was asked for says more of how much is left of the episode, and it may be below zero."
)


def _number(value: float | None) -> str:
    return _MISSING if value is None else f"{value:.4g}"


def _share(value: float | None, decimals: int = 1) -> str:
    return _MISSING if value is None else f"{100 * value:.{decimals}f} %"


def _small_share(value: float | None) -> str:
    return _share(value, decimals=3)


def _share_if_any(value: float | None) -> str:
    return _share(value or None)


def _novelty(space: str) -> Callable[[Scores], float | None]:
    return lambda scores: None if scores.novelty is None else getattr(scores.novelty, space)


@dataclass(frozen=True)
class _Line:
    label: str
    value: Callable[[Scores], float | None]
    meaning: str
    format: Callable[[float | None], str] = _number


_LINES = (
    _Line("Recorded reward", lambda scores: scores.reward, "Mean reward per step, as the data have it."),
    _Line(
        "Oracle reward",
        lambda scores: scores.oracle_reward,
        "Mean reward per step that the {judge} gives for the same states and actions. Above the source's: the"
        " generated data show better behaviour.",
    ),
    _Line(
        "Reward error",
        lambda scores: scores.reward_mse,
        "Mean squared difference between recorded and oracle reward.",
    ),
    _Line(
        "Reward bias",
        lambda scores: scores.reward_bias,
        "Mean of recorded minus oracle reward. Above zero: the data promise more than the {judge} gives.",
    ),
    _Line(
        "Dynamics error, mean",
        lambda scores: scores.dynamics_mse,
        "How far the next state in the data is from the one the {judge} reaches: squared difference, in"
        " standard deviations of the source's states, averaged over the state's dimensions. The source's own value is"
        " the floor: what the observation hides cannot be reproduced.",
    ),
    _Line("Dynamics error, median", lambda scores: scores.dynamics_median, "Half of the steps are better than this."),
    _Line("Dynamics error, 99 %", lambda scores: scores.dynamics_p99, "One step in a hundred is worse than this."),
    _Line(
        "Steps > {threshold:g}",
        lambda scores: scores.bad_step_share,
        "Share of steps of a larger dynamics error than this.",
        _share,
    ),
    _Line(
        "Windows with a step > {threshold:g}",
        lambda scores: scores.bad_window_share,
        "Share of windows with at least one such step. Longer windows have more of them.",
        _share,
    ),
    _Line(
        "Impossible steps",
        lambda scores: scores.unstable_share,
        "Share of steps from states that the simulator rejects. They are in no mean; their windows count as bad.",
        _share_if_any,
    ),
    _Line(
        "Wrong terminations",
        lambda scores: scores.wrong_terminations,
        "Share of steps that end the task in the data and not in the {judge}, or the other way round.",
        _small_share,
    ),
    _Line(
        "Novelty, state",
        _novelty("state"),
        "Mean distance to the nearest state of the source, in standard deviations of the source. For the source itself:"
        " to its nearest other state.",
    ),
    _Line("Novelty, action", _novelty("action"), "The same for actions."),
    _Line("Novelty, both", _novelty("both"), "The same for state and action together."),
)
