"""Several methods on the same dataset side by side: one page that tells which to use."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from gta_datasets.config.fields import whole_number
from gta_datasets.dataset import GTAAugmentedDataset
from gta_datasets.errors import ConfigError, DatasetError, DivergenceError, QualificationError
from gta_datasets.page import Line, Picture, Sheet, check_page, write_page
from gta_datasets.plots import comparison as plots
from gta_datasets.plots.drawing import figure_class
from gta_datasets.scores import Quality, Scores
from gta_datasets.warn import warn

__all__ = ["compare"]

FEW_BAD_STEPS = 0.1
"""Share of bad steps, beyond the source's own, up to which a method is recommended. It is generous: on
halfcheetah-medium policies gained from data with a bad step in every third window (docs/does-it-help.md)."""


def compare(
    datasets: Mapping[str, GTAAugmentedDataset], path: str | Path, *, sample: int = 16_384, seed: int = 0
) -> dict[str, Quality]:
    """Measure augmented versions of one dataset, and write table and pictures to one HTML file.

    A version that cannot be made, because no two episodes can be joined or nothing passes its filter, is left out: a
    warning and a note on the page say why.

    Args:
        datasets: by the names they are to have on the page; all made from the same source. What is not trained or
            generated yet will be, as far as the measurement needs it.
        path: the HTML file; its folder is made.
        sample: transitions of every version that are set into the simulator.
        seed: of the samples.

    Returns:
        The numbers by name, each as `GTAAugmentedDataset.quality` gives them.

    Raises:
        ConfigError: there is nothing to compare, something in it is not what `augment` makes, the versions have
            different sources, the path cannot be written to, the sample is no whole number of at least 1, or the seed
            none of at least 0.
        DatasetError, DivergenceError, QualificationError: no version can be made; the error of the first.
        MissingExtraError: matplotlib is not installed.
    """
    _check_versions(datasets)
    sample, seed = whole_number("sample", sample, 1), whole_number("seed", seed, 0)
    source = _source_of(datasets)
    figure_class()  # measuring may take long
    page = check_page(path)
    qualities, left_out = _measured(datasets, sample, seed)
    first = next(iter(qualities.values()))
    write_page(
        page,
        title=f"{source}: {len(qualities)} ways to augment it",
        summary=" ".join(_summary(qualities)),
        size=" ".join(f"{name}: {quality.checked_windows:,} windows." for name, quality in qualities.items()),
        sheets=[Sheet("Quality", "Metric", ("Source", *qualities), _lines(qualities))],
        notes=[*left_out, *dict.fromkeys(note for quality in qualities.values() for note in quality.notes)],
        method=_method(first),
        pictures=_pictures(qualities),
        settings={name: datasets[name].config.to_dict() for name in qualities},
    )
    return qualities


def _check_versions(datasets: object) -> None:
    """Raise ConfigError unless they are augmented datasets by name."""
    advice = "give augmented datasets by the names they are to have on the page, such as {'gta': augment(dataset)}"
    if not isinstance(datasets, Mapping):
        raise ConfigError(f"what is to be compared is of type {type(datasets).__name__}; {advice}")
    for name, dataset in datasets.items():
        if not isinstance(name, str):
            raise ConfigError(f"the name {name!r} is of type {type(name).__name__}; {advice}")
        if not isinstance(dataset, GTAAugmentedDataset):
            raise ConfigError(f"{name!r} is of type {type(dataset).__name__}; {advice}")


def _source_of(datasets: Mapping[str, GTAAugmentedDataset]) -> str:
    """Id of what all were made from."""
    sources = {
        (str(dataset.source.id), dataset.source.episode_indices.tobytes()): dataset.source
        for dataset in datasets.values()
    }
    if len(sources) != 1:
        given = sorted(f"{source.id} ({source.total_episodes} episodes)" for source in sources.values())
        raise ConfigError(f"compare needs augmented versions of one dataset; given: {', '.join(given) or 'none'}")
    return next(name for name, _ in sources)


def _measured(
    datasets: Mapping[str, GTAAugmentedDataset], sample: int, seed: int
) -> tuple[dict[str, Quality], list[str]]:
    """The numbers by name, and a sentence for every version that cannot be made."""
    qualities: dict[str, Quality] = {}
    failures: dict[str, DatasetError | DivergenceError | QualificationError] = {}
    for name, dataset in datasets.items():
        try:
            qualities[name] = dataset.quality(sample=sample, seed=seed)
        except (DatasetError, DivergenceError, QualificationError) as error:
            failures[name] = error
    if not qualities:
        raise next(iter(failures.values()))
    left_out = [f"{name} is left out: {error}." for name, error in failures.items()]
    for sentence in left_out:
        warn(sentence)
    return qualities, left_out


def _lines(qualities: Mapping[str, Quality]) -> Iterator[Line]:
    """The rows of all tables; the source's numbers are those that go with the first method's windows."""
    tables = [{row.label: row for row in quality.rows()} for quality in qualities.values()]
    for label in dict.fromkeys(label for table in tables for label in table):
        found = [table.get(label) for table in tables]
        one = next(row for row in found if row is not None)
        yield Line(label, one.meaning, (one.source, *("-" if row is None else row.generated for row in found)))


def _summary(qualities: Mapping[str, Quality]) -> Iterator[str]:
    """Who is best at what, and a recommendation."""
    judge = next(iter(qualities.values())).judge
    best = _first(qualities, lambda scores: None if scores.oracle_reward is None else -scores.oracle_reward)
    if best is not None:
        reward = qualities[best].generated.oracle_reward
        yield f"{best} earns most by the {judge}: {reward:.3g} per step (source: {_source_reward(qualities):.3g})."
    closest = _first(qualities, lambda scores: scores.dynamics_mse)
    if closest is not None:
        yield f"{closest} obeys the dynamics best (error {qualities[closest].generated.dynamics_mse:.3g})."
    newest = _first(qualities, lambda scores: None if scores.novelty is None else -scores.novelty.both)
    if newest is not None:
        yield f"{newest} is furthest from the source."
    sound = {name: quality for name, quality in qualities.items() if _more_bad_steps(quality) <= FEW_BAD_STEPS}
    recommended = _first(sound, lambda scores: None if scores.oracle_reward is None else -scores.oracle_reward)
    if recommended is not None:
        yield (
            f"To begin with, use {recommended}: of the methods whose share of bad steps is at most"
            f" {100 * FEW_BAD_STEPS:.0f} percentage points above the source's it earns most. How good policies become"
            " is not measured here: train one on it and one on the source."
        )
    elif best is not None:
        yield (
            f"The share of bad steps of every method is more than {100 * FEW_BAD_STEPS:.0f} percentage points above the"
            " source's: longer training makes fewer of them, and qualify=0.03 leaves windows with such steps out."
        )


def _first(qualities: Mapping[str, Quality], key: Callable[[Scores], float | None]) -> str | None:
    """The method with the lowest key; None where nobody has one."""
    keys = {name: key(quality.generated) for name, quality in qualities.items()}
    measured = {name: value for name, value in keys.items() if value is not None}
    return min(measured, key=lambda name: measured[name]) if measured else None


def _more_bad_steps(quality: Quality) -> float:
    """Share of bad steps less that of the source; infinite where they were not measured."""
    made, real = quality.generated.bad_step_share, quality.source.bad_step_share
    return math.inf if made is None or real is None else made - real


def _source_reward(qualities: Mapping[str, Quality]) -> float:
    source = next(iter(qualities.values())).source
    return source.reward if source.oracle_reward is None else source.oracle_reward


def _method(quality: Quality) -> str:
    if quality.simulator is None:
        return "Nothing was simulated."
    return (
        f"About {quality.checked_transitions:,} transitions of every version, in whole windows drawn at random (seed"
        f" {quality.seed}), were set into {quality.simulator} and stepped. The source's numbers belong to windows as"
        " long as those of the first version; shares of windows compare only between windows of equal length."
    )


def _pictures(qualities: Mapping[str, Quality]) -> Iterator[Picture]:
    yield Picture("Rewards", plots.rewards(qualities), _REWARDS)
    for headline, figure, caption in (
        ("Dynamics", plots.dynamics_errors(qualities), _DYNAMICS),
        ("New and true", plots.novelty_and_error(qualities), _NOVELTY),
        ("Trajectories", plots.strips(qualities), _STRIPS),
    ):
        if figure is not None:
            yield Picture(headline, figure, caption)
    yield Picture("States", plots.states(qualities), _STATES)


_REWARDS = (
    "How often each reward occurs in one step. Grey is the source. Mass to the right of it: better behaviour than the"
    " source shows."
)
_DYNAMICS = (
    "How many steps stay below an error. Further left is better; the source's own curve (grey) is the best that can be"
    " expected."
)
_NOVELTY = (
    "Every dot is a method: further right, its transitions are newer; further down, they are truer. The lower right"
    " corner is where one wants to be."
)
_STRIPS = (
    "A window of median error of each method, its first 32 steps. Above, what was generated: every row is a dimension"
    " of the state, every column a step, red is high and blue low. Below, what the dynamics make of the window's first"
    " state and actions. The more alike the two, the better."
)
_STATES = (
    "States seen from the two directions in which the source (light grey) varies most. Colour on the grey cloud: known"
    " territory; colour beside it: states that the source does not hold."
)
