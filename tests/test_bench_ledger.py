"""Which lines of the ledger count."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import ledger, record
from gta_datasets.augment import configuration
from tests.benches import HOPPER, lines, small_hopper, start, unit_of

_hopper = pytest.fixture(scope="module", autouse=True)(small_hopper)


def test_damaged_lines_are_named_in_the_list_of_units_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / ledger.RUNS).write_text("{}\n")
    start(tmp_path, "--list")
    assert f"{tmp_path / ledger.RUNS}, line 1 is no result" in capsys.readouterr().err


def test_damaged_lines_are_named_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    only = ["--dataset", HOPPER, "--algorithm", "TD3BC", "--method", "None"]
    start(tmp_path, *only)
    path = tmp_path / ledger.RUNS
    sound = path.read_text()
    path.write_text('{"unit": 3}\n' + sound + sound[:100])  # the last one was being written when the power went
    assert start(tmp_path, *only) == 0
    shown = capsys.readouterr()
    assert f"{path}, line 1 is no result" in shown.err
    assert f"{path}, line 3 is no result" in shown.err
    assert "0 done now, 1 before" in shown.out
    record.append_line(path, "benchmarks.run", json.loads(sound))
    found, problems = record.read(path)
    assert len(found) == len(problems) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"returns": {}},
        {"returns": None},
        {"returns": {"9": {"std": 1.0}}},
        {"returns": {"soon": {"mean": 1.0}}},
        {"returns": {"9": {"mean": float("nan")}}},
        {"unit": {"dataset": HOPPER, "seed": 0, "settings": "of old"}},
        {"unit": {"dataset": 7, "seed": 0}},
        {"unit": {"dataset": HOPPER}},
        {"unit": None},
        {"config": 5},
        {"config": "x"},
        {"config": []},
        {"config": {"sampling": None}},
        {"versions": None},
        {"machine": "x"},
        {"transitions": 7},
        {"transitions": {}},
        {"normalised": None},
        {"quality": {}},
        {"quality": {"generated": {}}},
        {"quality": {"generated": {}, "source": {}}},
        {"quality": {"generated": {}, "source": {}, "checked_windows": 3}},  # without settings
    ],
)
def test_a_line_without_a_result_is_named(tmp_path: Path, change: dict[str, object]) -> None:
    sound = {"unit": {"dataset": HOPPER, "seed": 0}, "returns": {"9": {"mean": 1.0, "std": 0.0}}}
    both = [json.dumps(sound), json.dumps(sound | change)]
    (tmp_path / ledger.RUNS).write_text("\n".join(both) + "\n")
    found = ledger.read_all(tmp_path)
    assert len(found.results) == 1
    (problem,) = found.problems
    assert f"{ledger.RUNS}, line 2 is no result" in problem


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    (tmp_path / ledger.RUNS).write_bytes(b'{"unit": {"dataset": "\xff", "seed": 0}, "returns": {"9": {"mean": 1}}}\n')
    found = ledger.read_all(tmp_path)
    assert found.results == {}
    (problem,) = found.problems
    assert "UnicodeDecodeError" in problem


def test_every_committed_line_is_sound() -> None:
    found = ledger.read_all(record.RESULTS)
    assert found.problems == []
    others = [path for path in record.RESULTS.glob("*.jsonl") if record.read(path)[1]]
    assert others == []
    assert len(found.results) > 100


def test_nobody_knows_how_data_without_a_configuration_were_made(tmp_path: Path) -> None:
    only = ["--dataset", HOPPER, "--algorithm", "TD3BC", "--method", "S4RL"]
    start(tmp_path, *only)
    (line,) = lines(tmp_path)
    del line["config"]
    (tmp_path / ledger.RUNS).write_text(json.dumps(line) + "\n")
    start(tmp_path, *only)
    assert ["config" in found for found in lines(tmp_path)] == [False, True]


def test_other_defaults_make_other_results(tmp_path: Path) -> None:
    only = ["--dataset", HOPPER, "--algorithm", "TD3BC", "--method", "S4RL"]
    start(tmp_path, *only)
    (line,) = lines(tmp_path)
    stage = next(name for name, fields in line["config"].items() if "noise" in fields)
    line["config"][stage]["noise"] = 0.5
    (tmp_path / ledger.RUNS).write_text(json.dumps(line) + "\n")
    start(tmp_path, *only)
    assert [found["config"][stage]["noise"] != 0.5 for found in lines(tmp_path)] == [False, True]
    del line["config"][stage]["noise"]  # a field that came later
    (tmp_path / ledger.RUNS).write_text(json.dumps(line) + "\n")
    start(tmp_path, *only)
    assert len(lines(tmp_path)) == 1


def test_what_steers_only_the_computing_makes_no_other_result() -> None:
    unit = unit_of("23", HOPPER, "GTA", "cpu", algorithm=None)
    config = configuration("gta", unit.scale.quality_preset, None, "cpu", unit.settings).to_dict()
    assert unit.is_answered_by({"config": config})
    for stage, name, value in (("sampling", "generate_batch_size", 128), ("training", "checkpoint_seconds", 7.0)):
        assert config[stage][name] != value
        assert unit.is_answered_by({"config": {**config, stage: config[stage] | {name: value}}})
    for stage, fields in unit.config.items():
        for name in fields:
            assert not unit.is_answered_by({"config": {**config, stage: config[stage] | {name: "other"}}}), name


def test_what_failed_once_is_done_again_with_other_defaults(tmp_path: Path) -> None:
    only = ["--dataset", HOPPER, "--algorithm", "TD3BC", "--method", "S4RL"]
    start(tmp_path, *only)
    (line,) = lines(tmp_path)
    failed = {"id": line["id"], "unit": line["unit"], "error": "out of luck"}
    stage = next(name for name, fields in line["config"].items() if "noise" in fields)
    line["config"][stage]["noise"] = 0.5
    (tmp_path / ledger.RUNS).write_text("".join(json.dumps(each) + "\n" for each in (failed, line)))
    start(tmp_path, *only)
    assert len(lines(tmp_path)) == 3


def test_judged_data_that_failed_once_are_no_failure_any_more(tmp_path: Path) -> None:
    unit = unit_of("23", HOPPER, "GTA", "cpu", algorithm=None)
    failed = {"unit": unit.identity, "error": "out of luck"}
    quality = {"generated": {}, "source": {}, "checked_windows": 3}
    judged = {"unit": unit.identity, "quality": quality, "config": unit.config}
    stale = judged | {"config": None}

    def found(*lines: dict[str, object]) -> tuple[bool, int]:
        (tmp_path / ledger.RUNS).write_text("".join(json.dumps(line) + "\n" for line in lines))
        read = ledger.read_all(tmp_path)
        assert read.problems == []
        return read.answer(unit) is not None, len(read.failures(unit))

    assert found(failed) == (False, 1)
    assert found(failed, judged) == (True, 0)
    assert found(failed, stale) == (False, 0), "it was tried again"
    assert found(stale, failed, failed) == (False, 2)
    assert found(judged, failed) == (True, 0)


def test_a_result_of_other_defaults_does_not_hide_one_of_todays(tmp_path: Path) -> None:
    unit = unit_of("1-gym", HOPPER, "GTA", "cpu")
    today = {"unit": unit.identity, "returns": {"300000": {"mean": 1.0}}, "config": unit.config}
    stale = today | {"returns": {"300000": {"mean": 2.0}}, "config": {"sampling": {"alpha": 1.9}}}
    (tmp_path / ledger.RUNS).write_text(json.dumps(today) + "\n" + json.dumps(stale) + "\n")
    line = ledger.read_all(tmp_path).answer(unit)
    assert line is not None
    assert line["returns"]["300000"]["mean"] == 1.0


def test_the_same_data_under_another_name_are_the_same_result(tmp_path: Path) -> None:
    unit, other = (unit_of("factors", HOPPER, name, "cpu") for name in ("alpha 1.3", "GTA"))
    assert unit.config["sampling"]["alpha"] != other.config["sampling"]["alpha"]
    asked_otherwise = unit.identity | {"settings": {}, "preset": "another"}  # by defaults of another day
    line = {"unit": asked_otherwise, "returns": {"300000": {"mean": 1.0}}, "config": unit.config}
    (tmp_path / ledger.RUNS).write_text(json.dumps(line) + "\n")
    found = ledger.read_all(tmp_path)
    assert found.answer(unit) == line
    assert found.answer(other) is None
    assert found.answer(unit_of("1-gym", HOPPER, "SynthER", "cpu")) is None
    assert found.answer(unit_of("factors", "sim/halfcheetah/medium-v0", "alpha 1.3", "cpu")) is None


def test_a_setting_that_came_later_counts_as_its_default() -> None:
    usual, expected = (unit_of("conditions", HOPPER, name, "cpu", algorithm=None) for name in ("GTA", "expected"))
    config = json.loads(json.dumps(expected.config))
    assert config["data"].pop("returns") == "expected"
    assert usual.is_answered_by({"config": config})
    assert not expected.is_answered_by({"config": config})


def test_a_line_from_before_there_was_a_choice_of_ends_has_the_papers() -> None:
    for old, new, algorithm in (("source's ends", "GTA", "TD3BC"), ("SynthER, its ends", "SynthER", "TD3BC")):
        unit, other = (unit_of("factors", HOPPER, name, "cpu", algorithm=algorithm) for name in (old, new))
        config = json.loads(json.dumps(other.config))
        assert other.is_answered_by({"config": config})
        assert config["sampling"].pop("terminations") == "limits"
        assert unit.is_answered_by({"config": config})
        assert not other.is_answered_by({"config": config})


def test_what_ends_the_task_makes_no_other_data_where_nothing_does() -> None:
    for dataset, answered in ((HOPPER, False), ("sim/halfcheetah/medium-v0", True), ("sim/pointmaze/umaze-v0", True)):
        table = "1-maze" if "maze" in dataset else "1-gym"
        unit = unit_of(table, dataset, "GTA", "cpu", algorithm="IQL")
        config = json.loads(json.dumps(unit.config))
        assert config["sampling"]["terminations"] == "limits"
        config["sampling"]["terminations"] = "source"
        assert unit.is_answered_by({"config": config}) is answered
        config["sampling"]["terminations"], config["data"]["terminal_penalty"] = "limits", 1.0
        assert unit.is_answered_by({"config": config}) is answered


def test_who_asked_for_a_setting_that_is_gone_asked_for_something_else() -> None:
    unit = unit_of("1-gym", HOPPER, "GTA", "cpu")
    line = {"unit": unit.identity, "config": unit.config}
    assert unit.is_answered_by(line)
    assert not unit.is_answered_by(line | {"unit": unit.identity | {"settings": {"forgotten": 1.0}}})


def test_a_longer_run_answers_a_unit_that_is_its_beginning(tmp_path: Path) -> None:
    for algorithm, answered in (("TD3BC", True), ("TD3BC-d3rlpy", False), ("IQL", False)):
        unit = unit_of("trainers", "sim/halfcheetah/medium-v0", "None", "cpu", algorithm)
        whole = unit.identity | {"updates": 300_000}
        returns = {str(updates): {"mean": float(updates)} for updates in (30_000, 60_000, 90_000, 300_000)}
        (tmp_path / ledger.RUNS).write_text(json.dumps({"unit": whole, "returns": returns}) + "\n")
        line = ledger.read_all(tmp_path).answer(unit)
        assert (line is not None) == answered
        if line is not None:
            assert list(line["returns"]) == ["30000", "60000"]
        del returns["60000"]
        (tmp_path / ledger.RUNS).write_text(json.dumps({"unit": whole, "returns": returns}) + "\n")
        assert ledger.read_all(tmp_path).answer(unit) is None
