from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gta_datasets.config import TrainingConfig
from gta_datasets.training import loop
from gta_datasets.training.checkpoint import Checkpoint, load_checkpoint
from gta_datasets.training.loop import CHECK_EVERY, learning_rate, train
from tests.training.tasks import LossOfStep, config_of, file, fresh_denoiser, loss_of, same_weights, train_denoiser


class Regressor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.blocks = nn.ModuleList([nn.Linear(2, 32), nn.Linear(32, 32)])
            self.last = nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x).tanh()
        result: Tensor = self.last(x)
        return result


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_overfits_a_toy_regression(tmp_path: Path, optimizer: str) -> None:
    class Wrapped(nn.Module):  # the loop looks for ".blocks." below the module it is given
        def __init__(self) -> None:
            super().__init__()
            self.network = Regressor()

    module = Wrapped()
    x = torch.rand(32, 2, generator=torch.Generator().manual_seed(0)) * 4 - 2
    y = torch.sin(2 * x[:, :1]) * x[:, 1:]

    def loss_of_step(step: int) -> Tensor:
        return (module.network(x) - y).square().mean()

    config = TrainingConfig(
        training_steps=400,
        learning_rate=0.01,
        warmup_steps=10,
        ema_decay=0.95,
        optimizer="muon" if optimizer == "muon" else "adam",
    )
    before = loss_of_step(0).item()
    result = train(module, loss_of_step, config, checkpoint=file(tmp_path), run_id="run")
    module.load_state_dict(result.weights)
    assert loss_of_step(0).item() < 0.02 * before
    assert len(result.losses) == 400 / CHECK_EVERY
    assert result.losses[-1] < 0.1 * result.losses[0]
    assert not file(tmp_path).exists()


# --- schedule, clipping, averaging: recomputed by hand ---------------------------------------------------------------


def test_learning_rate_warms_up_and_follows_half_a_cosine() -> None:
    config = TrainingConfig(training_steps=1000, learning_rate=2.0, warmup_steps=10)
    assert learning_rate(0, config) == pytest.approx(2.0 / 10)
    assert learning_rate(4, config) == pytest.approx(2.0 * 5 / 10, rel=1e-3)
    assert learning_rate(9, config) == pytest.approx(2.0, rel=1e-3)
    assert learning_rate(500, config) == pytest.approx(2.0 * (0.01 + 0.99 / 2))
    assert learning_rate(250, config) == pytest.approx(2.0 * (0.01 + 0.99 * (0.5 + math.sqrt(0.125))))
    assert learning_rate(999, config) == pytest.approx(2.0 * 0.01, rel=1e-3)
    after_warm_up = [learning_rate(step, config) for step in range(9, 1000)]
    assert after_warm_up == sorted(after_warm_up, reverse=True), "one half cosine, no restarts"


def test_no_warm_up() -> None:
    assert learning_rate(0, TrainingConfig(training_steps=10, learning_rate=0.5, warmup_steps=0)) == 0.5


class Scalar(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros((), dtype=torch.float64))


def adam_by_hand(gradients: list[float], config: TrainingConfig) -> tuple[list[float], float]:
    """Values of a scalar after every step of Adam (0.9, 0.99) with clipped gradients, and their average."""
    value = first = second = average = 0.0
    values = []
    for step, gradient in enumerate(gradients):
        gradient = math.copysign(min(abs(gradient), config.gradient_clip), gradient)
        first = 0.9 * first + 0.1 * gradient
        second = 0.99 * second + 0.01 * gradient**2
        corrected = math.sqrt(second / (1 - 0.99 ** (step + 1))) + 1e-8
        warm = min(1.0, (step + 1) / config.warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * step / config.training_steps))
        rate = config.learning_rate * warm * (0.01 + 0.99 * cosine)
        value -= rate * first / (1 - 0.9 ** (step + 1)) / corrected
        decay = min(config.ema_decay, (step + 1) / (11 + step))
        average = decay * average + (1 - decay) * value
        values.append(value)
    return values, average


@pytest.mark.parametrize("clip", [1.0, 10.0, 1e9])
def test_a_run_of_adam_recomputed_by_hand(tmp_path: Path, clip: float) -> None:
    """Gradients are given; one of them is huge, so that without clipping it would swallow the rest."""
    gradients = [0.5, 1e4, 0.3, -0.2, 5.0, 1.0, -1.0, 0.1]
    config = TrainingConfig(
        training_steps=8, learning_rate=0.1, warmup_steps=4, ema_decay=0.3, gradient_clip=clip, optimizer="adam"
    )
    module = Scalar()
    seen = []

    def loss_of_step(step: int) -> Tensor:
        seen.append(module.value.item())
        return gradients[step] * module.value

    result = train(module, loss_of_step, config, checkpoint=file(tmp_path), run_id="run")
    values, average = adam_by_hand(gradients, config)
    # torch clips to a millionth below the bound.
    assert [*seen, module.value.item()] == pytest.approx([0.0, *values], rel=1e-5)
    assert result.weights["value"].item() == pytest.approx(average, rel=1e-5)


def test_clipping_is_by_the_global_norm(tmp_path: Path) -> None:
    """Momentum of a first Adam step is a tenth of the clipped gradient, whose norm over all parameters is the bound."""
    module = nn.ParameterDict({"a": torch.zeros(3), "b": torch.zeros(2, 2)})

    def loss_of_step(step: int) -> Tensor:
        return 300 * module["a"].sum() - 400 * module["b"].sum()

    config = TrainingConfig(training_steps=2, gradient_clip=2.0, optimizer="adam", checkpoint_seconds=0)
    train(module, loss_of_step, config, checkpoint=file(tmp_path), run_id="run")
    found = load_checkpoint(file(tmp_path))
    assert found is not None
    momenta = [10 * found.tensors[f"optimizer.0.{place}.exp_avg"] for place in (0, 1)]
    assert math.sqrt(sum(float(momentum.square().sum()) for momentum in momenta)) == pytest.approx(2.0, rel=1e-5)
    assert (momenta[0] > 0).all()
    assert (momenta[1] < 0).all()


def test_the_average_of_every_weight_recomputed(tmp_path: Path) -> None:
    denoiser = fresh_denoiser()
    trajectory: list[dict[str, Tensor]] = []
    loss = loss_of(denoiser)

    def remember() -> None:
        trajectory.append({name: value.detach().clone() for name, value in denoiser.named_parameters()})

    def loss_of_step(step: int) -> Tensor:
        remember()
        return loss(step)

    config = config_of(15)
    result = train(denoiser, loss_of_step, config, checkpoint=file(tmp_path), run_id="run")
    remember()
    average = {name: value.double() for name, value in trajectory[0].items()}
    for step, weights in enumerate(trajectory[1:], start=1):
        decay = min(0.9, step / (10 + step))
        average = {name: decay * average[name] + (1 - decay) * weights[name].double() for name in average}
    for name, value in average.items():
        torch.testing.assert_close(result.weights[name].double(), value, atol=1e-6, rtol=1e-5)


def test_muon_takes_the_matrices_of_the_blocks_only(tmp_path: Path) -> None:
    train_denoiser(file(tmp_path), config_of(2, "muon"))
    found = load_checkpoint(file(tmp_path))
    assert found is not None
    matrices = sorted(
        tuple(value.shape)
        for name, value in fresh_denoiser().named_parameters()
        if name.startswith("network.blocks.") and value.ndim == 2
    )
    assert len(matrices) == 3
    buffers = sorted(tuple(value.shape) for name, value in found.tensors.items() if name.endswith("momentum_buffer"))
    assert buffers == matrices
    others = [name for name in found.tensors if name.endswith("exp_avg_sq")]
    assert len(others) + len(matrices) == len(list(fresh_denoiser().parameters()))


# --- what is reported -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("checkpoint_seconds", [0.0, 1e9])
def test_losses_are_means_of_so_many_steps_whenever_checkpoints_are_written(
    tmp_path: Path, checkpoint_seconds: float
) -> None:
    module = Scalar()
    steps = 2 * CHECK_EVERY + 7
    config = config_of(steps, checkpoint_seconds=checkpoint_seconds)
    result = train(module, lambda step: module.value * 0 + float(step), config, checkpoint=file(tmp_path), run_id="run")
    first, second, rest = CHECK_EVERY, 2 * CHECK_EVERY, steps
    expected = [sum(part) / len(part) for part in (range(first), range(first, second), range(second, rest))]
    assert result.losses == pytest.approx(expected)


def test_checkpoints_are_written_by_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, written = [0.0], []

    def save(path: Path, checkpoint: Checkpoint, *, make_folder: bool) -> None:
        assert make_folder
        written.append(checkpoint.record["step"])

    monkeypatch.setattr(loop.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(loop, "save_checkpoint", save)

    def slow(loss_of_step: LossOfStep) -> LossOfStep:
        def wrapped(step: int) -> Tensor:
            clock[0] += 10
            return loss_of_step(step)

        return wrapped

    train_denoiser(file(tmp_path), config_of(12, checkpoint_seconds=25.0), slow)
    assert written == [3, 6, 9]  # not at 12, where the run is finished


def test_progress_shows_loss_and_time_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    denoiser = fresh_denoiser()
    train(denoiser, loss_of(denoiser), config_of(4), checkpoint=file(tmp_path), run_id="run", progress=True)
    shown = capsys.readouterr().err
    assert "training: 100%" in shown
    assert "4/4" in shown
    assert "loss=" in shown
    denoiser = fresh_denoiser()
    train(denoiser, loss_of(denoiser), config_of(4), checkpoint=tmp_path / "other", run_id="run")
    assert capsys.readouterr() == ("", "")


def test_training_ignores_and_spares_global_random_state(tmp_path: Path) -> None:
    """Fault row 35."""
    results = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        results.append(train_denoiser(tmp_path / str(seed), config_of(4, "muon")))
        assert torch.equal(torch.get_rng_state(), state)
    assert same_weights(*results)


def test_the_averaged_weights_are_the_result_not_the_last_ones(tmp_path: Path) -> None:
    denoiser = fresh_denoiser()
    result = train(denoiser, loss_of(denoiser), config_of(5), checkpoint=file(tmp_path), run_id="run")
    assert any(not torch.equal(value, denoiser.state_dict()[name]) for name, value in result.weights.items())
    assert all(not value.requires_grad for value in result.weights.values())
    assert result.weights.keys() == denoiser.state_dict().keys()
