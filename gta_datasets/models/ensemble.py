"""What the learned models of a dataset share: an ensemble of small networks, trained once and kept in the cache.

An ensemble of multilayer perceptrons, each trained on batches of its own (Chua et al. 2018, arXiv 1805.12114, without
the predicted variance); the mean of their predictions is what counts.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from gta_datasets.config import DynamicsConfig, TrainingConfig
from gta_datasets.data.bank import Columns
from gta_datasets.data.episodes import FloatArray
from gta_datasets.data.normalize import chunks
from gta_datasets.data.reading import Source
from gta_datasets.device import to_device
from gta_datasets.seeding import numpy_generator, seeded
from gta_datasets.training.fitting import Fitted, is_fitted, load_or_train

__all__ = ["Ensemble", "LearnedModel", "NormalisedTransitions", "StateModel"]

CHUNK = 8_192  # transitions evaluated at once


class NormalisedTransitions(NamedTuple):
    """Some transitions in normalised form; columns that are the same in the whole dataset are left out."""

    states: NDArray[np.float32]  # (n, S) what changes within episodes
    constants: NDArray[np.float32]  # (n, C) what differs between episodes only, such as a goal
    actions: NDArray[np.float32]  # (n, A)
    labels: NDArray[np.float32]  # (n, 1) rewards, or what a model learns in their place
    changes: NDArray[np.float32]  # (n, S) of the state, in units of its usual change


class LearnedModel(ABC):
    """A small supervised model of one source dataset.

    Args:
        source: the dataset's arrays.
        config: size and training.
        seed: of weights and batches.
        device: where the networks run.
    """

    name: ClassVar[str]
    """Tells models apart in the cache and in random streams."""

    version: ClassVar[int]
    """Raised whenever the same configuration would give other predictions."""

    def __init__(self, source: Source, config: DynamicsConfig, *, seed: int, device: torch.device) -> None:
        self._source, self._config, self._seed, self._device = source, config, seed, device
        self._fitted: Fitted[Ensemble] | None = None

    @abstractmethod
    def _inputs(self, transitions: NormalisedTransitions) -> NDArray[np.float32]:
        """What the model is given, (n, inputs)."""

    @abstractmethod
    def _targets(self, transitions: NormalisedTransitions) -> NDArray[np.float32]:
        """What it has to predict, (n, outputs)."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that determines the weights, for the cache key."""
        return {
            "model": self.name,
            "version": self.version,
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

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """The trained weights, by name."""
        return self._trained.module.state_dict()

    def restore(self, weights: Mapping[str, Tensor]) -> None:
        """Take over trained weights in the place of `fit`; RuntimeError or KeyError if they are of another model."""
        ensemble = self._new_ensemble()
        ensemble.load_state_dict(dict(weights))
        self._fitted = Fitted(ensemble.eval().requires_grad_(False), [], "")

    @property
    def _trained(self) -> Fitted[Ensemble]:
        if self._fitted is None:
            raise RuntimeError("fit() must be called before a prediction")
        return self._fitted

    def _predicted(
        self, observations: FloatArray, actions: FloatArray, following: FloatArray
    ) -> Iterator[tuple[slice, NDArray[np.float32], NormalisedTransitions]]:
        """Predictions (n, outputs) for some transitions, part by part, with the parts themselves."""
        unknown = np.zeros(len(observations), np.float32)
        for part in chunks(len(observations), CHUNK):
            transitions = self._normalised(observations[part], actions[part], unknown[part], following[part])
            yield part, self._mean_of_members(self._inputs(transitions)), transitions

    def _mean_of_members(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """What all members predict together, (n, outputs), for inputs (n, inputs)."""
        with torch.no_grad():
            predicted = self._trained.module(torch.from_numpy(inputs).to(self._device)[None]).mean(dim=0)
        found: NDArray[np.float32] = predicted.cpu().numpy()
        return found

    def _normalised(
        self, observations: FloatArray, actions: FloatArray, labels: FloatArray, following: FloatArray
    ) -> NormalisedTransitions:
        columns = self._columns
        states, next_states = columns.states(observations), columns.states(following)
        return NormalisedTransitions(
            states,
            columns.context_of(observations),
            columns.action.forward(actions),
            columns.reward.forward(labels[:, None]),
            (next_states - states) / self._change_scale,
        )

    def _normalised_at(self, part: slice, rows: NDArray[np.int64]) -> NormalisedTransitions:
        """Some of the source's transitions; `rows` are the `transition_rows` of all, (N,)."""
        episodes = self._source.episodes
        return self._normalised(
            episodes.observations[rows[part]],
            episodes.actions[part],
            episodes.rewards[part],
            episodes.observations[rows[part] + 1],
        )

    def _new_ensemble(self) -> Ensemble:
        few = self._normalised_at(slice(1), self._source.episodes.transition_rows)
        with seeded(self._seed):
            return Ensemble(
                self._config.dynamics_members,
                self._inputs(few).shape[1],
                self._targets(few).shape[1],
                self._config.dynamics_width,
                self._config.dynamics_depth,
            ).to(self._device)

    def _loss(self, ensemble: Ensemble) -> Callable[[int], Tensor]:
        inputs, targets = self._examples()

        def loss_of_step(step: int) -> Tensor:
            generator = numpy_generator(self._seed, self.name, step)
            shape = (self._config.dynamics_members, self._config.dynamics_batch_size)
            rows = to_device(self._draw(generator, shape), self._device)
            return self._error(ensemble(inputs[rows]), self._aims(ensemble, targets, rows))

        return loss_of_step

    def _examples(self) -> tuple[Tensor, Tensor]:
        """Inputs and targets of all transitions, on the device; put together in parts, as a copy of all is large."""
        rows = self._source.episodes.transition_rows
        few = self._normalised_at(slice(1), rows)
        inputs, targets = (
            torch.empty(len(rows), values.shape[1], device=self._device)
            for values in (self._inputs(few), self._targets(few))
        )
        for part in chunks(len(rows), CHUNK):
            transitions = self._normalised_at(part, rows)
            inputs[part] = torch.from_numpy(self._inputs(transitions))
            targets[part] = torch.from_numpy(self._targets(transitions))
        return inputs, targets

    def _error(self, predicted: Tensor, targets: Tensor) -> Tensor:
        """What training makes small; (members, batch, outputs) each."""
        return functional.mse_loss(predicted, targets)

    def _aims(self, ensemble: Ensemble, targets: Tensor, rows: Tensor) -> Tensor:  # noqa: ARG002 - of other models
        """What some rows (members, batch) are to be predicted as by now; `targets` are those of all, (N, outputs)."""
        return targets[rows]

    def _draw(self, generator: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.int64]:
        """Which transitions a training step learns from: all are alike."""
        return generator.integers(self._source.episodes.num_transitions, size=shape)

    @cached_property
    def _columns(self) -> Columns:
        return Columns.of(self._source.episodes)

    @cached_property
    def _change_scale(self) -> NDArray[np.float32]:
        """Usual change of the state, (S,), the root of its mean square: far smaller than the spread of the states.

        Not its spread, which is next to nothing where every step changes a column alike, as of a clock.
        """
        observations, rows = self._source.episodes.observations, self._source.episodes.transition_rows
        squares = np.zeros(self._columns.num_observed)
        for part in chunks(len(rows), CHUNK):
            states, following = (self._columns.states(observations[places]) for places in (rows[part], rows[part] + 1))
            squares += np.square(following - states, dtype=np.float64).sum(axis=0)
        usual = np.sqrt(squares / len(rows))
        scale: NDArray[np.float32] = np.where(usual > 0, usual, 1.0).astype(np.float32)
        return scale


class StateModel(LearnedModel):
    """A model of a number that belongs to a state; training finds it where the rewards are."""

    def _inputs(self, transitions: NormalisedTransitions) -> NDArray[np.float32]:
        return np.concatenate([transitions.states, transitions.constants], axis=1)

    def _targets(self, transitions: NormalisedTransitions) -> NDArray[np.float32]:
        return transitions.labels

    def _inputs_of(self, observations: FloatArray) -> NDArray[np.float32]:
        """What the model is given of some states (n, obs_dim), (n, inputs)."""
        columns = self._columns
        return np.concatenate([columns.states(observations), columns.context_of(observations)], axis=1)

    def _found_for(self, observations: FloatArray) -> NDArray[np.float64]:
        """The number of every state (n, obs_dim), (n,)."""
        found, statistics = np.empty(len(observations)), self._columns.reward
        for part in chunks(len(observations), CHUNK):
            predicted = self._mean_of_members(self._inputs_of(observations[part]))[:, 0]
            # Even if all that was recorded is the same number: what is learned may be another one.
            found[part] = predicted * statistics.scale[0] + statistics.mean[0]
        return found


class Ensemble(nn.Module):
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
