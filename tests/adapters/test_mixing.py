"""Proportions of real and generated data in batches."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, IterableDataset

from gta_datasets.adapters.mixing import Mixture, linear_schedule
from gta_datasets.errors import ConfigError
from tests.smoke import run_script


def shares(mixture: Mixture, size: int, batches: int) -> list[int]:
    """Real transitions in each of some batches."""
    return [int((mixture.draw(size) < mixture.num_real).sum()) for _ in range(batches)]


@given(st.floats(0, 1), st.integers(1, 64), st.integers(1, 50))
def test_every_batch_holds_its_share(fraction: float, size: int, batches: int) -> None:
    found = shares(Mixture(7, 13, real_fraction=fraction), size, batches)
    assert all(abs(count - fraction * size) < 1 for count in found)
    assert abs(sum(found) - fraction * size * batches) < 1


def test_whole_shares_are_the_same_in_every_batch() -> None:
    assert shares(Mixture(100, 100, real_fraction=0.75), 256, 20) == [192] * 20


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_the_ends_draw_everything_of_one_kind(fraction: float) -> None:
    mixture = Mixture(6, 5, real_fraction=fraction)
    drawn = set(np.concatenate([mixture.draw(32) for _ in range(20)]).tolist())
    assert drawn == (set(range(6)) if fraction else set(range(6, 11)))


def test_without_a_share_all_transitions_are_alike() -> None:
    mixture = Mixture(300, 100, seed=1)
    counts = np.bincount(np.concatenate([mixture.draw(100) for _ in range(400)]), minlength=400)
    assert counts.sum() == 40_000
    assert abs(counts[:300].sum() - 30_000) < 4 * np.sqrt(40_000 * 0.75 * 0.25)
    assert counts.min() > 50
    assert counts.max() < 160


def test_weights_decide_within_a_share_and_across() -> None:
    weights = np.array([1.0, 0.0, 3.0, 2.0, 2.0])
    together = np.concatenate([Mixture(3, 2, weights=weights, seed=k).draw(800) for k in range(10)])
    np.testing.assert_allclose(np.bincount(together, minlength=5) / 8000, weights / 8, atol=0.03)
    mixture = Mixture(3, 2, weights=weights, real_fraction=0.5)
    apart = np.concatenate([mixture.draw(800) for _ in range(10)])
    np.testing.assert_allclose(np.bincount(apart, minlength=5) / 8000, [1 / 8, 0, 3 / 8, 1 / 4, 1 / 4], atol=0.03)


def test_a_share_follows_its_schedule() -> None:
    mixture = Mixture(10, 10, real_fraction=linear_schedule(1.0, 0.0, 4))
    assert shares(mixture, 8, 6) == [8, 6, 4, 2, 0, 0]


def test_a_schedule_that_leaves_the_interval_is_an_error() -> None:
    mixture = Mixture(10, 10, real_fraction=lambda batch: 1.0 - batch)
    mixture.draw(4)
    mixture.draw(4)
    with pytest.raises(ConfigError, match=r"real_fraction=-1.0 is not allowed"):
        mixture.draw(4)


def test_the_seed_decides_the_draws() -> None:
    first, same, other = (Mixture(50, 50, seed=seed).draw(30).tolist() for seed in (1, 1, 2))
    assert first == same != other


def _draw_in_child(mixture: Mixture, queue: multiprocessing.Queue) -> None:
    queue.put(mixture.draw(30).tolist())


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_processes_draw_from_streams_of_their_own() -> None:
    context = multiprocessing.get_context("fork")
    mixture, queue = Mixture(500, 500), context.Queue()
    children = [context.Process(target=_draw_in_child, args=(mixture, queue)) for _ in range(2)]
    for child in children:
        child.start()
    drawn = [queue.get(timeout=60) for _ in children] + [mixture.draw(30).tolist()]
    for child in children:
        child.join(timeout=60)
    assert len({tuple(numbers) for numbers in drawn}) == 3


class _Batches(IterableDataset):
    def __init__(self, mixture: Mixture) -> None:
        self._mixture = mixture

    def __iter__(self) -> Iterator[list[int]]:
        yield from (self._mixture.draw(30).tolist() for _ in range(2))


@pytest.mark.parametrize("context", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_workers_of_a_loader_draw_from_new_streams_in_every_epoch(context: str) -> None:
    drawn = []
    for _ in range(2):
        torch.manual_seed(7)
        mixture = Mixture(500, 500)
        loader = DataLoader(_Batches(mixture), batch_size=None, num_workers=2, multiprocessing_context=context)
        drawn += [sorted(map(tuple, loader)) for _ in range(2)]
    assert len({batch for epoch in drawn for batch in epoch}) == 8, "two workers, two batches, two epochs"
    assert drawn[:2] == drawn[2:], "torch's seed says which"


def test_one_that_is_loaded_in_another_run_goes_on(tmp_path: Path) -> None:
    mixture = Mixture(500, 500, real_fraction=0.3)
    mixture.draw(5)
    (tmp_path / "mixture").write_bytes(pickle.dumps(mixture))
    script = "import pickle, sys; print(pickle.load(open(sys.argv[1], 'rb')).draw(30).tolist())"
    assert run_script(script, tmp_path / "mixture").strip() == str(mixture.draw(30).tolist())


def test_copies_sent_to_spawned_processes_draw_from_streams_of_their_own() -> None:
    context = multiprocessing.get_context("spawn")
    mixture, queue = Mixture(500, 500), context.Queue()
    children = [context.Process(target=_draw_in_child, args=(mixture, queue)) for _ in range(2)]
    for child in children:
        child.start()
    drawn = [queue.get(timeout=60) for _ in children] + [mixture.draw(30).tolist()]
    for child in children:
        child.join(timeout=60)
    assert len({tuple(numbers) for numbers in drawn}) == 3


@pytest.mark.parametrize("weights", [[1e16, 1e16, 1, 3], [1, 3, 1e18, 1e18], [1e308, 1e308, 1e308, 1e308]])
def test_weights_of_one_kind_do_not_lose_those_of_the_other(weights: list[float]) -> None:
    mixture = Mixture(2, 2, weights=weights, real_fraction=0.5)
    found = np.bincount(np.concatenate([mixture.draw(400) for _ in range(20)]), minlength=4) / 4000
    given = np.array(weights) / max(weights)
    np.testing.assert_allclose(found[:2], given[:2] / given[:2].sum(), atol=0.03)
    np.testing.assert_allclose(found[2:], given[2:] / given[2:].sum(), atol=0.03)


def test_what_is_added_online_is_real_where_nothing_else_is() -> None:
    mixture = Mixture(0, 5, real_fraction=linear_schedule(0.0, 0.5, 1))
    assert (mixture.draw(8) < 5).all()
    drawn = mixture.draw(8, online=3)
    assert ((drawn >= 5) & (drawn < 8)).sum() == 4
    with pytest.raises(ConfigError, match="needs real data"):
        mixture.draw(8)


@pytest.mark.parametrize("size", [1, 7, 256])
def test_what_is_added_online_may_have_a_share_of_its_own(size: int) -> None:
    mixture, plain = (Mixture(20, 10, real_fraction=0.5, online_fraction=share) for share in (0.3, None))
    np.testing.assert_array_equal(mixture.draw(64), plain.draw(64), "until there is something")
    drawn = [mixture.draw(size, online=2) for _ in range(40)]
    assert {len(batch) for batch in drawn} == {size}
    added = [int((batch >= 30).sum()) for batch in drawn]
    assert sum(added) == round(0.3 * size * 40)
    assert max(added) - min(added) <= 1
    offline = np.concatenate(drawn)
    assert ((offline < 20).sum() - ((offline >= 20) & (offline < 30)).sum()) in (0, 1)
    assert (offline < 32).all()
    assert (Mixture(20, 10, online_fraction=1.0).draw(50, online=2) >= 30).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"online_fraction": -0.1}, r"online_fraction=-0.1 is not allowed; choose a number in \[0, 1\]"),
        ({"real_fraction": 1.5}, r"real_fraction=1.5 is not allowed; choose a number in \[0, 1\]"),
        ({"real_fraction": "half"}, "real_fraction='half' is not allowed"),
        ({"real_fraction": float("nan")}, "real_fraction=nan is not allowed"),
        ({"real_fraction": True}, "real_fraction=True is not allowed"),
        ({"seed": -1}, "seed=-1 is not allowed; choose a whole number of at least 0"),
        ({"seed": None}, "seed=None is not allowed"),
        ({"weights": np.ones(3)}, r"weights have shape \(3,\); give one per transition, \(5,\)"),
        ({"weights": [1, 1, -1, 1, 1]}, "at least 0"),
        ({"weights": [1, 1, np.nan, 1, 1]}, "finite"),
        ({"weights": np.zeros(5)}, "one of them positive"),
        ({"weights": [1, 1, 0, 0, 0], "real_fraction": 0.5}, "generated data, and the dataset has none of positive"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Mixture(2, 3, **arguments)


def test_a_share_of_what_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs generated data, and the dataset has none;"):
        Mixture(5, 0, real_fraction=0.5)
    with pytest.raises(ConfigError, match="needs real data"):
        Mixture(0, 5, real_fraction=0.5)
    assert shares(Mixture(5, 0, real_fraction=1.0), 4, 1) == [4]


@pytest.mark.parametrize("arguments", [(-0.1, 1, 5), (0, 2, 5), (0, 1, 0), (0, 1, float("nan"))])
def test_a_schedule_needs_shares_and_batches(arguments: tuple[float, float, int]) -> None:
    with pytest.raises(ConfigError):
        linear_schedule(*arguments)
