"""The report: one file, complete, escaped, with pictures that say what the numbers say."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gta_datasets.data.episodes import Episodes
from gta_datasets.errors import MissingExtraError
from gta_datasets.metrics import Quality, quality
from gta_datasets.plots import report as plots
from gta_datasets.report import write_report
from tests.builders import LinearSimulator, linear_episodes, linear_step

SOURCE = linear_episodes((40,) * 6)


def noisy(scale: float = 0.1) -> Episodes:
    episodes = linear_episodes((8,) * 30, seed=4)
    noise = np.random.default_rng(0).normal(scale=scale, size=episodes.observations.shape)
    return dataclasses.replace(episodes, observations=episodes.observations + noise.astype(np.float32))


def measured(generated: Episodes, source: Episodes = SOURCE, *, simulated: bool = True, asked: bool = True) -> Quality:
    return quality(
        generated,
        source,
        simulator=LinearSimulator() if simulated else None,
        asked_returns=np.linspace(0, 1, generated.num_episodes) if asked else None,
    )


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def report(path: Path, found: Quality, generated: Episodes, **kwargs: Any) -> Page:
    arguments = {"title": "A title", "config": {"seed": 0}, **kwargs}
    assert write_report(path, found, generated, SOURCE, **arguments) == path
    return Page(path.read_text("utf-8"))


def test_one_file_holds_everything(tmp_path: Path) -> None:
    found = measured(noisy())
    page = report(tmp_path / "new" / "report.html", found, noisy(), loss_history=[(1, 3.0), (2, 1.0)])
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["report.html"]
    assert page.open == []  # every tag is closed
    assert not page.of("script")
    assert not page.of("link")
    images = page.of("img")
    assert len(images) == 6
    for image in images:
        assert len(image["alt"] or "") > 40
        kind, data = str(image["src"]).split(",")
        assert kind == "data:image/png;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
            assert picture.width > 900
            assert len(picture.convert("RGB").getcolors(10**6) or []) > 20  # not blank
    assert page.of("html")[0]["lang"] == "en"


def test_every_number_of_the_table_is_shown_with_its_meaning(tmp_path: Path) -> None:
    found = measured(noisy())
    page = report(tmp_path / "report.html", found, noisy(), config={"method": {"name": "gta", "mu": 0.5}, "seed": 7})
    for row in found.rows():
        for part in (row.label, row.source, row.generated, row.meaning):
            assert part in page.text
    assert "240 generated transitions in 30 windows, made from 240 transitions in 6 episodes" in page.text
    assert "linear world" in page.text
    assert re.search(r"method\.mu\s*0\.5", page.text)
    assert re.search(r"seed\s*7", page.text)


@pytest.mark.parametrize(
    ("simulated", "asked", "headlines"),
    [
        (True, True, ["Rewards", "Dynamics", "One window", "Asked and got", "States"]),
        (True, False, ["Rewards", "Dynamics", "One window", "States"]),
        (False, True, ["Rewards", "Asked and got", "States"]),
        (False, False, ["Rewards", "States"]),
    ],
)
def test_what_was_not_measured_is_left_out_and_the_notes_say_why(
    tmp_path: Path, simulated: bool, asked: bool, headlines: list[str]
) -> None:
    found = measured(noisy(), simulated=simulated, asked=asked)
    write_report(tmp_path / "report.html", found, noisy(), SOURCE, title="x", config={})
    text = (tmp_path / "report.html").read_text("utf-8")
    assert re.findall(r"<h2>(.*?)</h2>", text) == ["Quality", *headlines, "Settings"]
    assert all(note in Page(text).text for note in found.notes)
    assert len(found.notes) == (not simulated) + (not asked)


def test_names_and_settings_cannot_break_the_page(tmp_path: Path) -> None:
    hostile = '<script>alert("1")</script> & $title $nothing'
    page = report(
        tmp_path / "report.html", measured(noisy()), noisy(), title=hostile, config={hostile: {hostile: hostile}}
    )
    assert not page.of("script")
    assert page.text.count(hostile) == 5  # title, headline, both names, value


def test_without_matplotlib_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured(noisy())
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'gta-datasets\[report\]'"):
        write_report(tmp_path / "report.html", found, noisy(), SOURCE, title="x", config={})
    assert list(tmp_path.iterdir()) == []


def test_the_error_curves_cross_the_limit_at_the_shares_of_the_table() -> None:
    found = measured(noisy(0.05))
    figure = plots.dynamics_errors(found.evidence, found.threshold)
    assert figure is not None
    curves = {line.get_label(): line.get_xydata() for line in figure.axes[0].lines}

    def share_below(label: str, limit: float) -> float:
        errors, shares = curves[label].T
        return float(shares[errors <= limit].max())

    errors = found.evidence.generated.errors
    assert errors is not None
    assert 0 < found.generated.bad_window_share < 1
    assert share_below("generated: worst step of a window", 0.05) == pytest.approx(1 - found.generated.bad_window_share)
    assert share_below("generated: steps", 0.05) == pytest.approx((errors <= 0.05).mean())
    assert share_below("source: worst step of a window", 2e-6) == 1  # exact data hug the left edge
    assert all(
        shares.max() <= 1 and np.diff(shares).min() >= 0
        for _, shares in (curve.T for curve in curves.values() if len(curve) > 2)
    )


def test_impossible_steps_keep_the_error_curve_below_one() -> None:
    found = measured(noisy())
    errors = np.where(np.arange(240) % 4 == 0, np.nan, 0.01)
    evidence = dataclasses.replace(
        found.evidence, generated=dataclasses.replace(found.evidence.generated, errors=errors)
    )
    figure = plots.dynamics_errors(evidence, 0.05)
    assert figure is not None
    curve = next(line for line in figure.axes[0].lines if line.get_label() == "generated: steps")
    assert np.max(curve.get_ydata()) == pytest.approx(0.75)


def test_the_example_is_the_window_of_median_error_and_its_true_simulation() -> None:
    evidence = measured(noisy()).evidence
    assert evidence.example is not None
    assert evidence.example_steps is not None
    assert evidence.generated.errors is not None
    means = evidence.generated.errors.reshape(30, 8).mean(axis=1)
    assert np.sort(means)[15] == means[evidence.example]
    window = evidence.generated.windows.slice(evidence.example, evidence.example + 1)
    state = window.observations[0]
    for action, following in zip(window.actions, evidence.example_steps.next_observations, strict=True):
        state = linear_step(state[None], action[None])[0]
        assert np.allclose(state, following, atol=1e-5)


@contextmanager
def rendered(figure: Any) -> Iterator[Image.Image]:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    with Image.open(buffer) as picture:
        yield picture


def one_dimensional(episodes: Episodes) -> Episodes:
    return dataclasses.replace(episodes, observations=episodes.observations[:, :1])


@pytest.mark.parametrize(
    "change",
    [
        one_dimensional,
        lambda episodes: dataclasses.replace(episodes, rewards=np.zeros_like(episodes.rewards)),
        lambda episodes: dataclasses.replace(episodes, observations=np.ones_like(episodes.observations)),
        lambda episodes: episodes.slice(0, 1),
    ],
    ids=["one state dimension", "constant rewards", "constant states", "one window"],
)
def test_degenerate_data_can_be_drawn(change: Callable[[Episodes], Episodes]) -> None:
    generated, source = change(noisy()), change(SOURCE)
    evidence = measured(generated, source, simulated=False, asked=False).evidence
    for figure in (plots.rewards(generated, source, evidence, "true environment"), plots.states(generated, source)):
        with rendered(figure) as picture:
            assert picture.width > 600
