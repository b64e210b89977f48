"""What `import gta_datasets` offers, and what it leaves for later."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

import gta_datasets
from gta_datasets.methods import METHODS
from tests.smoke import run_script


def test_every_promised_name_is_there_and_listed() -> None:
    assert set(gta_datasets.__all__) <= set(dir(gta_datasets))
    assert all(hasattr(gta_datasets, name) for name in gta_datasets.__all__)
    assert {config.__name__ for config in METHODS.values()} <= set(gta_datasets.__all__)
    assert gta_datasets.__version__ == version("gta-datasets")


def test_other_names_are_not_there() -> None:
    with pytest.raises(AttributeError, match="'gta_datasets' has no attribute 'augmnet'"):
        gta_datasets.augmnet  # noqa: B018


def test_parts_with_extras_are_imported_when_they_are_named() -> None:
    script = """
import sys
import gta_datasets
late = {f"gta_datasets.{name}" for name in ("adapters", "online", "policies")}
print(sorted(late & set(sys.modules)))
print(gta_datasets.adapters.__name__, gta_datasets.online.__name__, gta_datasets.policies.__name__)
print(sorted({"d3rlpy", "stable_baselines3", "torchrl", "tensordict", "gym"} & set(sys.modules)))
"""
    names = "gta_datasets.adapters gta_datasets.online gta_datasets.policies"
    assert run_script(script) == f"[]\n{names}\n[]\n"


def test_the_table_of_modules_has_all_of_them_in_the_order_of_imports() -> None:
    root = Path(__file__).parents[1]
    contract = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    layers = [re.findall(r"\w+", layer) for layer in reversed(contract["layers"])]
    level = {module: number for number, layer in enumerate(layers) for module in layer}
    table = (root / "docs" / "architecture.md").read_text().split("## Modules")[1].split("## Contracts")[0]
    named = [re.findall(r"`(\w+)/?`", row.split("|")[1]) for row in table.splitlines() if row.startswith("| `")]
    assert sorted(module for row in named for module in row) == sorted(level)
    levels = [level[module] for row in named for module in row]
    assert levels == sorted(levels)
