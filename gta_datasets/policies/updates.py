"""One update of GTP and GTP-BC: what d3rlpy's training loop calls."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from gta_datasets.errors import ConfigError, DatasetError, requires_extra
from gta_datasets.policies.actor import ActionFlow, training_levels
from gta_datasets.policies.config import GTPBCConfig, GTPConfig

with requires_extra("d3rlpy", "d3rlpy", "gta_datasets.policies needs"):
    from d3rlpy.algos.qlearning.base import QLearningAlgoImplBase
    from d3rlpy.models.torch import ContinuousEnsembleQFunctionForwarder
    from d3rlpy.optimizers.optimizers import OptimizerWrapper
    from d3rlpy.torch_utility import Modules, TorchMiniBatch
    from d3rlpy.types import TorchObservation

__all__ = ["Critics", "GTPBCImpl", "GTPBCModules", "GTPImpl", "GTPModules", "advantage_weights"]

ROUNDING = 1e-3
"""By how much an action may leave its bounds: scaled float32 values do."""


@dataclasses.dataclass(frozen=True)
class GTPBCModules(Modules):
    """What is trained and saved."""

    actor: ActionFlow
    average_actor: ActionFlow
    actor_optim: OptimizerWrapper


@dataclasses.dataclass(frozen=True)
class GTPModules(GTPBCModules):
    """The same with critics."""

    critics: nn.ModuleList
    average_critics: nn.ModuleList
    critic_optim: OptimizerWrapper


@dataclasses.dataclass(frozen=True)
class Critics:
    """How the critics and their averages are asked."""

    now: ContinuousEnsembleQFunctionForwarder
    average: ContinuousEnsembleQFunctionForwarder


def advantage_weights(advantages: Tensor, eta: float, max_weight: float) -> Tensor:
    """`exp(eta max(0, A) / std(A))` (GTP, arXiv 2510.11499), at most `max_weight`, which is ours.

    Where most actions of a batch are better than the policy's by more than they differ, most weights are the largest,
    and the policy clones behaviour.

    Args:
        advantages: of the actions of a batch, (B,); their standard deviation makes `eta` independent of the scale of
            rewards.
        eta: how much more an advantage of one standard deviation counts.
        max_weight: the most that an action counts.

    Returns:
        Weights between 1 and `max_weight`, (B,).
    """
    spread = advantages.std(correction=0) + 1e-6
    return (eta * advantages.clamp(min=0) / spread).exp().clamp(max=max_weight)


class GTPBCImpl(QLearningAlgoImplBase):
    """The actor and its average, which is the one that acts.

    Random numbers come from a generator of its own; its seed is drawn where d3rlpy draws initial weights
    (`d3rlpy.seed`).
    """

    _modules: GTPBCModules

    def __init__(
        self, observation_size: int, action_size: int, modules: GTPBCModules, config: GTPBCConfig, device: str
    ) -> None:
        super().__init__((observation_size,), action_size, modules, device)
        self._config = config
        self._levels = torch.tensor(training_levels(config.levels), device=device)
        self._generator = torch.Generator(device).manual_seed(int(torch.randint(2**62, ())))
        self._steps = config.sampling_steps
        modules.average_actor.load_state_dict(modules.actor.state_dict())

    def inner_update(self, batch: TorchMiniBatch, grad_step: int) -> dict[str, float]:  # noqa: ARG002 - d3rlpy's
        """Losses by name.

        Raises:
            DatasetError: actions of the batch are out of bounds or not finite.
        """
        _check_bounds(batch.actions)
        metrics = self._update_actor(batch, None)
        _follow(self._modules.average_actor, self._modules.actor, self._config.actor_tau)
        return metrics

    @contextmanager
    def taking(self, steps: int) -> Iterator[None]:
        """Within this context actions take so many jumps.

        Raises:
            ConfigError: `steps` is less than 1.
        """
        if steps < 1:
            raise ConfigError(f"steps={steps} is not allowed; choose steps >= 1")
        usual, self._steps = self._steps, steps
        try:
            yield
        finally:
            self._steps = usual

    def inner_sample_action(self, x: TorchObservation) -> Tensor:
        """Actions of the average actor for `x (B, D)`, (B, A)."""
        return self._act(_vectors(x), 1.0)

    def inner_predict_best_action(self, x: TorchObservation) -> Tensor:
        """As `inner_sample_action`, but from noise of the `temperature` that is set."""
        return self._act(_vectors(x), self._config.temperature)

    def _act(self, observations: Tensor, temperature: float) -> Tensor:
        shape = len(observations), self._action_size
        noise = torch.randn(shape, generator=self._generator, device=observations.device)
        return self._modules.average_actor.sample(observations, temperature * noise, self._steps)

    def inner_predict_value(self, x: TorchObservation, action: Tensor) -> Tensor:
        raise NotImplementedError("GTP-BC has no critics; use GTP for values of actions")

    def _update_actor(self, batch: TorchMiniBatch, weights: Tensor | None) -> dict[str, float]:
        config, modules = self._config, self._modules
        consistency, flow = modules.actor.errors(
            modules.average_actor,
            _vectors(batch.observations),
            batch.actions,
            self._levels,
            self._generator,
            from_data=config.score_targets,
        )
        errors = consistency + config.flow_weight * flow
        loss = errors.mean() if weights is None else (weights * errors).mean()
        modules.actor_optim.optim.zero_grad(set_to_none=True)
        loss.backward()
        modules.actor_optim.step()
        found = torch.stack([loss, consistency.mean(), flow.mean()]).tolist()
        return dict(zip(("actor_loss", "consistency_error", "flow_error"), found, strict=True))


class GTPImpl(GTPBCImpl):
    """The same with critics, which learn from the target actor's actions and weight those of the batch."""

    _modules: GTPModules
    _config: GTPConfig

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        modules: GTPModules,
        critics: Critics,
        config: GTPConfig,
        device: str,
    ) -> None:
        super().__init__(observation_size, action_size, modules, config, device)
        self._critics = critics
        modules.average_critics.load_state_dict(modules.critics.state_dict())

    def inner_update(self, batch: TorchMiniBatch, grad_step: int) -> dict[str, float]:  # noqa: ARG002 - d3rlpy's
        """Losses by name.

        Raises:
            DatasetError: actions of the batch are out of bounds or not finite.
        """
        _check_bounds(batch.actions)
        next_values, advantages = self._judge(batch)
        weights = advantage_weights(advantages, self._config.eta, self._config.max_weight)
        metrics = self._update_critics(batch, next_values) | self._update_actor(batch, weights)
        _follow(self._modules.average_actor, self._modules.actor, self._config.actor_tau)
        _follow(self._modules.average_critics, self._modules.critics, self._config.tau)
        capped = (weights >= self._config.max_weight).float().mean()
        return metrics | {"mean_weight": float(weights.mean()), "capped_share": float(capped)}

    def inner_predict_best_action(self, x: TorchObservation) -> Tensor:
        """Of `n_action_samples` actions the one that the least of the critics values most, (B, A)."""
        number = self._config.n_action_samples
        if number == 1:
            return super().inner_predict_best_action(x)
        repeated = _vectors(x).repeat_interleave(number, dim=0)
        actions = super().inner_predict_best_action(repeated)
        values = self._critics.now.compute_expected_q(repeated, actions, reduction="min")
        chosen = values.view(-1, number).argmax(dim=1)
        return actions.view(-1, number, self._action_size)[torch.arange(len(chosen), device=chosen.device), chosen]

    def inner_predict_value(self, x: TorchObservation, action: Tensor) -> Tensor:
        values: Tensor = self._critics.now.compute_expected_q(x, action, reduction="mean")
        return values.reshape(-1)

    @property
    def q_function(self) -> nn.ModuleList:
        return self._modules.critics

    @torch.no_grad()
    def _judge(self, batch: TorchMiniBatch) -> tuple[Tensor, Tensor]:
        """Values of the next states, (B, 1), and advantages of the batch's actions over the policy's, (B,).

        Both by the least of the target critics; a state's value is that of one action of the target actor.
        """
        here = _vectors(batch.observations)
        observations = torch.cat([_vectors(batch.next_observations), here])
        with self.taking(self._config.target_steps):
            actions = self.inner_sample_action(observations)
        values = self._critics.average.compute_target(
            torch.cat([observations, here]), torch.cat([actions, batch.actions]), reduction="min"
        )
        after, policy, data = values.chunk(3)
        return after, (data - policy)[:, 0]

    def _update_critics(self, batch: TorchMiniBatch, next_values: Tensor) -> dict[str, float]:
        loss = self._critics.now.compute_error(
            observations=batch.observations,
            actions=batch.actions,
            rewards=batch.rewards,
            target=next_values,
            terminals=batch.terminals,
            gamma=self._config.gamma**batch.intervals,
        )
        optimiser = self._modules.critic_optim
        optimiser.optim.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        return {"critic_loss": loss.item()}


def _check_bounds(actions: Tensor) -> None:
    largest = float(actions.abs().max())
    if not largest <= 1 + ROUNDING:  # nor is NaN
        if not math.isfinite(largest):
            places = (~actions.isfinite().all(dim=0)).nonzero().flatten().tolist()
            raise DatasetError(
                f"actions of the data are not finite in dimensions {places}, as they reach GTP; where all actions of a "
                "dimension are the same, d3rlpy.preprocessing.MinMaxActionScaler() divides by 0: give it minimum and "
                "maximum, such as the bounds of the action space; otherwise repair the data"
            )
        raise DatasetError(
            f"actions of the data reach {largest:.3g}, and those of GTP lie within -1 and 1; give the configuration an "
            "action_scaler, such as d3rlpy.preprocessing.MinMaxActionScaler()"
        )


def _vectors(observations: TorchObservation) -> Tensor:
    """The observations (B, D): tuples were refused before there were networks."""
    return cast(Tensor, observations)


def _follow(average: nn.Module, module: nn.Module, tau: float) -> None:
    with torch.no_grad():
        torch._foreach_lerp_(list(average.parameters()), list(module.parameters()), tau)
