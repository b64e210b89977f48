"""The tables of the paper as units of work: how they are run, and what is written down."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import minari
import pytest

from benchmarks import datasets, run, smoke, training, work
from benchmarks.experiments import EXPERIMENTS
from benchmarks.scales import SCALES
from benchmarks.tasks import ANTMAZE
from benchmarks.training import Prepared
from benchmarks.units import Unit, units_of
from benchmarks.vectorised.tables import Table, read_table
from gta_datasets.errors import DatasetError
from tests.benches import HOPPER, lines, small_hopper, start, unit_of

_hopper = pytest.fixture(scope="module", autouse=True)(small_hopper)


def test_units_are_done_once_and_say_all_about_themselves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    only = ["--dataset", HOPPER, "--algorithm", "TD3BC", "--method", "None", "--method", "S4RL"]
    assert start(tmp_path, *only) == 0
    start(tmp_path, *only)
    assert "0 done now, 2 before" in capsys.readouterr().out
    source, augmented = lines(tmp_path)
    assert source["id"] == unit_of("1-gym", HOPPER, "None").id
    assert source["returns"].keys() == source["normalised"].keys() == {"2", "4"}
    body = datasets.BODIES["hopper"]
    share = (source["returns"]["4"]["mean"] - body.random_return) / (body.expert_return - body.random_return)
    assert source["normalised"]["4"] == pytest.approx(100 * share)
    assert source["environment"] == "Hopper-v5"
    assert {"mujoco", "d3rlpy", "gta-datasets"} <= source["versions"].keys()
    assert source["transitions"]["source"] == source["transitions"]["all"] < augmented["transitions"]["all"]
    assert {"seconds", "machine", "revision", "command"} <= source.keys()


@pytest.mark.parametrize("algorithm", ["TD3BC", "IQL"])
def test_a_stack_gives_what_single_runs_give(tmp_path: Path, algorithm: str) -> None:
    only = ["--dataset", HOPPER, "--algorithm", algorithm, "--method", "None", "--method", "S4RL"]
    start(tmp_path / "alone", *only)
    start(tmp_path / "together", *only, "--stack", "2")
    alone, together = lines(tmp_path / "alone"), lines(tmp_path / "together")
    assert [line["runs_at_once"] for line in together] == [2, 2]
    assert {line["trainer"] for line in alone + together} == {"stack"}
    assert [line["returns"] for line in together] == [line["returns"] for line in alone]


def test_stacks_are_of_few_methods_that_all_seeds_need() -> None:
    units = list(units_of([EXPERIMENTS["1-gym"]], SCALES["gpu"]))
    first = run.one_method_after_the_other(units)
    assert len(first) == len(units)
    names = [unit.method.name for unit in first]
    assert list(dict.fromkeys(names)) == [name for name, _ in groupby(names)]
    assert {unit.seed for unit in first if unit.method.name == "None"} == set(range(SCALES["gpu"].seeds))


@pytest.mark.parametrize("algorithm", ["CQL", "MCQ", "DT"])
def test_every_other_algorithm_trains(tmp_path: Path, algorithm: str) -> None:
    table = "13" if algorithm == "DT" else "1-gym"
    assert start(tmp_path, "--dataset", HOPPER, "--algorithm", algorithm, "--method", "S4RL", table=table) == 0
    (line,) = lines(tmp_path)
    assert line["trainer"] == "d3rlpy"
    assert [*line["returns"]] == (["1", "2", "3", "4"] if algorithm == "DT" else ["2", "4"])
    assert line["unit"]["batch_size"] == (64 if algorithm == "DT" else 8)


def test_only_runs_in_one_environment_are_stacked() -> None:
    units = [
        unit_of(table, dataset, method, algorithm="IQL")
        for table, dataset, method in (
            ("1-gym", HOPPER, "None"),
            ("1-maze", "sim/pointmaze/umaze-v0", "None"),
            ("1-gym", "sim/hopper/medium-replay-v0", "GTA"),
            ("1-maze", "sim/pointmaze/large-v0", "None"),
            ("2-adroit", "human/door/demonstrations-v0", "None"),
            ("1-maze", "sim/pointmaze/umaze-v0", "GTA"),
        )
    ]
    units.insert(1, unit_of("1-gym", HOPPER, "None"))
    together = [[units.index(unit) for unit in job] for job in work.jobs(units, 3)]
    assert sorted(together) == [[0, 3], [1], [2, 6], [4], [5]]
    assert units[5].learner is None, "the policies of adroit have dropout"


def test_judged_data_are_one_unit_in_all_tables(tmp_path: Path) -> None:
    only = ["--dataset", HOPPER, "--method", "S4RL"]
    assert start(tmp_path, *only, table="21") == 0
    assert start(tmp_path, *only, table="23") == 0
    (line,) = lines(tmp_path)
    assert (line["source"], line["environment"]) == (HOPPER, "Hopper-v5")
    assert line["transitions"]["all"] >= 200_000
    assert line["seconds"].keys() == {"fit", "generate", "judge"}
    assert line["unit"] == {
        "dataset": HOPPER, "settings": {"method": "s4rl"}, "preset": "smoke", "num_transitions": 200_000,
        "seed": 0, "sample": 50,
    }  # fmt: skip


def test_what_crashes_is_recorded_and_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def prepare(unit: Unit) -> Prepared:
        if unit.method.name == "None":
            raise RuntimeError("out of luck")
        return Prepared(unit)

    only = ["--dataset", HOPPER, "--algorithm", "TD3BC", "--method", "None", "--method", "S4RL", "--stack", "2"]
    with monkeypatch.context() as patch:
        patch.setattr(work, "Prepared", prepare)
        assert start(tmp_path, *only) == 1
        assert start(tmp_path, *only) == 0
        assert start(tmp_path, *only, "--retry") == 1
    failed, done, failed_again = lines(tmp_path)
    assert failed["unit"]["settings"] is None
    assert "in prepare" in failed["error"]
    assert "RuntimeError: out of luck" in failed_again["error"]
    assert "error" not in done
    assert start(tmp_path, *only, "--retry") == 0
    assert "1 done now, 1 before, 0 failed now, 0 before, 0 left" in capsys.readouterr().out


@pytest.mark.parametrize("why", ["unreadable", "no transitions"])
def test_a_unit_whose_data_are_bad_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    def read(dataset: minari.MinariDataset, *scalers: Any) -> Table:
        table = read_table(dataset, *scalers)
        if why == "unreadable" and table.num_real < len(table.rows):
            raise OSError("a damaged file")
        return replace(table, rows=table.rows[: table.num_real])  # of what is generated, none

    monkeypatch.setattr(training, "read_table", read)
    only = ["--dataset", HOPPER, "--algorithm", "TD3BC", "--method", "None", "--method", "SynthER", "--stack", "2"]
    assert start(tmp_path, *only) == 1
    failed, done = lines(tmp_path)
    assert failed["unit"]["settings"] == {"method": "synther"}
    assert ("a damaged file" if why == "unreadable" else "needs generated data") in failed["error"]
    assert done["unit"]["settings"] is None
    assert done["runs_at_once"] == 1


def test_only_what_is_asked_for_is_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    only = ["--table", "1-gym", "--scale", "cpu", "--results", str(tmp_path), "--list", "--dataset", HOPPER]
    assert run.main([*only, "--algorithm", "TD3BC", "--method", "GTA", "--seed", "0", "--seed", "2"]) == 0
    names = [line[8:].split()[0].rpartition("-")[0] for line in capsys.readouterr().out.splitlines()]
    assert names == ["TD3BC-sim-hopper-medium-v0-s0", "TD3BC-sim-hopper-medium-v0-s2"]
    assert run.main([*only[:-2], "--dataset", "hopper-medium-v2", "--algorithm", "IQL", "--seed", "1"]) == 0
    assert capsys.readouterr().out.count("IQL-sim-hopper-medium-v0-s1-") == 6, "of six methods"
    for wrong, error in {
        ("--seed", "3"): "--seed 3: these tables have at this scale none but 0, 1, 2",
        (
            "--method",
            "None",
            "--method",
            "Gta",
        ): "--method Gta: these tables have at this scale none but DiffStitch, GTA",
        (
            "--dataset",
            "sim/ant/medium-v0",
        ): "--dataset sim/ant/medium-v0: these tables have at this scale none but half",
    }.items():
        with pytest.raises(SystemExit, match="2"):
            run.main([*only, *wrong])
        assert error in capsys.readouterr().err
    both = ["--table", "11", "--table", "12", "--scale", "cpu", "--list", "--results", str(tmp_path)]
    assert run.main([*both, "--dataset", "5%", "--seed", "0"]) == 0
    assert capsys.readouterr().out.count("table 12, 5%") == 2
    with pytest.raises(SystemExit, match="2"):
        run.main([*both, "--dataset", "5%", "--method", "Naive Duplication"])
    assert "no unit of these tables has all of these: --dataset, --method" in capsys.readouterr().err
    assert run.main(["--table", "20", "--results", str(tmp_path)]) == 0
    assert "skipped table 20: p-values are columns" in capsys.readouterr().out


def test_a_missing_dataset_says_how_to_get_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert start(tmp_path, "--dataset", "sim/walker2d/medium-v0") == 0
    shown = capsys.readouterr().out
    assert "`python -m benchmarks.datasets make sim/walker2d/medium-v0 --steps 200000` makes it" in shown
    assert "`minari download mujoco/walker2d/medium-v0` fetches the one of the same kind" in shown
    start(tmp_path, table="1-maze")
    assert "dataset 'D4RL/antmaze/umaze-v1' is not on this machine; `minari download D4RL/" in capsys.readouterr().out
    with pytest.raises(DatasetError, match="not on this machine"):
        ANTMAZE[0].open()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:nothing is generated from 2 of 3 source episodes")  # table 11: the experts' alone
def test_the_smoke_run_fills_every_table_it_can(capsys: pytest.CaptureFixture[str]) -> None:
    assert smoke.main() == 0
    assert "0 units failed; 30 of 30 tables" in capsys.readouterr().out
