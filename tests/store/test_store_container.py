from __future__ import annotations

import gc
import json
import os
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from gta_datasets.errors import CacheError
from gta_datasets.store.container import ContainerError, decode, encode
from gta_datasets.store.mapping import map_file
from tests.store.helpers import same, sample

DTYPES = st.sampled_from(["?", "u1", "i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8", "<f2", "<f4", "<f8"]).map(np.dtype)
ARRAYS = st.dictionaries(
    st.from_regex(r"[A-Za-z0-9_.-]{1,12}", fullmatch=True).filter(lambda name: name != "__metadata__"),
    DTYPES.flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))),
    max_size=5,
)


def packed(header: object, body: bytes = b"") -> NDArray[np.uint8]:
    """A file with any header, padded as the format wants."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return np.frombuffer(struct.pack("<Q", len(text)) + text + body, np.uint8)


def entry(dtype: object = "U8", shape: object = (4,), offsets: object = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@settings(deadline=None)
@given(ARRAYS)
def test_round_trip_and_stock_safetensors_agrees(arrays: dict[str, NDArray[Any]]) -> None:
    data = b"".join(encode(arrays, {"key": "value"}))
    metadata, decoded = decode(np.frombuffer(data, np.uint8))
    assert metadata == {"key": "value"}
    assert same(decoded, arrays)
    assert same(safetensors.numpy.load(data), arrays)
    assert all(array.flags.aligned and not array.flags.writeable for array in decoded.values())


def test_scattered_and_big_endian_arrays_come_back_in_canonical_form() -> None:
    values = np.arange(12.0).reshape(3, 4)
    arrays = {"fortran": np.asfortranarray(values), "big": values.astype(">f8"), "step": values[:, ::2]}
    _, decoded = decode(np.frombuffer(b"".join(encode(arrays, {})), np.uint8))
    assert same(decoded, {"fortran": values, "big": values, "step": np.ascontiguousarray(values[:, ::2])})


def test_contiguous_arrays_are_not_copied() -> None:
    values = np.zeros(1000)
    _, buffer = encode({"a": values}, {})
    assert np.shares_memory(np.frombuffer(buffer, np.uint8), values)
    data = np.frombuffer(b"".join(encode({"a": values}, {})), np.uint8)
    assert np.shares_memory(decode(data)[1]["a"], data)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.array(["text"])}, "array 'a' has dtype <U4; allowed are bool, float16"),
        ({"a": np.array([None])}, "has dtype object"),
        ({"a": np.zeros(1, np.complex128)}, "has dtype complex128"),
        ({"a": np.zeros(1, [("x", "f4")])}, "has dtype"),
        ({"../a": np.zeros(1)}, "'../a' cannot name an array"),
        ({"": np.zeros(1)}, "'' cannot name an array"),
        ({"__metadata__": np.zeros(1)}, "'__metadata__' cannot name an array"),
        ({"a": np.zeros((1,) * 9)}, "8 axes"),
        ({"a": np.zeros((0, 2**46))}, "2\\^48 bytes"),
        ({f"{i:0120d}": np.zeros(0) for i in range(7000)}, "a header of .* at most 1,048,576"),
    ],
)
def test_what_a_shard_cannot_hold_is_refused(arrays: dict[str, NDArray[Any]], message: str) -> None:
    with pytest.raises(CacheError, match=message):
        encode(arrays, {})


HOSTILE = {
    "empty file": (np.zeros(0, np.uint8), "too few"),
    "seven bytes": (np.zeros(7, np.uint8), "too few"),
    "header of 2^63": (np.frombuffer(struct.pack("<Q", 2**63) + b"{}", np.uint8), "header of 9,223"),
    "header of 2^64 - 1": (np.frombuffer(b"\xff" * 64, np.uint8), "header of"),
    "header past the end": (np.frombuffer(struct.pack("<Q", 16) + b"{}      ", np.uint8), "does not fit"),
    "header over the limit": (packed(b'{"a":1}' + b" " * (1 << 20)), "limit"),
    "unaligned header": (np.frombuffer(struct.pack("<Q", 2) + b"{}", np.uint8), "unaligned"),
    "not JSON": (packed(b"{nonsense"), "not strict JSON"),
    "not UTF-8": (packed(b'{"\xff": 1}'), "not strict JSON"),
    "a list": (packed([]), "does not start a JSON object"),
    "deep nesting": (packed(b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"), "not strict JSON|is not described"),
    "huge number": (packed(b'{"a":' + b"9" * 10_000 + b"}"), "not strict JSON"),
    "NaN": (packed(b'{"a": NaN}'), "NaN is not JSON"),
    "repeated name": (packed(b'{"a": {}, "a": {}}'), "repeated"),
    "metadata not strings": (packed({"__metadata__": {"key": 1}}), "metadata"),
    "metadata a list": (packed({"__metadata__": []}), "metadata"),
    "absolute path as name": (packed({"/etc/passwd": entry()}, b"1234"), "not described"),
    "entry a number": (packed({"a": 1}), "not described"),
    "entry with more": (packed({"a": {**entry(), "more": 1}}, b"1234"), "not described"),
    "dtype unknown": (packed({"a": entry("OBJECT")}, b"1234"), "dtype that is not allowed"),
    "dtype a list": (packed({"a": entry(["U8"])}, b"1234"), "dtype that is not allowed"),
    "negative axis": (packed({"a": entry(shape=(-4,))}, b"1234"), "not lists of sizes"),
    "two negative axes": (packed({"a": entry(shape=(-2, -2))}, b"1234"), "not lists of sizes"),
    "axis a float": (packed({"a": entry(shape=(4.0,))}, b"1234"), "not lists of sizes"),
    "axis true": (packed({"a": entry(shape=(True, 4))}, b"1234"), "not lists of sizes"),
    "shape a number": (packed({"a": entry(shape=4)}, b"1234"), "not lists of sizes"),
    "many axes": (packed({"a": entry(shape=(1,) * 65 + (4,))}, b"1234"), "not lists of sizes"),
    "huge shape": (packed({"a": entry(shape=(2**62, 4))}, b"1234"), "2\\^48"),
    "shape wraps to 4": (packed({"a": entry(shape=(2**32 + 1, 2**34, 4))}, b"1234"), "2\\^48"),
    "huge empty shape": (packed({"a": entry(shape=(0, 2**62, 2**62), offsets=(0, 0))}), "2\\^48"),
    "shape too large": (packed({"a": entry(shape=(5,))}, b"1234"), "does not lie at"),
    "shape too small": (packed({"a": entry(shape=(3,))}, b"1234"), "does not lie at"),
    "wrong width": (packed({"a": entry("F32", (4,))}, b"1234"), "does not lie at"),
    "beyond the end": (packed({"a": entry(shape=(8,), offsets=(0, 8))}, b"1234"), "does not lie at"),
    "end before start": (packed({"a": entry(offsets=(4, 0))}, b"1234"), "starts at byte 4"),
    "three offsets": (packed({"a": entry(offsets=(0, 4, 4))}, b"1234"), "not lists of sizes"),
    "overlap": (packed({"a": entry(), "b": entry()}, b"1234"), "starts at byte 0 where byte 4"),
    "hole": (packed({"a": entry(shape=(2,), offsets=(2, 4))}, b"1234"), "starts at byte 2 where byte 0"),
    "tail": (packed({"a": entry()}, b"12345"), "5 bytes of arrays where 4"),
    "unaligned array": (
        packed({"a": entry("U8", (1,), (0, 1)), "b": entry("F32", (1,), (1, 5))}, b"12345"),
        "does not lie at",
    ),
    "boolean 2": (packed({"a": entry("BOOL")}, b"\x00\x01\x02\x00"), "no booleans"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused_within_limits(case: str) -> None:
    data, message = HOSTILE[case]
    tracemalloc.start()
    try:
        with pytest.raises(ContainerError, match=message):
            decode(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 << 20


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
SIZES = st.integers(0, 9) | st.integers(-(2**65), 2**65)
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["U8", "BOOL", "F32", "I64", "BF16", "x"]) | JSON,
        "shape": st.lists(SIZES, max_size=3) | JSON,
        "data_offsets": st.lists(SIZES, min_size=2, max_size=2) | JSON,
    }
)
HEADERS = st.dictionaries(
    st.sampled_from(["a", "b", "__metadata__", ""]) | st.text(max_size=3), ENTRIES | JSON, max_size=3
)


@settings(deadline=None, max_examples=300)
@given(HEADERS, st.binary(max_size=16))
@example({"a": entry(), "__metadata__": {"x": "y"}}, b"\x00\x01\x02\x03")
@example({"a": entry("F32", (0, 3), (0, 0)), "b": entry("BOOL", (2, 2))}, b"\x00\x01\x01\x00")
def test_what_is_accepted_is_what_stock_safetensors_reads(header: dict[str, Any], body: bytes) -> None:
    data = packed(header, body)
    try:
        _, arrays = decode(data)
    except ContainerError:
        return
    assert same(safetensors.numpy.load(data.tobytes()), arrays)
    assert sum(array.nbytes for array in arrays.values()) == len(body)


@settings(deadline=None, max_examples=300)
@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=12))
def test_overwritten_headers_never_reach_outside_the_file(at: int, patch: bytes) -> None:
    original = b"".join(encode(sample(0), {"key": "value"}))
    at %= len(original)
    data = np.frombuffer((original[:at] + patch + original[at + len(patch) :]), np.uint8)
    try:
        _, arrays = decode(data)
    except ContainerError:
        return
    low, high = np.lib.array_utils.byte_bounds(data)
    for array in arrays.values():
        first, last = np.lib.array_utils.byte_bounds(array)
        assert array.size == 0 or low <= first <= last <= high


class TestMap:
    def test_shows_the_file_read_only_and_holds_no_descriptor(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_bytes(bytes(range(200)))
        descriptor = os.open(path, os.O_RDONLY)
        mapped = map_file(descriptor, 200)
        os.close(descriptor)
        assert mapped.tobytes() == bytes(range(200))
        with pytest.raises(ValueError, match="read-only"):
            mapped[0] = 1
        with pytest.raises(ValueError, match="WRITEABLE"):
            mapped.flags.writeable = True

    def test_lives_as_long_as_any_view_and_no_longer(self, tmp_path: Path) -> None:
        path = tmp_path / "mapped-file"
        path.write_bytes(b"x" * 100_000)
        descriptor = os.open(path, os.O_RDONLY)
        view = map_file(descriptor, 100_000)[50_000:].view(np.uint32).reshape(-1, 2)[::3]
        os.close(descriptor)
        os.unlink(path)
        gc.collect()
        assert set(view.tobytes()) == {ord("x")}
        maps = Path("/proc/self/maps")
        if maps.exists():
            assert "mapped-file" in maps.read_text()
            del view
            gc.collect()
            assert "mapped-file" not in maps.read_text()

    def test_failure_is_an_os_error(self, tmp_path: Path) -> None:
        descriptor = os.open(tmp_path, os.O_RDONLY)
        try:
            with pytest.raises(OSError, match="No such device"):
                map_file(descriptor, 100)
        finally:
            os.close(descriptor)
