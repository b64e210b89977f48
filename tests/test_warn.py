"""A warning shows a line of the user's, however deep in the library it is given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import minari
import pytest

from gta_datasets import GTAAugmentedDataset
from gta_datasets.warn import warn
from tests.builders import linear_dataset
from tests.smoke import tiny


@pytest.mark.parametrize(
    "read",
    [lambda made: made.total_steps, lambda made: made.skipped, lambda made: made.fit(), lambda made: made[0]],
    ids=["a number", "a property", "a method", "through Minari"],
)
def test_it_names_the_file_of_whoever_uses_the_library(read: Callable[[GTAAugmentedDataset], object]) -> None:
    dataset = linear_dataset("warn/short-v0", lengths=(2, 20, 20))
    try:
        with pytest.warns(UserWarning, match="nothing is generated from 1 of 3") as caught:
            read(tiny(dataset, short_episodes="skip"))
    finally:
        minari.delete_dataset("warn/short-v0")
    assert [Path(warning.filename) for warning in caught] == [Path(__file__)]


def test_it_names_the_line_of_the_call() -> None:
    with pytest.warns(UserWarning, match="^mind the gap$") as caught:
        warn("mind the gap")
    line = Path(caught[0].filename).read_text().splitlines()[caught[0].lineno - 1]
    assert line.strip() == 'warn("mind the gap")'
