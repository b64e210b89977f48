"""The command line: the same words as the Python interface, results on standard output, errors in one line."""

from __future__ import annotations

import importlib.metadata
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import minari
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from torch import Tensor

from gta_datasets import augment, cli
from gta_datasets.training import loop
from tests.builders import linear_dataset
from tests.cli.helpers import ARGUMENTS, ID, Run
from tests.smoke import assert_same_episode, tiny


def test_help_names_every_command(run: Run) -> None:
    code, output, _ = run("--help")
    assert code == 0
    for command in ("demo", "augment", "quality", "compare", "export", "cache"):
        assert re.search(rf"^\W*{command}\s", output, re.MULTILINE), command
    code, output, _ = run("cache", "--help")
    assert code == 0
    for command in ("ls", "verify", "clear"):
        assert re.search(rf"^\W*{command}\s", output, re.MULTILINE), command


@pytest.mark.parametrize("command", ["demo", "augment", "quality", "compare", "export", "cache"])
def test_help_of_every_command(run: Run, command: str) -> None:
    code, output, _ = run(command, "--help")
    assert code == 0
    assert f"gta-datasets {command}" in output


@pytest.mark.parametrize("module", ["gta_datasets", "gta_datasets.cli"])
def test_the_command_line_is_a_module(module: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", module, "cache", "ls", "--cache-dir", str(tmp_path / "none")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"the cache {tmp_path / 'none'} is empty\n"


def test_the_version_is_that_of_the_package(run: Run) -> None:
    assert run("--version") == (0, f"gta-datasets {importlib.metadata.version('gta-datasets')}\n", "")


@pytest.mark.usefixtures("dataset")
def test_a_quiet_command_shows_no_bars(run: Run, tmp_path: Path) -> None:
    code, _, errors = run("augment", ID, *ARGUMENTS, "--quiet", "--cache-dir", tmp_path)
    assert (code, errors) == (0, "")


def test_a_dataset_of_an_environment_of_the_users_needs_trust(run: Run, tmp_path: Path) -> None:
    folder = linear_dataset("cli/own-env-v0").storage.data_path
    metadata = json.loads((folder / "metadata.json").read_text())
    metadata["env_spec"] = EnvSpec("Arm-v0", "lab.arm:Arm").to_json()
    (folder / "metadata.json").write_text(json.dumps(metadata))
    command = ["augment", "cli/own-env-v0", *ARGUMENTS, "--num-transitions", 60, "--cache-dir", tmp_path]
    code, _, errors = run(*command)
    assert code == 2
    assert "would run 'lab.arm:Arm'" in errors
    assert errors.endswith("in a shell --trust\n")
    assert run(*command, "--trust")[0] == 0
    assert run("augment", "cli/missing-v0", "--trust")[0] == 2
    with h5py.File(folder / "main_data.hdf5", "a") as file:
        file["episode_0/link"] = h5py.ExternalLink("other.hdf5", "/")
    code, _, errors = run(*command, "--trust")
    assert code == 2
    assert "is a soft or external link" in errors, "everything else is screened"


def test_the_installed_script_runs() -> None:
    script = Path(sys.executable).with_name("gta-datasets")
    found = subprocess.run([script, "augment", "cli/missing-v0"], capture_output=True, text=True, timeout=60)
    assert found.returncode == 2
    assert found.stdout == ""
    assert re.fullmatch(r"error: there is no dataset 'cli/missing-v0' on this machine.*\n", found.stderr)


def test_augment_generates_what_the_python_interface_finds(
    run: Run, dataset: minari.MinariDataset, tmp_path: Path
) -> None:
    code, output, errors = run("augment", ID, *ARGUMENTS, "--num-transitions", 60, "--seed", 3, "--cache-dir", tmp_path)
    assert code == 0
    augmented = tiny(dataset, num_transitions=60, seed=3, cache_dir=tmp_path)
    assert augmented.is_complete
    generated = augmented.generated
    assert output == f"{len(generated)} trajectories, {generated.total_steps} transitions\ncache: {augmented.path}\n"
    assert "training" in errors
    again = run("augment", ID, *ARGUMENTS, "--num-transitions", 60, "--seed", 3, "--cache-dir", tmp_path)
    assert again[:2] == (0, output)
    assert "training" not in again[2]


def test_what_ctrl_c_stopped_goes_on(
    run: Run, dataset: minari.MinariDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["augment", ID, *ARGUMENTS, "--num-transitions", 60, "--cache-dir", tmp_path]
    advance, steps = loop._Run.advance, []

    def interrupted(training: loop._Run, loss_of_step: Callable[[int], Tensor]) -> None:
        steps.append(training.step)
        advance(training, loss_of_step)
        if len(steps) == 2:
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(loop._Run, "advance", interrupted)
            code, output, errors = run(*arguments)
            assert (code, output) == (130, "")
            assert errors.endswith("\ninterrupted; the same command goes on where it stopped\n")
            assert run(*arguments)[0] == 0
    finally:
        signal.signal(signal.SIGINT, before)
    assert steps == [0, 1, 2]
    assert tiny(dataset, num_transitions=60, cache_dir=tmp_path).is_complete


@pytest.mark.usefixtures("dataset")
def test_where_nothing_is_stored_no_folder_is_named(run: Run, tmp_path: Path) -> None:
    code, output, _ = run("augment", ID, "--method", "s4rl", "--preset", "smoke", "--cache-dir", tmp_path)
    assert code == 0
    assert re.fullmatch(r"\d+ trajectories, \d+ transitions\n", output)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("dataset")
def test_a_file_is_no_cache(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for command in (["augment", ID, *ARGUMENTS], ["cache", "ls"], ["cache", "verify"]):
        code, _, errors = run(*command, "--cache-dir", tmp_path / "file")
        assert code == 2
        assert re.fullmatch(r"error: .*: Not a directory; choose another cache_dir\n", errors)


@pytest.mark.usefixtures("dataset")
def test_the_number_of_workers_reaches_the_dataset(run: Run, tmp_path: Path) -> None:
    code, _, errors = run("augment", ID, *ARGUMENTS, "--workers", 0, "--cache-dir", tmp_path)
    assert code == 2
    assert "workers=0 is not allowed" in errors


@pytest.mark.usefixtures("dataset")
def test_a_folder_is_no_place_for_a_report(run: Run, tmp_path: Path) -> None:
    """Said before any work."""
    for command in ("quality", "compare"):
        code, _, errors = run(command, ID, "--report", tmp_path, "--cache-dir", tmp_path)
        assert code == 2
        assert "is a directory" in errors
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("dataset")
@pytest.mark.parametrize("command", ["quality", "compare", "demo"])
def test_a_file_is_no_folder_for_a_report(run: Run, tmp_path: Path, command: str) -> None:
    (tmp_path / "file").write_text("mine")
    where = ["--output", tmp_path / "file"] if command == "demo" else [ID, "--report", tmp_path / "file" / "page.html"]
    code, _, errors = run(command, *where, "--cache-dir", tmp_path / "cache")
    assert code == 2
    assert errors.startswith("error: cannot write the page ")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_quality_as_json_and_as_a_table(run: Run, dataset: minari.MinariDataset, tmp_path: Path) -> None:
    code, output, _ = run("quality", ID, *ARGUMENTS, "--num-transitions", 60, "--json")
    assert code == 0
    found = tiny(dataset, num_transitions=60).quality()
    assert json.loads(output) == json.loads(found.to_json())
    page = tmp_path / "report.html"
    code, output, _ = run("quality", ID, *ARGUMENTS, "--num-transitions", 60, "--report", page)
    assert code == 0
    assert output == found.table() + "\n"
    assert page.read_text().lstrip().startswith("<!")


def test_compare_writes_a_page_and_gives_settings_to_those_who_have_them(
    run: Run, dataset: minari.MinariDataset, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    arguments = ["--methods", "gta,s4rl", "--num-transitions", 60, "--set", "noise=0.5", "--report", page]
    code, output, _ = run("compare", ID, *ARGUMENTS, *arguments)
    assert code == 0
    gta = tiny(dataset, num_transitions=60)
    s4rl = augment(dataset, "s4rl", preset="smoke", num_transitions=60, noise=0.5)
    assert s4rl.quality().table() in output
    assert gta.quality().table() in output
    assert page.read_text().count("<td>0.5</td>") >= 1
    code, _, errors = run("compare", ID, *ARGUMENTS, "--methods", "gta,s4rl", "--set", "unheard=1")
    assert code == 2
    assert "unheard" in errors


def test_compare_gives_the_task_to_gta(run: Run, dataset: minari.MinariDataset, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    arguments = ["--task", "adroit", "--num-transitions", 60, "--report", page]
    code, output, _ = run("compare", ID, *ARGUMENTS, "--methods", "gta,s4rl", *arguments)
    assert code == 0
    assert tiny(dataset, task="adroit", num_transitions=60).quality().table() in output
    code, _, errors = run("compare", ID, "--preset", "smoke", "--methods", "s4rl,synther", *arguments)
    assert code == 2
    assert errors.startswith("error: task='adroit' is for method 'gta'")


def test_export(run: Run, dataset: minari.MinariDataset) -> None:
    code, output, _ = run("export", ID, "cli/out-v0", *ARGUMENTS, "--num-transitions", 60)
    assert code == 0
    exported = minari.load_dataset("cli/out-v0")
    assert output == f"{exported.storage.data_path}\n"
    for found, expected in zip(exported, tiny(dataset, num_transitions=60), strict=True):
        assert_same_episode(found, expected)
    code, output, errors = run("export", ID, "cli/out-v0", *ARGUMENTS, "--num-transitions", 60)
    assert (code, output) == (2, "")
    assert errors.startswith("error: dataset 'cli/out-v0' already exists")


def test_export_of_what_is_generated_alone(run: Run, dataset: minari.MinariDataset) -> None:
    options = ("--num-transitions", 60, "--no-include-source")
    assert run("export", ID, "cli/generated-v0", *ARGUMENTS, *options)[0] == 0
    exported = minari.load_dataset("cli/generated-v0")
    expected = tiny(dataset, num_transitions=60).generated
    assert len(exported) == len(expected)
    np.testing.assert_array_equal(exported[0].observations, expected[0].observations)


def test_a_task_is_that_of_the_python_interface(run: Run, dataset: minari.MinariDataset, tmp_path: Path) -> None:
    options = ("--task", "adroit", "--num-transitions", 5, "--cache-dir", tmp_path)
    assert run("augment", ID, *ARGUMENTS, *options)[0] == 0
    assert tiny(dataset, task="adroit", num_transitions=5, cache_dir=tmp_path).is_complete
    assert not tiny(dataset, num_transitions=5, cache_dir=tmp_path).is_fitted


@pytest.mark.parametrize("command", ["augment", "quality", "compare", "export"])
def test_a_task_that_is_not_known(run: Run, dataset: minari.MinariDataset, command: str) -> None:
    target = ["cli/unknown-v0"] if command == "export" else []
    code, _, errors = run(command, ID, *target, "--task", "atari")
    assert code == 2
    assert errors.startswith("error: task='atari' is not known; choose one of 'locomotion'")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("alpha=1.3", 1.3),
        ("alpha=2", 2.0),
        ("horizon=5", 5),
        ("sampler=heun", "heun"),
        ('sampler="heun"', "heun"),
        ("generate_batch_size=3", 3),
        ("qualify_attempts=1_000", 1_000),
        ("compile=False", False),
        ("mu=.4", 0.4),
    ],
)
def test_settings_become_fields(
    run: Run, dataset: minari.MinariDataset, tmp_path: Path, setting: str, value: object
) -> None:
    name = setting.partition("=")[0]
    assert run("augment", ID, *ARGUMENTS, "--num-transitions", 5, f"--set={setting}", "--cache-dir", tmp_path)[0] == 0
    assert tiny(dataset, num_transitions=5, cache_dir=tmp_path, **{name: value}).is_complete


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "alhpa=1.3"], "alhpa=1.3 is not name=value with one of alpha, auto_error, "),
        (["--set", "num_transitions=9"], "num_transitions is an option of its own: --num-transitions"),
        (["--set", "alpha"], "alpha is not name=value with one of alpha, auto_error, "),
        (["--set", "alpha=much"], "alpha='much' is not allowed; choose a value of type float"),
        (["--set", "alpha=NaN"], "alpha=nan is not allowed"),
        (["--set", "horizon=1.5"], "horizon=1.5 is not allowed; choose a value of type int"),
        (["--set", "mu=[1]"], "mu=[1] is not allowed"),
        (["--set", "horizon=100000000000000000000"], "horizon=100000000000000000000 is not allowed"),
        (["--preset", "large"], "preset='large' is not known; choose one of 'auto', 'paper'"),
        (["--device", "abacus"], "device='abacus' is not a torch device"),
        (["--num-transitions", "0"], "num_transitions=0 is not allowed"),
        (["--seed", "-1"], "seed=-1 is not allowed"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(
    run: Run, dataset: minari.MinariDataset, arguments: list[str], message: str
) -> None:
    code, output, errors = run("augment", ID, *arguments)
    assert (code, output) == (2, "")
    assert errors.startswith(f"error: {message}")
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "message"),
    [(MemoryError(), "MemoryError"), (OSError(28, "No space left on device"), "[Errno 28] No space left on device")],
)
def test_errors_of_the_system_are_one_line_too(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(cli, "augment", fail)
    assert run("augment", ID) == (2, "", f"error: {message}\n")


@pytest.mark.parametrize("dataset_id", ["cli/missing-v0", "../cli-v0", "/etc/passwd"])
def test_row_17_ids_that_are_missing_or_hostile(run: Run, dataset_id: str) -> None:
    code, output, errors = run("augment", dataset_id)
    assert (code, output) == (2, "")
    assert errors.startswith("error: ")
    assert repr(dataset_id) in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize("arguments", [["augment"], ["augment", ID, "--unknown"], ["fly"], ["export", ID]])
def test_wrong_usage_is_exit_code_2(run: Run, arguments: list[str]) -> None:
    code, output, errors = run(*arguments)
    assert (code, output) == (2, "")
    assert re.search(r"^Usage: .*gta-datasets", errors)


def test_the_demo_writes_its_report(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With a small dataset in place of the embedded one and settings that train in no time."""
    monkeypatch.setattr("gta_datasets.demo.make_demo_dataset", lambda: linear_dataset("cli/demo-v0"))
    monkeypatch.setattr(cli, "augment", lambda dataset, **given: tiny(dataset, cache_dir=given["cache_dir"]))
    code, output, _ = run("demo", "--output", tmp_path / "report", "--cache-dir", tmp_path / "cache")
    assert code == 0
    assert output.endswith(f"report: {tmp_path / 'report' / 'report.html'}\n")
    assert (tmp_path / "report" / "report.html").exists()
    assert json.loads((tmp_path / "report" / "quality.json").read_text())["seed"] == 0
