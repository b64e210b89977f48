"""The benchmark scripts run end to end at small size and record what they claim to."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import minari
import numpy as np
import pytest
from stable_baselines3 import SAC

from benchmarks import adapters, core, datasets, memory, qualify, scaling, stitching
from benchmarks.behaviour import train
from benchmarks.charts import draw_curves
from gta_datasets.data.reading import read_episodes
from gta_datasets.demo import make_demo_dataset
from gta_datasets.errors import DatasetError
from gta_datasets.plots.drawing import new_figure
from gta_datasets.rollouts import SquashedGaussian
from gta_datasets.simulator import simulator_for
from tests.builders import linear_dataset
from tests.smoke import assert_same_episode


def test_core_records_times_quality_and_how_to_repeat_it(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    linear_dataset("bench/linear-v0", lengths=[30, 30])
    arguments = ["bench/linear-v0", "--preset", "smoke", "--num-transitions", "40", "--set", "alpha=1.3"]
    monkeypatch.setattr(sys, "argv", ["core", *arguments, "--cache-dir", str(tmp_path / "cache")])
    core.main()
    found = json.loads((results / "core" / "bench-linear-v0-smoke.json").read_text())
    assert found["command"].startswith("python -m benchmarks.core bench/linear-v0 --preset smoke")
    assert found["config"]["sampling"]["alpha"] == 1.3
    assert found["transitions"] >= 40
    assert found["cache_was_empty"]
    assert all(seconds >= 0 for seconds in found["seconds"].values())
    assert found["quality"]["generated"]["reward"] is not None
    assert {"machine", "versions", "revision"} <= set(found)
    core.main()
    again = json.loads((results / "core" / "bench-linear-v0-smoke.json").read_text())
    assert not again["cache_was_empty"]
    assert again["seconds"]["fit"] is None


def test_core_names_a_setting_that_is_none(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["core", "bench/linear-v0", "--set", "alhpa=1.3"])
    with pytest.raises(SystemExit, match="2"):
        core.main()
    assert "alhpa=1.3 is not name=value with one of alpha, " in capsys.readouterr().err


@pytest.mark.slow
def test_memory_compares_the_peak_with_the_raw_arrays(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["memory", "--episodes", "5", "--steps", "40"])
    memory.main()
    found = json.loads((results / "memory.json").read_text())
    assert found["transitions"] == 200
    assert found["raw_bytes"] == 4 * (17 * 205 + 7 * 200) + 400
    assert found["peak_bytes"] > found["raw_bytes"]


@pytest.mark.slow
def test_workers_are_compared_with_one_process(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    linear_dataset("bench/shards-v0", lengths=[30, 30])
    sizes = ["--preset", "smoke", "--num-transitions", "3000", "--training-steps", "2"]
    monkeypatch.setattr(sys, "argv", ["scaling", "bench/shards-v0", *sizes])
    scaling.main()
    found = json.loads((results / "scaling.json").read_text())
    assert 0 < found["matrix_product_speedup"] < 4
    assert found["same_files"]
    assert found["shards"] == 27
    assert found["speedup"] > 0
    assert found["seconds"].keys() == {"one_process", "workers", "workers_one_killed"}
    assert len(found["killed"]) == 1


@pytest.mark.slow
def test_adapters_are_compared_with_what_they_replace(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["adapters", "--transitions", "130000", "--fit-steps", "2"])
    adapters.main()
    found = json.loads((results / "adapters-130000.json").read_text())
    assert found["d3rlpy"].keys() == {"build", "batch_256", "batch_1024", "trajectories_64x20", "td3_bc_fit"}
    assert found["sb3"].keys() == {"fill_copy", "fill_view", "batch_256"}
    for pair in (*found["d3rlpy"].values(), *found["sb3"].values()):
        assert pair["ours_seconds"] > 0
        assert pair["stock_seconds"] > 0
    assert found["open"]["first_batch_seconds"] >= found["open"]["open_seconds"] > 0


def test_more_curves_than_colours_can_be_told_apart() -> None:
    _, (axes,) = new_figure()
    draw_curves(axes, {f"method {number}": [{"returns": {"5": {"mean": 1.0}}}] for number in range(9)})
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == 9


def test_the_filter_is_compared_with_the_simulator(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_demo_dataset("bench/judged-v0", episodes=1)
    monkeypatch.setattr(sys, "argv", ["qualify", "bench/judged-v0", "--preset", "smoke", "--shards", "2"])
    qualify.main()
    found = json.loads((results / "qualify" / "bench-judged-v0-smoke.json").read_text())
    assert found["trajectories"] == 32
    assert found["all"]["share_kept"] == 1
    kept = [figures["share_kept"] for figures in found["by_delta"].values()]
    assert kept == sorted(kept)


def test_stitches_are_judged_by_where_they_end(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_demo_dataset("bench/stitched-v0", episodes=4)
    monkeypatch.setattr(
        sys, "argv", ["stitching", "bench/stitched-v0", "--preset", "smoke", "--num-transitions", "200"]
    )
    stitching.main()
    found = json.loads((results / "stitching" / "bench-stitched-v0-smoke.json").read_text())
    assert found["trajectories"] == 16
    assert 0 < found["acceptance_rate"] <= 1
    assert 0 < found["distance_to_target"]["median"] <= found["distance_to_target"]["95 %"]
    assert found["bridge_dynamics_mse"] > 0


def test_recorded_steps_miss_nothing() -> None:
    dataset = make_demo_dataset("bench/real-v0", episodes=1)
    episodes = read_episodes(dataset).episodes.slice(0, 1)
    shard = {**episodes.arrays(), "stitch_start": np.array([5]), "stitch_length": np.array([10])}
    simulator = simulator_for(dataset.spec.env_spec)
    assert simulator is not None
    found = stitching.judge(shard, simulator, np.ones(episodes.observations.shape[1]))
    assert found["last"].shape == (1,)
    assert found["within"].shape == (10,)
    assert found["within"].max() < 1e-8


def test_a_dataset_does_not_depend_on_the_number_of_workers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = []
    for workers in (1, 2):
        monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / str(workers)))
        made.append(datasets.make("sim/hopper/medium-replay-v0", steps=300, seed=3, workers=workers))
    first, second = made
    assert first.total_episodes == second.total_episodes
    for one, other in zip(first, second, strict=True):
        assert_same_episode(one, other)
    assert first.total_steps >= 300
    assert first.total_steps - len(first[-1].rewards) < 300


def test_a_dataset_is_replaced_only_if_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    name = "sim/hopper/random-v0"
    made = {steps: datasets.make(name, steps=steps, replace=True).total_steps for steps in (1, 100)}
    assert 1 <= made[1] < 100 <= made[100] == minari.load_dataset(name).total_steps
    for arguments, error in {
        ("make", name, "--steps", "300"): f"the dataset {name!r} is there already; --replace makes it anew",
        ("make", name, "--steps", "0"): "'0' is no whole number of at least 1",
        ("make", name, "--remote"): "there is no remote dataset of level 'random'",
        ("describe", "sim/hopper/none-v0"): "sim/hopper/none-v0",
    }.items():
        with pytest.raises(SystemExit, match="2"):
            datasets.main(arguments)
        assert error in capsys.readouterr().err
    assert minari.load_dataset(name).total_steps == made[100]


def test_what_is_in_a_dataset_is_written_down(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = linear_dataset("bench/described-v0", lengths=[30, 20, 10])
    monkeypatch.setattr(sys, "argv", ["datasets", "describe", "bench/described-v0"])
    datasets.main()
    found = json.loads((results / "datasets.json").read_text())["datasets"]["bench/described-v0"]
    returns = [sum(episode.rewards) for episode in dataset]
    assert (found["episodes"], found["transitions"]) == (3, 60)
    assert found["mean_return"] == pytest.approx(np.mean(returns), abs=0.06)
    assert found["std_return"] == pytest.approx(np.std(returns, ddof=1), abs=0.06)
    assert found["description"] == dataset.storage.metadata.get("description")
    assert found["recording"] == datasets.recording(dataset)
    assert found["recording"] != datasets.recording(dataset.filter_episodes(lambda episode: episode.id > 0))


def test_levels_are_what_they_say() -> None:
    returns = {
        level: np.mean(
            [np.sum(datasets.episode(f"sim/hopper/{level}-v0", n, seed=0).rewards, axis=0) for n in range(2)]
        )
        for level in ("random", "medium", "expert")
    }
    assert returns["random"] < 100 < returns["medium"] < returns["expert"]
    assert returns["expert"] > 2_000


def test_demonstrations_ship(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    made = datasets.make(datasets.DOOR, steps=1)
    assert (made.total_episodes, made.total_steps, made.env_spec.id) == (25, 6_729, "AdroitHandDoor-v1")
    assert datasets.recording(made) == "e8331dca78", "results are of this one"
    assert all(episode.truncations[-1] and not episode.terminations.any() for episode in made)
    assert all(len(episode.observations) == len(episode.actions) + 1 for episode in made)
    assert datasets.remote_id(datasets.DOOR) == "D4RL/door/human-v2"


@pytest.mark.parametrize("option", ["steps", "seed", "workers"])
def test_demonstrations_have_no_size_to_choose(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        datasets.main(["make", datasets.DOOR, f"--{option}", "2"])
    assert f"--{option}: the demonstrations are what they are" in capsys.readouterr().err


def test_a_recording_is_read_once_and_again_when_it_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, reads = linear_dataset("bench/read-once-v0", lengths=[5, 4]), []
    read = minari.MinariDataset.iterate_episodes
    monkeypatch.setattr(
        minari.MinariDataset, "iterate_episodes", lambda self, *some: reads.append(1) or read(self, *some)
    )
    first = datasets.recording(dataset)
    assert datasets.recording(minari.load_dataset("bench/read-once-v0")) == first
    assert len(reads) == 1
    minari.delete_dataset("bench/read-once-v0")
    assert datasets.recording(linear_dataset("bench/read-once-v0", lengths=[4, 5])) != first


@pytest.mark.parametrize("name", datasets.ROLLED_OUT)
def test_every_dataset_can_be_made(name: str) -> None:
    body, level = datasets.parse(name)
    if level != "expert":
        made = datasets.episode(name, 1, seed=0)
        rows = made.observations["observation"] if body == "pointmaze" else made.observations
        assert len(rows) == len(made.rewards) + 1
    if body == "pointmaze" and not level.endswith("-replay"):
        assert datasets.remote_id(name) == f"D4RL/pointmaze/{level}-v2"
    elif body != "pointmaze" and level in ("medium", "expert"):
        assert datasets.remote_id(name) == f"mujoco/{body}/{level}-v0"
    else:
        with pytest.raises(DatasetError, match="no remote dataset of level"):
            datasets.remote_id(name)


def test_a_snapshot_acts_as_the_policy_it_was_taken_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = ["--steps", "60", "--every", "60", "--learning-starts", "100"]
    monkeypatch.setattr(sys, "argv", ["train", "Hopper-v5", *sizes, "--output", str(tmp_path)])
    models = []
    learn = SAC.learn
    monkeypatch.setattr(SAC, "learn", lambda self, *args, **kwargs: models.append(learn(self, *args, **kwargs)))
    train.main()
    found = SquashedGaussian.load(tmp_path / "0000060.npz")
    observation = np.linspace(-1, 1, 11)

    class NoNoise:
        def standard_normal(self, shape: tuple[int, ...]) -> np.ndarray:
            return np.zeros(shape)

    expected, _ = models[0].predict(observation.astype(np.float32), deterministic=True)
    np.testing.assert_allclose(found.act(observation, NoNoise()), expected, atol=1e-5)
