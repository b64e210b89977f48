"""Every public function that takes a whole number takes NumPy's too, and neither a truth value nor a float."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gta_datasets import GTAAugmentedDataset
from gta_datasets.config.fields import whole_number
from gta_datasets.errors import ConfigError
from tests.builders import linear_dataset
from tests.smoke import tiny


@pytest.fixture(scope="module")
def augmented() -> GTAAugmentedDataset:
    return tiny(linear_dataset("whole/linear-v0")).generate()


def drawn(augmented: GTAAugmentedDataset, **options: Any) -> list[list[float]]:
    """The states of a batch."""
    return augmented.to_torchrl(**{"batch_size": 5, **options}).sample()["observation"].tolist()


def windows(augmented: GTAAugmentedDataset, **options: Any) -> list[list[int]]:
    """The shape of every batch of Decision Transformer's windows."""
    loader = augmented.to_decision_transformer().loader(**{"num_batches": 1, "batch_size": 4, **options})
    return [list(batch["states"].shape) for batch in loader]


USES: dict[str, Callable[[GTAAugmentedDataset, Any], object]] = {
    "augment, seed": lambda augmented, number: tiny(augmented.source, seed=number).key,
    "augment, num_transitions": lambda augmented, number: (
        tiny(augmented.source, num_transitions=number).generated.total_steps
    ),
    "generate, workers": lambda augmented, number: augmented.generate(workers=number).is_complete,
    "to_torchrl, seed": lambda augmented, number: drawn(augmented, seed=number),
    "to_torchrl, batch_size": lambda augmented, number: drawn(augmented, batch_size=number),
    "to_sb3, seed": lambda augmented, number: augmented.to_sb3(seed=number).sample(4).rewards.tolist(),
    "to_sb3, buffer_size": lambda augmented, number: augmented.to_sb3(buffer_size=number).buffer_size,
    "to_d3rlpy, seed": lambda augmented, number: (
        augmented.to_d3rlpy(seed=number).sample_transition_batch(4).rewards.tolist()
    ),
    "to_decision_transformer, context_length": lambda augmented, number: (
        augmented.to_decision_transformer(number)[0]["states"].shape
    ),
    "loader, batch_size": lambda augmented, number: windows(augmented, batch_size=number),
    "loader, num_batches": lambda augmented, number: windows(augmented, num_batches=number),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("value", [True, 2.0, np.float64(2), np.True_, "2"])
def test_what_is_no_whole_number_is_refused(augmented: GTAAugmentedDataset, use: str, value: object) -> None:
    name = use.partition(", ")[2]
    with pytest.raises(ConfigError) as caught:
        USES[use](augmented, value)
    assert str(caught.value).startswith(f"{name}={value!r} is not allowed; choose a whole number ")


@pytest.mark.parametrize("use", USES)
def test_numbers_of_numpy_are_as_good(augmented: GTAAugmentedDataset, use: str) -> None:
    assert USES[use](augmented, np.int64(2)) == USES[use](augmented, 2)


@pytest.mark.parametrize("value", [3, 5, np.int32(5), np.uint8(4)])
def test_a_whole_number_in_the_range_comes_back_as_python_s(value: Any) -> None:
    found = whole_number("size", value, 3, 5)
    assert (found, type(found)) == (int(value), int)


@pytest.mark.parametrize(
    ("value", "most", "allowed"), [(2, None, "of at least 3"), (2, 5, "from 3 to 5"), (np.int64(6), 5, "from 3 to 5")]
)
def test_a_number_outside_of_the_range_is_refused_with_the_range(value: Any, most: int | None, allowed: str) -> None:
    with pytest.raises(ConfigError) as caught:
        whole_number("size", value, 3, most)
    assert str(caught.value) == f"size={value!r} is not allowed; choose a whole number {allowed}"
