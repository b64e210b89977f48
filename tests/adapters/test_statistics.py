"""Statistics of data read in chunks."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gta_datasets.adapters.statistics import RunningStatistics


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.sampled_from([0.0, 1e6]), st.integers(0, 99))
def test_chunks_give_what_the_whole_gives(sizes: list[int], offset: float, seed: int) -> None:
    rows = np.random.default_rng(seed).normal(offset, 2.0, (sum(sizes), 3)).astype(np.float32)
    statistics = RunningStatistics()
    for chunk in np.split(rows, np.cumsum(sizes)[:-1]):
        statistics.add(chunk)
    whole = rows.astype(np.float64)
    np.testing.assert_allclose(statistics.mean, whole.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(statistics.std, whole.std(axis=0), rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(statistics.minimum, rows.min(axis=0))
    np.testing.assert_array_equal(statistics.maximum, rows.max(axis=0))
    assert statistics.count == sum(sizes)
    assert (statistics.ceiling > statistics.minimum).all()
    assert (statistics.ceiling == statistics.maximum).all() or sum(sizes) == 1
