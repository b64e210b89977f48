"""The tables of the paper as units of work: what they are, how they are run, what is written down."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import datasets, ledger, policies, quality, record, run, smoke, work
from benchmarks.cluster import share
from benchmarks.tasks import ANTMAZE
from benchmarks.training import Prepared
from benchmarks.units import Unit
from benchmarks.vectorised import training as stack_training
from benchmarks.vectorised.evaluation import evaluate
from benchmarks.vectorised.stack import Stack
from benchmarks.vectorised.tables import Table
from benchmarks.work import Order
from gta_datasets.errors import DatasetError, MissingExtraError
from tests.benches import HOPPER, small_hopper, unit_of

_hopper = pytest.fixture(scope="module", autouse=True)(small_hopper)


def start(results: Path, *arguments: str, table: str = "1-gym") -> int:
    return run.main(["--table", table, "--scale", "smoke", "--results", str(results), *arguments])


def lines(results: Path, name: str = ledger.RUNS) -> list[dict[str, Any]]:
    return record.read_lines(results / name)


def killed_at_the_end(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the first run be killed when it is evaluated for the last time; the updates at all evaluations that begin."""
    begun: list[int] = []

    def evaluate_or_die(stack: Stack, *arguments: Any, **options: Any) -> Any:
        begun.append(stack.updates)
        if begun == [2, 4]:
            raise KeyboardInterrupt
        return evaluate(stack, *arguments, **options)

    monkeypatch.setattr(stack_training, "evaluate", evaluate_or_die)
    return begun


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


@pytest.mark.parametrize("algorithm", ["CQL", "MCQ", "DT"])
def test_every_other_algorithm_trains(tmp_path: Path, algorithm: str) -> None:
    table = "13" if algorithm == "DT" else "1-gym"
    assert start(tmp_path, "--dataset", HOPPER, "--algorithm", algorithm, "--method", "S4RL", table=table) == 0
    (line,) = lines(tmp_path)
    assert line["trainer"] == "d3rlpy"
    assert line["returns"].keys() == {"2", "4"}
    assert line["unit"]["batch_size"] == (64 if algorithm == "DT" else 8)


def test_a_killed_unit_of_iql_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GTA_DATASETS_CACHE", str(tmp_path / "cache"))
    only = ["--dataset", HOPPER, "--algorithm", "IQL", "--method", "None"]
    start(tmp_path / "whole", *only)
    begun = killed_at_the_end(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path / "killed", *only)
    start(tmp_path / "killed", *only)
    assert begun == [2, 4, 4]
    (whole,), (resumed,) = lines(tmp_path / "whole"), lines(tmp_path / "killed")
    assert resumed["returns"] == whole["returns"]
    assert not list((tmp_path / "cache" / "benchmarks").glob("*/*"))


def test_a_unit_goes_on_among_others_and_stops_at_the_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GTA_DATASETS_CACHE", str(tmp_path / "cache"))
    only = ["--dataset", HOPPER, "--algorithm", "TD3BC", "--method", "None"]
    start(tmp_path / "whole", *only, "--method", "S4RL")
    steps: list[tuple[int, int]] = []
    train = Stack.train

    def note(stack: Stack, updates: int) -> None:
        train(stack, updates)
        steps.append((stack.num_runs, stack.updates))
        time_is_up.append(stack.updates == 2 and len(steps) == 1)

    time_is_up = [False]
    monkeypatch.setattr(Stack, "train", note)
    monkeypatch.setattr(stack_training.time, "time", lambda: 1e18 if time_is_up[-1] else 0.0)
    start(tmp_path / "parts", *only, "--budget", "1h")
    assert "0 done now, 0 before, 0 failed now, 0 before, 1 left" in capsys.readouterr().out
    start(tmp_path / "parts", *only, "--method", "S4RL", "--stack", "2", "--budget", "1h")
    assert steps == [(1, 2), (1, 4), (1, 2), (1, 4)], "those that have come equally far are trained together"
    whole, parts = ({line["id"]: line["returns"] for line in lines(tmp_path / name)} for name in ("whole", "parts"))
    assert parts == whole
    assert not list((tmp_path / "cache" / "benchmarks").glob("*/*"))


@pytest.mark.parametrize("why", ["other data", "damage"])
def test_a_checkpoint_that_does_not_fit_is_not_gone_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], why: str
) -> None:
    monkeypatch.setenv("GTA_DATASETS_CACHE", str(tmp_path / "cache"))
    only = ["--dataset", HOPPER, "--algorithm", "TD3BC", "--method", "None"]
    begun = killed_at_the_end(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path, *only)
    (checkpoint,) = (tmp_path / "cache" / "benchmarks").glob("*/*")
    if why == "other data":
        monkeypatch.setattr(Table, "digest", "of other data")
    else:
        checkpoint.write_bytes(checkpoint.read_bytes()[:-1])
    start(tmp_path, *only)
    assert begun == [2, 4, 2, 4]
    assert ("begins anew" in capsys.readouterr().err) == (why == "damage")


def test_only_runs_in_one_environment_are_stacked() -> None:
    units = [
        unit_of(table, dataset, method, algorithm="IQL")
        for table, dataset, method in (
            ("1-gym", HOPPER, "None"),
            ("1-maze", "sim/pointmaze/umaze-v0", "None"),
            ("1-gym", "sim/hopper/medium-replay-v0", "GTA"),
            ("1-maze", "sim/pointmaze/large-v0", "None"),
            ("2", "human/door/demonstrations-v0", "None"),
            ("1-maze", "sim/pointmaze/umaze-v0", "GTA"),
        )
    ]
    units.insert(1, unit_of("1-gym", HOPPER, "None"))
    together = [[units.index(unit) for unit in job] for job in work.jobs(units, 3)]
    assert sorted(together) == [[0, 3], [1], [2, 6], [4], [5]]
    assert units[5].learner is None, "the policies of adroit have dropout"


def test_judged_units_go_where_the_quality_benchmark_looks(tmp_path: Path) -> None:
    only = ["--dataset", HOPPER, "--method", "S4RL"]
    assert start(tmp_path, *only, table="21") == 0
    assert start(tmp_path, *only, table="23") == 0
    (line,) = lines(tmp_path, ledger.JUDGED)
    assert line["unit"] == {
        "dataset": HOPPER, "variant": "s4rl", "preset": "smoke", "num_transitions": 50, "seed": 0, "sample": 50,
    }  # fmt: skip
    assert "| 2" in quality.show("methods", [HOPPER], ["s4rl"], [line])


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


def test_a_missing_dataset_says_how_to_get_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert start(tmp_path, "--dataset", "sim/walker2d/medium-v0") == 0
    shown = capsys.readouterr().out
    assert "`python -m benchmarks.datasets make sim/walker2d/medium-v0 --steps 1000000` makes it" in shown
    assert "`minari download mujoco/walker2d/medium-v0` fetches the one of the same kind" in shown
    start(tmp_path, table="1-maze")
    assert "dataset 'sim/antmaze/umaze-v0' is not on this machine; `minari download D4RL/" in capsys.readouterr().out
    with pytest.raises(DatasetError, match="not on this machine"):
        ANTMAZE[0].open()


def test_damaged_lines_are_named_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    only = ["--dataset", HOPPER, "--algorithm", "TD3BC", "--method", "None"]
    start(tmp_path, *only)
    path = tmp_path / ledger.RUNS
    sound = path.read_text()
    path.write_text('{"unit": 3}\n' + sound + sound[:100])  # the last one was being written when the power went
    assert start(tmp_path, *only) == 0
    shown = capsys.readouterr()
    assert f"{path}, line 1 is no result" in shown.err
    assert f"{path}, line 3 is no result" in shown.err
    assert "0 done now, 1 before" in shown.out
    record.append_line(path, "benchmarks.run", json.loads(sound))
    found, problems = record.read(path)
    assert len(found) == len(problems) == 2


@pytest.mark.parametrize("text", ["90", "m", "1d", "-3m"])
def test_a_budget_has_a_unit(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.budget("1.5h") == 90 * 60
    with pytest.raises(SystemExit):
        run.main(["--budget=" + text])
    assert "write 90m, 2h or 45s" in capsys.readouterr().err


def test_nothing_is_started_that_does_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    only = ["--dataset", HOPPER, "--algorithm", "CQL"]  # which keeps no checkpoints
    assert start(tmp_path, *only, "--method", "None", "--budget", "0s") == 0
    assert "0 done now, 0 before, 0 failed now, 0 before, 1 left" in capsys.readouterr().out
    start(tmp_path, *only, "--method", "None")
    (line,) = lines(tmp_path)
    (tmp_path / ledger.RUNS).write_text(json.dumps(line | {"seconds": 4_000}) + "\n")
    start(tmp_path, *only, "--method", "S4RL", "--budget", "1h")
    assert len(lines(tmp_path)) == 1
    elsewhere = line | {"seconds": 4_000, "machine": line["machine"] | {"gpu": "of another machine"}}
    (tmp_path / ledger.RUNS).write_text(json.dumps(elsewhere) + "\n")
    start(tmp_path, *only, "--method", "S4RL", "--budget", "1h")
    assert len(lines(tmp_path)) == 2, "what another kind of machine took says nothing"


def test_two_workers_never_do_the_same_unit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    only = ["--dataset", HOPPER, "--algorithm", "TD3BC", "--method", "None"]
    with record.lock_of(tmp_path / ledger.RUNS, unit_of("1-gym", HOPPER, "None").id):
        start(tmp_path, *only)
    assert "0 done now" in capsys.readouterr().out
    start(tmp_path, *only)
    assert "1 done now" in capsys.readouterr().out


@pytest.mark.slow
def test_workers_share_the_units(tmp_path: Path) -> None:
    only = ["--dataset", HOPPER, "--algorithm", "TD3BC", "--method", "None", "--method", "S4RL", "--method", "GTA"]
    assert start(tmp_path, *only, "--workers", "2") == 0
    assert sorted(line["id"] for line in lines(tmp_path)) == sorted(
        unit_of("1-gym", HOPPER, method).id for method in ("None", "S4RL", "GTA")
    )


def test_without_ray_the_extra_is_named_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"--backend ray needs ray, .* pip install 'gta-datasets\[ray\]'"):
        start(tmp_path, "--dataset", HOPPER, "--backend", "ray")
    assert not list(tmp_path.iterdir())


class OneDies:
    """Ray, as far as the runner knows it, on a machine where the first worker dies."""

    exceptions = SimpleNamespace(RayError=RuntimeError)

    def __init__(self) -> None:
        self.tasks: list[Any] = []
        self.most = self.running = 0

    def is_initialized(self) -> bool:
        return True

    def nodes(self) -> list[dict[str, Any]]:
        dead = {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}
        return [dead, {"Alive": True, "Resources": {"CPU": 2.0}}, {"Alive": True, "Resources": {"CPU": 3.0}}]

    def remote(self, **options: Any) -> Any:
        self.options = options

        def submit(function: Any) -> Any:
            def start_task(*arguments: Any) -> int:
                self.tasks.append(lambda: function(*arguments))
                self.running += 1
                self.most = max(self.most, self.running)
                return len(self.tasks) - 1

            return SimpleNamespace(remote=start_task)

        return submit

    def wait(self, tasks: list[int]) -> tuple[list[int], list[int]]:
        return tasks[-1:], tasks[:-1]

    def get(self, task: int) -> Any:
        self.running -= 1
        if task == 0:
            raise RuntimeError("out of memory")
        return self.tasks[task]()


def test_a_worker_of_a_cluster_that_dies_leaves_its_unit_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ray = OneDies()
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(sys, "argv", ["run"])
    only = ["--dataset", HOPPER, "--algorithm", "TD3BC", "--method", "None", "--method", "S4RL", "--method", "SynthER"]
    start(tmp_path, *only, "--workers", "2", "--backend", "ray")
    shown = capsys.readouterr()
    assert "2 done now, 0 before, 0 failed now, 0 before, 1 left" in shown.out
    assert "a worker ended with RuntimeError: out of memory; its unit is still to do" in shown.err
    assert [line["unit"]["settings"] for line in lines(tmp_path)] == [{"method": "s4rl"}, {"method": "synther"}]
    assert ray.most == 2
    assert (ray.options["num_cpus"], ray.options["num_gpus"]) == (2, 0), "a share of what is alive"
    with record.lock_of(tmp_path / ledger.RUNS, unit_of("1-gym", HOPPER, "None").id).acquire(blocking=False):
        pass  # it is free again


def test_cores_of_a_cluster_are_shared() -> None:
    """Each is to be had on some machine, and all of them at once."""
    assert [share([64, 16], workers) for workers in (1, 2, 3, 5, 80, 200)] == [64, 32, 21, 16, 1, 1]
    assert share([8, 4], 2) == 4


def test_a_process_works_on_the_gpu_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    order = Order([], tmp_path, tmp_path, {}, None, 1, 1, "cuda:0")
    begun: list[Order] = []

    class Process:
        exitcode = 0

        def __init__(self, target: Any, args: tuple[Order]) -> None:
            begun.extend(args)

        def start(self) -> None: ...

        def join(self) -> None: ...

    monkeypatch.setattr(run.multiprocessing, "get_context", lambda _method: SimpleNamespace(Process=Process))
    run._run(order, 3)
    assert [each.device for each in begun] == ["cuda:0", "cuda:1", "cuda:0"]
    for each in begun:
        work.work(each)
    assert taken == ["cuda:0", "cuda:1", "cuda:0"]


@pytest.mark.slow
def test_units_on_a_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray")
    methods = ("None", "S4RL")
    only = ["--dataset", HOPPER, "--algorithm", "TD3BC", *itertools.chain(*(("--method", name) for name in methods))]
    start(tmp_path / "here", *only)
    monkeypatch.setattr(sys, "argv", ["run", "--backend", "ray"])
    with record.lock_of(tmp_path / "there" / ledger.RUNS, unit_of("1-gym", HOPPER, "None").id):
        start(tmp_path / "there", *only, "--workers", "2", "--backend", "ray")
    assert [line["unit"]["settings"] for line in lines(tmp_path / "there")] == [{"method": "s4rl"}]
    start(tmp_path / "there", *only, "--workers", "2", "--backend", "ray")
    assert "1 done now, 1 before, 0 failed now, 0 before, 0 left" in capsys.readouterr().out
    here, there = (sorted(lines(tmp_path / place), key=lambda line: line["id"]) for place in ("here", "there"))
    assert [line["returns"] for line in there] == [line["returns"] for line in here]
    assert {line["command"] for line in there} == {"python -m benchmarks.run --backend ray"}


def test_a_run_of_the_policies_benchmark_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unit = {
        "dataset": "sim/walker2d/medium-v0", "engine": "vectorised", "preset": "cpu", "num_transitions": 200_000,
        "updates": 300_000, "batch_size": 256, "real_fraction": None, "episodes": 10, "variant": "gta", "seed": 0,
    }  # fmt: skip
    returns = {"300000": {"mean": 3_000.0, "std": 1.0}}
    both = [
        {"unit": unit | {"variant": variant}, "returns": returns, "config": policies.config_of(unit)}
        for variant in ("source", "gta")
    ]
    (tmp_path / ledger.POLICIES).write_text("".join(json.dumps(line) + "\n" for line in both))
    start_list = ["--table", "1-gym", "--list", "--algorithm", "TD3BC", "--results", str(tmp_path)]
    run.main(start_list)
    done = [line for line in capsys.readouterr().out.splitlines() if line.startswith("done")]
    assert [line.rpartition(", ")[2] for line in done] == ["None", "GTA"]
    old = "".join(json.dumps({**line, "config": None}) + "\n" for line in both)
    (tmp_path / ledger.POLICIES).write_text(old)
    run.main(start_list)
    done = [line for line in capsys.readouterr().out.splitlines() if line.startswith("done")]
    assert [line.rpartition(", ")[2] for line in done] == ["None"], "nobody knows how its data were made"
    # Its IQL is neither TD3+BC nor the IQL of the tables.
    (tmp_path / ledger.POLICIES).write_text(json.dumps(both[0] | {"unit": both[0]["unit"] | {"algorithm": "iql"}}))
    for algorithm in ("TD3BC", "IQL"):
        run.main(["--table", "1-gym", "--list", "--algorithm", algorithm, "--results", str(tmp_path)])
        assert not any(line.startswith("done") for line in capsys.readouterr().out.splitlines())


def test_other_defaults_make_other_results(tmp_path: Path) -> None:
    only = ["--dataset", HOPPER, "--algorithm", "TD3BC", "--method", "S4RL"]
    start(tmp_path, *only)
    (line,) = lines(tmp_path)
    stage = next(name for name, fields in line["config"].items() if "noise" in fields)
    line["config"][stage]["noise"] = 0.5
    (tmp_path / ledger.RUNS).write_text(json.dumps(line) + "\n")
    start(tmp_path, *only)
    assert [found["config"][stage]["noise"] != 0.5 for found in lines(tmp_path)] == [False, True]
    del line["config"][stage]["noise"]  # a field that came later
    (tmp_path / ledger.RUNS).write_text(json.dumps(line) + "\n")
    start(tmp_path, *only)
    assert len(lines(tmp_path)) == 1


def test_what_failed_once_is_done_again_with_other_defaults(tmp_path: Path) -> None:
    only = ["--dataset", HOPPER, "--algorithm", "TD3BC", "--method", "S4RL"]
    start(tmp_path, *only)
    (line,) = lines(tmp_path)
    failed = {"id": line["id"], "unit": line["unit"], "error": "out of luck"}
    stage = next(name for name, fields in line["config"].items() if "noise" in fields)
    line["config"][stage]["noise"] = 0.5
    (tmp_path / ledger.RUNS).write_text("".join(json.dumps(each) + "\n" for each in (failed, line)))
    start(tmp_path, *only)
    assert len(lines(tmp_path)) == 3


def test_judged_data_that_failed_once_are_no_failure_any_more(tmp_path: Path) -> None:
    unit = {"dataset": HOPPER, "seed": 0}
    for name, found in ((ledger.RUNS, {"error": "out of luck"}), (ledger.JUDGED, {"quality": {}})):
        (tmp_path / name).write_text(json.dumps({"unit": unit, **found}) + "\n")
    found = ledger.read_all(tmp_path)
    assert len(found.results) == 1
    assert not found.failures


@pytest.mark.slow
def test_the_smoke_run_fills_every_table_it_can(capsys: pytest.CaptureFixture[str]) -> None:
    assert smoke.main() == 0
    assert "0 units failed; 24 of 24 tables" in capsys.readouterr().out
