"""Samplers, networks and steps of training are timed and judged."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import speed
from benchmarks.candidates import DiffusionTransformer, TemporalUNet
from gta_datasets.demo import make_demo_dataset
from gta_datasets.networks import TemporalMixer, compiled


def test_samplers_are_timed_and_judged_on_the_same_windows(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_demo_dataset("sim/halfcheetah/medium-v0", episodes=1)
    only = ["--preset", "smoke", "--horizon", "7", "--num-transitions", "300", "--only", "default"]
    arguments = ["samplers", "sim/halfcheetah/medium-v0", *only, "--only", "8 steps"]
    monkeypatch.setattr(sys, "argv", ["speed", *arguments])
    speed.main()
    found = json.loads((results / "speed" / "samplers-sim-halfcheetah-medium-v0-smoke-horizon-7.json").read_text())
    of_four, of_eight = found["measured"]["default"], found["measured"]["8 steps"]
    assert of_four["transitions"] == of_eight["transitions"] >= 300
    # Four steps of which the last two are unguided, and eight of which the last four are.
    assert of_eight["gflop_per_transition"] > 1.5 * of_four["gflop_per_transition"]
    assert of_four["oracle_reward"] != of_eight["oracle_reward"]
    assert 0 < of_four["share_of_peak"]["float32"] < 1
    assert found["peak"]["float32"] > 1


def test_steps_are_timed_and_kept_as_soon_as_they_are(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_demo_dataset("sim/halfcheetah/medium-v0", episodes=1)

    def fails(_network: nn.Module, **_: object) -> None:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(compiled, "_works", lambda _device: True)
    monkeypatch.setattr(nn.Module, "compile", fails)
    arguments = ["steps", "sim/halfcheetah/medium-v0", "--preset", "smoke", "--horizon", "7"]
    monkeypatch.setattr(sys, "argv", ["speed", *arguments])
    with pytest.raises(RuntimeError, match="no compiler"):
        speed.main()
    found = json.loads((results / "speed" / "steps-sim-halfcheetah-medium-v0-smoke-horizon-7.json").read_text())
    (eager,) = found["measured"].values()
    assert eager["seconds"] > 0
    assert eager["gflop"] > 0


def test_the_presets_own_network_is_compiled_for_timed_steps(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_demo_dataset("sim/halfcheetah/medium-v0", episodes=1)
    asked: list[type[nn.Module]] = []
    monkeypatch.setattr(compiled, "_works", lambda _device: True)
    monkeypatch.setattr(nn.Module, "compile", lambda network, **_: asked.append(type(network)))
    arguments = ["steps", "sim/halfcheetah/medium-v0", "--preset", "smoke", "--horizon", "7", "--only", "compiled"]
    monkeypatch.setattr(sys, "argv", ["speed", *arguments])
    speed.main()
    found = json.loads((results / "speed" / "steps-sim-halfcheetah-medium-v0-smoke-horizon-7.json").read_text())
    assert list(found["measured"]) == ["compiled"]
    assert set(asked) == {TemporalMixer}


@pytest.mark.slow
def test_the_preset_gets_a_tenth_of_the_papers_time(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_demo_dataset("sim/halfcheetah/medium-v0", episodes=1)
    monkeypatch.setattr(speed, "seconds_per_step", lambda arguments: 0.5 if arguments.preset == "paper" else 0.01)
    monkeypatch.setattr(speed, "PAPER", {**speed.PAPER, "sampler_steps": 8})
    sizes = ["--preset", "smoke", "--horizon", "7", "--num-transitions", "50", "--minutes", "0.05"]
    monkeypatch.setattr(sys, "argv", ["speed", "training", "sim/halfcheetah/medium-v0", *sizes])
    speed.main()
    found = json.loads((results / "speed" / "training-sim-halfcheetah-medium-v0-smoke-horizon-7.json").read_text())
    assert {name: part["training_steps"] for name, part in found["measured"].items()} == {"paper": 6, "smoke": 30}


def test_networks_are_trained_with_equal_work(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_demo_dataset("sim/halfcheetah/medium-v0", episodes=1)
    sizes = ["--preset", "smoke", "--horizon", "7", "--num-transitions", "50"]
    names = ["temporal mixer, 96 x 4", "U-Net, 32"]
    only = [part for name in names for part in ("--only", name)]
    monkeypatch.setattr(sys, "argv", ["speed", "networks", "sim/halfcheetah/medium-v0", *sizes, *only])
    speed.main()
    found = json.loads((results / "speed" / "networks-sim-halfcheetah-medium-v0-smoke-horizon-7.json").read_text())[
        "measured"
    ]
    assert list(found) == names
    mixer, unet = found.values()
    assert mixer["training_gflop"] == unet["training_gflop"] > 0
    assert mixer["training_steps"] < unet["training_steps"]
    assert mixer["gflop_per_transition"] > unet["gflop_per_transition"]
    assert mixer["oracle_reward"] != unet["oracle_reward"]


@pytest.mark.parametrize(
    "build",
    [lambda *sizes: DiffusionTransformer(*sizes, width=32, depth=2), lambda *sizes: TemporalUNet(*sizes, width=8)],
)
def test_candidates_listen_to_noise_and_return(build: Callable[..., nn.Module]) -> None:
    torch.manual_seed(0)
    network = build(8, 6, 5)
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    x, noise, returns, keep = torch.randn(3, 8, 6), torch.zeros(3), torch.zeros(3), torch.ones(3)
    output = network(x, noise, returns, keep)
    assert output.shape == (3, 8, 5)
    for other in ((x, noise + 1, returns, keep), (x, noise, returns + 1, keep), (x + 1, noise, returns, keep)):
        assert not torch.allclose(output, network(*other), atol=1e-4)
    dropped = network(x, noise, returns, 0 * keep)
    assert torch.equal(dropped, network(x, noise, returns + 1, 0 * keep))
