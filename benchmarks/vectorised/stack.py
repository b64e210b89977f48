"""Many runs of one algorithm, trained side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.vectorised.draws import CHUNK, Draws, Run
from benchmarks.vectorised.graphs import Captured
from benchmarks.vectorised.learner import MakeLearner, Setup
from benchmarks.vectorised.tables import Batch
from benchmarks.vectorised.td3_bc import TD3BC
from gta_datasets.errors import ConfigError
from gta_datasets.seeding import torch_generator

__all__ = ["Stack"]


class Stack:
    """`R` runs. What becomes of one does not depend on which others there are, up to rounding.

    On a GPU all of them take part in the same kernels. On a CPU they take turns, each with the same code: the weights
    of one run fit into its caches, those of several do not.

    Args:
        runs: of equal shapes; those of one dataset should share its table.
        algorithm: what they are trained by.
        batch_size: of every run.
        device: where data and networks are.
        together: whether all runs take part in the same kernels; None leaves it to the device.

    Raises:
        ConfigError: there are no runs, or their shapes differ.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        algorithm: MakeLearner = TD3BC,
        *,
        batch_size: int = 256,
        device: torch.device | str = "cpu",
        together: bool | None = None,
    ) -> None:
        _check_shapes(runs)
        device = torch.device(device)
        if together is None:
            together = device.type != "cpu"
        groups = [runs] if together else [[run] for run in runs]
        self._lanes = [_Lane(group, algorithm, batch_size, device) for group in groups]
        self.num_runs = len(runs)
        self.updates = 0
        """Done by every run so far."""

    def train(self, updates: int) -> None:
        """Do further updates."""
        for lane in self._lanes:
            lane.advance(self.updates, self.updates + updates)
        self.updates += updates

    def act(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """The policies' actions (R, n, A) for observations (R, n, O)."""
        parts = torch.from_numpy(observations).split([len(lane.runs) for lane in self._lanes])
        return torch.cat([lane.act(part) for lane, part in zip(self._lanes, parts, strict=True)]).numpy()

    def tensors_of(self, place: int) -> dict[str, Tensor]:
        """All that the training of a run goes on from, besides the number of updates; views, not copies."""
        lane, place = self._lane_of(place)
        # What has no axis of runs, as the number of an optimiser's steps, is the same for all.
        return {name: value[place] if value.dim() else value for name, value in lane.tensors.items()}

    def load(self, place: int, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Let a run go on from its `tensors_of` in any stack on the same kind of device.

        All runs must have come equally far, after `updates` updates, before any of them is trained.
        """
        for name, value in self.tensors_of(place).items():
            value.copy_(tensors[name])
        self.updates = updates

    def _lane_of(self, place: int) -> tuple[_Lane, int]:
        """The lane of a run, and its place there."""
        return (self._lanes[0], place) if len(self._lanes) == 1 else (self._lanes[place], 0)


class _Lane:
    """Runs that take part in the same kernels."""

    def __init__(self, runs: Sequence[Run], algorithm: MakeLearner, batch_size: int, device: torch.device) -> None:
        self.runs, self._device = runs, device
        tables = list(dict.fromkeys(run.table for run in runs))
        ends = np.cumsum([len(table.rows) for table in tables]).tolist()
        start_of = dict(zip(tables, [0, *ends[:-1]], strict=True))
        self._rows = tables[0].rows if len(tables) == 1 else torch.cat([table.rows for table in tables])
        self._rows = self._rows.to(device)
        self._mean = torch.stack([run.table.mean for run in runs]).unsqueeze(1).to(device)
        self._scale = torch.stack([run.table.scale for run in runs]).unsqueeze(1).to(device)
        self._sizes = tables[0].observation_size, tables[0].action_size
        generators = [torch_generator(run.seed, "weights", 0, device) for run in runs]
        self._learner = algorithm(Setup(generators, *self._sizes, batch_size, device))
        self._draws = Draws(runs, [start_of[run.table] for run in runs], batch_size, device)
        self._update = self._update_eagerly if device.type == "cpu" else Captured(self._update_eagerly, device)

    def advance(self, step: int, end: int) -> None:
        """Do the updates from number `step` on, up to `end`."""
        while step < end:
            chunk, first = divmod(step, CHUNK)
            last = min(CHUNK, first + end - step)
            numbers, noise = self._draws.numbers(chunk), self._draws.noise(chunk, self._learner.noise_size)
            for place in range(first, last):
                with_actor = (chunk * CHUNK + place) % self._learner.actor_interval == 0
                self._update(numbers[place], noise[place], with_actor)
            step += last - first

    def _update_eagerly(self, numbers: Tensor, noise: Tensor, with_actor: bool) -> None:
        rows = self._rows.index_select(0, numbers.view(-1)).view(*numbers.shape, -1)
        self._learner.update(Batch.of(rows, *self._sizes), noise, with_actor=with_actor)

    def act(self, observations: Tensor) -> Tensor:
        standardised = (observations.to(self._device) - self._mean) / self._scale
        return self._learner.act(standardised).cpu()

    @property
    def tensors(self) -> dict[str, Tensor]:
        return self._learner.tensors


def _check_shapes(runs: Sequence[Run]) -> None:
    if not runs:
        raise ConfigError("a stack needs at least one run")
    shapes: list[tuple[Any, ...]] = [(run.table.observation_size, run.table.action_size) for run in runs]
    for number, shape in enumerate(shapes):
        if shape != shapes[0]:
            raise ConfigError(
                f"run {number} has {shape[0]} observations and {shape[1]} actions, run 0 {shapes[0][0]} and "
                f"{shapes[0][1]}; the runs of a stack must have equal shapes: make one stack of each kind"
            )
