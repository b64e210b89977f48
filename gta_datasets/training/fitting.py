"""Weights that are trained once and kept in a folder."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from gta_datasets.atomic import is_file, remove_leftovers
from gta_datasets.config import TrainingConfig
from gta_datasets.errors import CacheError
from gta_datasets.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from gta_datasets.training.loop import CHECK_EVERY, train
from gta_datasets.training.team import Team

__all__ = ["CHECKPOINT_FILE", "Fitted", "is_fitted", "load_or_train"]

MODEL_FILE, CHECKPOINT_FILE = "model.safetensors", "training.safetensors"

LEFTOVER_AGE = 3600.0
"""Seconds after which half a file has no writer any more."""

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
    """Whether `load_or_train` would only load; CacheError if that cannot be known."""
    return is_file(folder / MODEL_FILE)


def load_or_train(
    folder: Path,
    new_module: Callable[[], Module],
    loss: Callable[[Module], Callable[[int], Tensor]],
    config: TrainingConfig,
    *,
    progress: bool,
) -> Fitted[Module]:
    """Load the weights in `folder`, or train them, resuming what is there, and leave them there.

    In a launch of several processes, all of which must find the folder alike, the first one alone writes. Weights that
    somebody else has left there meanwhile stay, and are what is returned: shards may have been made with them.

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
    if found is not None:
        with suppress(OSError):  # of an overtaken trainer, or the cache is read-only
            (folder / CHECKPOINT_FILE).unlink(missing_ok=True)
    else:
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
    for name in (MODEL_FILE, CHECKPOINT_FILE):
        remove_leftovers(folder, name, older=LEFTOVER_AGE)
    result = train(module, loss(module), config, checkpoint=checkpoint, run_id=folder.name, progress=progress)
    team, trained = Team.of_launch(), Checkpoint(result.weights, {"losses": result.losses})
    if team.leads:
        trained = _publish(folder / MODEL_FILE, trained)
        checkpoint.unlink(missing_ok=True)
    return trained if team.size == 1 else _of_the_first(team, trained, next(module.parameters()).device)


def _publish(path: Path, trained: Checkpoint) -> Checkpoint:
    """Leave the weights in `path`, or return those that are there by now."""
    published = load_checkpoint(path)
    if published is None:
        save_checkpoint(path, trained, make_folder=True)
        return trained
    return published


def _of_the_first(team: Team, trained: Checkpoint, device: torch.device) -> Checkpoint:
    """What the first process has: on other hardware the last bits may differ."""
    losses = torch.tensor(trained.record["losses"], dtype=torch.float64)
    several = {**trained.tensors, "losses": losses}
    # In one order: a file has another than a module.
    on_device = {name: several[name].to(device) for name in sorted(several)}
    team.follow(on_device.values())
    losses = on_device.pop("losses")
    return Checkpoint(on_device, {"losses": losses.tolist()})
