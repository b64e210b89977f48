"""Adapters import their libraries when they are used, and say what to install where one is missing."""

from __future__ import annotations

import sys

import pytest

from gta_datasets import GTAAugmentedDataset, adapters
from gta_datasets.errors import MissingExtraError
from tests.builders import linear_dataset
from tests.smoke import run_script, tiny

LIBRARIES = {"to_d3rlpy": "d3rlpy", "to_sb3": "stable_baselines3", "to_torchrl": "torchrl"}
EXTRAS = {"to_d3rlpy": "d3rlpy", "to_sb3": "sb3", "to_torchrl": "torchrl"}


def test_nothing_is_imported_before_it_is_used() -> None:
    script = """
import sys
import gta_datasets, gta_datasets.adapters, gta_datasets.policies
from gta_datasets.adapters import to_decision_transformer
print(sorted({"d3rlpy", "stable_baselines3", "torchrl", "tensordict", "gym"} & set(sys.modules)))
"""
    assert run_script(script) == "[]\n"


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_missing_library_is_an_error_that_names_its_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    library = LIBRARIES[name]
    augmented: GTAAugmentedDataset = tiny(linear_dataset(f"extras/{EXTRAS[name]}-v0"))
    # Whatever other tests imported before.
    for module in [name for name in sys.modules if name.startswith(("gta_datasets.adapters.", f"{library}."))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, library, None)
    message = rf"not installed: pip install 'gta-datasets\[{EXTRAS[name]}\]'"
    with pytest.raises(MissingExtraError, match=message):
        getattr(augmented, name)()
    with pytest.raises(MissingExtraError, match=message):
        getattr(adapters, name)


def test_every_adapter_is_there() -> None:
    assert set(adapters.__all__) == {name for name in adapters.__all__ if callable(getattr(adapters, name))}
    with pytest.raises(AttributeError, match="to_rllib"):
        adapters.to_rllib  # noqa: B018
