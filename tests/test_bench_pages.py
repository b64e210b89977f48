"""Pages and pictures of the tables: of what there is, readable, and gone when it is."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import ledger
from benchmarks.charts import distributions, learning_curves
from benchmarks.experiments import EXPERIMENTS
from benchmarks.tasks import GYM
from tests.table_lines import gym_units, line, render, write


def test_distributions_are_of_the_same_datasets() -> None:
    units = gym_units("None", "GTA", datasets=2)
    runs: dict[Any, list[dict[str, Any]]] = {}
    for unit in units:
        if unit.method.name == "None" or unit.task == GYM[0]:
            runs.setdefault(("TD3BC", unit.task.name, unit.method.name), []).append(line(unit, 40 + 20 * unit.seed))
    runs["TD3BC", GYM[1].name, "None"] = [line(unit, -900) for unit in units[:3]]
    figure = distributions(EXPERIMENTS["1-gym"], "TD3BC", runs)
    assert figure is not None
    first, second = figure.axes[0].get_lines()
    np.testing.assert_array_equal(first.get_ydata(), second.get_ydata())
    assert first.get_xdata().min() > 0
    assert distributions(EXPERIMENTS["1-gym"], "TD3BC", {key: runs[key] for key in list(runs)[:0]}) is None


def test_curves_are_of_what_there_is() -> None:
    first, second, *_ = gym_units("GTA")
    runs = {("TD3BC", first.task.name, "GTA"): [line(first, 40), line(second, 60)]}
    figure = learning_curves(EXPERIMENTS["1-gym"], "TD3BC", runs)
    assert figure is not None
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["GTA"]
    axes = figure.axes[0]
    (ends,) = [curve.get_ydata()[-1] for curve in axes.get_lines()]
    low, high = first.task.reference or (0, 100)
    assert ends == pytest.approx(low + 0.5 * (high - low))
    (band,) = axes.collections
    upper = band.get_paths()[0].vertices[:, 1].max()
    assert upper == pytest.approx(low + (high - low) * (0.5 + np.std([0.4, 0.6], ddof=1)))


def test_updates_can_be_read_below_three_panels() -> None:
    units = gym_units("None", datasets=3)
    runs = {("TD3BC", unit.task.name, "None"): [line(unit, 40)] for unit in units}
    figure = learning_curves(EXPERIMENTS["1-gym"], "TD3BC", runs)
    assert figure is not None
    figure.draw_without_rendering()
    for axes in figure.axes:
        low, high = axes.get_xlim()
        ticks = [tick for tick in axes.xaxis.get_major_ticks() if low <= tick.get_loc() <= high]
        boxes = [tick.label1.get_window_extent() for tick in ticks]
        assert "200k" in [tick.label1.get_text() for tick in ticks]
        assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


def test_the_page_is_one_file_with_pictures(tmp_path: Path) -> None:
    write(tmp_path, [line(unit, 40 + unit.seed) for unit in gym_units("None", "GTA", datasets=2)])
    render(tmp_path, "--table", "1")
    assert (tmp_path / "tables" / "cpu-1-gym-TD3BC.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "tables" / "cpu-1-gym.html").read_text()
    assert page.count('src="data:image/png;base64,') == page.count("<img") == 2
    assert "http" not in page
    assert "41.0 ± 1.0 (3 runs)<br>" in page
    assert "TD3BC: learning curves" in page


def test_a_page_has_a_table_for_every_algorithm_and_metric(tmp_path: Path) -> None:
    units = gym_units("None", "GTA", datasets=2)
    write(tmp_path, [line(unit, 40 + unit.seed + 5 * (unit.method.name == "GTA")) for unit in units])
    render(tmp_path)
    page = (tmp_path / "tables" / "cpu-1-gym.html").read_text()
    headlines = re.findall(r"<h2>(.*?)</h2>", page)
    assert headlines[:5] == ["TD3BC", "CQL", "IQL", "MCQ", "TD3BC: learning curves"]
    policies, *others = re.findall(r"<thead>.*?</thead>", page)
    assert "Dataset" in policies
    tests = [re.findall(r"p: [^<]*", text) for text in (policies, *others)]
    assert tests == [["p: GTA against None"], [], [], []], "others have no numbers yet"
    assert "`" not in page
    assert 'class="wide"' in page


def test_pages_of_what_is_no_longer_in_the_ledger_go(tmp_path: Path) -> None:
    write(tmp_path, [line(unit, 40) for unit in gym_units("None", "GTA")])
    render(tmp_path)
    pages = {"cpu-1-gym.html", "cpu-1-gym-TD3BC.png"}
    assert pages < {path.name for path in (tmp_path / "tables").iterdir()}
    (tmp_path / ledger.RUNS).write_text("")
    render(tmp_path, "--table", "5")
    assert pages < {path.name for path in (tmp_path / "tables").iterdir()}
    render(tmp_path)
    assert {path.name for path in (tmp_path / "tables").iterdir()} == {"cpu.md", "cpu-5.md"}
