from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gta_datasets.errors import ConfigError
from gta_datasets.store import content_key
from tests.store.helpers import run

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=8
)
PARTS = st.dictionaries(st.text(), VALUES, max_size=3)


def canonical(value: Any) -> str:
    """An independent notion of equality: JSON with sorted names tells 1, 1.0, true and "1" apart, as the key must."""
    return json.dumps(value, sort_keys=True)


@settings(deadline=None)
@given(PARTS, PARTS)
def test_keys_agree_exactly_if_the_content_does(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert (content_key(first) == content_key(second)) == (canonical(first) == canonical(second))


@settings(deadline=None)
@given(PARTS)
def test_json_round_trip_and_order_do_not_matter(parts: dict[str, Any]) -> None:
    reordered = dict(reversed(json.loads(json.dumps(parts)).items()))
    assert content_key(reordered) == content_key(parts)


LOOKALIKES: list[dict[str, Any]] = [
    {},
    {"a": {}},
    {"a": []},
    {"a": ""},
    {"a": None},
    {"a": 0},
    {"a": 0.0},
    {"a": -0.0},
    {"a": False},
    {"a": "0"},
    {"a": [0]},
    {"a": [[0]]},
    {"a": [0, 0]},
    {"a": ["ab", "c"]},
    {"a": ["a", "bc"]},
    {"a": ["abc"]},
    {"a": "N"},
    {"a": math.inf},
    {"a": math.nan},
    {"a": {"b": 0}},
    {"a": {}, "b": 0},
    {"b": {}, "a": 0},
    {"a": np.zeros(0)},
    {"a": np.zeros(())},
    {"a": np.zeros(1)},
    {"a": np.zeros((1, 1))},
    {"a": np.zeros(2)},
    {"a": np.zeros((2, 0))},
    {"a": np.zeros((0, 2))},
    {"a": np.zeros(2, np.float32)},
    {"a": np.zeros(2, np.int64)},
    {"a": np.zeros(2, np.uint64)},
    {"a": np.zeros(8, np.uint8)},
    {"a": np.zeros(8, np.bool_)},
    {"a": np.zeros(2, np.complex64)},
    {"a": np.array([0.0, -0.0])},
]


def test_lookalikes_have_different_keys() -> None:
    assert len({content_key(parts) for parts in LOOKALIKES}) == len(LOOKALIKES)


def test_memory_layout_does_not_matter() -> None:
    values = np.arange(24.0).reshape(4, 6)
    layouts = [np.asfortranarray(values), np.repeat(values, 2, axis=0)[::2], values.astype(">f8"), values[::-1][::-1]]
    assert {content_key({"a": layout}) for layout in layouts} == {content_key({"a": values})}
    assert content_key({"a": np.array(3.0, dtype=">f8")}) == content_key({"a": np.array(3.0)})


def test_blocks_of_a_scattered_array_join_to_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.arange(7 * 5, dtype=np.int32).reshape(7, 5)
    monkeypatch.setattr("gta_datasets.store.key._BLOCK", 2 * 5 * 4)
    assert content_key({"a": np.asfortranarray(values)}) == content_key({"a": values})


@pytest.mark.parametrize("at", [0, 12345, 99_999])
def test_one_changed_value_changes_the_key(at: int) -> None:
    values = np.zeros(100_000, np.float32)
    before = content_key({"rewards": values})
    values[at] = np.nextafter(np.float32(0), np.float32(1))
    assert content_key({"rewards": values}) != before


def test_tuples_equal_lists_and_strings_are_not_sequences_of_letters() -> None:
    assert content_key({"a": (1, 2)}) == content_key({"a": [1, 2]})
    assert content_key({"a": "xy"}) != content_key({"a": ["x", "y"]})


def test_stable_across_processes_and_versions() -> None:
    parts: dict[str, Any] = {"b": [1, 2.5, None, True, "µ"], "a": {"y": np.arange(3), "x": -(2**70)}}
    script = (
        "import numpy as np; from gta_datasets.store import content_key;"
        "print(content_key({'a': {'x': -(2**70), 'y': np.arange(3)}, 'b': [1, 2.5, None, True, '\\u00b5']}))"
    )
    # The literal guards existing caches: a change here would orphan every user's data.
    assert content_key(parts) == run(script).strip() == "bb251d4c5c54d3d840ec9cd10c5787d0"


@pytest.mark.parametrize(
    ("parts", "place"),
    [
        ({"config": {"mu": np.float32(0.5)}}, r"parts\['config'\]\['mu'\] is a float32"),
        ({"weights": [0, b"raw"]}, r"parts\['weights'\]\[1\] is a bytes"),
        ({"spaces": {1, 2}}, r"parts\['spaces'\] is a set"),
        ({"a": {1: 2}}, r"parts\['a'\] has the key 1; only strings"),
        ({"a": np.array(["x"])}, r"parts\['a'\] is an array of dtype <U1"),
        ({"a": np.array([object()])}, r"dtype object"),
        ({"a": np.zeros(1, np.longdouble)}, r"dtype float128|dtype longdouble"),
    ],
)
def test_what_has_no_canonical_form_is_refused(parts: Any, place: str) -> None:
    with pytest.raises(ConfigError, match=place):
        content_key(parts)
