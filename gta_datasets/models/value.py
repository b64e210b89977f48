"""A learned value function of the policies behind a dataset."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gta_datasets.config import DynamicsConfig
from gta_datasets.data.episodes import FloatArray
from gta_datasets.data.reading import Source
from gta_datasets.data.returns import returns_to_go
from gta_datasets.models.ensemble import Ensemble, StateModel

__all__ = ["ValueModel"]


class ValueModel(StateModel):
    """A model of the discounted return that the policies behind one source dataset get from a state on.

    It learns the returns-to-go that were recorded. Where an episode was cut off, by a time limit or the end of the
    recording, the value that the model itself gives its last state stands for the rest (Pardo et al. 2018, arXiv
    1712.00378, section 4: partial-episode bootstrapping). That takes the more updates the nearer the discount is to 1
    and the shorter what was recorded: with 0.99 the default suffices, with 0.999 and 31 transitions it does not.

    Args:
        source: the dataset's arrays.
        config: size and training.
        discount: gamma, below 1.
        terminal_penalty: subtracted from the rewards of terminal transitions.
        seed: of weights and batches.
        device: where the networks run.
    """

    name = "value"
    version = 1

    def __init__(
        self,
        source: Source,
        config: DynamicsConfig,
        *,
        discount: float,
        terminal_penalty: float,
        seed: int,
        device: torch.device,
    ) -> None:
        to_go = returns_to_go(source.episodes, discount=discount, terminal_penalty=terminal_penalty)
        # What the other models call rewards is what this one predicts.
        labelled = dataclasses.replace(source.episodes, rewards=to_go.astype(np.float32))
        super().__init__(dataclasses.replace(source, episodes=labelled), config, seed=seed, device=device)
        self._discount = discount

    @property
    def identity(self) -> Mapping[str, Any]:
        return {**super().identity, "discount": self._discount}

    def predict(self, observations: FloatArray) -> NDArray[np.float64]:
        """Values of `observations` (n, obs_dim), in units of reward, (n,)."""
        return self._found_for(observations)

    def _aims(self, ensemble: Ensemble, targets: Tensor, rows: Tensor) -> Tensor:
        last_states, episode, weight, zero = self._beyond
        with torch.no_grad():
            rest: Tensor = ensemble(last_states[episode[rows]])
        return targets[rows] + weight[rows, None] * (rest - zero)

    @cached_property
    def _beyond(self) -> tuple[Tensor, Tensor, Tensor, float]:
        """Inputs of the last states (E, inputs); every transition's episode, and the factor by which the value of its
        last state counts there, (N,); and what a value of 0 is to the network.
        """
        episodes = self._source.episodes
        last = self._inputs_of(episodes.observations[episodes.last_rows])
        weight = np.repeat(~episodes.terminated, episodes.lengths) * self._discount**episodes.remaining
        zero = float(self._columns.reward.forward(np.zeros((1, 1)))[0, 0])
        on_device = [
            torch.from_numpy(values).to(self._device)
            for values in (
                last,
                np.repeat(np.arange(episodes.num_episodes), episodes.lengths),
                weight.astype(np.float32),
            )
        ]
        return on_device[0], on_device[1], on_device[2], zero
