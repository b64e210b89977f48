"""The comparisons with released code, as far as they can be tested without it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.released import __main__ as released
from benchmarks.released import common, diffstitch, diffstitch_parts, gta, synther
from benchmarks.released.common import Setting
from gta_datasets.data.episodes import Episodes
from gta_datasets.data.windows import Windows, cut
from gta_datasets.demo import make_demo_dataset
from tests.builders import linear_episodes


def parse(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> tuple[Setting, str]:
    monkeypatch.setattr(sys, "argv", ["released", *map(str, arguments)])
    return released.parse()


def checkout(folder: Path, script: str, text: str = "") -> Path:
    (folder / script).parent.mkdir(parents=True)
    (folder / script).write_text(text)
    return folder


@pytest.mark.parametrize("name", released.METHODS)
def test_a_folder_without_the_released_code_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse(monkeypatch, name, "--checkout", tmp_path)
    message = capsys.readouterr().err
    assert f"--checkout {tmp_path} does not hold the released code" in message
    assert f"git clone https://github.com/{released.METHODS[name].REPOSITORY}" in message


def test_packages_that_are_missing_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(synther, "PACKAGES", {"numpy": "numpy", "no_such_module": "no-such-package"})
    with pytest.raises(SystemExit):
        parse(monkeypatch, "synther", "--checkout", checkout(tmp_path, synther.SCRIPT))
    assert "not installed; pip install no-such-package\n" in capsys.readouterr().err


def test_a_width_that_nothing_reads_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse(monkeypatch, "gta", "--checkout", checkout(tmp_path, gta.SCRIPT), "--width", 8)
    assert "--width is for diffstitch only" in capsys.readouterr().err


def test_what_is_given_replaces_the_method_s_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diffstitch, "PACKAGES", {})
    folder = checkout(tmp_path, diffstitch.SCRIPT)
    setting, name = parse(monkeypatch, "diffstitch", "--checkout", folder, "--steps", 7, "--width", 32)
    expected = diffstitch.DEFAULTS | {"method": "diffstitch", "checkout": folder, "steps": 7, "width": 32, "seed": 0}
    assert setting == Setting(**expected)
    assert name == "released-diffstitch"


def test_released_code_imports_what_is_absent_only_within_the_block(tmp_path: Path) -> None:
    code = "import absent.part\nfrom absent.part import Base\nclass Made(Base): size = 3\nabsent.log({'step': 1})\n"
    folder = checkout(tmp_path, "inner/released_example.py", code)
    before = list(sys.path)
    with common.importable(folder, "absent", "absent.part", folders=("inner",)):
        example = importlib.import_module("released_example")
        assert example.Made("any", argument=1).size == 3
        assert example.Base.print("nothing") is None
    assert sys.path == before
    assert "absent" not in sys.modules
    assert sys.modules.pop("released_example") is example


def test_windows_are_trajectories_in_order() -> None:
    source = linear_episodes([6, 6])
    states = source.observations.reshape(2, 7, -1)
    made = common.windows(states, source.actions.reshape(2, 6, -1), source.rewards.reshape(2, 6))
    for name in ("observations", "actions", "rewards", "offsets"):
        np.testing.assert_array_equal(getattr(made, name), getattr(source, name))
    assert made.truncations.nonzero()[0].tolist() == [5, 11]


def test_what_released_samplers_return_becomes_trajectories() -> None:
    source = linear_episodes([4, 4])
    first = source.slice(0, 1)
    columns = common.columns(first)
    bridge = tuple(columns[name] for name in ("observations", "actions", "rewards", "next_observations", "terminals"))
    shorter = cut(first, Windows(np.array([0]), np.array([0]), np.array([3])))
    found = diffstitch.joined([bridge, tuple(values[:3] for values in bridge)])
    np.testing.assert_array_equal(found.slice(0, 1).observations, first.observations)
    np.testing.assert_array_equal(found.slice(1, 2).observations, shorter.observations)
    np.testing.assert_array_equal(gta.joined([columns]).next_observations, first.next_observations)


def test_d4rl_columns_never_say_both_terminated_and_timed_out() -> None:
    columns = common.columns(linear_episodes([3, 2], terminated=[1]))
    assert columns["terminals"].nonzero()[0].tolist() == [4]
    assert columns["timeouts"].nonzero()[0].tolist() == [2]
    assert {len(values) for values in columns.values()} == {5}


def test_a_remembered_sampler_repeats_itself() -> None:
    sampler = diffstitch_parts.Remembered(torch.rand)
    first, second = sampler(3), sampler(2)
    sampler.again()
    assert sampler(3) is first
    assert sampler(2) is second
    assert sampler(2) is not second


@pytest.mark.parametrize("method", released.METHODS)
def test_our_side_is_timed_and_judged(method: str, tmp_path: Path) -> None:
    dataset = make_demo_dataset("bench/released-v0", episodes=5)
    setting = Setting(method, tmp_path, dataset.id, steps=3, batch_size=8, samples=4, seed=0)
    own = {"qualify": 1e9} if method == "diffstitch" else {}
    measured, shard, _ = common.ours(setting, str(tmp_path), preset="smoke", **own, **common.steps(3))
    assert measured["training_steps"] == 3
    assert measured["seconds"].keys() >= {"prepare_cpu", "train_cpu", "train_wall", "generate_cpu"}
    made = Episodes.from_arrays(shard)
    assert made.num_episodes == setting.samples
    found = common.judged(made, setting.source(), setting)
    assert found["transitions"] == made.num_transitions
    assert found["source"]["dynamics_mse"] < 1e-9 < found["dynamics_mse"]


def test_as_long_asks_for_steps_in_proportion() -> None:
    setting = Setting("gta", Path(), "x", steps=100, batch_size=8, samples=4, seed=0)
    measured = {"seconds": {"train_cpu": 2.0}}
    assert common.as_long(setting, 30.0, measured) == {"training_steps": 1500, "warmup_steps": 150}


def test_ours_gets_as_many_steps_and_as_many_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def measure(*_arguments: object, preset: str, training_steps: int, warmup_steps: int) -> dict[str, object]:
        asked.append(training_steps)
        return {"preset": preset, "seconds": {"train_cpu": 2.0}}

    monkeypatch.setattr(common, "our_figures", measure)
    setting = Setting("gta", Path(), "x", steps=100, batch_size=8, samples=4, seed=0)
    found = common.cpu_figures(setting, "", linear_episodes([4]), {"released": {"seconds": {"train_cpu": 30.0}}})
    assert list(found) == ["ours, cpu", "ours, cpu, as many seconds"]
    assert asked == [100, 1_500]


def test_released_code_is_told_the_sizes_of_spaces() -> None:
    source = linear_episodes([4])
    env = common.spaces(source)
    assert env.observation_space.shape == source.observations.shape[1:]
    assert env.action_space.shape == source.actions.shape[1:]
