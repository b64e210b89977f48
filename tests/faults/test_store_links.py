"""Row 15 of the fault list: links in the cache."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gta_datasets.errors import CacheError
from gta_datasets.store import ShardStore, list_stores
from tests.store.helpers import KEY, OTHER_KEY, same, sample, shard_files


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Every name below `folder`, and the content of the files."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder outside the cache with a valid shard of the key in it, which nothing may read, write or remove."""
    store = ShardStore(tmp_path / "outside", KEY)
    store.put(0, sample(0))
    (store.path / "precious").write_bytes(b"precious")
    return store.path


ACTIONS: dict[str, Callable[[ShardStore], Any]] = {
    "get": lambda store: store.get(0),
    "put": lambda store: store.put(0, sample(0)),
    "get_or_make": lambda store: store.get_or_make(0, lambda: sample(0)),
    "indices": lambda store: store.indices(),
    "verify": lambda store: store.verify(),
    "clear": lambda store: store.clear(),
    "nbytes": lambda store: store.nbytes,
    "read_manifest": lambda store: store.read_manifest(),
    "write_manifest": lambda store: store.write_manifest({}),
}


def test_the_root_may_be_a_link_and_is_resolved_once(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    link = tmp_path / "cache"
    link.symlink_to("first")
    store = ShardStore(link, KEY)
    store.put(0, sample(0))
    link.unlink()
    link.symlink_to("second")
    store.put(1, sample(1))
    assert same(store.get(0), sample(0))
    assert store.path == tmp_path / "first" / KEY
    assert os.listdir(tmp_path / "second") == []
    assert list_stores(link) == []


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("dangling", [False, True])
def test_a_link_as_key_folder_is_refused(tmp_path: Path, outside: Path, action: str, dangling: bool) -> None:
    root = tmp_path / "cache"
    root.mkdir()
    (root / KEY).symlink_to(tmp_path / "nowhere" if dangling else outside)
    before = snapshot(tmp_path)
    with pytest.raises(CacheError, match="is a symbolic link; links are not followed here: remove it"):
        ACTIONS[action](ShardStore(root, KEY))
    assert snapshot(tmp_path) == before
    assert list_stores(root) == []


@pytest.mark.parametrize("action", ["get", "put", "get_or_make", "verify"])
def test_a_link_as_shard_is_refused(tmp_path: Path, outside: Path, action: str) -> None:
    store = ShardStore(tmp_path / "cache", KEY)
    store.path.mkdir(parents=True)
    (valid,) = shard_files(outside)
    (store.path / valid.name).symlink_to(valid)
    before = snapshot(tmp_path)
    with pytest.raises(CacheError, match="symbolic link"):
        ACTIONS[action](store)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("action", ["get", "put", "get_or_make", "verify"])
@pytest.mark.parametrize("plant", [Path.mkdir, os.mkfifo])
def test_a_folder_or_fifo_as_shard_is_refused(tmp_path: Path, action: str, plant: Callable[[Path], None]) -> None:
    store = ShardStore(tmp_path, KEY)
    store.path.mkdir()
    plant(store.path / f"shard-000000.{'0' * 32}.safetensors")
    with pytest.raises(CacheError, match="not an ordinary file"):
        ACTIONS[action](store)


@pytest.mark.parametrize("kind", ["symbolic", "dangling", "hard", "folder"])
def test_a_planted_lock_is_refused(tmp_path: Path, outside: Path, kind: str) -> None:
    store = ShardStore(tmp_path / "cache", KEY)
    store.path.mkdir(parents=True)
    lock = store.path / ".lock-shard-000000"
    if kind == "hard":
        lock.hardlink_to(outside / "precious")
    elif kind == "folder":
        lock.mkdir()
    else:
        lock.symlink_to(outside / "precious" if kind == "symbolic" else tmp_path / "nowhere")
    before = snapshot(tmp_path)
    with pytest.raises(CacheError, match=r"symbolic link|not a lock file"):
        store.get_or_make(0, lambda: sample(0))
    assert snapshot(tmp_path) == before


def test_a_planted_temporary_file_is_refused(tmp_path: Path, outside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, twin = ShardStore(tmp_path / "cache", KEY), ShardStore(tmp_path / "twin", KEY)
    twin.put(0, sample(0))
    monkeypatch.setattr("secrets.token_hex", lambda size: "guessed")
    store.path.mkdir(parents=True)
    plant = store.path / f".tmp-guessed-{shard_files(twin.path)[0].name}"
    plant.symlink_to(outside / "precious")
    before = snapshot(tmp_path)
    with pytest.raises(CacheError, match="File exists"):
        store.put(0, sample(0))
    assert snapshot(tmp_path) == before
    assert plant.is_symlink()


def test_a_link_in_the_place_of_a_set_aside_shard_is_not_followed(tmp_path: Path, outside: Path) -> None:
    store = ShardStore(tmp_path / "cache", KEY)
    store.put(0, sample(0))
    (path,) = shard_files(store.path)
    path.write_bytes(b"garbage")
    aside = path.with_name(f"{path.name}.bad")
    aside.symlink_to(outside / "precious")
    assert ShardStore(tmp_path / "cache", KEY).get(0) is None
    assert (outside / "precious").read_bytes() == b"precious"
    assert aside.read_bytes() == b"garbage"


def test_clearing_removes_links_but_not_what_they_point_to(tmp_path: Path, outside: Path) -> None:
    store = ShardStore(tmp_path / "cache", KEY)
    store.put(0, sample(0))
    (store.path / "folder").symlink_to(outside)
    (store.path / "file").symlink_to(outside / "precious")
    ShardStore(tmp_path / "cache", OTHER_KEY).put(0, sample(0))
    before = snapshot(outside)
    assert store.nbytes == sum(path.stat().st_size for path in shard_files(store.path))
    store.clear()
    assert not store.path.exists()
    assert snapshot(outside) == before
    assert [found.key for found in list_stores(tmp_path / "cache")] == [OTHER_KEY]


def test_a_linked_manifest_is_refused(tmp_path: Path, outside: Path) -> None:
    (outside / "precious").write_bytes(b"{}")
    store = ShardStore(tmp_path / "cache", KEY)
    store.path.mkdir(parents=True)
    (store.path / "manifest.json").symlink_to(outside / "precious")
    for action in ("read_manifest", "write_manifest"):
        with pytest.raises(CacheError, match="symbolic link"):
            ACTIONS[action](store)
    assert (outside / "precious").read_bytes() == b"{}"
