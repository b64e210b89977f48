"""The cache by the command line: what there is, whether it is sound, and how to be rid of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import minari
import pytest

from gta_datasets.store import ShardStore, list_stores
from gta_datasets.store.container import encode
from tests.cli.helpers import ID, SETTINGS, Run
from tests.faults.test_store_damage import METADATA, SMALL, commit
from tests.methods.test_levels import search
from tests.smoke import tiny
from tests.store.helpers import KEY, OTHER_KEY, sample, shard_files


def test_listing_the_cache(run: Run, dataset: minari.MinariDataset, tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    assert run("cache", "ls", "--cache-dir", absent) == (0, f"the cache {absent} is empty\n", "")
    augmented = tiny(dataset, seed=3, alpha=1.4, qualify=1e6, cache_dir=tmp_path).generate()
    code, output, _ = run("cache", "ls", "--cache-dir", tmp_path)
    assert code == 0
    lines = {line.split()[0]: line for line in output.splitlines()}
    assert set(lines) == {store.key for store in list_stores(tmp_path)}
    assert f"  {augmented.storage.pipeline.plan.num_shards} shards  trajectories of {ID}: " in lines[augmented.key]
    found = {line.split(" shards  ")[1].partition(":")[0]: line.split(": ")[1].split(", ") for line in lines.values()}
    assert set(found) == {f"trajectories of {ID}", f"model of {ID}", f"model (dynamics) of {ID}"}
    for words in found.values():
        assert words[:3] == ["gta", "seed 3", "preset smoke"]
        assert set(words[3:]) == {f"{name}={value}" for name, value in SETTINGS.items()} | {
            "alpha=1.4",
            "qualify=1000000.0",
        }


def test_a_model_in_training_is_listed_as_unfinished(run: Run, dataset: minari.MinariDataset, tmp_path: Path) -> None:
    tiny(dataset, cache_dir=tmp_path).fit()
    assert "unfinished" not in run("cache", "ls", "--cache-dir", tmp_path)[1]
    (weights,) = tmp_path.rglob("model.safetensors")
    weights.rename(weights.with_name("training.safetensors"))
    assert run("cache", "ls", "--cache-dir", tmp_path)[1].endswith(", unfinished\n")


def test_the_cache_of_the_environment_variable(
    run: Run, dataset: minari.MinariDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GTA_DATASETS_CACHE", str(tmp_path))
    key = tiny(dataset).key
    tiny(dataset).generate()
    assert key in run("cache", "ls")[1]


def test_a_cache_below_the_user_s_home(
    run: Run, dataset: minari.MinariDataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`--cache-dir=~/mine`, which a shell leaves as it is."""
    monkeypatch.setenv("HOME", str(tmp_path))
    key = tiny(dataset, cache_dir="~/mine").generate().key
    assert key in run("cache", "ls", "--cache-dir=~/mine")[1]


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_verifying_the_shards(run: Run, dataset: minari.MinariDataset, tmp_path: Path) -> None:
    none = "checked 0 shards, 0 files of models and 0 manifests: 0 damaged\n"
    assert run("cache", "verify", "--cache-dir", tmp_path)[:2] == (0, none)
    augmented = tiny(dataset, cache_dir=tmp_path).generate()
    number = augmented.storage.pipeline.plan.num_shards
    checked = f"checked {number} shards, 1 files of models and 2 manifests: "
    assert run("cache", "verify", "--cache-dir", tmp_path)[:2] == (0, f"{checked}0 damaged\n")
    damaged = sorted(augmented.path.glob("shard-*"))[1]
    flip_a_bit(damaged)
    code, output, _ = run("cache", "verify", "--cache-dir", tmp_path)
    assert code == 1
    assert output == f"{augmented.key} shard 1 was damaged and has been set aside\n{checked}1 damaged\n"
    assert not damaged.exists()
    assert run("cache", "verify", "--cache-dir", tmp_path)[0] == 0
    assert not tiny(dataset, cache_dir=tmp_path).is_complete


@pytest.mark.parametrize("name", ["model.safetensors", "training.safetensors"])
def test_verifying_the_weights(run: Run, dataset: minari.MinariDataset, tmp_path: Path, name: str) -> None:
    tiny(dataset, cache_dir=tmp_path).fit()
    (weights,) = tmp_path.rglob("model.safetensors")
    weights = weights.rename(weights.with_name(name))
    assert run("cache", "verify", "--cache-dir", tmp_path)[0] == 0
    flip_a_bit(weights)
    for _ in range(2):  # it stays where it is
        code, output, _ = run("cache", "verify", "--cache-dir", tmp_path)
        assert code == 1
        first, last = output.splitlines()
        assert first == f"{weights} is damaged (its checksum does not match); remove it to train again"
        assert last == "checked 0 shards, 1 files of models and 1 manifests: 1 damaged"


@pytest.mark.parametrize("change", [('"alpha": 1.3', '"alpha": 9.1'), ("\n}", "")])
def test_verifying_a_choice_of_levels(run: Run, tmp_path: Path, change: tuple[str, str]) -> None:
    choice, _ = search({(1.3, 0.5): (1.0, 0)})
    choice.fit(tmp_path / KEY, progress=False)
    checked = "checked 0 shards, 1 files of models and 0 manifests: "
    assert run("cache", "verify", "--cache-dir", tmp_path)[:2] == (0, f"{checked}0 damaged\n")
    path = tmp_path / KEY / "levels.json"
    path.write_text(path.read_text().replace(*change))
    code, output, _ = run("cache", "verify", "--cache-dir", tmp_path)
    assert code == 1
    first, last = output.splitlines()
    assert first.startswith(f"{path} is ")
    assert first.endswith("; remove it to choose again")
    assert last == f"{checked}1 damaged"


def test_a_damaged_manifest_is_named_and_the_others_are_listed(run: Run, tmp_path: Path) -> None:
    for key in (KEY, OTHER_KEY):
        store = ShardStore(tmp_path, key)
        store.put(0, sample(0))
        store.write_manifest({"kind": "trajectories", "dataset": key})
    path = tmp_path / KEY / "manifest.json"
    path.write_bytes(path.read_bytes()[:9])
    code, output, _ = run("cache", "ls", "--cache-dir", tmp_path)
    assert code == 1
    first, second = output.splitlines()
    assert first.startswith(f"{KEY}  ")
    assert f"  1 shards  {path} is refused: " in first
    assert first.endswith("; remove it")
    assert f"  1 shards  trajectories of {OTHER_KEY}: " in second
    code, output, _ = run("cache", "verify", "--cache-dir", tmp_path)
    assert code == 1
    first, last = output.splitlines()
    assert first.startswith(f"{path} is refused: ")
    assert last == "checked 2 shards, 0 files of models and 2 manifests: 1 damaged"


def plant_a_link(store: ShardStore) -> str:
    (path,) = shard_files(store.path)
    path.symlink_to(path.rename(path.with_name("elsewhere")))
    return f"{path} is a symbolic link"


def plant_another_format(store: ShardStore) -> str:
    path = commit(store.path, 0, b"".join(encode(SMALL, {**METADATA, "format_version": "2"})))
    for other in set(shard_files(store.path)) - {path}:
        other.unlink()
    return f"{path} has format version 2"


@pytest.mark.parametrize("plant", [plant_a_link, plant_another_format])
def test_verifying_goes_on_past_what_it_cannot_read(
    run: Run, tmp_path: Path, plant: Callable[[ShardStore], str]
) -> None:
    stores = [ShardStore(tmp_path, key) for key in (KEY, OTHER_KEY)]
    stores[0].put(0, sample(0))
    message = plant(stores[0])
    for store in stores:
        store.put(1, sample(1))
        flip_a_bit(shard_files(store.path)[-1])
    code, output, _ = run("cache", "verify", "--cache-dir", tmp_path)
    assert code == 1
    first, *aside, last = output.splitlines()
    assert first.startswith(message)
    assert aside == [f"{store.key} shard 1 was damaged and has been set aside" for store in stores]
    assert last == "checked 3 shards, 0 files of models and 0 manifests: 3 damaged"


def test_clearing_the_cache(run: Run, dataset: minari.MinariDataset, tmp_path: Path) -> None:
    augmented = tiny(dataset, cache_dir=tmp_path).generate()
    (tmp_path / "notes.txt").write_text("mine")
    code, output, errors = run("cache", "clear", "0" * 32, "--cache-dir", tmp_path)
    assert (code, output) == (2, "")
    assert errors == f"error: the cache has no key {'0' * 32}; `cache ls` lists those it has\n"
    assert augmented.is_complete
    assert run("cache", "clear", augmented.key, "--cache-dir", tmp_path)[:2] == (0, f"deleted {augmented.key}\n")
    assert not augmented.path.exists()
    (model,) = list_stores(tmp_path)
    for arguments in ([], ["--all", model.key]):
        code, output, errors = run("cache", "clear", *arguments, "--cache-dir", tmp_path)
        assert (code, output) == (2, "")
        assert errors.startswith(
            "error: give the keys to delete, as `cache ls` lists them, or --all for everything in "
        )
        assert model.path.exists()
    assert run("cache", "clear", "--all", "--cache-dir", tmp_path)[:2] == (0, f"deleted {model.key}\n")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
