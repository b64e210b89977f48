"""The tutorial runs from its first cell to its last, and shows something."""

from __future__ import annotations

import re
import runpy
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest

TUTORIAL = Path(__file__).parents[1] / "docs" / "tutorial.py"
PICTURES = ("returns", "td3-bc", "gtp", "online")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tutorial is run."""
    return tmp_path_factory.mktemp("tutorial")


@pytest.fixture(scope="module")
def names(folder: Path) -> Iterator[dict[str, Any]]:
    """What the tutorial leaves behind when it is run as a script at its small size."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what other libraries warn of is theirs
        patch.chdir(folder)
        patch.setenv("GTA_DATASETS_CACHE", str(folder / "cache"))
        patch.setenv("MINARI_DATASETS_PATH", str(folder / "minari"))
        patch.setenv("TUTORIAL_SIZE", "small")
        with plt.rc_context({"backend": "agg"}):
            yield runpy.run_path(str(TUTORIAL), run_name="__main__")
            plt.close("all")


def test_every_line_belongs_to_a_cell_of_text_or_of_code() -> None:
    before, *cells = re.split(r"^(?=# %%)", TUTORIAL.read_text(), flags=re.MULTILINE)
    assert before == ""
    kinds, bodies = zip(*(cell.split("\n", 1) for cell in cells), strict=True)
    assert set(kinds) == {"# %%", "# %% [markdown]"}
    for kind, body in zip(kinds, bodies, strict=True):
        lines = body.strip().splitlines()
        assert lines
        if kind == "# %%":
            compile(body, TUTORIAL.name, "exec")  # a statement does not go on in the next cell
            assert not all(line.startswith("#") for line in lines)
        else:
            assert all(line == "#" or line.startswith("# ") for line in lines)


def test_the_pages_that_the_text_points_to_exist() -> None:
    pages = re.findall(r"\]\(([^):]+)\)", TUTORIAL.read_text())
    assert {"does-it-help.md", "online.md", "policies.md"} <= set(pages)
    assert all((TUTORIAL.parent / page).is_file() for page in pages)


def test_generated_transitions_come_on_top_of_the_source(names: dict[str, Any]) -> None:
    source, augmented = names["source"], names["augmented"]
    assert source.total_steps == 40_000
    assert augmented.total_steps == source.total_steps + augmented.generated.total_steps
    assert augmented.generated.total_steps >= names["SIZE"]["num_transitions"]
    assert augmented.is_complete


def test_windows_are_compared_with_those_they_were_made_from(names: dict[str, Any]) -> None:
    before, generated = names["before"], names["generated"]
    assert len(before) == len(generated)
    # Windows drawn alike from the whole source earn its mean reward per step.
    lengths = [len(episode.rewards) for episode in generated]
    assert before.sum() == pytest.approx(names["quality"].source.reward * sum(lengths), rel=0.05)


def test_policies_and_agent_are_evaluated(names: dict[str, Any]) -> None:
    size = names["SIZE"]
    assert np.isfinite(names["td3_bc_returns"]).all()
    assert names["gtp_returns"].shape == (3, size["trials"])
    assert np.isfinite(names["gtp_returns"]).all()
    assert (names["milliseconds"] > 0).all()
    returns = names["log"]["rollout/ep_rew_mean"]
    assert len(returns) == size["online_steps"] // size["episode_steps"]
    assert np.isfinite(returns).all()


def test_half_of_what_the_agent_learns_from_is_generated(names: dict[str, Any]) -> None:
    replay = names["replay"]
    assert replay.size() == names["SIZE"]["online_steps"]
    assert names["agent"].replay_buffer is replay
    assert replay.synthetic.size() > 0
    assert names["share"].iloc[-1] == pytest.approx(0.5, abs=0.1)
    assert replay.state.adaptations > 0


def test_the_agent_goes_on_where_pretraining_ended(names: dict[str, Any]) -> None:
    size = names["SIZE"]
    assert names["agent"]._n_updates == size["sac_updates"] + size["online_steps"]


@pytest.mark.parametrize("picture", PICTURES)
def test_every_picture_shows_something(names: dict[str, Any], folder: Path, picture: str) -> None:
    pixels = plt.imread(folder / names["PICTURES"] / f"{picture}.png")[..., :3]
    for half in np.array_split(pixels, 2, axis=1):
        assert (np.ptp(half, axis=2) > 0.1).mean() > 0.001  # axes and texts have no colour


def test_there_are_no_other_pictures_and_a_report(names: dict[str, Any], folder: Path) -> None:
    written = folder / names["PICTURES"]
    assert {path.stem for path in written.glob("*.png")} == set(PICTURES)
    assert "Dynamics error" in (written / "report.html").read_text()
