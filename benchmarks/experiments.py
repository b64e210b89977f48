"""The tables of the GTA paper, and some of ours, as data: datasets, methods, algorithms and metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from benchmarks.quality import METRICS
from benchmarks.tasks import (
    ADROIT,
    ANTMAZE,
    EXPERTS,
    GYM,
    GYM_EXPERT,
    GYM_MEDIUM,
    KITCHEN,
    MAZE2D,
    MIXED,
    SHARES,
    Task,
)

__all__ = ["EXPERIMENTS", "PAPERS", "TABLES", "Experiment", "Method", "experiments_of"]


@dataclass(frozen=True)
class Method:
    """One column of a table."""

    name: str
    settings: Mapping[str, Any] | None = field(default_factory=dict)  # of `augment`; None: the source alone
    real_fraction: float | None = None  # of every batch; None draws from all transitions alike
    batch_size: int | None = None  # instead of the scale's
    preset: str | None = None  # instead of the scale's
    copies_episodes: bool = False  # judged by as many transitions as a source has: of few episodes chance decides
    repeats_experts: bool = False  # of a mixture, until there are as many as others
    paper: str | None = None  # its name in the paper's numbers, if another
    paper_row: str | None = None  # the paper's row, if not the dataset


@dataclass(frozen=True)
class Experiment:
    """One table of the paper, or the part of one that measures one thing; or a question of ours."""

    name: str
    title: str
    tasks: tuple[Task, ...] = ()
    methods: tuple[Method, ...] = ()
    algorithms: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ("d4rl_score",)
    table: str | None = None  # in the paper's numbers, if not the name
    updates: int | None = None  # at most so many, where the scale has more; not of Decision Transformer
    kind: Literal["policy", "quality"] = "policy"
    tested: str = "GTA"  # the method that is tested against the others, if it is among them
    baseline: str | None = None  # the method that all others are tested against besides
    pairs: tuple[tuple[str, str], ...] = ()  # what is tested against what instead
    average: str = "average"  # the paper's row of means over datasets
    skipped: str | None = None  # why it cannot be run
    note: str | None = None  # what else a reader has to know

    @property
    def tests(self) -> list[tuple[str, str]]:
        """Names of methods whose scores are tested, the second ones those that the first are tested against."""
        if self.pairs:
            return list(self.pairs)
        names = [method.name for method in self.methods]
        found = [(self.tested, other) for other in names if self.tested in names and other != self.tested]
        if self.baseline is not None:
            found += [(each, self.baseline) for each in names if each not in (self.tested, self.baseline)]
        return found


NONE = Method("None", None)
S4RL = Method("S4RL", {"method": "s4rl"}, copies_episodes=True)
# The authors train on what SynthER generates alone, and on four recorded parts to one stitched of DiffStitch.
SYNTHER = Method("SynthER", {"method": "synther"}, real_fraction=0.0)
DIFFSTITCH = Method("DiffStitch", {"method": "diffstitch"}, real_fraction=0.8)
GTA = Method("GTA")
FILTERED = Method("GTA, filtered", {"qualify": 0.03})

IN_WINDOWS = {"1": 1, "16": 15, "32": 31, "64": 63, "128": 127}
"""Transitions of a window by the paper's rows."""
HORIZONS = tuple(
    Method(f"H={rows}", {"horizon": horizon}, paper="GTA", paper_row=f"H={rows}")
    for rows, horizon in IN_WINDOWS.items()
)
LEVELS = tuple(
    Method(f"mu={mu} alpha={alpha}", {"mu": mu, "alpha": alpha})
    for mu in (0.1, 0.25, 0.5, 0.75, 1.0)
    for alpha in (1.0, 1.1, 1.2, 1.3, 1.4, 1.5)
)
JUDGED = (S4RL, SYNTHER, DIFFSTITCH, GTA)
FIXED = Method("fixed", {"condition": "fixed"})
CONDITIONS = (FIXED, Method("unconditioned", {"condition": "none"}), Method("amplified"))
INPAINTED = Method("reward inpainting", {"condition": "rewards"})
REWEIGHTED = Method("GTA reweighted", {"reweighting": "dense"})
UNIFORM = Method("GTA uniform", {"reweighting": "none"})
RELABELLED = Method("GTA relabelled", {"relabel": True}, paper="reward proxy")
PAPERS: Mapping[str, Mapping[str, Any]] = {
    "gta": {"alpha": 1.3, "terminations": "source"},
    "synther": {"terminations": "generated"},
}
"""The papers' choices for locomotion where the library's defaults are others, by method; those of judged data."""
HALFCHEETAH = GYM[:1]
NOWHERE = "-"
"""In the place of a row of means that the paper has of other datasets."""
OURS = "Not in the paper."


NOVELTY = (
    "Novelty is that of a sample. S4RL's is 0, because the points that it was made from are among those searched; why "
    "ours is below the paper's for every method is not known."
)


def _quality(
    name: str, title: str, tasks: tuple[Task, ...], methods: tuple[Method, ...], *metrics: str, note: str | None = None
) -> Experiment:
    table = name.removesuffix("-quality")
    return Experiment(name, title, tasks, methods, metrics=metrics, table=table, kind="quality", note=note)


EXPERIMENTS = {
    experiment.name: experiment
    for experiment in (
        Experiment(
            "1-gym",
            "Locomotion",
            GYM,
            (NONE, S4RL, SYNTHER, DIFFSTITCH, GTA, FILTERED),
            ("TD3BC", "CQL", "IQL", "MCQ"),
            baseline="None",
            note="DiffStitch and the filter are not in the paper's table. Table 20 is the tests of this one.",
        ),
        Experiment("1-maze", "Mazes", (*MAZE2D, *ANTMAZE), (NONE, S4RL, SYNTHER, GTA), ("IQL",)),
        Experiment(
            "2-adroit", "Adroit", ADROIT, (NONE, S4RL, SYNTHER, GTA), ("IQL",), table="2", average="adroit-average"
        ),
        Experiment(
            "2-kitchen", "Kitchen", KITCHEN, (NONE, S4RL, SYNTHER, GTA), ("IQL",), table="2", average="kitchen-average"
        ),
        Experiment("3", "Pixels", skipped="neither the library takes images nor has d3rlpy 2.8 DrQ+BC"),
        Experiment(
            "4",
            "The lowest levels",
            GYM,
            (NONE, SYNTHER, Method("GTA (low mu, low alpha)", {"mu": 0.25, "alpha": 1.1})),
            ("TD3BC",),
            tested="GTA (low mu, low alpha)",
        ),
        Experiment(
            "5",
            "The same levels everywhere",
            (*GYM_MEDIUM, *(task for task in GYM if "replay" in task.name)),
            (
                NONE,
                SYNTHER,
                Method("mu=0.5 alpha=1.3", {"mu": 0.5, "alpha": 1.3}),
                Method("mu=0.5 alpha=1.4", {"mu": 0.5, "alpha": 1.4}),
            ),
            ("TD3BC",),
            tested="mu=0.5 alpha=1.3",
            note="The paper's two settings have lost their headers, so that none of its columns stands beside ours.",
        ),
        Experiment("10", "Length of windows: policies", HALFCHEETAH, HORIZONS, ("TD3BC",)),
        _quality(
            "10-quality", "Length of windows: quality", HALFCHEETAH, HORIZONS, "dynamic_mse_x1e-2", "oracle_reward"
        ),
        Experiment(
            "11-mixed",
            "Few experts among many others",
            MIXED,
            (NONE, Method("Naive Duplication", None, repeats_experts=True), S4RL, SYNTHER, GTA),
            ("TD3BC",),
            note="GTA augments the experts' episodes only.",
        ),
        Experiment("11-expert-only", "Few experts alone", EXPERTS, (NONE, S4RL, SYNTHER, GTA), ("TD3BC",)),
        Experiment("12", "Shares of halfcheetah-medium", SHARES, (NONE, GTA), ("TD3BC",)),
        Experiment("13", "Decision Transformer, locomotion", GYM, (NONE, S4RL, GTA), ("DT",)),
        Experiment("14", "Decision Transformer, mazes", MAZE2D, (NONE, S4RL, GTA), ("DT",)),
        Experiment(
            "15", "Reweighting: policies", GYM_MEDIUM[1:], (REWEIGHTED, UNIFORM), ("TD3BC",), tested="GTA reweighted"
        ),
        _quality(
            "15-quality",
            "Reweighting: rewards",
            GYM_MEDIUM[1:],
            (REWEIGHTED, UNIFORM),
            "oracle_reward",
        ),
        Experiment("16", "Returns or rewards as condition: policies", GYM_MEDIUM, (GTA, INPAINTED), ("TD3BC",)),
        _quality(
            "17",
            "Returns or rewards as condition: quality",
            HALFCHEETAH,
            (GTA, INPAINTED),
            "dynamic_mse_x1e-2",
            "oracle_reward",
        ),
        Experiment(
            "18",
            "Rewards from a model of them",
            HALFCHEETAH,
            (RELABELLED, GTA),
            ("TD3BC",),
            tested="GTA relabelled",
        ),
        _quality(
            "19",
            "What the condition is",
            HALFCHEETAH,
            CONDITIONS,
            "dynamic_mse_x1e-2",
            "oracle_reward",
            "novelty",
            note=NOVELTY,
        ),
        Experiment("20", "Tests", skipped="p-values are columns of the tables, this one's of table 1"),
        _quality("21", "True rewards", GYM, JUDGED, "oracle_reward"),
        _quality("22", "Novelty of states and actions", GYM, JUDGED, "novelty_state_action", note=NOVELTY),
        _quality("23", "Dynamics", GYM, JUDGED, "dynamic_mse_x1e-2"),
        _quality("24", "Novelty of states", GYM, JUDGED, "novelty_state", note=NOVELTY),
        _quality("25", "Novelty of actions", GYM, JUDGED, "novelty_action", note=NOVELTY),
        Experiment("26", "Other model-based methods", skipped="figures of other papers; none of the methods is here"),
        Experiment("27", "", skipped="its numbers are not among the paper's that ship with the benchmarks"),
        Experiment(
            "28",
            "Size of batches",
            GYM,
            (
                replace(NONE, name="None, batch 256", batch_size=256),
                replace(NONE, name="None, batch 1024", batch_size=1_024),
            ),
            ("TD3BC", "CQL", "IQL"),
        ),
        Experiment(
            "29",
            "Levels of noise and of amplification",
            HALFCHEETAH,
            LEVELS,
            ("TD3BC",),
            note="The paper's six columns have lost their headers (amplifications), so that none stands beside ours.",
        ),
        _quality(
            "29-quality", "Levels of noise and of amplification: quality", HALFCHEETAH, LEVELS, *METRICS, note=OURS
        ),
        _quality(
            "conditions",
            "What the condition is, on all datasets",
            (*GYM, *GYM_EXPERT),
            (
                *JUDGED,
                REWEIGHTED,
                *CONDITIONS[:2],
                Method("unlimited", {"return_limit": 0.0}),
                Method("expected", {"returns": "expected"}),
                Method("alpha 1.1", {"alpha": 1.1}),
            ),
            *METRICS,
            note=OURS,
        ),
        _quality(
            "settings",
            "Rewards, and levels found from the data",
            GYM[:2],
            (GTA, INPAINTED, RELABELLED, Method("levels from the data", {"alpha": "auto", "mu": "auto"})),
            *METRICS,
            note=OURS,
        ),
        Experiment(
            "factors",
            "What matters for policies",
            GYM_MEDIUM,
            (
                NONE,
                GTA,
                FILTERED,
                Method("GTA, ends covered", {"coverage": "transitions"}),
                Method("GTA, preset demo", preset="demo"),
                replace(FIXED, name="GTA, fixed"),
                Method("source's ends", {"terminations": "source"}),
                Method("alpha 1.3", PAPERS["gta"]),
                Method("alpha 1.3, mu 0.25", {**PAPERS["gta"], "mu": 0.25}),
                Method("alpha 1.3, mu 0.75", {**PAPERS["gta"], "mu": 0.75}),
                Method("alpha 1.3, 4 of 5 real", PAPERS["gta"], real_fraction=0.8),
                Method("alpha 1.3, expected", {**PAPERS["gta"], "returns": "expected"}),
                SYNTHER,
                replace(SYNTHER, name="SynthER, its ends", settings={"method": "synther", **PAPERS["synther"]}),
            ),
            ("TD3BC",),
            baseline="None",
            note=f"{OURS} `alpha` 1.3 is with the source's ends, as in the paper.",
        ),
        Experiment(
            "maze",
            "What matters in a maze",
            MAZE2D[:1],
            (
                NONE,
                GTA,
                Method("GTA, alpha 1.1", {"alpha": 1.1}),
                Method("GTA, alpha 1.0", {"alpha": 1.0}),
                Method("GTA, mu 0.25", {"mu": 0.25}),
                FILTERED,
            ),
            ("IQL",),
            updates=30_000,
            baseline="None",
            note=OURS,
        ),
        Experiment(
            "batches",
            "Size of batches, with GTA's data",
            GYM_MEDIUM,
            tuple(
                replace(method, name=f"{method.name}, batch {size}", batch_size=size)
                for size in (256, 1_024)
                for method in (NONE, GTA)
            ),
            ("TD3BC",),
            updates=90_000,
            pairs=(
                ("GTA, batch 256", "None, batch 256"),
                ("GTA, batch 1024", "None, batch 1024"),
                ("None, batch 1024", "None, batch 256"),
                ("GTA, batch 1024", "GTA, batch 256"),
            ),
            note=OURS,
        ),
        Experiment(
            "trainers",
            "The stack and d3rlpy's own training",
            HALFCHEETAH,
            (NONE,),
            ("TD3BC", "TD3BC-d3rlpy", "IQL", "IQL-d3rlpy"),
            updates=60_000,
            note=OURS,
        ),
    )
}
"""By name: the paper's number of the table and the part of it, or a word."""

TABLES = tuple(dict.fromkeys(part for name in EXPERIMENTS for part in (name.partition("-")[0], name)))
"""What may be asked for: the paper's tables, all parts of one together, parts, and ours."""


def experiments_of(tables: Iterable[str] | None, *, remote: bool = False) -> list[Experiment]:
    """Of the tables asked for, by name, all if none is; of remote datasets instead of ours, if wanted."""
    asked = set(tables or EXPERIMENTS)
    found = [each for name, each in EXPERIMENTS.items() if {name, name.partition("-")[0]} & asked]
    return [_remote(each) for each in found] if remote else found


def _remote(experiment: Experiment) -> Experiment:
    tasks = tuple(replace(task, dataset=task.remote) for task in experiment.tasks if task.remote is not None)
    nothing = "there is no remote dataset of these kinds" if experiment.tasks and not tasks else None
    average = experiment.average if len(tasks) == len(experiment.tasks) else NOWHERE
    return replace(experiment, tasks=tasks, average=average, skipped=experiment.skipped or nothing)
