"""Random streams depend on their name alone (fault row 35)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gta_datasets.seeding import numpy_generator, seeded, torch_generator

Draw = Callable[[int, str, int], list[float]]

CPU = torch.device("cpu")

names = st.tuples(
    st.integers(0, 2**32 - 1), st.text("abcdefghijklmnop/0123456789", min_size=3, max_size=12), st.integers(0, 2**31)
)


def numpy_draw(seed: int, stream: str, number: int) -> list[int]:
    return numpy_generator(seed, stream, number).integers(2**62, size=4).tolist()


def torch_draw(seed: int, stream: str, number: int) -> list[float]:
    return torch.randn(4, generator=torch_generator(seed, stream, number, CPU), dtype=torch.float64).tolist()


@pytest.mark.parametrize("draw", [numpy_draw, torch_draw])
@settings(max_examples=100, deadline=None)
@given(first=names, second=names)
def test_streams_differ_by_seed_stream_and_number(
    draw: Draw, first: tuple[int, str, int], second: tuple[int, str, int]
) -> None:
    assume(first != second)
    assert draw(*first) == draw(*first)
    assert draw(*first) != draw(*second)


@pytest.mark.parametrize("draw", [numpy_draw, torch_draw])
def test_neighbours_differ(draw: Draw) -> None:
    names = [(seed, stream, number) for seed in (0, 1, 97) for stream in ("train", "batch") for number in (0, 1, 97)]
    names += [(0, f"sampler/{step}", shard) for step in (1, 12) for shard in (0, 49, 50)]
    assert len({tuple(draw(*name)) for name in names}) == len(names)


def test_streams_ignore_and_spare_global_random_state() -> None:
    draws = []
    for seed in (0, 1):
        np.random.seed(seed)  # noqa: NPY002 - the global state is what is tested
        torch.manual_seed(seed)
        before = np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
        draws.append((numpy_draw(3, "train", 7), torch_draw(3, "train", 7)))
        assert np.random.get_state()[1].tolist() == before[0]  # noqa: NPY002
        assert torch.equal(torch.get_rng_state(), before[1])
    assert draws[0] == draws[1]


def test_order_of_use_does_not_matter() -> None:
    forwards = [numpy_draw(5, "augment", number) for number in range(4)]
    backwards = [numpy_draw(5, "augment", number) for number in reversed(range(4))]
    assert forwards == backwards[::-1]
    assert all(first != second for first, second in pairwise(forwards))


def test_numbers_of_consecutive_shards_are_uncorrelated() -> None:
    draws = np.stack([numpy_generator(0, "augment", number).normal(size=2_000) for number in range(8)])
    correlation = np.corrcoef(draws) - np.eye(8)
    assert np.abs(correlation).max() < 0.1


def test_seeded_code_leaves_the_global_generator_as_it_was() -> None:
    before = torch.get_rng_state()
    with seeded(3):
        first = torch.rand(4)
    with seeded(3):
        second = torch.rand(4)
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, torch.rand(4, generator=torch.Generator().manual_seed(3)))


def test_threads_take_turns_with_the_global_generator() -> None:
    entered, left, drawn = threading.Event(), threading.Event(), []

    def draw() -> None:
        with seeded(4):
            entered.set()
            drawn.append(torch.rand(4))
            left.wait()

    thread = threading.Thread(target=draw)
    with seeded(3):
        with seeded(5):  # one thread as often as it likes
            torch.rand(4)
        thread.start()
        entered.wait(0.3)
        first = torch.rand(4)
    left.set()
    thread.join()
    assert torch.equal(first, torch.rand(4, generator=torch.Generator().manual_seed(3)))
    assert torch.equal(drawn[0], torch.rand(4, generator=torch.Generator().manual_seed(4)))


@pytest.mark.gpu
def test_seeded_code_leaves_the_generators_of_gpus_as_they_were() -> None:
    before = torch.cuda.get_rng_state()
    with seeded(3):
        torch.rand(4)
    with seeded(3, torch.device("cuda")):
        first = torch.rand(4, device="cuda")
    with seeded(3, torch.device("cuda")):
        assert torch.equal(first, torch.rand(4, device="cuda"))
    assert torch.equal(torch.cuda.get_rng_state(), before)
