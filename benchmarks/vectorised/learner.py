"""What the algorithms have in common: a policy, two critics, their targets, and how they are kept and optimised."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.vectorised.networks import Networks, Pass
from benchmarks.vectorised.optimiser import Adam
from benchmarks.vectorised.tables import Batch

__all__ = ["GAMMA", "TAU", "Learner"]

GAMMA = 0.99
TAU = 0.005


class Learner(ABC):
    """The networks of `R` runs of an algorithm, and one update of all of them, with the defaults of d3rlpy.

    Args:
        generators: one for every run, for the first weights.
        observation_size: O.
        action_size: A.
        batch_size: B.
        device: where everything is.
    """

    actor_interval: int
    """Updates of the critics for each one of the policy."""

    config: str
    """The name of d3rlpy's configuration."""

    def __init__(
        self,
        generators: Sequence[torch.Generator],
        observation_size: int,
        action_size: int,
        batch_size: int,
        device: torch.device,
    ) -> None:
        runs = len(generators)
        self._observation_size, self._action_size = observation_size, action_size
        self.actor = Networks(runs, observation_size, action_size, device)
        self.critics = Networks(runs, observation_size + action_size, 1, device, count=2)
        self.actor.initialise(generators)
        self.critics.initialise(generators)
        self.target_critics = self.critics.copy()
        self.networks = {"actor": self.actor, "critic": self.critics}
        self.optimisers = {name: Adam(found.values, found.gradients) for name, found in self.networks.items()}
        self._actor_pass = Pass(runs, batch_size, action_size, device)
        self._critic_pass = Pass(runs, batch_size, 1, device)

    @property
    @abstractmethod
    def noise_size(self) -> int:
        """Standard normal numbers that an update needs for every transition."""

    @abstractmethod
    def update(self, batch: Batch, noise: Tensor, *, with_actor: bool) -> None:
        """One update on a batch of every run.

        Args:
            batch: of every run.
            noise: standard normal, (R, B, noise_size).
            with_actor: whether the policy takes its turn.
        """

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Parameters and what the optimisers remember, by name."""
        found = {
            "actor": self.actor.values,
            "critics": self.critics.values,
            "target_critics": self.target_critics.values,
        }
        for owner, optimiser in self.optimisers.items():
            found |= {f"{owner}_{name}": tensor for name, tensor in optimiser.tensors.items()}
        return found

    def act(self, observations: Tensor) -> Tensor:
        """Actions (R, n, A) for standardised observations (R, n, O)."""
        runs, size, _ = observations.shape
        once = Pass(runs, size, self._action_size, observations.device)
        return once.forward(self.actor.layers[0], observations).tanh_()

    def _least_target(self, pairs: Tensor) -> Tensor:
        """The lesser value of both target critics, (R, B, 1), for observations and actions side by side."""
        first, second = self.target_critics.layers
        value = self._critic_pass.forward(first, pairs).clone()
        return torch.minimum(value, self._critic_pass.forward(second, pairs))

    def _update_critics(self, batch: Batch, next_value: Tensor) -> None:
        """A step on the sum of both critics' mean squared errors."""
        target = torch.addcmul(batch.rewards, batch.goes_on, next_value, value=GAMMA)
        for layers, gradients in zip(self.critics.layers, self.critics.gradient_layers, strict=True):
            slope = self._critic_pass.forward(layers, batch.pairs) - target
            self._critic_pass.backward(layers, slope.mul_(2 / slope.shape[1]), gradients)
        self.optimisers["critic"].step()
