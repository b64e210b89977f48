"""Several processes that train one model: all make the same steps, each on its share of every batch.

Everything random in a step comes from its number, so all processes draw the same batch and the same noise, and what one
of them would have computed alone is what they compute together. Only the first one writes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, nn

from gta_datasets.diffusion.edm import Condition, Denoise
from gta_datasets.errors import CacheError, requires_extra

__all__ = ["Team"]

Item = TypeVar("Item")

PATIENCE = timedelta(days=7)
"""How long a process waits for the others; the first one may be waiting for a model that somebody else trains."""


@dataclass(frozen=True)
class Team:
    """This process among those of its launch."""

    rank: int = 0
    size: int = 1

    @classmethod
    def of_launch(cls) -> Team:
        """The launch by torchrun, accelerate or the like that this process belongs to; alone where there is none."""
        rank, size = os.environ.get("RANK"), int(os.environ.get("WORLD_SIZE", "1"))
        return cls(int(rank), size) if rank is not None and size > 1 else cls()

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def take_device(self, device: torch.device) -> None:
        """Where several processes share a machine's GPUs and none of them is named, use one of our own."""
        if self.size > 1 and device.type == "cuda" and device.index is None:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", self.rank)) % torch.cuda.device_count())

    def meet(self, device: torch.device) -> None:
        """Wait until all processes are here.

        Raises:
            MissingExtraError: accelerate is not installed.
        """
        if self.size == 1:
            return
        with requires_extra("distributed", "accelerate", "training in several processes needs"):
            from accelerate import PartialState
        PartialState(cpu=device.type == "cpu", timeout=PATIENCE).wait_for_everyone()

    def own_first(self, items: Sequence[Item]) -> list[Item]:
        """All items, those of this process's share first, so that processes that share results meet no sooner."""
        return [item for further in range(self.size) for item in items[(self.rank + further) % self.size :: self.size]]

    def follow(self, tensors: Iterable[Tensor]) -> None:
        """Take the first process's tensors."""
        if self.size > 1:
            for tensor in tensors:
                torch.distributed.broadcast(tensor, 0)

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors, all of one type and on one device, by their means over the processes."""
        if self.size == 1:
            return
        several = list(tensors)
        flat = torch.cat([tensor.flatten() for tensor in several])
        torch.distributed.all_reduce(flat)
        means = (flat / self.size).split([tensor.numel() for tensor in several])
        for tensor, mean in zip(several, means, strict=True):
            tensor.copy_(mean.view_as(tensor))

    def check_same(self, step: int, module: nn.Module) -> None:
        """Whether all processes go on from the same step.

        Raises:
            CacheError: they do not.
        """
        mean = next(module.parameters()).new_tensor([float(step)])
        self.average([mean])
        if float(mean) != step:
            raise CacheError(
                f"process {self.rank} of {self.size} would go on from step {step} of training, others from another; "
                "all of them must see the same cache_dir"
            )

    def share(self, denoise: Denoise, clean: Tensor) -> Denoise:
        """Evaluates the windows that are this process's and takes all others as denoised already.

        A loss that is a sum of errors over the batch then counts this process's windows only. Times the number of
        processes, its mean over them is the loss of the whole batch.

        Args:
            denoise: what is trained.
            clean: all windows of the batch, (B, R, F), at least as many as there are processes.
        """
        if self.size == 1:
            return denoise
        mine = slice(self.rank, None, self.size)

        def evaluate(x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
            estimate = clean.clone()
            estimate[mine] = denoise(x[mine], sigma[mine], condition[mine])
            return estimate

        return evaluate
