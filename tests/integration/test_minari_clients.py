"""Code written for Minari reads an augmented dataset without knowing it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import minari
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from gta_datasets import GTAAugmentedDataset
from tests.builders import linear_dataset
from tests.smoke import tiny

SOURCES = 8


@pytest.fixture(scope="module")
def augmented() -> GTAAugmentedDataset:
    return tiny(linear_dataset("clients/linear-v0", terminated=(1, 3)))


def transitions(dataset: Iterable[minari.EpisodeData]) -> dict[str, np.ndarray]:
    """What an offline algorithm makes of a Minari dataset: (s, a, r, s', done)."""
    parts = [(e.observations[:-1], e.actions, e.rewards, e.observations[1:], e.terminations) for e in dataset]
    names = ("observations", "actions", "rewards", "next_observations", "dones")
    return {name: np.concatenate(arrays) for name, arrays in zip(names, zip(*parts, strict=True), strict=True)}


def test_it_goes_by_the_id_of_its_source(augmented: GTAAugmentedDataset) -> None:
    assert augmented.id == augmented.generated.id == augmented.source.id == "clients/linear-v0"


def test_a_plain_loop_fills_a_buffer(augmented: GTAAugmentedDataset) -> None:
    found = transitions(augmented.iterate_episodes())
    assert {len(array) for array in found.values()} == {augmented.total_steps}
    expected = transitions(augmented.source)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name][: augmented.source.total_steps], array)
    assert all(np.isfinite(array).all() for array in found.values())


def test_a_few_steps_of_behaviour_cloning(augmented: GTAAugmentedDataset) -> None:
    found = transitions(augmented)
    torch.manual_seed(0)
    policy = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.05)
    states, actions = torch.from_numpy(found["observations"]), torch.from_numpy(found["actions"])
    losses = []
    for _ in range(30):
        loss = torch.nn.functional.mse_loss(policy(states), actions)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def collate(batch: list[minari.EpisodeData]) -> dict[str, torch.Tensor]:
    """Minari's own example of a collate function for PyTorch."""
    return {
        "id": torch.tensor([episode.id for episode in batch]),
        "observations": torch.nn.utils.rnn.pad_sequence(
            [torch.as_tensor(episode.observations) for episode in batch], batch_first=True
        ),
        "rewards": torch.nn.utils.rnn.pad_sequence(
            [torch.as_tensor(episode.rewards) for episode in batch], batch_first=True
        ),
    }


def read_all(dataset: minari.MinariDataset, workers: int, method: str | None) -> dict[int, bytes]:
    loader = DataLoader(
        dataset, batch_size=4, shuffle=False, collate_fn=collate, num_workers=workers, multiprocessing_context=method
    )
    found: dict[int, bytes] = {}
    for batch in loader:
        for number, rewards in zip(batch["id"].tolist(), batch["rewards"], strict=True):
            assert number not in found, "an episode came twice"
            found[number] = rewards.numpy().tobytes().rstrip(b"\0")
    return found


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize(
    ("method", "workers", "done"),
    [("fork", 2, "generated"), ("fork", 2, "trained"), ("spawn", 2, "generated"), ("spawn", 1, "nothing")],
)
def test_row_36_workers_of_a_data_loader(
    augmented: GTAAugmentedDataset, tmp_path: Path, method: str, workers: int, done: str
) -> None:
    """Every episode once and the same as without workers, whether it is in the cache or made by them."""
    fresh = tiny(augmented.source, cache_dir=tmp_path)
    if done != "nothing":
        fresh.fit()
    if done == "generated":
        fresh.generate()
    found = read_all(fresh, workers, method)
    assert found == read_all(augmented, 0, None)
    assert sorted(found) == list(range(len(augmented)))
    assert fresh.is_complete
