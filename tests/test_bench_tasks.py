"""The tables of the paper as data: nothing of the paper is lost, and every unit is what its table says."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import datasets
from benchmarks.algorithms import ALGORITHMS
from benchmarks.experiments import EXPERIMENTS, experiments_of
from benchmarks.results_table import PAPER
from benchmarks.scales import SCALES
from benchmarks.tasks import ANTMAZE, EXPERTS, GYM, MIXED, SHARES, Task
from benchmarks.training import Prepared
from benchmarks.units import units_of
from gta_datasets.adapters import to_d3rlpy
from gta_datasets.adapters.corpus import Corpus
from gta_datasets.data.screen import dataset_path
from gta_datasets.errors import DatasetError
from tests.benches import HOPPER, small_hopper, unit_of

_hopper = pytest.fixture(scope="module", autouse=True)(small_hopper)


def test_the_paper_scale_is_the_papers() -> None:
    scale = SCALES["paper"]
    assert (scale.updates, scale.batch_size, scale.seeds, scale.num_transitions) == (1_000_000, 1_024, 8, 5_000_000)
    unit = unit_of("1-gym", HOPPER, "GTA", "paper")
    assert unit.identity["settings"] == {"task": "locomotion"}
    assert unit_of("1-gym", HOPPER, "GTA", "cpu").identity["settings"] == {}
    transformer = unit_of("13", HOPPER, "GTA", "paper", "DT").identity
    assert (transformer["updates"], transformer["batch_size"]) == (100_000, 1_024)


def test_every_number_of_the_paper_has_a_place() -> None:
    places = {
        (
            each.table or each.name,
            algorithm,
            method.paper or method.name,
            task.name if method.paper_row is None else method.paper_row,
            metric,
        )
        for each in EXPERIMENTS.values()
        for algorithm in each.algorithms or ("-",)
        for method in each.methods
        for task in each.tasks
        for metric in each.metrics
    }
    with PAPER.open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = {each.table or each.name for each in EXPERIMENTS.values()}
    assert {row["table"] for row in rows} <= names
    skipped = {name for name, each in EXPERIMENTS.items() if each.skipped}
    lost = [
        row
        for row in rows
        if row["table"] not in {*skipped, "5", "29"}  # columns without headers
        and not row["dataset"].endswith("average")
        and (row["table"], row["augmentation"]) != ("19", "None")  # the column of the source
        and tuple(row[name] for name in ("table", "algorithm", "augmentation", "dataset", "metric")) not in places
    ]
    assert lost == []


def test_what_tables_share_is_one_unit() -> None:
    first, again = unit_of("1-gym", HOPPER, "None"), unit_of("4", HOPPER, "None")
    assert first.id == again.id == "TD3BC-sim-hopper-medium-v0-s0-70a2cfe36d"  # stays: ledgers hold it
    ids = {unit.id for unit in units_of([EXPERIMENTS["29"]], SCALES["cpu"])}
    assert len(ids) == 30 * 3
    # The same data by other names: levels and lengths that are the defaults, and what is drawn alike anyway.
    for scale, same in {"cpu": ("H=16", "GTA uniform"), "paper": ("H=32", "GTA reweighted")}.items():
        usual = unit_of("1-gym", HOPPER, "GTA", scale)
        assert unit_of("15", HOPPER, same[1], scale).id == usual.id
        halfcheetah = "sim/halfcheetah/medium-v0"
        levels = [unit_of(table, halfcheetah, "mu=0.5 alpha=1.3", scale).id for table in ("5", "29")]
        assert levels[0] == levels[1]
        assert unit_of("10", halfcheetah, same[0], scale).id == unit_of("1-gym", halfcheetah, "GTA", scale).id
    assert unit_of("15", HOPPER, "GTA reweighted").id != unit_of("1-gym", HOPPER, "GTA").id


def test_judged_data_of_the_paper_scale_have_its_settings() -> None:
    unit, usual = (unit_of("21", HOPPER, "GTA", scale, None) for scale in ("paper", "smoke"))
    assert unit.identity["settings"] == {"task": "locomotion"}
    assert unit.config["data"]["reweighting"] == "dense"
    assert usual.identity["settings"] == {"alpha": 1.3, "terminations": "source"}
    assert usual.config["data"]["reweighting"] == "none"
    synther = unit_of("21", HOPPER, "SynthER", "smoke", None)
    assert synther.identity["settings"] == {"method": "synther", "terminations": "generated"}
    assert unit_of("15-quality", HOPPER, "GTA uniform", "paper", None).id != unit.id
    assert unit_of("21", HOPPER, "S4RL", "paper", None).identity["settings"] == {"method": "s4rl"}


def test_a_method_may_have_a_preset_and_batches_of_its_own() -> None:
    usual, other = (unit_of("factors", HOPPER, name, "cpu") for name in ("GTA", "GTA, preset demo"))
    large = unit_of("batches", HOPPER, "GTA, batch 1024", "cpu")
    assert (usual.identity["preset"], other.identity["preset"]) == ("cpu", "demo")
    assert other.config["training"]["training_steps"] < usual.config["training"]["training_steps"]
    assert (usual.identity["batch_size"], large.identity["batch_size"]) == (256, 1_024)
    assert unit_of("1-gym", HOPPER, "GTA", "cpu").id == usual.id


def test_data_that_are_missing_are_made_in_the_size_of_the_scale() -> None:
    replay = {
        scale: next(
            unit.obstacle
            for unit in units_of([EXPERIMENTS["4"]], SCALES[scale])
            if unit.task.dataset == "sim/walker2d/medium-replay-v0"
        )
        for scale in ("cpu", "paper")
    }
    assert "make sim/walker2d/medium-replay-v0 --steps 200000`" in replay["cpu"]
    assert "make sim/walker2d/medium-replay-v0 --steps 302000`" in replay["paper"]


def test_hyper_parameters_follow_the_kind_of_task() -> None:
    source = to_d3rlpy(GYM[3].open())
    config = ALGORITHMS["IQL"].create(source, "locomotion", updates=7, batch_size=5, device="cpu").config
    assert (config.expectile, config.weight_temp, config.batch_size) == (0.7, 3.0, 5)
    assert config.reward_scaler.multiplier == 1_000
    assert config.actor_optim_factory.lr_scheduler_factory.T_max == 7
    config = ALGORITHMS["IQL"].create(source, ANTMAZE[0].kind, updates=7, batch_size=5, device="cpu").config
    assert (config.expectile, config.weight_temp, config.reward_scaler.shift) == (0.9, 10.0, -1.0)
    config = ALGORITHMS["DT"].create(source, "locomotion", updates=100_000, batch_size=64, device="cpu").config
    assert config.optim_factory.lr_scheduler_factory.warmup_steps == 10_000
    config = ALGORITHMS["DT"].create(source, "maze2d", updates=100_000, batch_size=64, device="cpu").config
    assert config.reward_scaler.multiplier == 0.001


def test_remote_datasets_are_units_of_their_own() -> None:
    ours, theirs = (
        {unit.task.name: unit for unit in units_of(experiments_of(["1-gym"], remote=remote), SCALES["cpu"])}
        for remote in (False, True)
    )
    assert theirs.keys() == {"halfcheetah-medium-v2", "hopper-medium-v2", "walker2d-medium-v2"}
    assert theirs["hopper-medium-v2"].task.dataset == "mujoco/hopper/medium-v0"
    assert {unit.id for unit in theirs.values()}.isdisjoint(unit.id for unit in ours.values())
    assert "; `minari download mujoco/hopper/medium-v0` fetches it" in str(theirs["hopper-medium-v2"].obstacle)
    ants = [experiments_of(["1-maze"], remote=remote)[0].tasks[3:] for remote in (False, True)]
    assert ants == [ANTMAZE, ANTMAZE], "there are none of ours"
    assert {each.skipped for each in experiments_of(["11"], remote=True)} == {
        "there is no remote dataset of these kinds"
    }


def test_too_small_datasets_are_not_taken() -> None:
    units = {scale: unit_of("1-gym", HOPPER, "None", scale) for scale in SCALES}
    assert units["smoke"].obstacle is None
    assert units["smoke"].task.transitions == units["smoke"].task.open().total_steps
    assert units["cpu"].obstacle == (
        f"dataset {HOPPER!r} has {units['smoke'].task.transitions:,} transitions, and scale cpu takes no fewer than "
        f"50,000; `python -m benchmarks.datasets make {HOPPER} --steps 200000 --replace` makes it, or `minari download "
        "mujoco/hopper/medium-v0` fetches the one of the same kind, which --remote takes"
    )
    metadata = dataset_path(HOPPER) / "data" / "metadata.json"
    kept = metadata.read_text()
    for damage in ("", "{}", '{"total_steps": null}'):  # of a dataset that somebody was making
        metadata.write_text(damage)
        assert f"dataset {HOPPER!r} is not on this machine; " in str(units["smoke"].obstacle)
    metadata.write_text(kept)
    few = replace(units["paper"], task=replace(units["paper"].task, steps=500))  # the paper's has no more
    assert few.obstacle is None


def test_a_share_is_of_the_episodes() -> None:
    whole = replace(SHARES[-1], dataset=HOPPER).open()
    half = replace(SHARES[-1], dataset=HOPPER, share=0.5).open()
    assert half.total_episodes == round(whole.total_episodes / 2)
    assert [task.share for task in SHARES] == [0.05, 0.1, 0.15, 0.2, 1]


@pytest.fixture(scope="module")
def mixture(_hopper: None) -> Task:
    """A small mixture, of a robot whose episodes are short."""
    datasets.make("sim/hopper/expert-replay-10-v0", steps=1_300)
    return replace(MIXED[1], dataset="sim/hopper/expert-replay-10-v0")


def test_experts_are_every_so_many_episodes_of_a_mixture(mixture: Task) -> None:
    dataset = mixture.open()
    expert = datasets.episode("sim/hopper/expert-v0", 0, seed=0)
    np.testing.assert_array_equal(dataset[0].actions, expert.actions)
    (alone,) = replace(mixture, experts_only=True).open()
    np.testing.assert_array_equal(alone.actions, expert.actions)
    assert dataset.total_episodes > 2
    assert [task.experts_every for task in MIXED] == [21, 11]
    assert [task.steps // 1_000 for task in MIXED] == [10 * 21, 20 * 11]
    assert "make sim/halfcheetah/expert-replay-20-v0 --steps 210000`" in EXPERTS[0].remedy(1_000_000)
    with pytest.raises(DatasetError, match="expert-replay-20-v0' is not on this machine"):
        EXPERTS[0].open()


@pytest.mark.parametrize(("experts", "more"), [(1, 0), (3, 0), (2, 5)])
def test_the_good_quantile_is_that_of_the_experts(experts: int, more: int) -> None:
    for task in MIXED:
        others = (task.experts_every - 1) * (experts - bool(more)) + more
        returns = np.concatenate([np.arange(others), 1_000 + np.arange(experts)])
        assert (returns >= np.quantile(returns, task.good_quantile)).sum() == experts
    assert EXPERTS[0].good_quantile == GYM[0].good_quantile == 0


def test_repeated_experts_are_as_many_as_others(mixture: Task) -> None:
    dataset = mixture.open()
    task = replace(mixture, experts_every=3)
    repeated = task.open(repeat_experts=True)
    others = [number for number in range(dataset.total_episodes) if number % 3]
    experts = [number for number in range(dataset.total_episodes) if number % 3 == 0]
    counts = np.bincount(repeated.episode_indices)
    assert {counts[number] for number in experts} == {2}
    assert {counts[number] for number in others} == {1}
    corpus = Corpus(repeated)
    assert len(corpus) == dataset.total_steps + sum(len(dataset[number]) for number in experts)
    assert task.open().total_steps == dataset.total_steps


def test_units_of_a_mixture_say_what_they_are_trained_on() -> None:
    name = MIXED[0].dataset
    of_all, repeated, only = (
        unit_of(table, name, method).identity
        for table, method in (("11-mixed", "None"), ("11-mixed", "Naive Duplication"), ("11-expert-only", "None"))
    )
    assert [each.get("experts") for each in (of_all, repeated, only)] == [None, "repeated", "only"]
    assert unit_of("11-mixed", name, "GTA", "cpu").settings == {"source_quantile": 20 / 21}
    assert unit_of("11-mixed", name, "GTA", "paper").settings == {"task": "locomotion", "source_quantile": 20 / 21}
    assert unit_of("11-expert-only", name, "GTA", "cpu").settings == {}
    assert unit_of("11-mixed", name, "SynthER", "cpu").settings == {"method": "synther"}


def test_repeated_experts_are_data_that_nobody_generated(mixture: Task) -> None:
    unit = unit_of("11-mixed", MIXED[0].dataset, "Naive Duplication")
    prepared = Prepared(replace(unit, task=replace(mixture, experts_every=3)))
    line = prepared.measured({}, 1.0, 1, "stack")
    assert line["transitions"]["all"] > line["transitions"]["source"] == mixture.open().total_steps
    assert line["config"] is None
