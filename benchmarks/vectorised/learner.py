"""What the algorithms have in common: a policy, two critics, their targets, and how they are kept and optimised."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.vectorised.networks import Networks, Pass
from benchmarks.vectorised.optimiser import Adam
from benchmarks.vectorised.tables import Batch

__all__ = ["GAMMA", "TAU", "Learner", "MakeLearner", "Setup"]

GAMMA = 0.99
TAU = 0.005


@dataclass(frozen=True)
class Setup:
    """What runs that are trained together have in common."""

    generators: Sequence[torch.Generator]  # one for every run, for the first weights
    observation_size: int  # O
    action_size: int  # A
    batch_size: int  # B
    device: torch.device


class Learner(ABC):
    """The networks of `R` runs of an algorithm, and one update of all of them, with the defaults of d3rlpy."""

    actor_interval: int
    """Updates of the critics for each one of the policy."""

    config: str
    """The name of d3rlpy's configuration."""

    def __init__(self, setup: Setup) -> None:
        runs, device = len(setup.generators), setup.device
        self._observation_size, self._action_size = setup.observation_size, setup.action_size
        self.actor = Networks(runs, setup.observation_size, setup.action_size, device)
        self.critics = Networks(runs, setup.observation_size + setup.action_size, 1, device, count=2)
        self.actor.initialise(setup.generators)
        self.critics.initialise(setup.generators)
        self.target_critics = self.critics.copy()
        self.networks = {"actor": self.actor, "critic": self.critics}
        self.optimisers = {name: Adam(found.values, found.gradients) for name, found in self.networks.items()}
        self._actor_pass = Pass(runs, setup.batch_size, setup.action_size, device)
        self._critic_pass = Pass(runs, setup.batch_size, 1, device)

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

    def _actions(self, actor: Networks, observations: Tensor) -> Tensor:
        """Actions (R, B, A) for standardised observations (R, B, O), valid until the next call."""
        return self._actor_pass.forward(actor.layers[0], observations).tanh_()

    def _step_actor(self, actions: Tensor, slope: Tensor) -> None:
        """A step of the policy, given the slope of its loss at the actions of its last pass; changes the slope."""
        slope.mul_(1 - actions.square())
        self._actor_pass.backward(self.actor.layers[0], slope, self.actor.gradient_layers[0])
        self.optimisers["actor"].step()

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


MakeLearner = Callable[[Setup], Learner]
"""An algorithm, or one with settings of its own."""
