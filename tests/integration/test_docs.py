"""The examples in docs/ run."""

from __future__ import annotations

import re
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import minari
import numpy as np
import pytest

import gta_datasets
import gta_datasets.demo
from tests.settings_page import CONFIGS, PAGE, settings_page
from tests.smoke import tiny

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [
    *sorted((DOCS / "adapters").glob("*.md")),
    *(DOCS / f"{name}.md" for name in ("methods", "online", "policies", "scaling")),
]


@pytest.fixture(scope="module")
def source() -> minari.MinariDataset:
    return gta_datasets.demo.make_demo_dataset("docs/cheetah-v0", episodes=2)


def run_examples(page: Path) -> dict[str, Any]:
    """Everything that a page has in Python, in one go, as somebody who knows nothing else; its names."""
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    assert blocks, f"{page.name} has no example"
    names: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what other libraries warn of is theirs
        for block in blocks:
            exec(compile(block, page.name, "exec"), names)
    return names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_examples_of_a_page_run(
    page: Path, source: minari.MinariDataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    fewer = partial(gta_datasets.demo.make_demo_dataset, source.id, episodes=source.total_episodes)
    monkeypatch.setattr(gta_datasets.demo, "make_demo_dataset", fewer)
    run_examples(page)


def test_the_examples_of_the_readme_run(
    source: minari.MinariDataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With other data than they name, and with the preset for tests instead of the default one."""
    monkeypatch.chdir(tmp_path)
    downloads: list[bool] = []

    def load_dataset(dataset_id: str, download: bool = False) -> minari.MinariDataset:
        downloads.append(download)
        return source

    augment = gta_datasets.augment
    with monkeypatch.context() as patch:
        patch.setattr(gta_datasets, "augment", lambda *arguments: augment(*arguments, preset="smoke"))
        patch.setattr(minari, "load_dataset", load_dataset)
        names = run_examples(ROOT / "README.md")
    assert downloads[0]
    assert (tmp_path / "page.html").is_file()
    for (observations, actions, rewards, done), found in zip(names["logs"], names["arm"], strict=True):
        np.testing.assert_array_equal(found.observations, np.float32(observations))
        np.testing.assert_array_equal(found.actions, np.float32(actions))
        np.testing.assert_array_equal(found.rewards, rewards)
        assert (found.terminations[-1], found.truncations[-1]) == (done, not done)
    assert tiny(names["arm"], cache_dir=tmp_path).generated[0].observations.shape[1:] == (3,)


def test_every_adapter_has_a_page() -> None:
    assert {page.stem for page in PAGES} >= {"d3rlpy", "stable-baselines3", "decision-transformer", "torchrl"}


def test_the_page_of_settings_is_up_to_date() -> None:
    assert PAGE.read_text() == settings_page(), "python -m tests.settings_page writes it anew"


def test_every_setting_has_a_meaning_on_its_page() -> None:
    meanings = dict(re.findall(r"^\| `(\w+)` \| `[^|]*` \| (.*[a-z].*)\. \|$", PAGE.read_text(), re.MULTILINE))
    assert set(meanings) == {name for config in CONFIGS.values() for name in config.keywords()}
