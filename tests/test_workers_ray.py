"""What is asked of Ray, and given back: without Ray."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from gta_datasets import workers
from gta_datasets.errors import WorkerError
from gta_datasets.workers import make_shards
from tests.makers import LogMaker


@pytest.mark.parametrize(("device", "kind", "other"), [("cpu", "CPU", "GPU"), ("cuda:0", "GPU", "CPU")])
def test_ray_has_no_more_actors_than_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    device: str, kind: str, other: str,
) -> None:  # fmt: skip
    maker, free = LogMaker(tmp_path), {kind: 3.0, other: 64.0}
    maker.device = device
    cluster = SimpleNamespace(cluster_resources=lambda: {kind: 4.0}, available_resources=lambda: free)
    assert workers._room(cluster, maker, 2) == 2
    assert "room" not in caplog.text
    assert workers._room(cluster, maker, 8) == 3
    assert "Ray has room for 3 of 8 workers now" in caplog.text
    del free[kind]
    assert workers._room(cluster, maker, 8) == 1, "it waits until others are done"
    cluster.cluster_resources = lambda: {other: 8.0}
    with pytest.raises(WorkerError, match=f"the Ray cluster has no {kind}"):
        workers._room(cluster, maker, 8)


class CountingRay:
    """Ray, as far as workers know it; it counts the actors and whether a cluster of its own runs."""

    exceptions = SimpleNamespace(RayError=RuntimeError, RayTaskError=FloatingPointError)
    util = SimpleNamespace(ActorPool=None)

    def __init__(self, kind: str, *, runs: bool = False, most: int = 64) -> None:
        self.kind, self.runs, self.most = kind, runs, most
        self.actors, self.calls = 0, []

    def is_initialized(self) -> bool:
        return self.runs

    def init(self, **options: object) -> None:
        self.runs = True
        self.calls.append("init")

    def shutdown(self) -> None:
        self.runs = False
        self.calls.append("shutdown")

    def cluster_resources(self) -> dict[str, float]:
        return {self.kind: 4.0}

    available_resources = cluster_resources

    def remote(self, **options: object) -> object:
        def start_actor(maker: object) -> int:
            if self.actors == self.most:
                raise ConnectionError("the cluster is gone")
            self.actors += 1
            return self.actors

        return lambda actor: SimpleNamespace(remote=start_actor)

    def kill(self, actor: int) -> None:
        self.actors -= 1

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, module in (("ray", self), ("ray.exceptions", self.exceptions), ("ray.util", self.util)):
            monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.parametrize("runs", [False, True])
def test_a_ray_cluster_of_its_own_ends_where_there_is_no_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: bool
) -> None:
    ray = CountingRay("GPU", runs=runs)
    ray.use(monkeypatch)
    with pytest.raises(WorkerError, match="the Ray cluster has no CPU"):
        make_shards(LogMaker(tmp_path / "log"), [0, 1], workers=2, backend="ray", done=lambda: None)
    assert ray.calls == ([] if runs else ["init", "shutdown"])
    assert ray.runs == runs


def test_actors_of_a_cluster_that_others_use_end_where_not_all_can_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = CountingRay("CPU", runs=True, most=1)
    ray.use(monkeypatch)
    with pytest.raises(ConnectionError, match="the cluster is gone"):
        make_shards(LogMaker(tmp_path / "log"), [0, 1], workers=2, backend="ray", done=lambda: None)
    assert ray.actors == 0
    assert ray.runs
