"""The units of work of an experiment. What two tables have in common is one unit, trained once."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from benchmarks import datasets
from benchmarks.algorithms import ALGORITHMS
from benchmarks.experiments import PAPERS, Experiment, Method
from benchmarks.scales import Scale
from benchmarks.tasks import Task
from benchmarks.vectorised.learner import MakeLearner
from gta_datasets.augment import configuration
from gta_datasets.methods import METHODS

__all__ = ["Unit", "question_id", "unit_id", "units_of"]


FORMER = {(method, "terminations"): settings["terminations"] for method, settings in PAPERS.items()}
"""What held before there was a field, by method and field, where it is not the default today."""


@dataclass(frozen=True)
class Unit:
    """One cell of one table with one seed."""

    experiment: Experiment
    task: Task
    method: Method
    algorithm: str | None  # None: the data are judged, no policy is trained
    seed: int
    scale: Scale

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides the result."""
        scale, method = self.scale, self.method
        if self.algorithm is None:
            return {
                "dataset": self.task.dataset,
                "settings": self.settings,
                "preset": self._preset,
                "num_transitions": scale.source_steps if method.copies_episodes else scale.quality_transitions,
                "seed": self.seed,
                "sample": scale.quality_sample,
            }
        algorithm, generated = ALGORITHMS[self.algorithm], method.settings is not None
        experts = {"experts": "only"} if self.task.experts_only else {}
        if method.repeats_experts:
            experts = {"experts": "repeated"}
        return experts | {
            "dataset": self.task.dataset,
            "share": self.task.share,
            "settings": self.settings,
            "preset": self._preset if generated else None,
            "num_transitions": scale.num_transitions if generated else None,
            "real_fraction": method.real_fraction,
            "algorithm": self.algorithm,
            "updates": (
                scale.transformer_updates
                if algorithm.is_transformer
                else min(scale.updates, self.experiment.updates or scale.updates)
            ),
            "batch_size": (
                scale.transformer_batch_size if algorithm.is_transformer else method.batch_size or scale.batch_size
            ),
            "episodes": scale.episodes * self.task.episode_factor,
            "seed": self.seed,
        }

    @property
    def id(self) -> str:
        """The identity in a few letters."""
        return unit_id(self.identity)

    @property
    def question(self) -> str:
        """The identity but for how the data were asked for, in a few letters."""
        return question_id(self.identity)

    def is_answered_by(self, line: dict[str, Any]) -> bool:
        """Whether a result that has this unit's question is of data made with what its settings mean today.

        It does not matter what was asked for, if that came to the same: a default of the library that has changed
        since makes another result, and old results may be those of a unit that names the old value. A line without a
        field that the library has got since counts as one with its default, or what held before if that is another;
        fields that steer only how data are computed do not count.
        """
        today, then = self.config, line.get("config")
        method = _method(self.settings)
        if today is None or method is None:
            return True
        asked = line.get("unit", {}).get("settings") or {}
        if not asked.keys() <= {"method", "task", *METHODS[method].keywords()}:
            return False  # for something that there is no longer
        default = _resolved(self._preset, method=method)
        same = set() if self.task.terminates else {"terminations", "terminal_penalty"}  # of what there is none
        return then is not None and all(
            value == then.get(stage, {}).get(name, FORMER.get((method, name), default[stage][name]))
            for stage, values in today.items()
            for name, value in values.items()
            if name not in same
        )

    @property
    def config(self) -> dict[str, Any] | None:
        """All settings that affect the data, by what defaults are today; None where there is only the source."""
        if self.settings is None:
            return None
        return _resolved(self._preset, **self.settings)

    @property
    def longer(self) -> Unit | None:
        """The unit of the scale's number of updates, if this one has fewer and is how that one begins."""
        if self.algorithm is None or self.experiment.updates is None or not ALGORITHMS[self.algorithm].is_steady:
            return None
        return replace(self, experiment=replace(self.experiment, updates=None))

    @property
    def learner(self) -> MakeLearner | None:
        """What trains many runs like this one at once; None if they are trained one by one, or nothing is."""
        if self.algorithm is None:
            return None
        return ALGORITHMS[self.algorithm].learner(self.task.kind, self.identity["updates"])

    @property
    def every(self) -> int:
        """Updates between two evaluations."""
        is_transformer = self.algorithm is not None and ALGORITHMS[self.algorithm].is_transformer
        return self.scale.transformer_every if is_transformer else self.scale.every

    @property
    def settings(self) -> dict[str, Any] | None:
        """What `augment` is asked for; None where there is only the source."""
        if self.method.settings is None:
            return None
        settings = dict(self.method.settings)
        papers = PAPERS.get(_method(settings) or "", {}) if self.algorithm is None and not self.scale.tuned else {}
        if "method" in settings:
            return {**papers, **settings}
        if self.task.good_quantile:
            settings["source_quantile"] = self.task.good_quantile
        if self.scale.tuned or self.task.kind != "locomotion":
            settings = {"task": self.task.kind, **self.task.overrides, **settings}
        else:
            settings = {**papers, **settings}
        return _needed(self._preset, tuple(settings.items()))

    @property
    def _preset(self) -> str:
        """Of the generator."""
        return self.method.preset or (self.scale.quality_preset if self.algorithm is None else self.scale.preset)

    @property
    def obstacle(self) -> str | None:
        """Why the unit cannot be run on this machine; None if it can."""
        task, found = self.task, self.task.transitions
        least = min(task.steps, self.scale.least_source_steps)
        if found is None:
            problem = "is not on this machine"
        elif task.dataset in datasets.ROLLED_OUT and found < least:
            problem = f"has {found:,} transitions, and scale {self.scale.name} takes no fewer than {least:,}"
        else:
            return None
        return f"dataset {task.dataset!r} {problem}; {task.remedy(self.scale.source_steps)}"


@functools.cache
def _resolved(preset: str, *, method: str = "gta", task: str | None = None, **overrides: Any) -> dict[str, Any]:
    """All settings that affect the data, as JSON has them."""
    config = configuration(method, preset, task, "cpu", overrides)
    resolved: dict[str, Any] = json.loads(json.dumps(config.data_fields()))
    return resolved


@functools.cache
def _needed(preset: str, settings: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    """The settings but for those that say what holds without them: other names of one method are one unit."""
    kept = dict(settings)
    for name in [name for name in kept if name not in ("method", "task")]:
        rest = {other: value for other, value in kept.items() if other != name}
        if _resolved(preset, **rest) == _resolved(preset, **kept):
            kept = rest
    return kept


def _method(settings: Mapping[str, Any] | None) -> str | None:
    """The name of what makes the data; None if nothing does."""
    return None if settings is None else settings.get("method", "gta")


def question_id(identity: Mapping[str, Any]) -> str:
    """What was measured of which method's data, whatever the settings of the method."""
    others = {name: value for name, value in identity.items() if name != "preset"}
    return unit_id(others | {"settings": _method(identity.get("settings"))})


def unit_id(identity: Mapping[str, Any]) -> str:
    """What it is about and a digest of everything."""
    digest = hashlib.blake2b(json.dumps(identity, sort_keys=True).encode(), digest_size=5).hexdigest()
    about = (identity.get("algorithm", "quality"), identity["dataset"].replace("/", "-"), f"s{identity['seed']}")
    return "-".join((*about, digest))


def units_of(experiments: Iterable[Experiment], scale: Scale) -> Iterator[Unit]:
    """All units, data or not, one seed of everything before the next seed."""
    experiments = [experiment for experiment in experiments if experiment.skipped is None]
    for seed in range(scale.seeds):
        for experiment in experiments:
            if experiment.kind == "quality" and seed > 0:
                continue  # one seed: what is averaged are thousands of transitions
            for algorithm in experiment.algorithms or (None,):
                for task in experiment.tasks:
                    for method in experiment.methods:
                        yield Unit(experiment, task, method, algorithm, seed, scale)
