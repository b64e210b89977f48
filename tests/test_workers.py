"""Shards made by several processes: the same bytes; a death, an error or an interrupt costs no more than it must."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import minari
import numpy as np
import pytest

from gta_datasets import augment, pipeline
from gta_datasets.errors import CacheError, ConfigError, MissingExtraError, WorkerError
from gta_datasets.workers import make_shards
from tests.builders import linear_dataset
from tests.makers import ForeignPipeline, FragilePipeline, LogMaker
from tests.smoke import digest_of_files, tiny
from tests.store.helpers import python


@pytest.fixture(scope="module")
def dataset() -> minari.MinariDataset:
    return linear_dataset("workers/linear-v0", terminated=(1, 3))


def run_python(arguments: list[object], text: str = "") -> subprocess.CompletedProcess[str]:
    root = str(Path(__file__).parents[1])
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        input=text,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": root},
    )


def shards(folder: Path) -> dict[str, str]:
    return {name: digest for name, digest in digest_of_files(folder).items() if "shard-" in name}


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def logged(log: Path) -> list[list[int]]:
    """Numbers of shards and processes, in order."""
    return [[int(word) for word in line.split()] for line in log.read_text().splitlines()]


def test_a_killed_worker_costs_its_shard_and_the_files_are_those_of_one_process(
    dataset: minari.MinariDataset, tmp_path: Path
) -> None:
    alone = tiny(dataset, cache_dir=tmp_path / "alone").generate()
    augmented = tiny(dataset, cache_dir=tmp_path / "many")
    fragile = augmented.storage.pipeline
    fragile.__class__ = FragilePipeline
    with pytest.warns(
        UserWarning, match="killed by SIGKILL while it made shard 1, which another one now makes"
    ) as told:
        augmented.generate(workers=2)
    assert len(told) == 1
    assert Path(told[0].filename) == Path(__file__)
    assert shards(augmented.path) == shards(alone.path)
    assert len(shards(alone.path)) == 3
    made = [number for (number,) in logged(tmp_path / "many" / "log")]
    assert Counter(made) == {0: 1, 1: 2, 2: 1}, "another process lost its shard, too"
    assert multiprocessing.active_children() == []


def test_who_always_dies_is_given_up_with_advice(tmp_path: Path) -> None:
    done: list[None] = []
    with (
        pytest.warns(UserWarning, match="ended with exit code 7 while it made shard 10"),
        pytest.raises(
            WorkerError, match=r"3 workers in a row died of shard 10; .* exit code 7. 1 of 2 shards are made and kept"
        ),
    ):
        make_shards(LogMaker(tmp_path / "log"), [0, 10], workers=1, backend="process", done=lambda: done.append(None))
    assert len(done) == 1
    assert [number for number, _ in logged(tmp_path / "log")].count(10) == 3
    assert multiprocessing.active_children() == []


def test_an_error_reaches_the_caller_as_it_is_and_ends_all_workers(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(CacheError, match="no space left") as caught:
        make_shards(LogMaker(tmp_path / "log"), [13, 11], workers=2, backend="process", done=lambda: None)
    assert caught.value.errno == errno.ENOSPC
    assert "shard 11, in a worker" in caught.value.__notes__[0]
    assert "in shard" in caught.value.__notes__[0], "the place in the worker is not told"
    assert multiprocessing.active_children() == []
    assert time.monotonic() - started < 300


def test_an_error_that_cannot_be_sent_is_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match=r"(?s)shard 12: .*UnportableError: log 12"):
        make_shards(LogMaker(tmp_path / "log"), [12], workers=1, backend="process", done=lambda: None)


def test_an_interrupt_leaves_no_process(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            make_shards(
                LogMaker(tmp_path / "log"),
                [13, 0],
                workers=2,
                backend="process",
                done=lambda: signal.raise_signal(signal.SIGINT),
            )
    finally:
        signal.signal(signal.SIGINT, before)
    assert multiprocessing.active_children() == []
    assert not any(alive(pid) for _, pid in logged(tmp_path / "log"))


PARENT = """
import sys
from pathlib import Path
from gta_datasets.workers import make_shards
from tests.makers import LogMaker
make_shards(LogMaker(Path(sys.argv[1])), range(0, 10**6, 100), workers=2, backend="process", done=lambda: None)
"""


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with python(PARENT, log) as parent:
        try:
            while not log.exists() or len({pid for _, pid in logged(log)}) < 2:
                assert parent.poll() is None, parent.stderr
                time.sleep(0.05)
        finally:
            parent.kill()
    pids = {pid for _, pid in logged(log)}
    until = time.monotonic() + 60
    while any(map(alive, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(alive, pids))


def test_workers_of_another_version_make_nothing(dataset: minari.MinariDataset, tmp_path: Path) -> None:
    augmented = tiny(dataset, cache_dir=tmp_path)
    augmented.storage.pipeline.__class__ = ForeignPipeline
    with pytest.raises(WorkerError, match="another version of this library"):
        augmented.generate(workers=2)
    assert {path.parent.name for path in tmp_path.glob("*/*")} == {augmented.storage.pipeline.model_store.key}


@pytest.mark.parametrize("workers", [0, -1, 1.5, True, "2"])
def test_a_wrong_number_of_workers(dataset: minari.MinariDataset, workers: int) -> None:
    with pytest.raises(ConfigError, match=r"workers=.* is not allowed; choose a whole number of at least 1"):
        tiny(dataset).generate(workers=workers)


def test_a_number_of_workers_that_is_numpy_s(
    dataset: minari.MinariDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []
    monkeypatch.setattr(pipeline, "make_shards", lambda *args, workers, **kwargs: given.append(workers))
    tiny(dataset, cache_dir=tmp_path).generate(workers=np.int64(2))
    assert [(workers, type(workers)) for workers in given] == [(2, int)], "torch takes no other for its threads"


def test_an_unknown_backend_is_refused_before_any_work(dataset: minari.MinariDataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="backend='thread' is not known; choose 'process'"):
        tiny(dataset, cache_dir=tmp_path / "cache").generate(workers=2, backend="thread")
    assert not (tmp_path / "cache").exists()


def refused(cache: str, dataset_id: str) -> str:
    try:
        tiny(dataset_id, cache_dir=cache).generate(workers=2)
    except ConfigError as error:
        return str(error)
    return "not refused"


def test_a_process_that_may_have_no_children_asks_for_none(dataset: minari.MinariDataset, tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        why = pool.apply(refused, (str(tmp_path / "cache"), dataset.id))
    assert why.startswith("workers=2 in a daemonic process")
    assert not (tmp_path / "cache").exists()


SCRIPT = """
import sys
from gta_datasets.errors import GTADatasetsError
from tests.smoke import tiny
augmented = tiny(sys.argv[1], cache_dir=sys.argv[2])
try:
    augmented.generate(workers=2)
except GTADatasetsError as error:
    print(type(error).__name__, error)
"""


def test_a_script_that_asks_where_workers_import_it_is_told_so_at_once(
    dataset: minari.MinariDataset, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    found = run_python([script, dataset.id, tmp_path / "cache"])
    assert found.stdout.startswith("WorkerError the script asks for workers where these import it, too: call generate(")
    assert "Traceback" not in found.stderr


OTHERS = """
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from gta_datasets.errors import ConfigError
from tests.smoke import tiny
augmented = tiny(sys.argv[1], cache_dir=sys.argv[2], seed=int(sys.argv[3]))
try:
    augmented.generate(workers=2)
except ConfigError as error:
    print(error)
if __name__ == "__main__":
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        print(pool.submit(abs, -3).result())
"""


def test_processes_of_others_that_import_the_script_go_on(dataset: minari.MinariDataset, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(OTHERS)
    tiny(dataset, cache_dir=tmp_path / "cache", seed=0).generate()
    found = run_python([script, dataset.id, tmp_path / "cache", 0])
    assert found.stdout.splitlines() == ["3"], "nothing is missing, so nobody is asked for"


def test_where_another_process_imports_the_script_it_may_not_ask_for_workers(
    dataset: minari.MinariDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(ConfigError, match=r"multiprocessing is starting, which imports the script: .*__main__"):
        tiny(dataset, cache_dir=tmp_path).generate(workers=2)


def test_a_script_that_is_no_file_is_refused_before_any_work(dataset: minari.MinariDataset, tmp_path: Path) -> None:
    found = run_python(["-", dataset.id, tmp_path / "cache"], SCRIPT)
    assert found.stdout.startswith("ConfigError workers=2 in a script that is no file (<stdin>)")
    assert found.stderr == ""
    assert not (tmp_path / "cache").exists()


def test_workers_with_nothing_left_to_do_leave_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is told to end while it ends prints a traceback."""
    told = []
    terminate = multiprocessing.process.BaseProcess.terminate
    monkeypatch.setattr(
        multiprocessing.process.BaseProcess,
        "terminate",
        lambda process: told.append(process.is_alive()) or terminate(process),
    )
    make_shards(LogMaker(tmp_path / "log"), [0, 1, 2], workers=2, backend="process", done=lambda: None)
    assert told == [False, False]


def test_without_ray_the_extra_is_named_before_any_work(
    dataset: minari.MinariDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"backend='ray' needs ray, .* pip install 'gta-datasets\[ray\]'"):
        tiny(dataset, cache_dir=tmp_path / "cache").generate(workers=2, backend="ray")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("case", ["a method that stores nothing", "all made", "one missing", "one worker"])
def test_no_process_is_started_for_nothing(
    dataset: minari.MinariDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise AssertionError("processes were started")

    monkeypatch.setattr(pipeline, "make_shards", fail)
    augmented = tiny(dataset, cache_dir=tmp_path)
    if case == "a method that stores nothing":
        augment(dataset, "s4rl", preset="smoke", cache_dir=tmp_path).generate(workers=2)
        return
    if case != "one worker":
        augmented.generate()
    if case == "one missing":
        next(augmented.path.glob("shard-*")).unlink()
        augmented = tiny(dataset, cache_dir=tmp_path)  # the other one remembers the shard
    augmented.generate(workers=1 if case == "one worker" else 2)
    assert augmented.is_complete


@pytest.mark.slow
def test_ray(dataset: minari.MinariDataset, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    alone = tiny(dataset, cache_dir=tmp_path / "alone").generate()
    augmented = tiny(dataset, cache_dir=tmp_path / "many")
    augmented.storage.pipeline.__class__ = FragilePipeline
    augmented.generate(workers=(os.cpu_count() or 1) + 2, backend="ray")
    assert shards(augmented.path) == shards(alone.path)
    made = [number for (number,) in logged(tmp_path / "many" / "log")]
    assert Counter(made) == {0: 1, 1: 2, 2: 1}
    with pytest.raises(CacheError, match="no space left"):
        make_shards(LogMaker(tmp_path / "log"), [11], workers=1, backend="ray", done=lambda: None)
    with pytest.raises(WorkerError, match="Ray gave up"):
        make_shards(LogMaker(tmp_path / "log"), [10], workers=1, backend="ray", done=lambda: None)
