"""Rows 33 and 34 of the fault list: interrupted training, divergence."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gta_datasets.errors import DivergenceError
from gta_datasets.training.checkpoint import load_checkpoint
from gta_datasets.training.loop import CHECK_EVERY
from tests.store.helpers import run
from tests.training.tasks import LossOfStep, config_of, same_weights, train_denoiser

STEPS = 6
TIMEOUT = 240  # seconds for a process of its own; it takes a few on an idle machine


def at_step(number: int, act: Callable[[Tensor], Tensor]) -> Callable[[LossOfStep], LossOfStep]:
    """Let `act` have the loss of one step."""

    def wrap(loss_of_step: LossOfStep) -> LossOfStep:
        def wrapped(step: int) -> Tensor:
            loss = loss_of_step(step)
            return act(loss) if step == number else loss

        return wrapped

    return wrap


# --- row 33: interrupted training -------------------------------------------------------------------------------------


class _Interrupt:
    """Raises KeyboardInterrupt at the n-th of some calls, before or after the call itself."""

    def __init__(self, patch: pytest.MonkeyPatch, number: int, *, after: bool) -> None:
        self.count, self.number, self.after = 0, number, after
        for owner, name in ((os, "write"), (os, "fsync"), (os, "replace"), (torch.optim.Adam, "step")):
            self._patch(patch, owner, name)

    def _patch(self, patch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def call(*arguments: Any, **options: Any) -> Any:
            self.count += 1
            if self.count == self.number and not self.after:
                raise KeyboardInterrupt
            result = original(*arguments, **options)
            if self.count == self.number:
                raise KeyboardInterrupt
            return result

        patch.setattr(owner, name, call)


@pytest.mark.parametrize("after", [False, True])
def test_an_interrupt_in_any_phase_costs_no_more_than_the_step(tmp_path: Path, after: bool) -> None:
    """Within a step of the optimiser and at every write, sync and rename of a checkpoint."""
    config = config_of(4, "muon")
    whole = train_denoiser(tmp_path / "whole", config)
    number = 0
    while True:
        number += 1
        folder = tmp_path / f"{number}"
        folder.mkdir()
        try:
            with pytest.MonkeyPatch.context() as patch:
                _Interrupt(patch, number, after=after)
                train_denoiser(folder / "file", config)
        except KeyboardInterrupt:
            pass
        else:
            break
        assert [child.name for child in folder.iterdir()] in ([], ["file"]), "a temporary file was left"
        load_checkpoint(folder / "file")
        assert same_weights(train_denoiser(folder / "file", config), whole)
    # Four steps, and three checkpoints of one write, two syncs and a rename.
    assert number - 1 == 4 + 3 * 4


# Trains in forked children, each of which gets a signal at another moment; then prints how the children ended.
SIGNALS = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.training.tasks import config_of, train_denoiser

root, steps = Path(sys.argv[1]), int(sys.argv[2])
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it

def send_at(number, sent):
    count = 0
    def patch(owner, name):
        original = getattr(owner, name)
        def call(*arguments, **options):
            nonlocal count
            count += 1
            if count == number:
                if name == "write":
                    original(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
                os.kill(os.getpid(), sent)
            return original(*arguments, **options)
        setattr(owner, name, call)
    patch(torch.Tensor, "backward")
    patch(torch.optim.Adam, "step")
    for name in ("write", "fsync", "replace"):
        patch(os, name)

train_denoiser(root / "imports", config_of(1, "muon"))  # what torch imports late is imported once, not per child
for sent in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
    number = 0
    while True:
        number += 1
        folder = root / sent.name / str(number)
        folder.mkdir(parents=True)
        child = os.fork()
        if child == 0:
            send_at(number, sent)
            code = 0
            try:
                train_denoiser(folder / "file", config_of(steps, "muon"))
            except KeyboardInterrupt:
                code = 130
            os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code == 0:
            break
        print(sent.name, number, code)
"""


def test_a_signal_in_any_phase_leaves_a_checkpoint_to_resume_from(tmp_path: Path) -> None:
    steps = 2
    config = config_of(steps, "muon")
    whole = train_denoiser(tmp_path / "whole", config)
    ends = [line.split() for line in run(SIGNALS, tmp_path, steps, timeout=TIMEOUT).splitlines()]
    # A gradient and a step each; a checkpoint of a write, two syncs and a rename after every step but the last.
    moments = steps * 2 + (steps - 1) * 4
    codes = {"SIGINT": "130", "SIGTERM": str(-signal.SIGTERM), "SIGKILL": str(-signal.SIGKILL)}
    assert ends == [[name, str(number), code] for name, code in codes.items() for number in range(1, moments + 1)]
    for name, number, _ in ends:
        checkpoint = tmp_path / name / number / "file"
        found = load_checkpoint(checkpoint)
        assert found is None or 0 < found.record["step"] < steps
        assert same_weights(train_denoiser(checkpoint, config), whole)


# --- row 34: divergence -----------------------------------------------------------------------------------------------


class _PoisonGradient(torch.autograd.Function):
    """Passes the loss on, and a gradient that is not finite back."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, poison: float) -> Tensor:
        ctx.poison = poison
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.poison, None


def poison_gradient(loss: Tensor, poison: float) -> Tensor:
    result: Tensor = _PoisonGradient.apply(loss, poison)
    return result


def assert_all_finite(path: Path) -> None:
    found = load_checkpoint(path)
    assert found is not None
    assert all(torch.isfinite(tensor).all() for tensor in found.tensors.values() if tensor.is_floating_point())
    assert all(math.isfinite(loss) for loss in [*found.record["losses"], *found.record["recent"]])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("step", range(STEPS))
def test_a_loss_that_is_not_finite_stops_and_is_never_saved(tmp_path: Path, step: int, value: float) -> None:
    checkpoint, config = tmp_path / "file", config_of(STEPS, "muon")
    with pytest.raises(
        DivergenceError, match=rf"the loss of step {step} is {value}.* Lower learning_rate \(now 0.01\)"
    ):
        train_denoiser(checkpoint, config, at_step(step, lambda loss: loss * value))
    assert checkpoint.exists() == (step > 0)
    if step > 0:
        assert_all_finite(checkpoint)


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
@pytest.mark.parametrize("poison", [math.nan, math.inf])
@pytest.mark.parametrize("step", [0, 2, STEPS - 1])
def test_weights_that_are_not_finite_are_never_saved_though_the_loss_was(
    tmp_path: Path, step: int, poison: float, optimizer: str
) -> None:
    """A gradient that overflows right before a checkpoint, or in the last step."""
    checkpoint = tmp_path / "file"
    with pytest.raises(DivergenceError, match=f"weights are not finite after step {step}"):
        train_denoiser(
            checkpoint, config_of(STEPS, optimizer), at_step(step, lambda loss: poison_gradient(loss, poison))
        )
    assert checkpoint.exists() == (step > 0)
    if step > 0:
        assert_all_finite(checkpoint)


def test_divergence_is_noticed_between_checkpoints_and_named_by_its_step(tmp_path: Path) -> None:
    made = []

    def count(loss_of_step: LossOfStep) -> LossOfStep:
        def wrapped(step: int) -> Tensor:
            made.append(step)
            return loss_of_step(step) * (math.nan if step == 3 else 1)

        return wrapped

    with pytest.raises(DivergenceError, match="the loss of step 3 is nan"):
        train_denoiser(tmp_path / "file", config_of(4 * CHECK_EVERY, checkpoint_seconds=1e9), count)
    assert len(made) == CHECK_EVERY
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", [1, 4, STEPS - 1])
def test_the_next_run_goes_on_from_the_last_healthy_checkpoint(tmp_path: Path, step: int) -> None:
    config = config_of(STEPS, "muon")
    whole = train_denoiser(tmp_path / "whole", config)
    with pytest.raises(DivergenceError):
        train_denoiser(tmp_path / "file", config, at_step(step, lambda loss: loss * math.nan))
    made = []

    def count(loss_of_step: LossOfStep) -> LossOfStep:
        def wrapped(number: int) -> Tensor:
            made.append(number)
            return loss_of_step(number)

        return wrapped

    assert same_weights(train_denoiser(tmp_path / "file", config, count), whole)
    assert made == list(range(step, STEPS))
