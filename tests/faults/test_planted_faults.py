"""Rows 15 to 17 of the fault matrix: planted files, links and datasets are refused, and nothing in them runs."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import minari
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import save

from gta_datasets.errors import CacheError, UntrustedDatasetError
from gta_datasets.store import list_stores
from gta_datasets.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tests.builders import linear_dataset
from tests.smoke import digest_of_files, tiny


@pytest.fixture(scope="module")
def dataset() -> minari.MinariDataset:
    return linear_dataset("planted/linear-v0", terminated=(1, 3))


class Bomb:
    """Pickled, it makes a file when it is opened."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.mark}",)


def torch_file(mark: Path) -> bytes:
    path = mark.with_suffix(".pt")
    torch.save({"weights": Bomb(mark)}, path)
    return path.read_bytes()


def with_record(record: object) -> bytes:
    tensors = {"network.weight": torch.zeros(2)}
    return save(tensors, metadata={"record": json.dumps(record)})


HOSTILE: dict[str, Callable[[Path], bytes]] = {
    "pickle": lambda mark: pickle.dumps(Bomb(mark)),
    "torch": torch_file,
    "huge header": lambda mark: struct.pack("<Q", 2**63) + b"{}" * 100,
    "header beyond the file": lambda mark: struct.pack("<Q", 10_000) + b"{}",
    "empty": lambda mark: b"",
    "text": lambda mark: b"not a checkpoint at all",
    "no record": lambda mark: save({"weight": torch.zeros(2)}),
    "a list as record": lambda mark: with_record([1, 2]),
    "no digest": lambda mark: with_record({"losses": [1.0]}),
}


@pytest.mark.parametrize("file", ["model.safetensors", "training.safetensors"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_row_16_a_planted_checkpoint_is_refused_and_runs_nothing(
    dataset: minari.MinariDataset, tmp_path: Path, kind: str, file: str
) -> None:
    mark = tmp_path / "mark"
    augmented = tiny(dataset, cache_dir=tmp_path / "cache")
    folder = augmented.storage.pipeline.model_store.path
    folder.mkdir(parents=True)
    (folder / file).write_bytes(HOSTILE[kind](mark))
    with pytest.raises(CacheError, match=rf"{file} .*; remove it"):
        augmented.fit()
    with pytest.raises(CacheError, match=rf"{file} .*; remove it"):
        augmented[-1]
    assert not mark.exists()
    (folder / file).unlink()
    assert augmented.fit().is_fitted


def test_row_16_the_bomb_would_go_off(tmp_path: Path) -> None:
    pickle.loads(HOSTILE["pickle"](tmp_path / "mark"))
    assert (tmp_path / "mark").exists()


@pytest.mark.parametrize("kind", ["other tensors", "other shapes", "no losses"])
def test_row_16_a_checkpoint_of_something_else_is_refused(
    dataset: minari.MinariDataset, tmp_path: Path, kind: str
) -> None:
    """Sound by itself, checksum and all, but not of this model."""
    tiny(dataset, cache_dir=tmp_path).fit()
    (path,) = tmp_path.glob("*/model.safetensors")
    found = load_checkpoint(path)
    assert found is not None
    tensors, record = dict(found.tensors), dict(found.record)
    first = sorted(tensors)[0]
    if kind == "other tensors":
        tensors["stranger"] = tensors.pop(first)
    elif kind == "other shapes":
        tensors[first] = torch.zeros(3, 3, 3)
    else:
        record.pop("losses")
    save_checkpoint(path, Checkpoint(tensors, record))
    with pytest.raises(CacheError, match=r"model\.safetensors"):
        tiny(dataset, cache_dir=tmp_path).fit()


@pytest.mark.parametrize("file", ["model.safetensors", "training.safetensors"])
@pytest.mark.parametrize("kind", ["link", "dangling", "folder", "pipe"])
def test_row_15_a_link_or_worse_as_checkpoint_is_refused(
    dataset: minari.MinariDataset, tmp_path: Path, file: str, kind: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    tiny(dataset, cache_dir=elsewhere).fit()
    (target,) = elsewhere.glob("*/model.safetensors")
    before = digest_of_files(elsewhere)
    augmented = tiny(dataset, cache_dir=tmp_path / "cache")
    planted = augmented.storage.pipeline.model_store.path / file
    planted.parent.mkdir(parents=True)
    if kind == "link":
        planted.symlink_to(target)
    elif kind == "dangling":
        planted.symlink_to(tmp_path / "nowhere")
    elif kind == "folder":
        planted.mkdir()
    else:
        os.mkfifo(planted)
    with pytest.raises(CacheError, match=file):
        augmented.fit()
    assert digest_of_files(elsewhere) == before
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("trained", [True, False])
def test_row_15_a_link_as_key_folder_is_neither_read_nor_written_through(
    dataset: minari.MinariDataset, tmp_path: Path, trained: bool
) -> None:
    elsewhere = tmp_path / "elsewhere"
    if trained:
        tiny(dataset, cache_dir=elsewhere).fit()
        (target,) = (store.path for store in list_stores(elsewhere))
    else:
        target = elsewhere / "folder"
        target.mkdir(parents=True)
    before = digest_of_files(elsewhere)
    augmented = tiny(dataset, cache_dir=tmp_path / "cache")
    planted = augmented.storage.pipeline.model_store.path
    planted.parent.mkdir()
    planted.symlink_to(target)
    with pytest.raises(CacheError, match="is a symbolic link"):
        augmented.fit()
    with pytest.raises(CacheError, match="is a symbolic link"):
        augmented.is_fitted  # noqa: B018 - looks into the folder
    assert digest_of_files(elsewhere) == before


@pytest.mark.parametrize("kind", ["shard", "lock", "manifest"])
def test_row_15_links_among_the_shards_are_refused(dataset: minari.MinariDataset, tmp_path: Path, kind: str) -> None:
    augmented = tiny(dataset, cache_dir=tmp_path / "cache").generate()
    shard = sorted(augmented.path.glob("shard-*"))[0]
    outside = tmp_path / "outside"
    shutil.copy(shard, outside)
    planted = {
        "shard": shard,
        "lock": shard.with_name(".lock-shard-000000"),
        "manifest": shard.with_name("manifest.json"),
    }
    shard.unlink()
    planted[kind].unlink(missing_ok=True)
    planted[kind].symlink_to(outside)
    before = outside.read_bytes()
    fresh = tiny(dataset, cache_dir=tmp_path / "cache")
    with pytest.raises(CacheError, match=r"remove it|not a lock file"):
        list(fresh.generated)
    assert outside.read_bytes() == before


@pytest.mark.parametrize("text", [b"", b'{"kind": "traj', bytes(2_000_000)], ids=["empty", "cut", "large"])
def test_row_16_a_manifest_that_cannot_be_read_stops_no_shard(
    dataset: minari.MinariDataset, tmp_path: Path, text: bytes
) -> None:
    augmented = tiny(dataset, cache_dir=tmp_path).generate()
    before = digest_of_files(augmented.path)
    (augmented.path / "manifest.json").write_bytes(text)
    sorted(augmented.path.glob("shard-*"))[0].unlink()
    tiny(dataset, cache_dir=tmp_path).generate()
    assert digest_of_files(augmented.path) == before


def test_row_15_the_root_may_be_a_link(dataset: minari.MinariDataset, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    augmented = tiny(dataset, cache_dir=tmp_path / "link").generate()
    assert augmented.path.parent == (tmp_path / "real").resolve()
    assert tiny(dataset, cache_dir=tmp_path / "real").is_complete


def test_row_16_checkpoints_hold_arrays_and_text_only(dataset: minari.MinariDataset, tmp_path: Path) -> None:
    tiny(dataset, cache_dir=tmp_path).generate()
    for path in tmp_path.rglob("*"):
        if path.suffix == ".safetensors":
            assert load_file(path)
        elif path.is_file():
            assert isinstance(json.loads(path.read_text()), dict)


@pytest.mark.parametrize(
    "dataset_id",
    ["../linear-v0", "planted/../../linear-v0", "/tmp/linear-v0", "planted\\linear-v0", "planted//linear-v0", ""],
)
def test_row_17_hostile_ids_are_refused(monkeypatch: pytest.MonkeyPatch, dataset_id: str) -> None:
    monkeypatch.setattr(minari, "load_dataset", lambda *_: pytest.fail("Minari opened it"))
    with pytest.raises(UntrustedDatasetError, match="is not allowed"):
        tiny(dataset_id)


@pytest.mark.parametrize("spaces_kept", [True, False])
def test_row_17_a_dataset_that_would_run_code_is_refused_before_minari_opens_it(
    tmp_path: Path, spaces_kept: bool
) -> None:
    dataset = linear_dataset("planted/hostile-v0")
    path = dataset.storage.data_path / "metadata.json"
    metadata = json.loads(path.read_text())
    metadata["env_spec"] = json.dumps(
        {"id": "Evil-v0", "entry_point": "os:system", "kwargs": {"command": f"touch {tmp_path / 'mark'}"}}
    )
    if not spaces_kept:
        del metadata["observation_space"], metadata["action_space"]
    path.write_text(json.dumps(metadata))
    try:
        with pytest.raises(UntrustedDatasetError):
            tiny("planted/hostile-v0")
    finally:
        shutil.rmtree(path.parent.parent)
    assert not (tmp_path / "mark").exists()


def test_row_17_a_dataset_behind_a_link_is_refused(dataset: minari.MinariDataset) -> None:
    folder = dataset.storage.data_path.parent
    link = folder.with_name("linked-v0")
    link.symlink_to(folder)
    try:
        with pytest.raises(UntrustedDatasetError, match="is reached through the link"):
            tiny("planted/linked-v0")
    finally:
        link.unlink()
