"""Training that was stopped goes on from its checkpoint and ends as if it had not been; Ctrl-C leaves one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from torch import Tensor

from gta_datasets.training.checkpoint import load_checkpoint
from gta_datasets.training.loop import CHECK_EVERY
from tests.training.tasks import LossOfStep, config_of, file, same_weights, train_denoiser

Wrap = Callable[[LossOfStep], LossOfStep]


class Stopped(Exception):
    """What stops a run here."""


def at_every_step(act: Callable[[int], None]) -> Wrap:
    """Do something at the beginning of every step, which is given its number."""

    def wrap(loss_of_step: LossOfStep) -> LossOfStep:
        def wrapped(step: int) -> Tensor:
            act(step)
            return loss_of_step(step)

        return wrapped

    return wrap


def stop_at(number: int) -> Wrap:
    def stop(step: int) -> None:
        if step == number:
            raise Stopped

    return at_every_step(stop)


def only_from(first: int) -> Wrap:
    """Fails if an earlier step is made again."""

    def check(step: int) -> None:
        assert step >= first, f"step {step} was made again"

    return at_every_step(check)


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path, optimizer: str) -> None:
    config = config_of(8, optimizer)
    whole = train_denoiser(tmp_path / "whole", config)
    for step in range(8):
        checkpoint = tmp_path / str(step)
        with pytest.raises(Stopped):
            train_denoiser(checkpoint, config, stop_at(step))
        assert checkpoint.exists() == (step > 0)
        resumed = train_denoiser(checkpoint, config, only_from(step))
        assert same_weights(resumed, whole)
        assert resumed.losses == whole.losses


def test_a_run_may_be_interrupted_again_and_again(tmp_path: Path) -> None:
    config = config_of(6, "muon")
    whole = train_denoiser(tmp_path / "whole", config)
    for step in range(1, 6):
        with pytest.raises(Stopped):
            train_denoiser(file(tmp_path), config, stop_at(step))
    assert same_weights(train_denoiser(file(tmp_path), config, only_from(5)), whole)


@pytest.fixture
def ctrl_c() -> Iterator[Callable[[], None]]:
    """What Ctrl-C does to a program that handles it as Python does."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda: signal.raise_signal(signal.SIGINT)
    signal.signal(signal.SIGINT, before)


def within(number: int, act: Callable[[], None]) -> Wrap:
    """Does something within a step."""
    return at_every_step(lambda step: act() if step == number else None)


@pytest.mark.parametrize("step", [0, 3, CHECK_EVERY - 1, CHECK_EVERY])
def test_ctrl_c_leaves_a_checkpoint_of_the_step_that_it_came_in(
    tmp_path: Path, ctrl_c: Callable[[], None], step: int
) -> None:
    config = config_of(CHECK_EVERY + 5, "muon", checkpoint_seconds=1e9)
    whole = train_denoiser(tmp_path / "whole", config)
    with pytest.raises(KeyboardInterrupt):
        train_denoiser(file(tmp_path), config, within(step, ctrl_c))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    resumed = train_denoiser(file(tmp_path), config, only_from(step + 1))
    assert same_weights(resumed, whole)
    assert resumed.losses == whole.losses


def test_ctrl_c_in_the_last_step_is_no_success(tmp_path: Path, ctrl_c: Callable[[], None]) -> None:
    with pytest.raises(KeyboardInterrupt):
        train_denoiser(file(tmp_path), config_of(4, checkpoint_seconds=1e9), within(3, ctrl_c))
    assert not file(tmp_path).exists()


def test_ctrl_c_for_a_second_time_does_not_wait_for_the_step(tmp_path: Path, ctrl_c: Callable[[], None]) -> None:
    after = []

    def twice() -> None:
        ctrl_c()
        ctrl_c()
        after.append("went on")

    with pytest.raises(KeyboardInterrupt):
        train_denoiser(file(tmp_path), config_of(4, checkpoint_seconds=1e9), within(2, twice))
    assert after == []
    assert not file(tmp_path).exists(), "half a step was saved"


def test_who_handles_ctrl_c_otherwise_goes_on_doing_so(tmp_path: Path, ctrl_c: Callable[[], None]) -> None:
    handled = []
    signal.signal(signal.SIGINT, lambda *_: handled.append("mine"))
    train_denoiser(file(tmp_path), config_of(4), within(2, ctrl_c))
    assert handled == ["mine"]


def test_training_in_a_thread(tmp_path: Path) -> None:
    """Where no handler can be set."""
    whole, found = train_denoiser(tmp_path / "whole", config_of(4)), []
    thread = threading.Thread(target=lambda: found.append(train_denoiser(file(tmp_path), config_of(4))))
    thread.start()
    thread.join()
    assert same_weights(found[0], whole)


def test_losses_of_a_resumed_run_are_those_of_a_whole_one(tmp_path: Path) -> None:
    """Interrupted between two entries of the record."""
    config = config_of(CHECK_EVERY + 20)
    whole = train_denoiser(tmp_path / "whole", config_of(CHECK_EVERY + 20, checkpoint_seconds=1e9))
    for step in (CHECK_EVERY - 3, CHECK_EVERY, CHECK_EVERY + 5):
        with pytest.raises(Stopped):
            train_denoiser(file(tmp_path), config, stop_at(step))
    resumed = train_denoiser(file(tmp_path), config)
    assert resumed.losses == whole.losses
    assert len(whole.losses) == 2
    assert same_weights(resumed, whole)


def test_the_checkpoint_of_another_run_is_not_resumed(tmp_path: Path) -> None:
    config = config_of(5)
    whole = train_denoiser(tmp_path / "whole", config, run_id="mine")
    with pytest.raises(Stopped):
        train_denoiser(file(tmp_path), config, stop_at(3), run_id="theirs")
    steps = []

    def count(loss_of_step: LossOfStep) -> LossOfStep:
        def wrapped(step: int) -> Tensor:
            steps.append(step)
            return loss_of_step(step)

        return wrapped

    assert same_weights(train_denoiser(file(tmp_path), config, count, run_id="mine"), whole)
    assert steps == [0, 1, 2, 3, 4]
    found = load_checkpoint(file(tmp_path))
    assert found is not None
    assert found.record["run_id"] == "mine"


def test_a_finished_run_leaves_no_checkpoint_of_its_last_step(tmp_path: Path) -> None:
    train_denoiser(file(tmp_path), config_of(3))
    found = load_checkpoint(file(tmp_path))
    assert found is not None
    assert found.record["step"] == 2
