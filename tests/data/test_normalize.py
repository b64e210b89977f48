"""Standardisation, constant columns and ranges (fault rows 28 and 29)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from gta_datasets.data import normalize
from gta_datasets.data.normalize import Standardizer, chunks

FLOAT32_STEP = 2.0**-24
"""Largest relative error of rounding to float32."""


def round_trip_tolerance(values: np.ndarray) -> np.ndarray:
    """Per column: float32 holds the normalised value, float64 all the rest."""
    exact = values.astype(np.float64)
    spread = exact.std(axis=0)
    largest = np.abs(exact - exact.mean(axis=0)).max(axis=0)
    return FLOAT32_STEP * np.maximum(largest, spread) * 1.01 + 4 * np.spacing(np.abs(exact).max(axis=0))


@settings(max_examples=100, deadline=None)
@given(
    values=npst.arrays(
        np.float64,
        st.tuples(st.integers(1, 12), st.integers(1, 4)),
        elements=st.floats(-1e6, 1e6, allow_subnormal=False).map(lambda x: round(x, 3)),
    )
)
def test_fit_agrees_with_numpy_and_round_trips(values: np.ndarray) -> None:
    fitted = Standardizer.fit(values)
    same = (values == values[0]).all(axis=0)
    np.testing.assert_array_equal(fitted.constant, same)
    np.testing.assert_allclose(fitted.mean, values.mean(axis=0), rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(fitted.scale[~same], values.std(axis=0)[~same], rtol=1e-9)
    normalised = fitted.forward(values)
    assert normalised.dtype == np.float32
    assert np.isfinite(normalised).all()
    assert (np.abs(fitted.inverse(normalised) - values) <= round_trip_tolerance(values)).all()


def test_normalised_values_have_mean_zero_and_variance_one() -> None:
    values = np.random.default_rng(0).normal([5, -2, 1e4], [3, 0.1, 1e3], size=(5_000, 3))
    normalised = Standardizer.fit(values).forward(values).astype(np.float64)
    np.testing.assert_allclose(normalised.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(normalised.std(axis=0), 1, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("constant", [0.0, 0.1, -7.3, 1e9, 1e-30])
def test_constant_columns_normalise_to_zero_and_come_back(constant: float, dtype: type[np.floating]) -> None:
    values = np.random.default_rng(0).normal(size=(100, 2)).astype(dtype)
    values[:, 1] = constant
    fitted = Standardizer.fit(values)
    assert fitted.constant.tolist() == [False, True]
    normalised = fitted.forward(values)
    assert np.isfinite(normalised).all()
    assert (normalised[:, 1] == 0).all()
    anything = np.random.default_rng(1).normal(size=(50, 2)).astype(np.float32) * 10
    back = fitted.inverse(anything).astype(dtype)
    assert (back[:, 1] == dtype(constant)).all()
    assert np.isfinite(back).all()


@pytest.mark.parametrize("rows", [1, 2])
def test_a_single_row_is_all_constant(rows: int) -> None:
    fitted = Standardizer.fit(np.full((rows, 3), 4.2))
    assert fitted.constant.all()
    assert (fitted.inverse(np.ones((5, 3))) == 4.2).all()


@pytest.mark.parametrize(
    ("dtype", "offset", "scale"),
    [
        (np.float64, 1e9, 1.0),
        (np.float64, 1e9, 1e-3),
        (np.float64, -1e9, 1e-6),
        (np.float64, 0.0, 1e-9),
        (np.float64, 1.0, 1e-9),
        (np.float32, 1e9, 1e6),
        (np.float32, 1e9, 64.0),  # one unit in the last place of 1e9
        (np.float32, 1e4, 1.0),
        (np.float32, 0.0, 1e-9),
        (np.float32, 0.0, 1e9),
    ],
)
def test_ranges(dtype: type[np.floating], offset: float, scale: float) -> None:
    values = (offset + scale * np.random.default_rng(0).normal(size=(4_000, 1))).astype(dtype)
    exact = values.astype(np.longdouble)
    fitted = Standardizer.fit(values)
    centre, spread = exact.mean(axis=0), exact.std(axis=0)
    assert (np.abs(fitted.mean - centre) <= np.maximum(1e-9 * spread, 4 * np.spacing(abs(offset) + scale))).all()
    np.testing.assert_allclose(fitted.scale, spread.astype(np.float64), rtol=1e-3 if scale < 1e-5 else 1e-9)
    back = fitted.inverse(fitted.forward(values))
    assert back.dtype == np.float64
    assert (np.abs(back - values.astype(np.float64)) <= round_trip_tolerance(values)).all()


def test_float32_comes_back_to_the_last_place() -> None:
    values = (1e4 + np.random.default_rng(0).normal(size=(1_000, 3))).astype(np.float32)
    fitted = Standardizer.fit(values)
    back = fitted.inverse(fitted.forward(values)).astype(np.float32)
    assert (np.abs(back - values) <= np.spacing(values)).all()


def test_chunks_cover_every_row_once() -> None:
    for rows in (0, 1, 6, 7, 8, 21):
        covered = [row for part in chunks(rows, 7) for row in range(rows)[part]]
        assert covered == list(range(rows))
        assert all(part.stop - part.start <= 7 for part in chunks(rows, 7))


def test_statistics_do_not_depend_on_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(3, 2, size=(1_003, 4)).astype(np.float32)
    whole = Standardizer.fit(values)
    monkeypatch.setattr(normalize.chunks, "__defaults__", (10,))
    cut = Standardizer.fit(values)
    np.testing.assert_allclose(cut.mean, whole.mean, rtol=1e-13)
    np.testing.assert_allclose(cut.scale, whole.scale, rtol=1e-13)


def test_select_is_fitting_the_columns_alone() -> None:
    values = np.random.default_rng(0).normal(size=(50, 4))
    values[:, 2] = 1.5
    chosen = np.array([True, False, True, True])
    selected, alone = Standardizer.fit(values).select(chosen), Standardizer.fit(values[:, chosen])
    for name in ("mean", "scale", "constant"):
        np.testing.assert_allclose(getattr(selected, name), getattr(alone, name), rtol=1e-12)


def test_inputs_stay_as_they_are() -> None:
    values = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    values.setflags(write=False)
    fitted = Standardizer.fit(values)
    normalised = fitted.forward(values)
    normalised.setflags(write=False)
    assert not np.shares_memory(fitted.inverse(normalised), normalised)


def test_no_columns() -> None:
    fitted = Standardizer.fit(np.zeros((4, 0), np.float32))
    assert fitted.forward(np.zeros((4, 0))).shape == (4, 0)
    assert fitted.inverse(np.zeros((4, 0))).shape == (4, 0)
