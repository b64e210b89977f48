from __future__ import annotations

import pickle

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from gta_datasets.data.spaces import SpaceCodec
from gta_datasets.errors import DatasetError, UnsupportedSpaceError
from tests.builders import stack

FLOATS = [np.float16, np.float32, np.float64]
INTEGERS = [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64]


@st.composite
def float_boxes(draw):
    dtype = draw(st.sampled_from(FLOATS))
    shape = tuple(draw(st.lists(st.integers(1, 3), max_size=2)))
    size = int(np.prod(shape))
    pairs = draw(st.lists(st.tuples(st.floats(-1e4, 1e4), st.floats(0, 1e4)), min_size=size, max_size=size))
    low = np.array([a for a, _ in pairs], dtype).reshape(shape)
    high = np.array([a + b for a, b in pairs], dtype).reshape(shape)
    open_below, open_above = draw(st.booleans()), draw(st.booleans())
    return spaces.Box(
        np.full_like(low, -np.inf) if open_below else low,
        np.full_like(high, np.inf) if open_above else high,
        dtype=dtype,
    )


@st.composite
def integer_boxes(draw):
    dtype = draw(st.sampled_from(INTEGERS))
    info = np.iinfo(dtype)
    low = draw(st.integers(max(int(info.min), 1 - 2**53), min(int(info.max), 2**53 - 1) - 1))
    high = draw(st.integers(low, min(int(info.max), 2**53 - 1)))
    return spaces.Box(low, high, (draw(st.integers(1, 3)),), dtype)


@st.composite
def multi_discretes(draw):
    counts = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    starts = draw(st.lists(st.integers(-3, 3), min_size=len(counts), max_size=len(counts)))
    if len(counts) == 4:
        counts, starts = np.reshape(counts, (2, 2)), np.reshape(starts, (2, 2))
    return spaces.MultiDiscrete(np.array(counts), start=np.array(starts))


leaves = st.one_of(
    float_boxes(),
    integer_boxes(),
    st.builds(lambda n, start: spaces.Discrete(n, start=start), st.integers(1, 6), st.integers(-5, 5)),
    multi_discretes(),
    st.builds(spaces.MultiBinary, st.one_of(st.integers(1, 4), st.just([2, 3]))),
)
nested = st.recursive(
    leaves,
    lambda children: st.one_of(
        st.builds(
            spaces.Dict, st.dictionaries(st.text("abcxyz", min_size=1, max_size=3), children, min_size=1, max_size=3)
        ),
        st.builds(spaces.Tuple, st.lists(children, min_size=1, max_size=3)),
    ),
    max_leaves=5,
)


def members(space, batch, rows):
    """The single samples of a batch, by an independent walk."""
    if isinstance(space, spaces.Dict):
        columns = {key: members(child, batch[key], rows) for key, child in space.spaces.items()}
        return [{key: column[i] for key, column in columns.items()} for i in range(rows)]
    if isinstance(space, spaces.Tuple):
        columns = [members(child, part, rows) for child, part in zip(space.spaces, batch, strict=True)]
        return [tuple(column[i] for column in columns) for i in range(rows)]
    return [np.asarray(batch[i]) for i in range(rows)]


def assert_same(space, left, right):
    if isinstance(space, spaces.Dict):
        for key, child in space.spaces.items():
            assert_same(child, left[key], right[key])
    elif isinstance(space, spaces.Tuple):
        for child, a, b in zip(space.spaces, left, right, strict=True):
            assert_same(child, a, b)
    else:
        assert left.dtype == right.dtype == space.dtype
        np.testing.assert_array_equal(left, right)


@settings(max_examples=150, deadline=None)
@given(nested, st.integers(1, 4), st.integers(0, 1000))
def test_samples_survive_the_round_trip_exactly(space, rows, seed):
    space.seed(seed)
    batch = stack(space, [space.sample() for _ in range(rows)])
    codec = SpaceCodec.of(space)
    flat = codec.flatten(batch)
    assert flat.shape == (rows, codec.size)
    assert flat.dtype == codec.dtype
    assert_same(space, codec.unflatten(flat), batch)
    assert_same(space, codec.unflatten(flat, clip=False), batch)
    np.testing.assert_array_equal(codec.project(flat), flat)


@settings(max_examples=150, deadline=None)
@given(nested, st.integers(1, 4), st.integers(0, 1000), st.sampled_from([1e-3, 1.0, 1e3, 1e30]))
def test_any_finite_vector_becomes_a_member_of_the_space(space, rows, seed, scale):
    codec = SpaceCodec.of(space)
    flat = (np.random.default_rng(seed).normal(size=(rows, codec.size)) * scale).astype(codec.dtype)
    before = flat.copy()
    batch = codec.unflatten(flat)
    for sample in members(space, batch, rows):
        assert sample in space
    projected = codec.project(flat)
    assert projected.dtype == codec.dtype
    np.testing.assert_array_equal(codec.project(projected), projected)
    np.testing.assert_array_equal(codec.flatten(batch), projected)
    assert_same(space, codec.unflatten(projected), batch)
    np.testing.assert_array_equal(flat, before)


@settings(max_examples=50, deadline=None)
@given(nested)
def test_leaves_tile_the_vector_in_order(space):
    codec = SpaceCodec.of(space)
    assert codec.leaves[0].start == 0
    assert codec.leaves[-1].stop == codec.size
    assert all(left.stop == right.start for left, right in zip(codec.leaves, codec.leaves[1:], strict=False))
    assert codec.size == spaces.flatdim(space)


def test_keys_and_spaces_of_a_nested_space():
    space = spaces.Dict(
        {
            "goal": spaces.Box(-1, 1, (2,)),
            "pair": spaces.Tuple([spaces.Discrete(3, start=1), spaces.MultiBinary(2)]),
            "tick": spaces.Box(0, 9, (1,), np.int16),
        }
    )
    codec = SpaceCodec.of(space)
    assert [tuple(leaf) for leaf in codec.leaves] == [
        (("goal",), 0, 2, space["goal"]),
        (("pair", 0), 2, 5, space["pair"][0]),
        (("pair", 1), 5, 7, space["pair"][1]),
        (("tick",), 7, 8, space["tick"]),
    ]
    flat = codec.flatten(
        {
            "goal": np.array([[0.25, -1.0]], np.float32),
            "pair": (np.array([3]), np.array([[1, 0]], np.int8)),
            "tick": np.array([[7]], np.int16),
        }
    )
    np.testing.assert_array_equal(flat, [[0.25, -1.0, 0, 0, 1, 1, 0, 7]])


def test_multi_discrete_is_one_hot_per_element_with_its_start():
    codec = SpaceCodec.of(spaces.MultiDiscrete(np.array([2, 3]), start=np.array([0, -1])), name="action")
    np.testing.assert_array_equal(codec.flatten(np.array([[1, -1], [0, 1]])), [[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]])
    np.testing.assert_array_equal(codec.unflatten(np.array([[0.1, 0.2, -5.0, 0.3, 0.1]])), [[1, 0]])


def test_bits_are_split_at_one_half():
    codec = SpaceCodec.of(spaces.MultiBinary(4))
    flat = np.array([[0.49, 0.5, 0.51, -3.0]], np.float32)
    np.testing.assert_array_equal(codec.unflatten(flat), [[0, 0, 1, 0]])
    np.testing.assert_array_equal(codec.project(flat), [[0, 0, 1, 0]])


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (spaces.Box(-1, 1, (2,), np.float32), np.float32),
        (spaces.Box(-1, 1, (2,), np.float16), np.float32),
        (spaces.Box(-1, 1, (2,), np.float64), np.float64),
        (spaces.Box(0, 100, (2,), np.int16), np.float32),
        (spaces.Box(0, 100, (2,), np.int32), np.float64),
        (spaces.Dict(a=spaces.Box(-1, 1), b=spaces.Box(-1, 1, dtype=np.float64)), np.float64),
        (spaces.Discrete(4), np.float32),
    ],
)
def test_flat_dtype_is_wide_enough(space, expected):
    assert SpaceCodec.of(space).dtype == expected


def test_float64_keeps_a_small_scale_at_a_large_offset():
    values = 1e9 + 1e-7 * np.arange(20).reshape(10, 2)
    codec = SpaceCodec.of(spaces.Box(-np.inf, np.inf, (2,), np.float64))
    np.testing.assert_array_equal(codec.unflatten(codec.flatten(values)), values)


def test_infinite_bounds_never_clip_and_finite_ones_do():
    space = spaces.Box(np.array([-np.inf, 0.0, -np.inf], np.float32), np.array([np.inf, np.inf, 1.0], np.float32))
    flat = np.array([[1e30, -5.0, 7.0], [-1e30, 1e30, -1e30]], np.float32)
    expected = np.array([[1e30, 0.0, 1.0], [-1e30, 1e30, -1e30]], np.float32)
    codec = SpaceCodec.of(space)
    np.testing.assert_array_equal(codec.unflatten(flat), expected)
    np.testing.assert_array_equal(codec.unflatten(flat, clip=False), flat)


def test_values_too_large_for_the_leaf_stay_finite():
    space = spaces.Dict(
        a=spaces.Box(-np.inf, np.inf, (1,), np.float16), b=spaces.Box(-np.inf, np.inf, (1,), np.float64)
    )
    batch = SpaceCodec.of(space).unflatten(np.array([[1e300, 1e300]]))
    assert np.isfinite(batch["a"]).all()
    assert batch["b"][0, 0] == 1e300


def test_recorded_values_outside_of_the_bounds_are_kept_by_flatten():
    codec = SpaceCodec.of(spaces.Box(-1, 1, (1,)), name="action")
    np.testing.assert_array_equal(codec.flatten(np.array([[1.5]], np.float32)), [[1.5]])


def test_flatten_copies_and_writes_into_out():
    codec = SpaceCodec.of(spaces.Box(-1, 1, (2,)))
    source = np.zeros((3, 2), np.float32)
    out = np.full((3, 2), 9.0, np.float32)
    assert codec.flatten(source, out=out) is out
    assert not np.shares_memory(codec.flatten(source), source)
    np.testing.assert_array_equal(out, source)


def test_codec_can_be_pickled():
    codec = SpaceCodec.of(spaces.Dict(a=spaces.Box(-1, 1, (2,)), b=spaces.Discrete(3)))
    flat = np.array([[0.5, 2.0, 0.0, 1.0, 0.0]], np.float32)
    copied = pickle.loads(pickle.dumps(codec)).unflatten(flat)
    assert_same(codec.space, copied, codec.unflatten(flat))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Text(5), "observation is a Text space; supported are Box"),
        (spaces.Box(0, 255, (84, 84, 3), np.uint8), r"observation is an image of shape \(84, 84, 3\)"),
        (spaces.Dict(camera=spaces.Box(0, 255, (64, 64), np.uint8)), "observation/camera is an image"),
        (spaces.Box(0, 1, (84, 84, 3), np.float32), r"an image of shape \(84, 84, 3\); .*as a Box of one axis"),
        (spaces.Dict(depth=spaces.Box(0, np.inf, (64, 64), np.float64)), "observation/depth is an image"),
        (spaces.Tuple([spaces.Discrete(2), spaces.Dict(words=spaces.Text(3))]), "observation/1/words is a Text space"),
        (spaces.Sequence(spaces.Discrete(2)), "Sequence"),
        (spaces.Graph(spaces.Discrete(2), None), "Graph"),
        (spaces.OneOf([spaces.Discrete(2), spaces.Box(-1, 1)]), "OneOf"),
        (spaces.Discrete(10**6), "1000000 categories"),
        (spaces.Box(2**60, 2**60 + 5, (1,), np.int64), r"beyond 2\*\*53 - 1"),
        (spaces.Dict(), "has no elements"),
        (spaces.Box(-1, 1, (0,)), "has no elements"),
    ],
)
def test_unsupported_spaces_are_refused_by_path(space, message):
    with pytest.raises(UnsupportedSpaceError, match=message):
        SpaceCodec.of(space)


@pytest.mark.parametrize("shape", [(21_168,), (1, 5_000), (4, 300), (100, 14)])
def test_long_vectors_and_small_grids_are_no_images(shape):
    assert SpaceCodec.of(spaces.Box(0, 1, shape)).size == np.prod(shape)


@pytest.mark.parametrize(
    ("space", "batch", "message"),
    [
        (spaces.Box(-1, 1, (2,)), np.zeros((4, 3)), r"action has shape \(4, 3\); expected \(4, 2\)"),
        (spaces.Dict(a=spaces.Box(-1, 1)), {"b": np.zeros((1, 1))}, "action/a is in the space but not in the data"),
        (spaces.Tuple([spaces.Discrete(2), spaces.Discrete(2)]), (np.zeros(2, int),), "action/1 is in the space"),
        (
            spaces.Dict(a=spaces.Discrete(2), b=spaces.Discrete(2)),
            {"a": np.zeros(2), "b": np.zeros(3)},
            "action/b has shape",
        ),
        (spaces.Discrete(3, start=1), np.array([0, 1]), "action holds values outside of the space"),
        (spaces.Discrete(3), np.array([0.5]), "action holds values that are not integers"),
        (spaces.Discrete(3), np.array(["a"]), "integers are needed"),
        (spaces.MultiBinary(2), np.array([[0, 2]]), "other than 0 and 1"),
        (spaces.Box(-1, 1, (1,)), np.array([["a"]]), "numbers are needed"),
        (spaces.Box(-(2**62), 2**62, (1,), np.int64), np.array([[2**53 + 1]]), r"beyond 2\*\*53 - 1"),
    ],
)
def test_data_that_do_not_fit_are_refused_by_path(space, batch, message):
    with pytest.raises(DatasetError, match=message):
        SpaceCodec.of(space, name="action").flatten(batch)


@pytest.mark.parametrize(
    ("flat", "message"),
    [
        (np.zeros((2, 3), np.float32), r"flat observation has shape \(2, 3\); expected \(n, 2\)"),
        (np.array([[0.0, 0.0], [0.0, np.nan]], np.float32), "observation/b is nan in row 1; it must be finite"),
        (np.array([[np.inf, 0.0]], np.float32), "observation/a is inf in row 0"),
    ],
)
@pytest.mark.parametrize("method", ["unflatten", "project"])
def test_flat_arrays_of_another_width_or_not_finite_are_refused(method, flat, message):
    codec = SpaceCodec.of(spaces.Dict(a=spaces.Box(-1, 1), b=spaces.Box(-1, 1)))
    with pytest.raises(DatasetError, match=message):
        getattr(codec, method)(flat)
