"""One HTML file that shows how good generated trajectories are, readable without the paper."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from gta_datasets.data.episodes import Episodes
from gta_datasets.page import Line, Picture, Sheet, write_page
from gta_datasets.plots import report as plots
from gta_datasets.scores import Quality

__all__ = ["write_report"]


def write_report(
    path: Path,
    quality: Quality,
    generated: Episodes,
    source: Episodes,
    *,
    title: str,
    config: Mapping[str, object],
    loss_history: Sequence[tuple[int, float]] | None = None,
) -> Path:
    """Write the report to `path` and return it; the pictures are inside, nothing is loaded from elsewhere.

    Args:
        path: the HTML file; its folder is made.
        quality: what `gta_datasets.metrics.quality` found.
        generated: one window per episode.
        source: the data they were made from.
        title: headline.
        config: what to list under "Settings"; nested mappings are flattened.
        loss_history: pairs of training step and loss.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    lines = (Line(row.label, row.meaning, (row.source, row.generated)) for row in quality.rows())
    return write_page(
        path,
        title=title,
        summary=" ".join(_summary(quality)),
        size=_size(generated, source),
        sheets=[Sheet("Quality", "Metric", ("Source", "Generated"), lines)],
        notes=quality.notes,
        method=_method(quality),
        pictures=_pictures(quality, generated, source, loss_history or ()),
        settings=config,
    )


def _summary(quality: Quality) -> Iterator[str]:
    """What the numbers say, in sentences."""
    made, real = quality.generated, quality.source
    if made.oracle_reward is None or real.oracle_reward is None:
        yield f"The generated steps record a mean reward of {made.reward:.3g}; those of the source {real.reward:.3g}."
    else:
        change = made.oracle_reward - real.oracle_reward
        yield (
            f"Judged by the {quality.judge}, generated states and actions earn {made.oracle_reward:.3g} per step, those"
            f" of the source {real.oracle_reward:.3g}: a difference of {change:+.3g}."
        )
    if made.bad_window_share is not None and real.bad_window_share is not None:
        yield (
            f"{made.bad_window_share:.1%} of the generated windows contain a step that departs from the {quality.judge}"
            f" by more than {quality.threshold:g}; of the source's own windows it is {real.bad_window_share:.1%}."
        )
    if quality.pearson is not None:
        yield f"What was asked for and what was made correlate with {quality.pearson:.2f}."


def _size(generated: Episodes, source: Episodes) -> str:
    return (
        f"{generated.num_transitions:,} generated transitions in {generated.num_episodes:,} windows, made from"
        f" {source.num_transitions:,} transitions in {source.num_episodes:,} episodes."
    )


def _method(quality: Quality) -> str:
    if quality.simulator is None:
        return "Nothing was simulated."
    return (
        f"{quality.checked_transitions:,} generated transitions ({quality.checked_windows:,} windows drawn at random,"
        f" seed {quality.seed}) and equally long windows of the source were set into {quality.simulator} and stepped."
    )


def _pictures(
    quality: Quality, generated: Episodes, source: Episodes, loss_history: Sequence[tuple[int, float]]
) -> Iterator[Picture]:
    """Every picture that the evidence allows."""
    evidence = quality.evidence
    yield Picture(
        "Rewards", plots.rewards(generated, source, evidence, quality.judge), _REWARDS.format(judge=quality.judge)
    )
    errors = plots.dynamics_errors(evidence, quality.threshold)
    if errors is not None:
        yield Picture("Dynamics", errors, _DYNAMICS)
    example = plots.example_window(evidence)
    if example is not None:
        yield Picture("One window", example, _EXAMPLE)
    returns = plots.asked_returns(evidence)
    if returns is not None:
        yield Picture("Asked and got", returns, _RETURNS)
    yield Picture("States", plots.states(generated, source), _STATES)
    if loss_history:
        yield Picture("Training", plots.training_loss(loss_history), _LOSS)


_REWARDS = (
    "How often each reward occurs. Blue to the right of grey: the generated data show better behaviour than the"
    " source. Orange (dashed) is what the {judge} gives for the generated states and actions: where it"
    " lies left of blue, the generated data promise too much."
)
_DYNAMICS = (
    "How many steps (solid) and how many windows (dashed, by their worst step) stay below an error. Further left"
    " is better; the source's own curves are the best that can be expected. Where the dashed curve crosses the"
    " orange line one reads off the share of windows without a bad step."
)
_EXAMPLE = (
    "A window of median error: the three state dimensions that move most, and the reward. Orange: the simulator"
    " starts in the window's first state and is given the generated actions, without correction on the way; so"
    " small errors add up towards the right."
)
_RETURNS = (
    "Every dot is a window: the discounted return it was asked for, against the discounted rewards it contains. A"
    " rising cloud means that asking for more yields more. The axes differ because the asked return counts what"
    " follows the window, too."
)
_STATES = (
    "States seen from the two directions in which the source varies most. Blue on the light grey cloud: known"
    " territory; blue beside it: states that the source does not hold."
)
_LOSS = "Training loss of the generator. It should fall and level off."
