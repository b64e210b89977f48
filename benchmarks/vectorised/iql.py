"""Implicit Q-learning (Kostrikov et al. 2021, arXiv 2110.06169) of several runs at once."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.vectorised.learner import TAU, Learner, Setup
from benchmarks.vectorised.networks import Networks, Pass
from benchmarks.vectorised.optimiser import Adam
from benchmarks.vectorised.tables import Batch

__all__ = ["IQL"]

LARGEST_WEIGHT = 100.0
LEAST_LOG_STD, LARGEST_LOG_STD = -5.0, 2.0


class IQL(Learner):
    """A state's value is an upper expectile of the critics', and the policy is fitted to what beats it.

    The policy is a Gaussian around `tanh` of the network's output; its spread is a parameter of its own.

    Args:
        setup: of the runs.
        expectile: which one.
        temperature: how much what beats a state's value by more weighs more.
        anneal: updates over which the policy's learning rate falls to zero along a cosine; None keeps it.
    """

    actor_interval = 1
    config = "IQLConfig"
    noise_size = 0

    def __init__(
        self, setup: Setup, *, expectile: float = 0.7, temperature: float = 3.0, anneal: int | None = None
    ) -> None:
        super().__init__(setup)
        self._expectile, self._temperature = expectile, temperature
        runs, device = len(setup.generators), setup.device
        self.value = Networks(runs, setup.observation_size, 1, device)
        self.value.initialise(setup.generators)
        self.spread = torch.zeros(runs, 1, setup.action_size, device=device)
        self._spread_gradient = torch.zeros_like(self.spread)
        self._value_pass = Pass(runs, setup.batch_size, 1, device)
        self.networks["value"] = self.value
        self.optimisers["actor"] = Adam(self.actor.values, self.actor.gradients, anneal=anneal)
        self.optimisers["value"] = Adam(self.value.values, self.value.gradients)
        self.optimisers["spread"] = Adam(self.spread, self._spread_gradient, anneal=anneal)

    @property
    def tensors(self) -> dict[str, Tensor]:
        return super().tensors | {"value": self.value.values, "spread": self.spread}

    def update(self, batch: Batch, noise: Tensor, *, with_actor: bool) -> None:  # noqa: ARG002
        self._update_critics(batch, self._value_pass.forward(self.value.layers[0], batch.next_observations))
        least = self._least_target(batch.pairs)
        self._update_value(batch, least)
        if with_actor:
            self._update_actor(batch, least)
        self.target_critics.values.lerp_(self.critics.values, TAU)

    def _update_value(self, batch: Batch, least: Tensor) -> None:
        """A step on the mean squared error, in which what lies above weighs more than what lies below."""
        excess = least - self._value_pass.forward(self.value.layers[0], batch.observations)
        weight = (self._expectile - (excess < 0).float()).abs_()
        slope = excess.mul_(weight).mul_(-2 / excess.shape[1])
        self._value_pass.backward(self.value.layers[0], slope, self.value.gradient_layers[0])
        self.optimisers["value"].step()

    def _update_actor(self, batch: Batch, least: Tensor) -> None:
        """A step on the log-likelihood of the data's actions, each weighted by how far it beats the state's value."""
        advantage = least - self._value_pass.forward(self.value.layers[0], batch.observations)
        weight = advantage.mul_(self._temperature).exp_().clamp_(max=LARGEST_WEIGHT).div_(advantage.shape[1])
        share = self.spread.sigmoid()
        extent = LARGEST_LOG_STD - LEAST_LOG_STD
        std = (LEAST_LOG_STD + extent * share).exp_()
        actions = self._actions(self.actor, batch.observations)
        distance = (batch.actions - actions).div_(std)
        of_log_std = (weight * (1 - distance.square())).sum(dim=1, keepdim=True)
        torch.mul(of_log_std, extent * share * (1 - share), out=self._spread_gradient)
        self._step_actor(actions, distance.mul_(weight).div_(std).neg_())
        self.optimisers["spread"].step()
