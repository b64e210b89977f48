"""Several processes, machines and GPUs at the units of the tables."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import ledger, record, run, work
from benchmarks.cluster import share
from benchmarks.work import Order
from gta_datasets.errors import MissingExtraError
from gta_datasets.training import loop
from tests.benches import HOPPER, lines, small_hopper, start, unit_of

_hopper = pytest.fixture(scope="module", autouse=True)(small_hopper)


def test_two_workers_never_do_the_same_unit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    only = ["--dataset", HOPPER, "--algorithm", "TD3BC", "--method", "None"]
    with record.lock_of(tmp_path / ledger.RUNS, unit_of("1-gym", HOPPER, "None").id):
        start(tmp_path, *only)
    assert "0 done now" in capsys.readouterr().out
    start(tmp_path, *only)
    assert "1 done now" in capsys.readouterr().out


@pytest.mark.parametrize("status", [0, 9])
def test_workers_end_with_who_started_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    ended: list[Process] = []

    class Process:
        exitcode = status

        def __init__(self, **_: Any) -> None: ...

        def start(self) -> None: ...

        def join(self) -> None:
            if asked:
                os.kill(os.getpid(), signal.SIGTERM)

        def terminate(self) -> None:
            ended.append(self)

    monkeypatch.setattr(run.multiprocessing, "get_context", lambda _method: SimpleNamespace(Process=Process))
    order = Order([], tmp_path, tmp_path, {}, None, 1, 1, "cpu")
    asked = False
    assert run._run(order, 2) == (2 if status else 0)
    before = signal.signal(signal.SIGTERM, lambda *_: pytest.fail("nobody looked after it"))
    try:
        asked = True
        ended.clear()
        with pytest.raises(SystemExit):
            run._run(order, 2)
        assert len(ended) == 2
    finally:
        signal.signal(signal.SIGTERM, before)


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

        def terminate(self) -> None: ...

    monkeypatch.setattr(run.multiprocessing, "get_context", lambda _method: SimpleNamespace(Process=Process))
    assert run._run(order, 3) == 0
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


@pytest.fixture(params=[signal.default_int_handler, signal.SIG_IGN], ids=["in front", "in the background"])
def ctrl_c(request: pytest.FixtureRequest) -> Iterator[Any]:
    """What a shell lets Ctrl-C do."""
    before = signal.signal(signal.SIGINT, request.param)
    yield request.param
    signal.signal(signal.SIGINT, before)


def test_training_a_generator_stops_when_time_is_up_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ctrl_c: Any
) -> None:
    monkeypatch.setenv("GTA_DATASETS_CACHE", str(tmp_path / "cache"))
    only = ["--dataset", HOPPER, "--algorithm", "TD3BC", "--method", "GTA"]
    advance, steps, now = loop._Run.advance, [], [0.0]

    def note(training: Any, loss_of_step: Any) -> None:
        if training.step == 10 and not steps.count(10):
            now[0] = 1e9
            signal.raise_signal(signal.SIGALRM)
        steps.append(training.step)
        advance(training, loss_of_step)

    monkeypatch.setattr(time, "time", lambda: now[0])
    monkeypatch.setattr(loop._Run, "advance", note)
    before = signal.getsignal(signal.SIGALRM)
    assert start(tmp_path, *only, "--budget", "1h") == 0
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getsignal(signal.SIGINT) is ctrl_c
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    assert "time is up with the data of 0 of 1; a later run trains them" in capsys.readouterr().out
    assert steps == list(range(11)), "the step that was being done is kept"
    assert start(tmp_path, *only) == 0
    assert steps == list(range(30)), "none is done twice"
    assert len(lines(tmp_path)) == 1


def test_ctrl_c_is_no_end_of_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(work, "Prepared", interrupt)
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path, "--dataset", HOPPER, "--algorithm", "TD3BC", "--method", "None", "--budget", "1h")


def test_data_are_judged_until_time_is_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def slowly(*_: Any) -> None:
        signal.raise_signal(signal.SIGALRM)
        raise AssertionError("time was up")

    only = ["--dataset", HOPPER, "--method", "S4RL"]
    with monkeypatch.context() as patch:
        patch.setattr(work.quality, "measure", slowly)
        assert start(tmp_path, *only, "--budget", "1h", table="21") == 0
    assert "0 done now, 0 before, 0 failed now, 0 before, 1 left" in capsys.readouterr().out
    start(tmp_path, *only, "--budget", "1h", table="21")
    assert len(lines(tmp_path)) == 1
