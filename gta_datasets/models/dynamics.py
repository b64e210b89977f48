"""A learned forward model: next state and reward from state and action.

An ensemble of multilayer perceptrons, each trained on batches of its own (Chua et al. 2018, arXiv 1805.12114, without
the predicted variance); the mean of their predictions is what counts.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from gta_datasets.config import DynamicsConfig, TrainingConfig
from gta_datasets.data.bank import Columns
from gta_datasets.data.episodes import Episodes
from gta_datasets.data.normalize import chunks
from gta_datasets.data.reading import Source
from gta_datasets.seeding import numpy_generator
from gta_datasets.training.fitting import Fitted, is_fitted, load_or_train

__all__ = ["DynamicsModel"]

ALGORITHM_VERSION = 1
"""Raised whenever the same configuration would give other predictions."""

CHUNK = 8_192  # transitions evaluated at once


class DynamicsModel:
    """A forward model of one source dataset.

    Args:
        source: the dataset's arrays.
        config: size and training.
        seed: of weights and batches.
        device: where the networks run.
    """

    def __init__(self, source: Source, config: DynamicsConfig, *, seed: int, device: torch.device) -> None:
        self._source, self._config, self._seed, self._device = source, config, seed, device
        self._fitted: Fitted[_Ensemble] | None = None

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that determines the weights, for the cache key."""
        return {
            "model": "dynamics",
            "version": ALGORITHM_VERSION,
            "seed": self._seed,
            "source": self._source.episodes.arrays(),
            "config": dataclasses.asdict(self._config),
        }

    def is_fitted(self, folder: Path) -> bool:
        """Whether `fit` would only load."""
        return is_fitted(folder)

    def fit(self, folder: Path, *, progress: bool) -> str:
        """Load the weights from `folder`, or train them and leave them there; returns a digest of them."""
        config = TrainingConfig(
            training_steps=self._config.dynamics_steps,
            train_batch_size=self._config.dynamics_batch_size,
            learning_rate=1e-3,
            warmup_steps=min(200, self._config.dynamics_steps),
            optimizer="adam",
        )
        self._fitted = load_or_train(folder, self._new_ensemble, self._loss, config, progress=progress)
        return self._fitted.digest

    def errors(self, episodes: Episodes) -> NDArray[np.float64]:
        """Squared difference between predicted and given next observation, (N,).

        The mean over the columns that vary within episodes, in units of the source's standard deviations: the dynamics
        error of GTA, appendix D, with the model in place of the simulator.
        """
        if self._fitted is None:
            raise RuntimeError("fit() must be called before errors()")
        found = np.empty(episodes.num_transitions)
        for part in chunks(episodes.num_transitions, CHUNK):
            inputs, targets = self._tensors(episodes, part)
            with torch.no_grad():
                predicted = self._fitted.module(inputs[None]).mean(dim=0)
            difference = (predicted - targets)[:, :-1].cpu().numpy() * self._change_scale[:-1]
            found[part] = np.square(difference, dtype=np.float64).mean(axis=1)
        return found

    def _new_ensemble(self) -> _Ensemble:
        size = self._columns.num_observed
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            return _Ensemble(
                self._config.dynamics_members,
                size + self._columns.num_actions,
                size + 1,
                self._config.dynamics_width,
                self._config.dynamics_depth,
            ).to(self._device)

    def _loss(self, ensemble: _Ensemble) -> Any:
        inputs, targets = self._tensors(self._source.episodes, slice(None))

        def loss_of_step(step: int) -> Tensor:
            generator = numpy_generator(self._seed, "dynamics", step)
            shape = (self._config.dynamics_members, self._config.dynamics_batch_size)
            rows = torch.from_numpy(generator.integers(len(inputs), size=shape)).to(self._device)
            return functional.mse_loss(ensemble(inputs[rows]), targets[rows])

        return loss_of_step

    def _tensors(self, episodes: Episodes, part: slice) -> tuple[Tensor, Tensor]:
        """Inputs [state | action] (n, S + A) and targets [change of state | reward] (n, S + 1) of some transitions."""
        states, following = self._states(episodes, part)
        actions = self._columns.action.forward(episodes.actions[part])
        rewards = self._columns.reward.forward(episodes.rewards[part, None])
        inputs = np.concatenate([states, actions], axis=1)
        targets = np.concatenate([following - states, rewards], axis=1)
        targets /= self._change_scale
        return torch.from_numpy(inputs).to(self._device), torch.from_numpy(targets).to(self._device)

    def _states(self, episodes: Episodes, part: slice) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        moving = ~self._columns.static
        statistics, rows = self._columns.observation.select(moving), episodes.transition_rows[part]
        states, following = (
            statistics.forward(episodes.observations[places][:, moving]) for places in (rows, rows + 1)
        )
        return states, following

    @cached_property
    def _columns(self) -> Columns:
        return Columns.of(self._source.episodes)

    @cached_property
    def _change_scale(self) -> NDArray[np.float32]:
        """Spread of what is predicted, (S + 1,): changes of state are far smaller than states."""
        states, following = self._states(self._source.episodes, slice(None))
        spread = (following - states).std(axis=0, dtype=np.float64)
        return np.append(np.where(spread > 0, spread, 1.0), 1.0).astype(np.float32)


class _Ensemble(nn.Module):
    """`members` residual perceptrons side by side: (members or 1, n, inputs) -> (members, n, outputs)."""

    def __init__(self, members: int, inputs: int, outputs: int, width: int, depth: int) -> None:
        super().__init__()
        sizes = [(inputs, width), *[(width, width)] * depth, (width, outputs)]
        self.weights = nn.ParameterList(
            nn.Parameter(torch.randn(members, into, out) / math.sqrt(into)) for into, out in sizes
        )
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(members, 1, out)) for _, out in sizes)

    def forward(self, x: Tensor) -> Tensor:
        hidden = functional.silu(self._layer(0, x.expand(len(self.biases[0]), -1, -1)))
        for number in range(1, len(self.biases) - 1):
            hidden = hidden + functional.silu(self._layer(number, self._norm(hidden)))
        return self._layer(len(self.biases) - 1, self._norm(hidden))

    def _layer(self, number: int, x: Tensor) -> Tensor:
        return torch.baddbmm(self.biases[number], x, self.weights[number])

    def _norm(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:])
