"""Row 16 of the fault list: malicious and damaged checkpoints."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from gta_datasets.errors import CacheError
from gta_datasets.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tests.store.helpers import run
from tests.training.tasks import config_of, train_denoiser

STEPS = 6
TIMEOUT = 240  # seconds for a process of its own; it takes a few on an idle machine


class _Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def healthy(**record: object) -> bytes:
    """A checkpoint as safetensors writes it, without this library's checksum."""
    return safetensors.torch.save({"x": torch.ones(4)}, metadata={"record": json.dumps(record)})


def with_header(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def described(**changes: object) -> bytes:
    """A file that holds four floats, described in some other way."""
    entry = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} | changes
    return with_header(json.dumps({"__metadata__": {"record": "{}"}, "x": entry}).encode(), bytes(16))


def recorded(record: str | None) -> bytes:
    return safetensors.torch.save({"x": torch.ones(4)}, metadata=None if record is None else {"record": record})


HOSTILE: dict[str, Callable[[Path], bytes]] = {
    "empty": lambda mark: b"",
    "four bytes": lambda mark: b"\0" * 4,
    "pickle": lambda mark: pickle.dumps(_Bomb(mark)),
    "pickle protocol 0": lambda mark: pickle.dumps(_Bomb(mark), protocol=0),
    "header of 2^63": lambda mark: struct.pack("<Q", 2**63) + b"{}",
    "header of 2^64 - 1": lambda mark: b"\xff" * 8 + b"{}",
    "header beyond the end": lambda mark: struct.pack("<Q", 1000) + b"{}",
    "header that is not JSON": lambda mark: with_header(b"not json"),
    "header that is a list": lambda mark: with_header(b"[1, 2]"),
    "header nested deeply": lambda mark: with_header(b"[" * 100_000),
    "truncated data": lambda mark: healthy()[:-1],
    "truncated header": lambda mark: healthy()[:20],
    "trailing data": lambda mark: healthy() + b"\0",
    "no metadata": lambda mark: recorded(None),
    "no record": lambda mark: safetensors.torch.save({"x": torch.ones(4)}, metadata={"other": "{}"}),
    "record that is not JSON": lambda mark: recorded("{"),
    "record that is a list": lambda mark: recorded("[1]"),
    "record that is a number": lambda mark: recorded("3"),
    "record that is null": lambda mark: recorded("null"),
    "record nested deeply": lambda mark: recorded("[" * 100_000),
    "record nested to the limit": lambda mark: recorded('{"a":' + "[" * 950 + "]" * 950 + "}"),
    "record with a huge number": lambda mark: recorded('{"step": ' + "9" * 10_000 + "}"),
    "no checksum": lambda mark: healthy(step=1),
    "huge shape": lambda mark: described(shape=[2**40, 2**40]),
    "overflowing shape": lambda mark: described(shape=[2**63, 2]),
    "negative shape": lambda mark: described(shape=[-4]),
    "offsets beyond the end": lambda mark: described(data_offsets=[0, 2**62], shape=[2**60]),
    "offsets in the wrong order": lambda mark: described(data_offsets=[16, 0]),
    "unknown dtype": lambda mark: described(dtype="OBJECT"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_malicious_checkpoint_is_refused_and_runs_nothing(tmp_path: Path, name: str) -> None:
    path, mark = tmp_path / "model.safetensors", tmp_path / "mark"
    path.write_bytes(HOSTILE[name](mark))
    with pytest.raises(
        CacheError, match=r"model\.safetensors .*(not a checkpoint|damaged).*; remove it to train again"
    ):
        load_checkpoint(path)
    with pytest.raises(CacheError, match="remove it to train again"):
        train_denoiser(path, config_of(2))
    assert not mark.exists()


def test_the_bomb_would_go_off(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(_Bomb(tmp_path / "mark")))
    assert (tmp_path / "mark").exists()


def test_a_checkpoint_of_torch_is_refused(tmp_path: Path) -> None:
    torch.save({"x": _Bomb(tmp_path / "mark")}, tmp_path / "model.safetensors")
    with pytest.raises(CacheError, match="not a checkpoint"):
        load_checkpoint(tmp_path / "model.safetensors")
    assert not (tmp_path / "mark").exists()


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    save_checkpoint(path, Checkpoint({"x": torch.arange(4.0), "y": torch.tensor(1.0)}, {"step": 1}))
    whole = path.read_bytes()
    original = load_checkpoint(path)
    assert original is not None
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 0x15
        path.write_bytes(damaged)
        try:
            found = load_checkpoint(path)
        except CacheError:
            continue
        # Spaces that pad the header may change without changing anything.
        assert found is not None
        assert found.digest == original.digest


@pytest.mark.parametrize("kind", ["link", "link to nothing", "folder", "fifo"])
def test_planted_files_are_refused(tmp_path: Path, kind: str) -> None:
    """Row 15: a link is not followed, and a FIFO does not hang."""
    path, elsewhere = tmp_path / "file", tmp_path / "elsewhere"
    save_checkpoint(elsewhere, Checkpoint({"x": torch.ones(1)}, {}))
    if kind == "link":
        path.symlink_to(elsewhere)
    elif kind == "link to nothing":
        path.symlink_to(tmp_path / "nothing")
    elif kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    before = elsewhere.read_bytes()
    with pytest.raises(CacheError, match=r"symbolic link|not an ordinary file"):
        load_checkpoint(path)
    with pytest.raises(CacheError, match=r"symbolic link|not an ordinary file"):
        save_checkpoint(path, Checkpoint({"x": torch.zeros(1)}, {}))
    assert elsewhere.read_bytes() == before
    assert not (tmp_path / "nothing").exists()


# Loads each file with little memory to spare, and prints what came of it.
BOUNDED = """
import resource, sys
from pathlib import Path
import torch
from gta_datasets.errors import CacheError
from gta_datasets.training.checkpoint import load_checkpoint

used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 128 * 2**20, -1))
for path in sys.argv[1:]:
    try:
        load_checkpoint(Path(path))
    except CacheError as error:
        print("refused:", str(error)[-60:])
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux to limit memory")
def test_refusing_takes_little_memory(tmp_path: Path) -> None:
    def sparse(name: str, start: bytes, size: int) -> Path:
        with (tmp_path / name).open("wb") as file:
            file.write(start)
            file.truncate(size)
        return tmp_path / name

    files = [
        sparse("header of 2^63", struct.pack("<Q", 2**63), 2**20),
        sparse("header of 90 MB", struct.pack("<Q", 90_000_000) + b'{"', 200_000_000),
        sparse("header of 4 GB", struct.pack("<Q", 4_000_000_000) + b'{"', 5_000_000_000),
        sparse("a terabyte", healthy(), 2**40),
    ]
    lines = run(BOUNDED, *files, timeout=TIMEOUT).splitlines()
    assert len(lines) == len(files)
    assert all(line.startswith("refused:") for line in lines)


def tampered(path: Path, change: Callable[[dict[str, Tensor], dict[str, Any]], None]) -> None:
    """Change a checkpoint and give it a valid checksum again."""
    found = load_checkpoint(path)
    assert found is not None
    tensors, record = dict(found.tensors), dict(found.record)
    change(tensors, record)
    save_checkpoint(path, Checkpoint(tensors, record))


def first_of(tensors: dict[str, Tensor], start: str) -> str:
    return next(name for name in sorted(tensors) if name.startswith(start))


MISFITS: dict[str, Callable[[dict[str, Tensor], dict[str, Any]], Any]] = {
    "no weights": lambda tensors, record: tensors.clear(),
    "a weight is missing": lambda tensors, record: tensors.pop(first_of(tensors, "module.")),
    "an average is missing": lambda tensors, record: tensors.pop(first_of(tensors, "average.")),
    "a weight of another shape": lambda tensors, record: tensors.update(
        {first_of(tensors, "module."): torch.zeros(2, 7)}
    ),
    "a weight too many": lambda tensors, record: tensors.update({"module.more": torch.zeros(1)}),
    "a momentum of another shape": lambda tensors, record: tensors.update({"optimizer.0.0.exp_avg": torch.zeros(7)}),
    "a momentum of a parameter that is not there": lambda tensors, record: tensors.update(
        {"optimizer.0.999.exp_avg": torch.zeros(1)}
    ),
    "a momentum without a number": lambda tensors, record: tensors.update({"optimizer.0.x.exp_avg": torch.zeros(1)}),
    "no step": lambda tensors, record: record.pop("step"),
    "a step that is a word": lambda tensors, record: record.update(step="many"),
    "a step that is null": lambda tensors, record: record.update(step=None),
    "a step before the first": lambda tensors, record: record.update(step=-1),
    "a step beyond the last": lambda tensors, record: record.update(step=STEPS + 1),
    "no losses": lambda tensors, record: record.pop("losses"),
    "losses that are a number": lambda tensors, record: record.update(losses=3),
    "losses that are words": lambda tensors, record: record.update(losses=["small"]),
    "recent losses that are null": lambda tensors, record: record.update(recent=[None]),
}


@pytest.mark.parametrize("name", MISFITS)
def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path: Path, name: str) -> None:
    checkpoint, config = tmp_path / "file", config_of(STEPS, "muon")
    train_denoiser(checkpoint, config)
    tampered(checkpoint, MISFITS[name])
    before = checkpoint.read_bytes()
    with pytest.raises(CacheError, match=r"file does not fit this run .*; remove it to train again"):
        train_denoiser(checkpoint, config)
    assert checkpoint.read_bytes() == before
