"""Weights that are trained once and kept in a folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from torch import Tensor, nn

from gta_datasets.config import TrainingConfig
from gta_datasets.errors import CacheError
from gta_datasets.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from gta_datasets.training.loop import CHECK_EVERY, train
from gta_datasets.training.team import Team

__all__ = ["Fitted", "is_fitted", "load_or_train"]

MODEL_FILE, CHECKPOINT_FILE = "model.safetensors", "training.safetensors"

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Fitted(Generic[Module]):
    """A trained module, for evaluation only."""

    module: Module
    losses: list[float]  # mean loss of every CHECK_EVERY steps
    digest: str  # of the weights

    def loss_history(self, training_steps: int) -> list[tuple[int, float]]:
        """Pairs of training step and mean loss of the steps before it."""
        return [(min((place + 1) * CHECK_EVERY, training_steps), loss) for place, loss in enumerate(self.losses)]


def is_fitted(folder: Path) -> bool:
    """Whether `load_or_train` would only load."""
    return (folder / MODEL_FILE).is_file()


def load_or_train(
    folder: Path,
    new_module: Callable[[], Module],
    loss: Callable[[Module], Callable[[int], Tensor]],
    config: TrainingConfig,
    *,
    progress: bool,
) -> Fitted[Module]:
    """Load the weights in `folder`, or train them, resuming what is there, and leave them there.

    In a launch of several processes, all of which must find the folder alike, the first one alone writes.

    Args:
        folder: of one model; its name tells models apart.
        new_module: an untrained module on its device.
        loss: given the module, the function "step -> loss" of `train`.
        config: steps, optimiser and schedule.
        progress: show a bar while training.

    Raises:
        CacheError: the folder cannot be read or written, or holds something else.
        DivergenceError: training diverged.
    """
    found = load_checkpoint(folder / MODEL_FILE)
    if found is None:
        found = _train(folder, new_module().train(), loss, config, progress=progress)
    module = new_module()
    try:
        module.load_state_dict(found.tensors)
        losses = [float(loss) for loss in found.record["losses"]]
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        path = folder / MODEL_FILE
        raise CacheError(f"{path} is not this model ({reason}); remove it to train again") from error
    return Fitted(module.eval().requires_grad_(False), losses, found.digest)


def _train(
    folder: Path,
    module: Module,
    loss: Callable[[Module], Callable[[int], Tensor]],
    config: TrainingConfig,
    *,
    progress: bool,
) -> Checkpoint:
    checkpoint = folder / CHECKPOINT_FILE
    result = train(module, loss(module), config, checkpoint=checkpoint, run_id=folder.name, progress=progress)
    team = Team.of_launch()
    team.follow(result.weights.values())  # on other hardware the last bits may differ
    trained = Checkpoint(result.weights, {"losses": result.losses})
    if team.leads:
        save_checkpoint(folder / MODEL_FILE, trained)
        checkpoint.unlink(missing_ok=True)
    return trained
