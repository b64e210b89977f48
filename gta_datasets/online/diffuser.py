"""From states to trajectories that begin in them: models of several lengths, an estimate of the length, a pruner."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import cast

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from gta_datasets.config import ATraDiffConfig
from gta_datasets.data.bank import Columns
from gta_datasets.data.endings import Limits
from gta_datasets.data.episodes import Episodes, FloatArray
from gta_datasets.data.reading import Source
from gta_datasets.errors import ConfigError, DivergenceError
from gta_datasets.methods.sampling import normal_numbers
from gta_datasets.models.ending import EndingModel
from gta_datasets.models.ensemble import LearnedModel
from gta_datasets.models.length import LengthModel
from gta_datasets.online.assembling import Assembly, Imagined
from gta_datasets.online.trajectory_model import TrajectoryModel
from gta_datasets.seeding import numpy_generator
from gta_datasets.shelf import Shelf
from gta_datasets.training.checkpoint import under

__all__ = ["Diffuser"]

FARTHEST = 30.0
"""In scales, how far rewards and actions may lie from the mean: one success in 100,000 steps would be 316 standard
deviations, and an agent may do anything that the space allows where the source always did the same."""


class Diffuser:
    """What ATraDiff generates with, on one source dataset.

    Args:
        source: the dataset's arrays.
        config: all settings.
        seed: of generation and adaptation.
        model_seed: of training before these.
        device: where networks run.

    Raises:
        ConfigError: a length that no episode has.
    """

    def __init__(
        self, source: Source, config: ATraDiffConfig, *, seed: int, model_seed: int, device: torch.device
    ) -> None:
        self._source, self._config, self._seed, self._device = source, config, seed, device
        lengths, longest = config.trajectories.lengths, int(source.episodes.lengths.max())
        if lengths[-1] > longest:
            raise ConfigError(
                f"lengths={lengths} holds {lengths[-1]}, which is longer than every episode (longest: {longest} "
                f"transitions); choose lengths <= {longest}"
            )
        self._columns = _columns_of(source)
        self._models = {
            length: TrajectoryModel(source, self._columns, config, length, seed=model_seed, device=device)
            for length in lengths
        }
        self._length_model = LengthModel(source, config.dynamics, seed=model_seed, device=device)
        self._parts: dict[str, TrajectoryModel | LearnedModel] = {str(length): m for length, m in self._models.items()}
        self._parts["length"] = self._length_model
        self._limits = Limits.of(source)
        self._ending_model: EndingModel | None = None
        if self._limits is None and source.episodes.terminations.any():
            self._ending_model = EndingModel(source, config.dynamics, seed=model_seed, device=device)
            self._parts["ending"] = self._ending_model
        self._assembly = Assembly(source, self._columns, config.imagination.loop_tolerance)
        self.in_use: set[int] = set()
        """Lengths of the trajectories since the last adaptation."""

    def fit(self, shelf: Shelf) -> None:
        """Load what is trained, train what is not."""
        for part in self._parts.values():
            shelf.fit(shelf.store_of(part), part)

    def estimate(self, observations: FloatArray) -> NDArray[np.float64]:
        """Transitions from `observations` (n, obs_dim) to the end of the episode, (n,): the length estimator."""
        return self._length_model.predict(observations)

    def farthest(self, observations: FloatArray) -> float:
        """How far some states (n, obs_dim) lie from the mean of the source at most, in its standard deviations."""
        return float(np.abs(self._columns.observation.forward(observations)).max())

    def announced(self, steps: float) -> float:
        """About how many transitions a trajectory will have where `steps` are left; some model makes as many."""
        lengths = self._config.trajectories.lengths
        return float(min(max(steps, lengths[0]), lengths[-1]))

    def horizon(self, steps: float) -> int:
        """Length of the shortest model that is long enough for `steps` transitions, or of the longest."""
        lengths = self._config.trajectories.lengths
        return next((length for length in lengths if length >= steps), lengths[-1])

    def imagine(self, observations: FloatArray, steps: NDArray[np.float64], number: int) -> Imagined:
        """A trajectory from each of some states, up to where the task ends, without loops where it is too long.

        Args:
            observations: flat states, (B, obs_dim).
            steps: transitions that are left, (B,).
            number: of the batch; random numbers depend on it.

        Raises:
            DivergenceError: a generated value is not finite.
        """
        horizons = np.array([self.horizon(each) for each in steps])
        share = self._config.adaptation.frozen_share
        offline = numpy_generator(self._seed, "frozen", number).random(len(steps)) < share
        self.in_use |= set(horizons.tolist())
        parts = []
        for length, model in self._models.items():
            # Before the first adaptation there is nothing to tell apart.
            kinds = (offline, ~offline) if model.is_adapted else (np.ones_like(offline), np.zeros_like(offline))
            for kind, chosen in zip((True, False), kinds, strict=True):
                rows = (horizons == length) & chosen
                if rows.any():
                    parts.append(self._imagine(model, length, observations[rows], steps[rows], number, offline=kind))
        return Imagined(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def adapt(self, windows: Callable[[int], Episodes], number: int) -> float:
        """Train the copies of the models in use on recorded windows.

        Args:
            windows: for a length, windows of at most so many transitions, each as an episode.
            number: of the adaptation.

        Returns:
            The mean loss.

        Raises:
            DivergenceError: training diverged; all models are as before.
        """
        training = self._config.adaptation.training(self._config.training)
        models = {length: self._models[length] for length in sorted(self.in_use) or self._models}
        try:
            copies = {
                length: model.adapted(windows(length), training, number, seed=self._seed)
                for length, model in models.items()
            }
        except DivergenceError as error:
            raise DivergenceError(
                f"adaptation {number} diverged, and the models stay as they were ({error}); lower "
                f"adapt_learning_rate (now {training.learning_rate}) or adapt_steps (now {training.training_steps})"
            ) from error
        for length, (copy, _) in copies.items():
            models[length].follow(copy)
        self.in_use.clear()
        return float(np.mean([loss for _, loss in copies.values()]))

    @property
    def pruned(self) -> int:
        """Transitions that were cut out of trajectories as loops, since this was made."""
        return self._assembly.pruned

    @property
    def weights(self) -> dict[str, Tensor]:
        """All weights by name."""
        return {f"{name}.{key}": value for name, part in self._parts.items() for key, value in part.weights.items()}

    def restore(self, weights: Mapping[str, Tensor]) -> None:
        """Take over `weights` in the place of `fit`; RuntimeError if they are of another configuration."""
        for name, part in self._parts.items():
            part.restore(under(weights, name))

    def _imagine(
        self,
        model: TrajectoryModel,
        length: int,
        observations: FloatArray,
        steps: NDArray[np.float64],
        number: int,
        *,
        offline: bool,
    ) -> Imagined:
        """As `imagine`, of one model."""
        columns = self._columns
        noise = normal_numbers(
            (len(observations), length + 1, columns.num_generated),
            seed=self._seed,
            prefix=f"imagine {length}/{offline}/",
            number=number,
            device=self._device,
        )
        rows = model.generate(columns.states(observations), columns.context_of(observations), noise, offline=offline)
        whole = np.full(len(observations), length)
        episodes = self._assembly.episodes(rows, observations, whole, np.zeros(len(whole), np.bool_))
        chances = numpy_generator(self._seed, f"endings {length}/{offline}", number).random((len(whole), length))
        lengths, ended = self._endings(episodes, chances)
        if ended.any():
            episodes = self._assembly.episodes(rows, observations, lengths, ended)
        return self._assembly.transitions(episodes, steps)

    def _endings(self, episodes: Episodes, chances: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Transitions up to the end of the task, or all, (B,), and whether the task ends, (B,).

        A transition ends it if the next state has passed a limit; where the source shows none, if its random number in
        `chances` (B, length), from [0, 1), is below how likely that is.
        """
        likely = np.zeros(episodes.num_transitions)
        if self._limits is not None:
            likely[self._limits.passed(episodes.next_observations)] = 1.0
        elif self._ending_model is not None:
            states = episodes.observations[episodes.transition_rows]
            likely = self._ending_model.predict(states, episodes.actions, episodes.next_observations)
        ends = chances < likely.reshape(chances.shape)
        ended: NDArray[np.bool_] = np.asarray(ends.any(axis=1))
        return np.where(ended, ends.argmax(axis=1) + 1, chances.shape[1]), ended


def _columns_of(source: Source) -> Columns:
    """Columns of a source whose agents may find rewards and act as nobody did in it."""
    columns, codec = Columns.of(source.episodes), source.action_codec
    space = cast(spaces.Box, codec.space)
    return dataclasses.replace(
        columns,
        action=columns.action.widened(codec.flatten(np.stack([space.low, space.high])), FARTHEST),
        reward=columns.reward.widened(source.episodes.rewards[:, None], FARTHEST),
    )
