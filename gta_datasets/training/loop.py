"""The training loop: it knows a module and a function "step -> loss", nothing of diffusion or data.

Everything random in a step comes from the step's number, so a run that is interrupted anywhere and resumed from its
last checkpoint ends with the same weights as one that was not. Ctrl-C leaves a checkpoint of the last whole step.
"""

from __future__ import annotations

import copy
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from gta_datasets.config import TrainingConfig
from gta_datasets.errors import CacheError, DivergenceError
from gta_datasets.progress import progress_bar
from gta_datasets.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from gta_datasets.training.team import Team

__all__ = ["CHECK_EVERY", "TrainingResult", "train"]

CHECK_EVERY = 50
"""Steps between two looks at the losses; on a GPU each look waits for the device."""


@dataclass(frozen=True)
class TrainingResult:
    """What training left."""

    weights: dict[str, Tensor]  # the averaged (EMA) weights
    losses: list[float]  # mean loss of every CHECK_EVERY steps


def train(
    module: nn.Module,
    loss_of_step: Callable[[int], Tensor],
    config: TrainingConfig,
    *,
    checkpoint: Path,
    run_id: str,
    progress: bool = False,
    team: Team | None = None,
) -> TrainingResult:
    """Train `module` and return the exponential moving average of its weights.

    All processes of the team have to call this. The loss of a step is then the mean of theirs, and
    the first process alone writes the checkpoint.

    Args:
        module: what is trained, on its device.
        loss_of_step: the loss of a step by its number; it draws its own batch from that number.
        config: steps, optimiser and schedule.
        checkpoint: file that is written every `config.checkpoint_seconds`, and at Ctrl-C after the current step, and
            resumed from; removed by the caller.
        run_id: names what is trained; a checkpoint of another run is not resumed.
        progress: show a bar with loss and time left.
        team: the processes that train it together; None for those of the launch.

    Raises:
        DivergenceError: a loss or a weight is not finite. The last checkpoint, from before, is kept.
        CacheError: the checkpoint cannot be written, is not one, or does not fit the module.
    """
    team = Team.of_launch() if team is None else team
    run = _Run(module, config, team)
    run.resume(checkpoint, run_id)
    team.check_same(run.step, module)
    saved = time.monotonic()
    with progress_bar(config.training_steps, "training", "step", done=run.step, shown=progress) as bar:
        while run.step < config.training_steps:
            with _held_interrupts() as interrupts:
                run.advance(loss_of_step)
                bar.update()
                finished = run.step == config.training_steps
                if run.step % CHECK_EVERY == 0 or finished:
                    run.check()
                    run.record_losses()
                    bar.set_postfix(loss=f"{run.losses[-1]:.4f}")
            due = bool(interrupts) or time.monotonic() - saved >= config.checkpoint_seconds
            if team.leads and due and not finished:
                run.check()
                run.save(checkpoint, run_id)
                saved = time.monotonic()
            if interrupts:
                raise KeyboardInterrupt
    return TrainingResult(dict(run.average.state_dict()), run.losses)


@contextmanager
def _held_interrupts() -> Iterator[list[int]]:
    """Let a step come to its end at Ctrl-C; the list says whether that was pressed. A second time interrupts at once.

    Other threads than the first get none, and who handles the signal otherwise goes on doing so.
    """
    pressed: list[int] = []
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield pressed
        return

    def hold(number: int, _frame: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        pressed.append(number)

    signal.signal(signal.SIGINT, hold)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class _Run:
    """The state of a run: weights, their average, optimisers, step and losses."""

    def __init__(self, module: nn.Module, config: TrainingConfig, team: Team) -> None:
        self.module, self.config, self.team = module, config, team
        self.average = copy.deepcopy(module).requires_grad_(False)
        self.optimizers = _optimizers(module, config)
        self.step = 0
        self.losses: list[float] = []
        self._recent: list[float] = []  # losses since the last entry of `losses`
        self._pending: list[Tensor] = []  # losses not yet looked at

    def advance(self, loss_of_step: Callable[[int], Tensor]) -> None:
        rate = learning_rate(self.step, self.config)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad(set_to_none=True)
        loss = loss_of_step(self.step)
        loss.backward()
        loss = loss.detach()
        gradients = [parameter.grad for parameter in self.module.parameters() if parameter.grad is not None]
        self.team.average([loss, *gradients])
        nn.utils.clip_grad_norm_(self.module.parameters(), self.config.gradient_clip)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        decay = min(self.config.ema_decay, self.step / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.module.parameters()), 1 - decay)
        self._pending.append(loss)

    def check(self) -> None:
        """Look at the losses since the last check and at the weights; training must not go on from what is not finite.

        The weights count too: after a gradient that is not finite they are lost while all losses so far are well.
        """
        values = torch.stack(self._pending).tolist() if self._pending else []
        first = self.step - len(values)
        self._pending.clear()
        for offset, value in enumerate(values):
            if not math.isfinite(value):
                raise self._divergence(f"the loss of step {first + offset} is {value}")
        if not math.isfinite(float(nn.utils.get_total_norm(list(self.average.parameters())))):
            raise self._divergence(f"weights are not finite after step {self.step - 1}")
        self._recent += values

    def record_losses(self) -> None:
        """Add the mean of the losses since the last call to `losses`."""
        self.losses.append(sum(self._recent) / len(self._recent))
        self._recent.clear()

    def _divergence(self, what: str) -> DivergenceError:
        return DivergenceError(
            f"training diverged: {what}; the last checkpoint is from before. Lower learning_rate (now "
            f"{self.config.learning_rate}) or gradient_clip (now {self.config.gradient_clip})"
        )

    def save(self, checkpoint: Path, run_id: str) -> None:
        tensors = {f"module.{name}": value for name, value in self.module.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        for number, optimizer in enumerate(self.optimizers):
            for parameter, state in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{number}.{parameter}.{name}": value for name, value in state.items()}
        record = {"run_id": run_id, "step": self.step, "losses": self.losses, "recent": self._recent}
        save_checkpoint(checkpoint, Checkpoint(tensors, record), make_folder=True)

    def resume(self, checkpoint: Path, run_id: str) -> None:
        found = load_checkpoint(checkpoint)
        if found is None or found.record.get("run_id") != run_id:
            return
        try:
            self._restore(found)
        except (IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())  # torch's reasons have several lines
            raise CacheError(f"{checkpoint} does not fit this run ({reason}); remove it to train again") from error

    def _restore(self, found: Checkpoint) -> None:
        self.module.load_state_dict(found.under("module"))
        self.average.load_state_dict(found.under("average"))
        for number, optimizer in enumerate(self.optimizers):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            state: dict[int, dict[str, Tensor]] = {}
            for name, value in found.under(f"optimizer.{number}").items():
                place, _, field = name.partition(".")
                if value.shape not in (torch.Size(), parameters[int(place)].shape):
                    raise ValueError(f"optimizer.{number}.{name} has shape {tuple(value.shape)}")
                state.setdefault(int(place), {})[field] = value.clone()  # what was loaded is a map of the file
            optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
        self.step = int(found.record["step"])
        if not 0 < self.step < self.config.training_steps:
            raise ValueError(f"step {self.step} of {self.config.training_steps}")
        self.losses = [float(loss) for loss in found.record["losses"]]
        self._recent = [float(loss) for loss in found.record["recent"]]


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Linear warm-up, then half a cosine down to 1 % of the peak at the last step."""
    warm = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    cosine = 0.5 * (1 + math.cos(math.pi * step / config.training_steps))
    return config.learning_rate * warm * (0.01 + 0.99 * cosine)


def _optimizers(module: nn.Module, config: TrainingConfig) -> list[torch.optim.Optimizer]:
    """Adam; with "muon", the weight matrices of the blocks go to Muon (Jordan et al. 2024) at the same rate instead."""
    matrices = [
        parameter
        for name, parameter in module.named_parameters()
        if config.optimizer == "muon" and ".blocks." in name and parameter.ndim == 2
    ]
    taken = {id(parameter) for parameter in matrices}
    others = [parameter for parameter in module.parameters() if id(parameter) not in taken]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.Adam(others, lr=config.learning_rate, betas=(0.9, 0.99))]
    if matrices:
        optimizers.append(
            torch.optim.Muon(matrices, lr=config.learning_rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
        )
    return optimizers
