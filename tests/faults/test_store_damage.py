"""Rows 4, 5, 12, 13 and 18 of the fault list: damaged, foreign and hostile files, wrong clocks."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gta_datasets.errors import CacheError
from gta_datasets.store import ShardStore
from gta_datasets.store.container import encode
from tests.store.helpers import KEY, OTHER_KEY, same, sample, shard_files

SMALL = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([True, False])}
METADATA = {"format": "gta-datasets shard", "format_version": "1", "key": KEY, "index": "0"}


def commit(folder: Path, index: int, data: bytes) -> Path:
    """Put any bytes in place of a shard, under the name that fits them."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"shard-{index:06d}.{hashlib.blake2b(data, digest_size=16).hexdigest()}.safetensors"
    path.write_bytes(data)
    return path


@pytest.fixture
def small(tmp_path: Path) -> tuple[Path, bytes]:
    """The file of a small shard, and its content."""
    store = ShardStore(tmp_path, KEY)
    store.put(0, SMALL)
    (path,) = shard_files(store.path)
    return path, path.read_bytes()


def test_the_helper_writes_what_the_store_writes(small: tuple[Path, bytes]) -> None:
    path, data = small
    assert data == b"".join(encode(SMALL, METADATA))
    assert commit(path.parent, 0, data) == path


def test_cut_at_every_length(small: tuple[Path, bytes], tmp_path: Path) -> None:
    path, data = small
    logging.disable()
    try:
        for length in range(len(data)):
            path.write_bytes(data[:length])
            assert ShardStore(tmp_path, KEY).get(0) is None, f"accepted the first {length} of {len(data)} bytes"
            assert not path.exists()
    finally:
        logging.disable(logging.NOTSET)
    path.write_bytes(data)
    assert same(ShardStore(tmp_path, KEY).get(0), SMALL)


@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
def test_every_byte_flipped(small: tuple[Path, bytes], tmp_path: Path, mask: int) -> None:
    path, data = small
    logging.disable()
    try:
        for at in range(len(data)):
            garbled = bytearray(data)
            garbled[at] ^= mask
            path.write_bytes(garbled)
            assert ShardStore(tmp_path, KEY).get(0) is None, f"accepted a change of byte {at}"
    finally:
        logging.disable(logging.NOTSET)


def test_bytes_appended_and_a_wrong_name_are_noticed(small: tuple[Path, bytes], tmp_path: Path) -> None:
    path, data = small
    path.write_bytes(data + b"\0")
    assert ShardStore(tmp_path, KEY).get(0) is None
    commit(path.parent, 0, data).rename(path.with_name(f"shard-000000.{'0' * 32}.safetensors"))
    assert ShardStore(tmp_path, KEY).get(0) is None
    assert shard_files(path.parent) == []


def test_a_damaged_shard_is_set_aside_reported_and_made_again(
    small: tuple[Path, bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, data = small
    for _ in range(3):  # a disk that keeps failing must not fill up with copies
        path.write_bytes(data[:-1])
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert same(ShardStore(tmp_path, KEY).get_or_make(0, lambda: SMALL), SMALL)
        assert caplog.text.count(f"{path} is damaged and counts as missing: the checksum of its") == 1
        assert path.with_name(f"{path.name}.bad").read_bytes() == data[:-1]
        assert sorted(os.listdir(path.parent)) == [path.name, f"{path.name}.bad"]


def test_damage_to_one_shard_leaves_the_others(tmp_path: Path) -> None:
    store = ShardStore(tmp_path, KEY)
    for index in range(3):
        store.put(index, sample(index))
    shard_files(store.path)[1].write_bytes(b"garbage")
    assert ShardStore(tmp_path, KEY).verify() == {0: True, 1: False, 2: True}
    assert [same(ShardStore(tmp_path, KEY).get(index), sample(index)) for index in range(3)] == [True, False, True]


def test_of_two_valid_files_the_same_one_counts_for_all(tmp_path: Path) -> None:
    folder = tmp_path / KEY
    candidates = [SMALL, {"a": np.zeros(3)}, {"a": np.ones(3)}]
    paths = [commit(folder, 0, b"".join(encode(arrays, METADATA))) for arrays in candidates]
    first, second = sorted(range(3), key=lambda number: paths[number].name)[:2]
    for _ in range(2):
        assert same(ShardStore(tmp_path, KEY).get(0), candidates[first])
    assert same(ShardStore(tmp_path, KEY).get_or_make(0, lambda: candidates[second]), candidates[first])
    paths[first].write_bytes(b"garbage")
    assert same(ShardStore(tmp_path, KEY).get(0), candidates[second])


@pytest.mark.parametrize("version", ["2", "0", "1.0", "", "99999999999999999999"])
def test_an_unknown_format_is_refused_and_kept(tmp_path: Path, version: str) -> None:
    path = commit(tmp_path / KEY, 0, b"".join(encode(SMALL, {**METADATA, "format_version": version})))
    store = ShardStore(tmp_path, KEY)
    for action in (lambda: store.get(0), lambda: store.get_or_make(0, dict), lambda: store.put(0, SMALL), store.verify):
        with pytest.raises(
            CacheError, match=rf"format version {version}; this version of gta_datasets reads version 1"
        ):
            action()
    assert path.exists()


@pytest.mark.parametrize(
    "metadata",
    [
        {**METADATA, "key": OTHER_KEY},
        {**METADATA, "index": "1"},
        {**METADATA, "more": "x"},
        {"key": KEY, "index": "0"},
        {},
    ],
)
def test_a_shard_from_elsewhere_is_not_returned(tmp_path: Path, metadata: dict[str, str]) -> None:
    path = commit(tmp_path / KEY, 0, b"".join(encode(SMALL, metadata)))
    assert ShardStore(tmp_path, KEY).get(0) is None
    assert not path.exists()
    assert same(ShardStore(tmp_path, KEY).get_or_make(0, lambda: SMALL), SMALL)


@pytest.mark.parametrize("years", [-10, 10])
def test_file_times_do_not_matter(tmp_path: Path, years: int, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ShardStore(tmp_path, KEY)
    store.put(0, sample(0))
    (store.path / ".lock-shard-000001").write_bytes(b"")
    for path in (*store.path.iterdir(), store.path, tmp_path):
        moment = path.stat().st_mtime + years * 365 * 86400
        os.utime(path, (moment, moment))
    monkeypatch.setattr("time.time", lambda: 0.0)
    after = ShardStore(tmp_path, KEY)
    assert same(after.get(0), sample(0))
    assert same(after.get_or_make(1, lambda: sample(1)), sample(1))
    assert after.verify() == {0: True, 1: True}


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200) | st.binary(max_size=40).map(lambda tail: b"".join(encode(SMALL, METADATA))[:-3] + tail))
def test_hostile_bytes_under_a_fitting_name_are_never_returned(tmp_path: Path, data: bytes) -> None:
    store = ShardStore(tmp_path, KEY)
    store.clear()
    path = commit(store.path, 0, data)
    found = store.get(0)
    if found is None:
        assert not path.exists()
    else:
        assert b"".join(encode(found, METADATA)) == data
    assert same(store.get_or_make(0, lambda: SMALL), SMALL if found is None else found)


class TestManifest:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (b"", "does not start a JSON object"),
            (b"[]", "does not start a JSON object"),
            (b'"x"', "does not start a JSON object"),
            (b'{"a": ', "not strict JSON"),
            (b'{"a": NaN}', "NaN is not JSON"),
            (b'{"a": -Infinity}', "-Infinity is not JSON"),
            (b'{"a": 1, "a": 2}', "repeated"),
            (b'{"a": "\xff"}', "not strict JSON"),
            (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "not strict JSON"),
            (b'{"a": ' + b"9" * 5_000 + b"}", "not strict JSON"),
            (b'{"a": "' + b"x" * (1 << 20) + b'"}', "larger than the 1,048,576 bytes allowed"),
        ],
        ids=["empty", "list", "string", "cut", "NaN", "infinity", "repeated", "bytes", "deep", "digits", "large"],
    )
    def test_hostile_text_is_refused(self, tmp_path: Path, text: bytes, message: str) -> None:
        store = ShardStore(tmp_path, KEY)
        store.path.mkdir()
        (store.path / "manifest.json").write_bytes(text)
        with pytest.raises(CacheError, match=message):
            store.read_manifest()
        store.write_manifest({"healed": True})
        assert store.read_manifest() == {"healed": True}

    @settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        st.binary(max_size=60) | st.text(alphabet='{}[]":,0123e-.\\ua ', max_size=60).map(lambda text: text.encode())
    )
    def test_fuzzed_text_is_an_object_or_refused(self, tmp_path: Path, text: bytes) -> None:
        store = ShardStore(tmp_path, KEY)
        store.path.mkdir(exist_ok=True)
        (store.path / "manifest.json").write_bytes(text)
        try:
            manifest = store.read_manifest()
        except CacheError:
            return
        assert manifest == json.loads(text)
        assert isinstance(manifest, dict)
