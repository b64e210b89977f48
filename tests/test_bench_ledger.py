"""Which lines of the ledgers count."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import ledger, policies, record, run
from tests.benches import HOPPER, lines, small_hopper, start, unit_of

_hopper = pytest.fixture(scope="module", autouse=True)(small_hopper)


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
        {"unit": {"dataset": 7, "seed": 0}},
        {"unit": {"dataset": HOPPER}},
        {"unit": None},
        {"quality": {}},
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


def test_bytes_that_are_no_text_and_lines_without_an_engine_are_named(tmp_path: Path) -> None:
    (tmp_path / ledger.RUNS).write_bytes(b'{"unit": {"dataset": "\xff", "seed": 0}, "returns": {"9": {"mean": 1}}}\n')
    unit = {"dataset": HOPPER, "seed": 0, "variant": "gta"}
    (tmp_path / ledger.POLICIES).write_text(json.dumps({"unit": unit, "returns": {"9": {"mean": 1.0}}}))
    found = ledger.read_all(tmp_path)
    assert found.results == {}
    assert ["UnicodeDecodeError" in text or "KeyError: 'engine'" in text for text in found.problems] == [True, True]


def test_every_committed_line_is_sound() -> None:
    found = ledger.read_all(record.RESULTS)
    assert found.problems == []
    others = [path for path in record.RESULTS.glob("*.jsonl") if record.read(path)[1]]
    assert others == []
    assert len(found.results) > 100


def test_a_run_of_the_policies_benchmark_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unit = {
        "dataset": "sim/walker2d/medium-v0", "engine": "vectorised", "preset": "cpu", "num_transitions": 200_000,
        "updates": 300_000, "batch_size": 256, "real_fraction": None, "episodes": 10, "variant": "gta", "seed": 0,
    }  # fmt: skip
    returns = {"300000": {"mean": 3_000.0, "std": 1.0}}
    both = [
        {"unit": unit | {"variant": variant}, "returns": returns, "config": policies.config_of(unit)}
        for variant in ("source", "gta")
    ]
    (tmp_path / ledger.POLICIES).write_text("".join(json.dumps(line) + "\n" for line in both))
    start_list = ["--table", "1-gym", "--list", "--algorithm", "TD3BC", "--results", str(tmp_path)]
    run.main(start_list)
    done = [line for line in capsys.readouterr().out.splitlines() if line.startswith("done")]
    assert [line.rpartition(", ")[2] for line in done] == ["None", "GTA"]
    old = "".join(json.dumps({**line, "config": None}) + "\n" for line in both)
    (tmp_path / ledger.POLICIES).write_text(old)
    run.main(start_list)
    done = [line for line in capsys.readouterr().out.splitlines() if line.startswith("done")]
    assert [line.rpartition(", ")[2] for line in done] == ["None"], "nobody knows how its data were made"
    # Its IQL is neither TD3+BC nor the IQL of the tables.
    (tmp_path / ledger.POLICIES).write_text(json.dumps(both[0] | {"unit": both[0]["unit"] | {"algorithm": "iql"}}))
    for algorithm in ("TD3BC", "IQL"):
        run.main(["--table", "1-gym", "--list", "--algorithm", algorithm, "--results", str(tmp_path)])
        assert not any(line.startswith("done") for line in capsys.readouterr().out.splitlines())


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
    config = policies.config_of({"variant": "gta", "preset": unit.scale.quality_preset})
    assert unit.is_answered_by({"config": config})
    for stage, name, value in (("sampling", "generate_batch_size", 128), ("training", "checkpoint_seconds", 7.0)):
        assert config[stage][name] != value
        assert unit.is_answered_by({"config": {**config, stage: config[stage] | {name: value}}})
    for stage, fields in unit.config.items():
        for name in fields:
            assert not unit.is_answered_by({"config": {**config, stage: config[stage] | {name: "other"}}}), name


def test_a_run_by_another_engine_stands_beside_that_of_the_stack(tmp_path: Path) -> None:
    unit = {
        "dataset": HOPPER, "engine": "vectorised", "preset": "cpu", "num_transitions": 200_000, "updates": 300_000,
        "batch_size": 256, "real_fraction": None, "episodes": 10, "variant": "source", "seed": 0,
    }  # fmt: skip
    (tmp_path / ledger.POLICIES).write_text(
        "".join(
            json.dumps({"unit": unit | {"engine": engine}, "returns": {"9": {"mean": 1.0}}}) + "\n"
            for engine in ("vectorised", "d3rlpy")
        )
    )
    found = ledger.read_all(tmp_path)
    assert [line["trainer"] for line in found.results.values()] == ["stack", "d3rlpy"]
    assert found.results[unit_of("1-gym", HOPPER, "None", "cpu").id]["trainer"] == "stack"


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
    unit = {"dataset": HOPPER, "seed": 0}
    for name, found in ((ledger.RUNS, {"error": "out of luck"}), (ledger.JUDGED, {"quality": {"generated": {}}})):
        (tmp_path / name).write_text(json.dumps({"unit": unit, **found}) + "\n")
    found = ledger.read_all(tmp_path)
    assert len(found.results) == 1
    assert not found.failures
