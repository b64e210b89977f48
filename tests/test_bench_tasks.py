"""The tables of the paper as data: nothing of the paper is lost, and every unit is what its table says."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace

import pytest

from benchmarks import datasets
from benchmarks.algorithms import ALGORITHMS
from benchmarks.experiments import EXPERIMENTS, SCALES
from benchmarks.quality_tables import PAPER
from benchmarks.tasks import ANTMAZE, GYM, SHARES
from benchmarks.units import Unit, units_of
from gta_datasets.adapters import to_d3rlpy

HOPPER = "sim/hopper/medium-v0"


@pytest.fixture(scope="module", autouse=True)
def _hopper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A folder with one small dataset of the tables."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(tmp_path_factory.mktemp("minari")))
        datasets.make(HOPPER, steps=600)
        yield


def unit_of(table: str, dataset: str, method: str, scale: str = "smoke", algorithm: str | None = "TD3BC") -> Unit:
    return next(
        unit
        for unit in units_of([EXPERIMENTS[table]], SCALES[scale])
        if (unit.task.dataset, unit.method.name, unit.algorithm) == (dataset, method, algorithm)
    )


def test_the_paper_scale_is_the_papers() -> None:
    scale = SCALES["paper"]
    assert (scale.updates, scale.batch_size, scale.seeds, scale.num_transitions) == (1_000_000, 1_024, 8, 5_000_000)
    unit = unit_of("1-gym", HOPPER, "GTA", "paper")
    assert unit.identity["settings"] == {"task": "locomotion"}
    assert unit_of("1-gym", HOPPER, "GTA", "cpu").identity["settings"] == {}


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


def test_hyper_parameters_follow_the_kind_of_task() -> None:
    source = to_d3rlpy(GYM[3].open())
    config = ALGORITHMS["IQL"].create(source, "locomotion", updates=7, batch_size=5, device="cpu").config
    assert (config.expectile, config.weight_temp, config.batch_size) == (0.7, 3.0, 5)
    assert config.reward_scaler.multiplier == 1_000
    assert config.actor_optim_factory.lr_scheduler_factory.T_max == 7
    config = ALGORITHMS["IQL"].create(source, ANTMAZE[0].kind, updates=7, batch_size=5, device="cpu").config
    assert (config.expectile, config.weight_temp, config.reward_scaler.shift) == (0.9, 10.0, -1.0)


def test_the_remote_dataset_stands_in_for_ours() -> None:
    task = replace(GYM[4], remote=HOPPER)
    assert task.dataset == "sim/hopper/medium-replay-v0"
    assert task.open().id == HOPPER


def test_a_share_is_of_the_episodes() -> None:
    whole = replace(SHARES[-1], dataset=HOPPER).open()
    half = replace(SHARES[-1], dataset=HOPPER, share=0.5).open()
    assert half.total_episodes == round(whole.total_episodes / 2)
    assert [task.share for task in SHARES] == [0.05, 0.1, 0.15, 0.2, 1]
