"""The examples in docs/ run."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import gymnasium
import pytest

from gta_datasets import GTAAugmentedDataset
from gta_datasets.demo import make_demo_dataset
from tests.settings_page import CONFIGS, PAGE, settings_page
from tests.smoke import tiny

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [
    *sorted((DOCS / "adapters").glob("*.md")),
    *(DOCS / f"{name}.md" for name in ("methods", "online", "policies", "scaling")),
]
ENV = "HalfCheetah-v5"


@pytest.fixture(scope="module")
def augmented(tmp_path_factory: pytest.TempPathFactory) -> GTAAugmentedDataset:
    source = make_demo_dataset("docs/cheetah-v0", episodes=1)
    return tiny(source, cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_examples_of_a_page_run(
    page: Path, augmented: GTAAugmentedDataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    assert blocks, f"{page.name} has no example"
    names: dict[str, object] = {"augmented": augmented, "source": augmented.source, "env": gymnasium.make(ENV)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what other libraries warn of is theirs
        for block in blocks:
            exec(compile(block, page.name, "exec"), names)


def test_every_adapter_has_a_page() -> None:
    assert {page.stem for page in PAGES} >= {"d3rlpy", "stable-baselines3", "decision-transformer", "torchrl"}


def test_the_page_of_settings_is_up_to_date() -> None:
    assert PAGE.read_text() == settings_page(), "python -m tests.settings_page writes it anew"


def test_every_setting_has_a_meaning_on_its_page() -> None:
    meanings = dict(re.findall(r"^\| `(\w+)` \| `[^|]*` \| (.*[a-z].*)\. \|$", PAGE.read_text(), re.MULTILINE))
    assert set(meanings) == {name for config in CONFIGS.values() for name in config.keywords()}
