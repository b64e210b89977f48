"""Rendering of the tables: numbers from lines alone, beside the paper's, with what can be said about them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from benchmarks import ledger, tables
from benchmarks.experiments import EXPERIMENTS, experiments_of
from benchmarks.results_table import mixtures, score
from benchmarks.scales import SCALES
from benchmarks.tasks import GYM, MAZE2D
from benchmarks.units import Unit, units_of
from tests.table_lines import VERSIONS, gym_units, line, render, row, write


def test_scores_are_normalised_by_the_references() -> None:
    (unit,) = gym_units("GTA")[:1]
    found = {"returns": {"100": {"mean": 4_000.0}, "9": {"mean": 0.0}, "40": {"mean": 1_000.0}}}
    low, high = unit.task.reference or (0, 0)
    expected = [100 * (mean - low) / (high - low) for mean in (4_000, 2_500)]
    assert score(found, unit.task) == pytest.approx(expected)
    assert score(found | {"normalised": {"9": 1.0, "100": 55.0, "40": 45.0}}, MAZE2D[0]) == (55.0, 50.0)
    assert score({"returns": {"9": {}, "100": {}}, "normalised": {"9": 1.0, "100": 55.0}}, MAZE2D[0]) == (55.0, None)
    assert score(found | {"normalised": {"9": None, "100": None, "40": None}}, MAZE2D[0]) is None


def test_ours_stands_beside_the_papers(tmp_path: Path) -> None:
    points = {"None": (40, 42, 44), "GTA": (50, 51, 55)}
    units = gym_units("None", "GTA", datasets=2)
    write(tmp_path, [line(unit, points[unit.method.name][unit.seed]) for unit in units])
    text = render(tmp_path, "--table", "1")
    cells = row(text, "halfcheetah-medium-v2")
    assert cells["None"] == "42.0 ± 2.0 (3 runs)<br>paper 48.4 ± 0.6", "three runs are too few for an interval"
    assert cells["GTA"].startswith("52.0 ± 2.6 (3 runs)<br>")
    assert cells["S4RL"] == "paper 48.7 ± 0.3"
    expected = stats.ttest_ind(points["GTA"], points["None"], equal_var=False).pvalue
    assert cells["p: GTA against None"] == f"{expected:.3f} (+10.0 [4.5, 15.5])"
    assert "p: GTA against S4RL" not in cells, "there is nothing to test"
    together = row(text, "mean of halfcheetah-medium-v2 and halfcheetah-medium-replay-v2")
    assert together["GTA"] == "52.0 ± 1.9 (6 runs)<br>IQM 51.8"
    assert row(text, "mean of all")["GTA"] == "paper 84.6 ± 2.2"
    total = len(list(units_of([EXPERIMENTS["1-gym"]], SCALES["cpu"])))
    assert f"{total - 12} of {total} units are missing." in text
    assert "paper 61.0 ± 0.7" in next(each for each in text.splitlines() if "halfcheetah-medium-v2 | MCQ" in each)
    assert "Mixed" not in text


def test_a_mean_over_datasets_is_of_the_seeds_that_all_have(tmp_path: Path) -> None:
    lost = {("halfcheetah-medium-v2", "GTA", 0), ("halfcheetah-medium-replay-v2", "GTA", 2)}
    units = [
        unit
        for unit in gym_units("None", "GTA", datasets=2)
        if (unit.task.name, unit.method.name, unit.seed) not in lost
    ]
    write(tmp_path, [line(unit, 40 + 10 * unit.seed) for unit in units])
    text = render(tmp_path, "--table", "1")
    together = row(text, "mean of halfcheetah-medium-v2 and halfcheetah-medium-replay-v2")
    assert together["GTA"] == together["None"] == "50.0 (2 runs)", "seed 1 is the only one of both on both"
    assert row(text, "halfcheetah-medium-v2")["GTA"].startswith("55.0 ± 7.1 (2 runs)")


def test_a_mean_over_datasets_is_of_those_that_both_methods_of_a_test_have(tmp_path: Path) -> None:
    """Though a third one has others: one run of it must not hide what is known of the two."""
    lost = {("S4RL", GYM[0].name), ("S4RL", GYM[2].name)}
    units = [
        unit
        for unit in gym_units("None", "S4RL", "GTA", datasets=3)
        if (unit.method.name, unit.task.name) not in lost and (unit.method.name, unit.seed) != ("S4RL", 2)
    ]
    write(tmp_path, [line(unit, 40 + unit.seed + len(unit.method.name)) for unit in units])
    text = render(tmp_path, "--table", "1")
    cells = row(text, "mean of halfcheetah-medium-v2 and halfcheetah-medium-replay-v2 and halfcheetah-medium-expert-v2")
    assert cells["GTA"].startswith("44.0 ± 0.6 (9 runs)")
    assert cells["S4RL"] == cells["p: GTA against S4RL"] == "-"
    expected = 2 * stats.t.sf(1 / np.sqrt(6 * (1 / 3) / 9), 12)  # six variances of 1 of three seeds each
    assert cells["p: GTA against None"].startswith(f"{expected:.3f} (")
    assert text.count("| mean of half") == 1, "S4RL has one dataset only"


def test_ends_and_second_halves_are_tested_and_nothing_against_itself(tmp_path: Path) -> None:
    columns = ("None", "GTA", "source's ends", "alpha 1.3")
    units = [
        unit
        for unit in units_of([EXPERIMENTS["factors"]], SCALES["cpu"])
        if unit.task == GYM[0] and unit.method.name in columns
    ]
    points = {"None": (40.0, 42.0, 44.0), "GTA": (50.0, 51.0, 55.0)}
    for unit in units:
        ends = points.get(unit.method.name, (45.0, 46.0, 48.0))[unit.seed]
        looks = zip(("100", "200", "300000"), (0.0, 3 * ends, ends), strict=True)
        changes = {"returns": {look: {"mean": mean} for look, mean in looks}}
        if unit.method.name != "source's ends":  # which is GTA where nothing ends the task
            write(tmp_path, [line(unit, 0, **changes)])
    cells = row(render(tmp_path, "--table", "factors"), GYM[0].name, "factors")
    assert cells["source's ends"] == cells["GTA"]
    end = stats.ttest_ind(points["GTA"], points["None"], equal_var=False).pvalue
    found = re.fullmatch(r"(\S+) \(.*\)<br>second half (\S+) \(.*\)", cells["p: GTA against None"])
    assert found is not None
    assert found.groups() == (f"{end:.3f}", f"{end:.3f}"), "second halves are twice the ends"
    assert "p: GTA against source's ends" not in cells
    assert cells["p: source's ends against None"] == cells["p: GTA against None"]
    assert cells["p: alpha 1.3 against None"].startswith("0.0")


def test_second_halves_are_of_runs_that_all_have_one(tmp_path: Path) -> None:
    """Decision Transformer was evaluated once, and is more often today."""
    units = [
        unit
        for unit in units_of([EXPERIMENTS["13"]], SCALES["cpu"])
        if unit.task in (GYM[0], GYM[3]) and unit.method.name in ("None", "GTA")
    ]
    for unit in units:
        found = line(unit, 40 + unit.seed + len(unit.method.name))
        if unit.task == GYM[0] and unit.seed == 0:
            del found["returns"]["30000"]
        write(tmp_path, [found])
    text = render(tmp_path, "--table", "13")
    assert row(text, GYM[0].name, "13")["GTA"].startswith("44.0 ± 1.0 (3 runs)<br>paper")
    assert "second half" not in row(text, f"mean of {GYM[0].name} and {GYM[3].name}", "13")["GTA"]


def test_one_method_alone_has_no_mean_over_datasets(tmp_path: Path) -> None:
    write(tmp_path, [line(unit, 40) for unit in gym_units("None", datasets=2)])
    assert "mean of halfcheetah" not in render(tmp_path, "--table", "1")


def test_the_method_that_is_tested_is_named_by_the_table(tmp_path: Path) -> None:
    units = [
        unit
        for unit in units_of([EXPERIMENTS["5"]], SCALES["cpu"])
        if unit.task == GYM[0] and unit.method.name != "SynthER"
    ]
    write(tmp_path, [line(unit, 40 + unit.seed + 9 * unit.method.name.startswith("mu")) for unit in units])
    cells = row(render(tmp_path, "--table", "5"), "halfcheetah-medium-v2", "5")
    assert cells["p: mu=0.5 alpha=1.3 against None"].startswith("< 0.001 (+9.0 [")
    for experiment in EXPERIMENTS.values():
        names = {method.name for method in experiment.methods}
        assert experiment.tested in names | {"GTA"}, experiment.name


def test_without_lines_there_are_no_numbers(tmp_path: Path) -> None:
    text = render(tmp_path)
    assert "|" not in text
    assert list((tmp_path / "tables").iterdir()) == [tmp_path / "tables" / "cpu.md"]
    for name, experiment in EXPERIMENTS.items():
        assert f"## Table {name}" in text
        assert experiment.skipped is None or f"Skipped: {experiment.skipped}." in text


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"versions": VERSIONS | {"mujoco": "4.0.0"}}, "Mixed: mujoco 3.11.0 (5 runs), 4.0.0 (1 runs)."),
        ({"versions": VERSIONS | {"numpy": "3.0"}}, "Mixed: numpy 2.4.6 (5 runs), 3.0 (1 runs)."),
        ({"revision": "b"}, "Runs of 2 revisions of the benchmarks."),
        ({"recording": None}, "Mixed: recording of sim/halfcheetah/medium-v0 fae2f1f734 (1 runs), o (5 runs)."),
        ({"recording": "x"}, "Mixed: recording of sim/halfcheetah/medium-v0 o (5 runs), x (1 runs)."),
        ({"trainer": "d3rlpy"}, "Mixed: trainer of TD3BC d3rlpy (1 runs), stack (5 runs)."),
        (
            {"transitions": {"source": 1_000_000, "all": 1_200_000}},
            "Mixed: transitions of sim/halfcheetah/medium-v0 1000000 (1 runs), 200000 (5 runs).",
        ),
        (
            {"source": "mujoco/halfcheetah/medium-v0"},
            "Mixed: data of another name mujoco/halfcheetah/medium-v0 (1 runs).",
        ),
    ],
)
def test_mixed_lines_are_flagged(change: dict[str, Any], sentence: str) -> None:
    first, *others = gym_units("None", "GTA")
    assert mixtures([line(first, 40, **change), *(line(unit, 40) for unit in others)]) == [sentence]


def test_every_robot_has_an_environment_of_its_own() -> None:
    robots = {"sim/hopper/medium-v0": "Hopper-v5", "sim/walker2d/medium-v0": "Walker2d-v5"}
    units = [unit for unit in gym_units("None", datasets=9) if unit.task.dataset in robots]
    assert {unit.task.dataset for unit in units} == robots.keys()
    assert mixtures([line(unit, 40, environment=robots[unit.task.dataset]) for unit in units]) == []


def test_remote_data_stand_beside_no_mean_of_other_datasets(tmp_path: Path) -> None:
    units = [
        unit
        for unit in units_of(experiments_of(["1-gym"], remote=True), SCALES["cpu"])
        if unit.algorithm == "TD3BC" and unit.method.name in ("None", "GTA")
    ]
    write(tmp_path, [line(unit, 37 + unit.seed + len(unit.method.name)) for unit in units])
    tables.main(["--results", str(tmp_path), "--table", "1", "--remote"])
    text = (tmp_path / "tables" / "cpu-remote-1.md").read_text()
    assert row(text, "mean of all")["GTA"] == "41.0 ± 0.6 (9 runs)<br>IQM 41.0", "the paper's is of nine datasets"
    assert "Mixed" not in text
    assert "no unit of this scale" not in render(tmp_path), "they are no strangers among ours"


def test_a_mean_is_told_from_one_of_fewer_runs(tmp_path: Path) -> None:
    points = {"None": 40, "GTA": 50, "S4RL": 45}
    units = [unit for unit in gym_units(*points, datasets=9) if unit.method.name != "S4RL" or unit.seed == 0]
    few = [unit for unit in units if unit.method.name != "S4RL" or unit.task in GYM[:2]]
    write(tmp_path, [line(unit, points[unit.method.name] + unit.seed) for unit in few])
    text = render(tmp_path, "--table", "1")
    labels = [each.split(" | ")[0] for each in text.splitlines() if each.startswith("| mean") and "| TD3BC |" in each]
    assert labels == ["| mean of all", "| mean of halfcheetah-medium-v2 and halfcheetah-medium-replay-v2"]
    write(tmp_path, [line(unit, 45) for unit in units if unit not in few])
    assert row(render(tmp_path, "--table", "1"), "mean of all (None, S4RL, GTA)")["GTA"].startswith("50.0 (9 runs)")


def test_the_rendering_shows_what_is_mixed(tmp_path: Path) -> None:
    first, second, *_ = gym_units("None")
    write(tmp_path, [line(first, 40), line(second, 40, trainer="d3rlpy")])
    sentence = "Mixed: trainer of TD3BC d3rlpy (1 runs), stack (1 runs)."
    assert sentence in render(tmp_path, "--table", "1")
    assert sentence in (tmp_path / "tables" / "cpu-1-gym.html").read_text()


def test_lines_that_fit_nowhere_are_named(tmp_path: Path) -> None:
    first, second, *_ = gym_units("GTA")
    judged = next(units_of([EXPERIMENTS["19"]], SCALES["cpu"])).identity
    others = [second.identity | {"updates": 7, "share": 0.3}, judged | {"seed": 4}, judged | {"sample": 5}]
    write(tmp_path, [{"unit": unit, "returns": {"7": {"mean": 3_000.0}}} for unit in others])
    write(tmp_path, [line(first, 40, config={"sampling": {"alpha": 1.9}})])
    with (tmp_path / ledger.RUNS).open("a") as file:
        file.write("{")
    text = render(tmp_path)
    assert "no unit of this scale has share 0.3, updates 7." in text
    assert "no unit of this scale has dataset sim/halfcheetah/medium-v0, seed 4." in text
    assert "no unit of this scale has sample 5." in text
    assert f"{first.id}: the settings of its data are no longer what the library takes." in text
    assert f"{tmp_path / ledger.RUNS}, line 5 is no result" in text
    assert "|" not in text


def test_failed_units_are_counted(tmp_path: Path) -> None:
    first, second, *_ = gym_units("GTA")
    write(tmp_path, [{"unit": first.identity, "error": "Traceback"}, line(second, 40)])
    total = len(list(units_of([EXPERIMENTS["1-gym"]], SCALES["cpu"])))
    assert f"{total - 1} of {total} units are missing, 1 of them failed." in render(tmp_path, "--table", "1")


def judged(unit: Unit, quality: Mapping[str, Any]) -> dict[str, Any]:
    """A line of judged data."""
    return {"unit": unit.identity, "quality": quality, "versions": VERSIONS, "config": unit.config}


def test_the_source_is_that_of_the_largest_sample(tmp_path: Path) -> None:
    units = [unit for unit in units_of([EXPERIMENTS["21"]], SCALES["cpu"]) if unit.task == GYM[0]]
    windows = {"S4RL": 17, "SynthER": 16_384, "GTA": 1_093}
    qualities = [
        {
            "generated": {"oracle_reward": 5.0},
            "source": {"oracle_reward": number / 1_000},
            "checked_windows": number,
        }
        for number in windows.values()
    ]
    chosen = [unit for unit in units if unit.method.name in windows]
    write(tmp_path, [judged(*pair) for pair in zip(chosen, qualities, strict=True)])
    assert row(render(tmp_path, "--table", "21"), GYM[0].name, "21")["source"].startswith("16.38")


def test_judged_data_stand_beside_the_papers(tmp_path: Path) -> None:
    unit = next(each for each in units_of([EXPERIMENTS["19"]], SCALES["cpu"]) if each.method.name == "amplified")
    scores = {"oracle_reward": 5.332, "dynamics_mse": 0.0132, "novelty": {"both": 0.7}}
    source = {"oracle_reward": 4.466, "dynamics_mse": 0.0, "novelty": None}
    quality = {"generated": scores, "source": source, "checked_windows": 1_093}
    write(tmp_path, [judged(unit, quality)])
    text = render(tmp_path, "--table", "19")
    assert "2 of 3 units are missing." in text
    _, _, part = text.partition("## Table 19")
    assert "| halfcheetah-medium-v2 | Dynamics MSE x 100 | 0.00<br>paper 0.00 | paper 4.88 | paper 0.91 | 1.32<br>paper 0.85 |" in part  # fmt: skip  # noqa: E501
    assert "| halfcheetah-medium-v2 | Oracle reward | 4.47<br>paper 4.77 | paper 4.89 | paper 4.84 | 5.33<br>paper 6.08 |" in part  # fmt: skip  # noqa: E501
    assert "| halfcheetah-medium-v2 | Novelty, both | - | paper 1.41 | paper 1.42 | 0.70<br>paper 1.58 |" in part


def test_cells_of_few_windows_say_so(tmp_path: Path) -> None:
    units = [unit for unit in units_of([EXPERIMENTS["21"]], SCALES["cpu"]) if unit.task == GYM[0]]
    scores = {"generated": {"oracle_reward": 5.0}, "source": {"oracle_reward": 4.0}}
    for unit, windows in zip(units, (499, 500), strict=False):
        write(tmp_path, [judged(unit, scores | {"checked_windows": windows})])
    cells = row(render(tmp_path, "--table", "21"), GYM[0].name, "21")
    assert cells["S4RL"].startswith("5.00 (499 windows)<br>")
    assert cells["SynthER"].startswith("5.00<br>")
    assert cells["source"] == "4.00", "that of the larger sample"


def test_runs_without_a_score_are_left_out_and_counted(tmp_path: Path) -> None:
    units = [
        unit
        for unit in units_of([EXPERIMENTS["1-maze"]], SCALES["cpu"])
        if unit.task == MAZE2D[0] and unit.method.name == "None"
    ]
    scored = [line(unit, 40, normalised={"30000": 20.0, "300000": 30.0 + unit.seed}) for unit in units]
    write(tmp_path, [*scored[:2], scored[2] | {"normalised": {"30000": None, "300000": None}}])
    text = render(tmp_path, "--table", "1-maze")
    assert row(text, MAZE2D[0].name, "1-maze")["None"].startswith("30.5 ± 0.7 (2 runs)")
    assert f"1 runs on {MAZE2D[0].name} are left out: no returns are known for scores 0 and 100." in text


def test_other_numbers_of_updates_and_means_of_one_dataset(tmp_path: Path) -> None:
    short = next(units_of([EXPERIMENTS["trainers"]], SCALES["cpu"]))
    lengths = next(unit for unit in units_of([EXPERIMENTS["10"]], SCALES["cpu"]) if unit.method.name == "H=32")
    batches = next(units_of([EXPERIMENTS["batches"]], SCALES["cpu"]))
    write(tmp_path, [line(unit, 40) for unit in (short, lengths, batches)])
    text = render(tmp_path)
    _, _, part = text.partition("## Table trainers")
    assert "60,000 updates of batch 256." in part
    assert "90,000 updates." in next(each for each in text.split("## ") if each.startswith("Table batches"))
    _, _, part = text.partition("## Table 10:")
    assert "mean of all" not in part.partition("## ")[0], "it would be the same row again"
