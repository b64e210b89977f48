"""What is said of an entry of the cache, whatever its manifest holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gta_datasets.augment import configured
from gta_datasets.config import ATraDiffConfig, GTAConfig, S4RLConfig, StagedConfig
from gta_datasets.inventory import describe
from gta_datasets.store import ShardStore

KEY = "0" * 32


def store_with(folder: Path, **manifest: Any) -> ShardStore:
    store = ShardStore(folder, KEY)
    store.write_manifest(manifest)
    return store


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (GTAConfig(), ""),
        (GTAConfig().replace(alpha="auto", invalid="drop"), ", invalid=drop, alpha=auto"),
        (configured(GTAConfig(), "paper", "cpu", {}, {}), ", preset paper"),
        (configured(GTAConfig(), "cpu", "cpu", {}, {"mu": 0.25}), ", preset cpu, mu=0.25"),
        (S4RLConfig().replace(noise=0.5), ", noise=0.5"),
        (ATraDiffConfig(), ""),
        (configured(ATraDiffConfig(), "smoke", "cpu", {}, {"lengths": (2, 4)}), ", preset smoke, lengths=[2, 4]"),
    ],
)
def test_settings_are_told_by_what_is_unusual_in_them(tmp_path: Path, config: StagedConfig, words: str) -> None:
    store = store_with(
        tmp_path, kind="trajectories", dataset="a/b-v0", method=config.method, seed=7, config=config.to_dict()
    )
    assert describe(store) == f"trajectories of a/b-v0: {config.method}, seed 7{words}"


@pytest.mark.parametrize(
    ("manifest", "line"),
    [
        ({}, "unknown of unknown: unknown method, seed unknown"),
        ({"kind": "trajectories", "method": ["gta"]}, "trajectories of unknown: ['gta'], seed unknown"),
        ({"kind": "trajectories", "method": "gta", "config": 3}, "trajectories of unknown: gta, seed unknown"),
        ({"method": "other", "config": {"a": {"b": 1}}}, "unknown of unknown: other, seed unknown"),
        ({"method": "gta", "config": {"data": 1, "new": {"b": [2]}}}, "unknown of unknown: gta, seed unknown, b=[2]"),
        ({"dataset": "\x1b[2J\n"}, r"'unknown of \x1b[2J\n: unknown method, seed unknown'"),
    ],
)
def test_a_manifest_may_hold_anything(tmp_path: Path, manifest: dict[str, Any], line: str) -> None:
    assert describe(store_with(tmp_path, **manifest)) == line


def test_a_model_is_unfinished_until_its_weights_are_there(tmp_path: Path) -> None:
    store = store_with(tmp_path, kind="model", model="levels", dataset="a/b-v0", method="gta", seed=0)
    assert describe(store) == "model (levels) of a/b-v0: gta, seed 0, unfinished"
    (store.path / "levels.json").write_text(json.dumps({}))
    assert describe(store) == "model (levels) of a/b-v0: gta, seed 0"
