from __future__ import annotations

import logging
import os
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from numpy.typing import NDArray

from gta_datasets.errors import CacheError
from gta_datasets.store import ShardStore, list_stores
from tests.store.helpers import KEY, OTHER_KEY, same, sample, shard_files


@pytest.fixture
def store(tmp_path: Path) -> ShardStore:
    return ShardStore(tmp_path / "cache", KEY)


def unexpected() -> dict[str, NDArray[Any]]:
    raise AssertionError("a shard that is there was made again")


def test_opening_a_store_touches_nothing(store: ShardStore, tmp_path: Path) -> None:
    assert store.get(0) is None
    assert store.indices() == []
    assert store.verify() == {}
    assert store.nbytes == 0
    assert store.read_manifest() is None
    store.clear()
    assert os.listdir(tmp_path) == []


def test_what_was_put_is_read_back_by_another_store(store: ShardStore) -> None:
    for index in (3, 0, 1_000_000):
        store.put(index, sample(index))
    reopened = ShardStore(store.path.parent, KEY)
    assert reopened.indices() == [0, 3, 1_000_000]
    assert all(same(reopened.get(index), sample(index)) for index in (3, 0, 1_000_000))
    assert reopened.get(1) is None
    assert reopened.verify() == {0: True, 3: True, 1_000_000: True}
    assert reopened.nbytes == sum(path.stat().st_size for path in store.path.iterdir())


def test_nothing_but_shards_stays_in_the_folder(store: ShardStore) -> None:
    store.put(0, sample(0))
    store.get_or_make(1, lambda: sample(1))
    assert sorted(store.path.iterdir()) == shard_files(store.path)
    assert len(shard_files(store.path)) == 2


def test_stock_safetensors_reads_a_shard(store: ShardStore) -> None:
    store.put(7, sample(7))
    (path,) = shard_files(store.path)
    assert same(safetensors.numpy.load_file(path), sample(7))


def test_arrays_are_views_of_one_read_only_map(store: ShardStore) -> None:
    store.put(0, sample(0))
    first, second = store.get(0), store.get(0)
    assert first is not None
    assert second is not None
    for name, array in first.items():
        assert np.shares_memory(array, second[name])
        assert not array.flags.owndata
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    first.clear()
    assert same(store.get(0), sample(0))


def test_shards_are_written_once(store: ShardStore) -> None:
    store.put(0, sample(0))
    store.put(0, sample(1))
    assert same(store.get_or_make(0, unexpected), sample(0))
    assert same(ShardStore(store.path.parent, KEY).get(0), sample(0))


def test_get_or_make_makes_a_missing_shard_once(store: ShardStore) -> None:
    calls = []

    def make() -> dict[str, NDArray[Any]]:
        calls.append(1)
        return sample(5)

    made = store.get_or_make(5, make)
    assert same(made, sample(5))
    assert not any(array.flags.writeable for array in made.values())
    assert same(store.get_or_make(5, make), sample(5))
    assert same(ShardStore(store.path.parent, KEY).get_or_make(5, make), sample(5))
    assert len(calls) == 1


def test_an_error_in_make_is_passed_on_and_leaves_nothing(store: ShardStore) -> None:
    def fail() -> dict[str, NDArray[Any]]:
        raise RuntimeError("diverged")

    with pytest.raises(RuntimeError, match="diverged"):
        store.get_or_make(0, fail)
    assert os.listdir(store.path) == []
    assert same(store.get_or_make(0, lambda: sample(0)), sample(0))


def test_threads_make_a_shard_once(store: ShardStore) -> None:
    calls: list[int] = []
    results: list[dict[str, NDArray[Any]]] = []
    start = threading.Barrier(6)

    def make() -> dict[str, NDArray[Any]]:
        calls.append(1)
        return sample(0)

    def work() -> None:
        start.wait()
        results.append(store.get_or_make(0, make))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert len(results) == 6
    assert all(same(result, sample(0)) for result in results)


def test_if_the_cache_is_cleared_at_once_the_made_arrays_are_returned(
    store: ShardStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ShardStore, "get", lambda self, index: None)
    made = store.get_or_make(0, lambda: sample(0))
    assert same(made, sample(0))
    with pytest.raises(ValueError, match="read-only"):
        made["actions"][0] = 1


def test_a_folder_cleared_during_a_write_is_made_again(store: ShardStore, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = os.replace
    cleared: list[int] = []

    def clear_first(source: Path, target: Path) -> None:
        if not cleared:
            cleared.append(1)
            ShardStore(store.path.parent, KEY).clear()
        replace(source, target)

    monkeypatch.setattr(os, "replace", clear_first)
    store.put(0, sample(0))
    assert cleared
    assert same(store.get(0), sample(0))


def test_constant_clearing_costs_the_cache_but_not_the_result(
    store: ShardStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    replace = os.replace

    def clear_first(source: Path, target: Path) -> None:
        ShardStore(store.path.parent, KEY).clear()
        replace(source, target)

    monkeypatch.setattr(os, "replace", clear_first)
    with caplog.at_level(logging.WARNING):
        assert same(store.get_or_make(0, lambda: sample(0)), sample(0))
    assert "is not stored: the cache was cleared every time" in caplog.text
    assert store.get(0) is None


def test_clearing_survives_a_writer_in_between(store: ShardStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put(0, sample(0))
    rmdir, other = os.rmdir, ShardStore(store.path.parent, KEY)
    writes: list[int] = []

    def write_first(*arguments: Any, **options: Any) -> None:
        if not writes:
            writes.append(1)
            other.put(1, sample(1))
        rmdir(*arguments, **options)

    monkeypatch.setattr(os, "rmdir", write_first)
    store.clear()
    assert writes
    assert not store.path.exists()


def test_keys_are_separate(store: ShardStore) -> None:
    other = ShardStore(store.path.parent, OTHER_KEY)
    store.put(0, sample(0))
    other.put(0, sample(1))
    other.put(2, sample(2))
    assert same(store.get(0), sample(0))
    assert store.indices() == [0]
    store.clear()
    assert store.get(0) is None
    assert same(other.get(0), sample(1))


@pytest.mark.parametrize("key", ["", "..", "a" * 31, "a" * 33, "A" * 32, "../" + "a" * 29, "a" * 31 + "\n", "g" * 32])
def test_only_keys_name_folders(tmp_path: Path, key: str) -> None:
    with pytest.raises(CacheError, match="32 lower-case hexadecimal digits"):
        ShardStore(tmp_path, key)


@pytest.mark.parametrize("index", [-1, 10**18])
def test_an_index_out_of_range_is_refused(store: ShardStore, index: int) -> None:
    for action in (lambda: store.put(index, sample(0)), lambda: store.get_or_make(index, lambda: sample(0))):
        with pytest.raises(CacheError, match=f"index={index} is not allowed"):
            action()


def test_other_names_in_the_folder_are_ignored(store: ShardStore) -> None:
    store.put(0, sample(0))
    for name in ("shard-000001.safetensors", "shard-000001.xyz.safetensors", "model.safetensors", ".tmp-1-x"):
        (store.path / name).write_bytes(b"x")
    (store.path / f"shard-0000001.{'a' * 32}.safetensors").write_bytes(b"x")
    assert store.indices() == [0]
    assert store.verify() == {0: True}
    assert store.get(1) is None


def test_a_store_can_be_pickled_and_reopens_without_maps(store: ShardStore) -> None:
    store.put(0, sample(0))
    text = pickle.dumps(ShardStore(store.path.parent, KEY, lock_timeout=7.5))
    assert len(text) < 1000
    copy = pickle.loads(text)
    assert same(copy.get(0), sample(0))
    assert pickle.dumps(copy) == text


def test_arrays_that_a_shard_cannot_hold_are_refused_before_anything_is_written(store: ShardStore) -> None:
    with pytest.raises(CacheError, match="array 'a' has dtype object"):
        store.put(0, {"a": np.array([None])})
    assert not store.path.exists()


def test_the_number_of_open_maps_is_bounded(store: ShardStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gta_datasets.store.shards._MAX_MAPS", 2)
    for index in range(4):
        store.put(index, sample(index))
    held = store.get(0)
    for index in range(4):
        assert same(store.get(index), sample(index))
    assert list(store._maps) == [2, 3]
    store.get(2)
    store.get(0)
    assert list(store._maps) == [2, 0]
    assert same(held, sample(0))


def test_verify_reads_again_what_is_already_open(store: ShardStore, caplog: pytest.LogCaptureFixture) -> None:
    for index in range(3):
        store.put(index, sample(index))
    assert same(store.get(1), sample(1))
    path = shard_files(store.path)[1]
    damaged = path.with_name("damaged")
    damaged.write_bytes(path.read_bytes()[:-1])
    damaged.replace(path)
    assert same(store.get(1), sample(1))  # the map is of the file that was verified
    with caplog.at_level(logging.WARNING):
        assert store.verify() == {0: True, 1: False, 2: True}
    assert "counts as missing" in caplog.text
    assert store.get(1) is None
    assert store.verify() == {0: True, 2: True}


class TestManifest:
    def test_round_trip(self, store: ShardStore) -> None:
        store.write_manifest({"method": "gta", "steps": 5})
        store.write_manifest({"method": "gta", "nested": {"a": [1, 2.5, None, "µ"]}})
        assert ShardStore(store.path.parent, KEY).read_manifest() == {
            "method": "gta",
            "nested": {"a": [1, 2.5, None, "µ"]},
        }
        assert store.indices() == []

    @pytest.mark.parametrize("manifest", [{"a": float("nan")}, {"a": {1, 2}}, {"a": np.float32(1)}])
    def test_only_json_is_written(self, store: ShardStore, manifest: dict[str, Any]) -> None:
        with pytest.raises(CacheError, match="not strict JSON"):
            store.write_manifest(manifest)

    def test_a_large_one_is_not_written(self, store: ShardStore) -> None:
        with pytest.raises(CacheError, match="at most 1,048,576"):
            store.write_manifest({"a": "x" * (1 << 20)})


class TestListStores:
    def test_finds_keys_and_nothing_else(self, store: ShardStore, tmp_path: Path) -> None:
        root = store.path.parent
        other = ShardStore(root, OTHER_KEY)
        other.put(0, sample(0))
        store.put(1, sample(1))
        (root / "notes").mkdir()
        (root / ("a" * 32)).write_bytes(b"a file")
        (root / ("b" * 32)).symlink_to(tmp_path)
        stores = list_stores(root)
        assert [found.key for found in stores] == [KEY, OTHER_KEY]
        assert [found.indices() for found in stores] == [[1], [0]]
        assert all(found.nbytes > 0 for found in stores)
        for found in stores:
            found.clear()
        assert list_stores(root) == []
        assert (root / "notes").exists()

    def test_a_missing_cache_is_empty_and_a_file_is_an_error(self, tmp_path: Path) -> None:
        assert list_stores(tmp_path / "missing") == []
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(CacheError, match=r"cannot list the cache .*; choose another cache_dir$"):
            list_stores(tmp_path / "file")


def test_clear_removes_everything_of_the_key(store: ShardStore) -> None:
    store.put(0, sample(0))
    store.write_manifest({})
    (store.path / "checkpoints").mkdir()
    (store.path / "checkpoints" / "model.safetensors").write_bytes(b"x")
    assert store.nbytes > 1
    store.clear()
    assert os.listdir(store.path.parent) == []


@pytest.mark.parametrize("at", ["root", "key"])
def test_a_file_in_place_of_a_folder_is_named(tmp_path: Path, at: str) -> None:
    root = tmp_path / "cache"
    if at == "key":
        root.mkdir()
    (root / KEY if at == "key" else root).write_bytes(b"")
    store = ShardStore(root, KEY)
    actions: list[Callable[[], object]] = [lambda: store.get(0), lambda: store.put(0, sample(0)), store.clear]
    for action in actions:
        with pytest.raises(CacheError, match=r"(is not a folder|Not a directory); .*choose another cache_dir$"):
            action()
