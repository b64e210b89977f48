"""TD3+BC (Fujimoto and Gu 2021, arXiv 2106.06860) of several runs at once."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.vectorised.learner import TAU, Learner, Setup
from benchmarks.vectorised.tables import Batch

__all__ = ["TD3BC"]

ALPHA = 2.5
SMOOTHING, SMOOTHING_LIMIT = 0.2, 0.5


class TD3BC(Learner):
    """TD3 whose policy also stays near the actions of the data."""

    actor_interval = 2
    config = "TD3PlusBCConfig"

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.target_actor = self.actor.copy()

    @property
    def noise_size(self) -> int:
        return self._action_size

    @property
    def tensors(self) -> dict[str, Tensor]:
        return super().tensors | {"target_actor": self.target_actor.values}

    def update(self, batch: Batch, noise: Tensor, *, with_actor: bool) -> None:
        self._update_critics(batch, self._next_value(batch, noise))
        if with_actor:
            self._update_actor(batch)
            self.target_critics.values.lerp_(self.critics.values, TAU)
            self.target_actor.values.lerp_(self.actor.values, TAU)

    def _next_value(self, batch: Batch, noise: Tensor) -> Tensor:
        """What the targets expect of the next state, where the target policy acts with some noise, (R, B, 1)."""
        actions = self._actions(self.target_actor, batch.next_observations)
        actions.add_((SMOOTHING * noise).clamp_(-SMOOTHING_LIMIT, SMOOTHING_LIMIT)).clamp_(-1, 1)
        return self._least_target(torch.cat([batch.next_observations, actions], dim=-1))

    def _update_actor(self, batch: Batch) -> None:
        """A step on the mean squared distance to the data's actions less the scaled value of the policy's."""
        actions = self._actions(self.actor, batch.observations)
        critic = self.critics.layers[0]
        values = self._critic_pass.forward(critic, torch.cat([batch.observations, actions], dim=-1))
        size = values.shape[1]
        slope = (-ALPHA / size) / values.abs().mean(dim=1, keepdim=True)
        hidden = self._critic_pass.backward(critic, slope.expand_as(values))
        slope = torch.bmm(hidden, critic[0].weight[:, self._observation_size :].mT)
        slope.add_(actions - batch.actions, alpha=2 / (size * self._action_size))
        self._step_actor(actions, slope)
