"""Mildly conservative Q-learning (Lyu et al. 2022, arXiv 2206.04745) as an algorithm of d3rlpy, which has none.

Soft actor-critic whose critics also learn what the policy's own actions are worth: the best of the actions that a model
of the data's behaviour draws in the same state. Follows the paper's algorithm 1; like the authors' code
(https://github.com/dmksjfl/MCQ, revision 1f27c77), it draws as many actions of the policy as of the model, both in the
states of a batch and in those that follow them, and the behaviour model's latent variables from within half a standard
deviation, as d3rlpy does. As in the paper's equation, values below the pseudo target are drawn up to it too, which that
code does for some tasks only; for hopper-medium, medium-expert, the experts and some mazes it lowers values alone, and
for some of them towards the target less 5. It also draws other actions for each critic, where here both share them,
learns from observations as they are, where the tables standardise them, and steps the temperature before the critics.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from d3rlpy.algos import SAC, SACConfig
from d3rlpy.algos.qlearning.torch import DDPGBaseCriticLoss, SACImpl, SACModules
from d3rlpy.base import register_learnable
from d3rlpy.models import EncoderFactory, make_encoder_field
from d3rlpy.models.builders import create_vae_decoder, create_vae_encoder
from d3rlpy.models.torch import (
    VAEDecoder,
    VAEEncoder,
    build_squashed_gaussian_distribution,
    forward_vae_sample_n,
)
from d3rlpy.optimizers import OptimizerFactory, OptimizerWrapper, make_optimizer_field
from d3rlpy.torch_utility import TorchMiniBatch
from d3rlpy.types import Shape
from torch import Tensor
from torch.distributions import Normal, kl_divergence

__all__ = ["MCQ", "MCQConfig"]

LEAST_LOG_STD, LARGEST_LOG_STD = -4.0, 15.0  # of the behaviour model's latent variables


@dataclasses.dataclass()
class MCQConfig(SACConfig):
    """Soft actor-critic's settings and those of what is mildly conservative."""

    weight: float = 0.9  # of the Bellman error; the rest is the pseudo targets' (lambda in the paper)
    n_action_samples: int = 10
    behaviour_learning_rate: float = 1e-3
    behaviour_optim_factory: OptimizerFactory = make_optimizer_field()  # noqa: RUF009 - makes a field
    behaviour_encoder_factory: EncoderFactory = make_encoder_field()  # noqa: RUF009 - makes a field

    def create(self, device: bool | int | str | None = False, enable_ddp: bool = False) -> MCQ:
        """The algorithm, untrained."""
        return MCQ(self, device, enable_ddp)

    @staticmethod
    def get_type() -> str:
        """Its name in files."""
        return "mcq"


@dataclasses.dataclass(frozen=True)
class MCQModules(SACModules):
    """Networks and optimisers: soft actor-critic's and those of the behaviour model."""

    behaviour_encoder: VAEEncoder
    behaviour_decoder: VAEDecoder
    behaviour_optim: OptimizerWrapper


@dataclasses.dataclass(frozen=True)
class MCQCriticLoss(DDPGBaseCriticLoss):
    """The critics' loss and its unweighted parts."""

    bellman_loss: Tensor
    pseudo_loss: Tensor


class MCQImpl(SACImpl):
    """One update of everything."""

    _modules: MCQModules

    def __init__(self, base: SACImpl, modules: MCQModules, config: MCQConfig, device: str) -> None:
        super().__init__(
            observation_shape=base.observation_shape,
            action_size=base.action_size,
            modules=modules,
            q_func_forwarder=base._q_func_forwarder,
            targ_q_func_forwarder=base._targ_q_func_forwarder,
            gamma=config.gamma,
            tau=config.tau,
            compiled=False,
            device=device,
        )
        self._weight, self._n_action_samples = config.weight, config.n_action_samples

    def inner_update(self, batch: TorchMiniBatch, grad_step: int) -> dict[str, float]:
        behaviour_loss = self.compute_behaviour_loss(batch)
        self._modules.behaviour_optim.zero_grad()
        behaviour_loss.backward()
        self._modules.behaviour_optim.step()
        metrics: dict[str, float] = super().inner_update(batch, grad_step)
        return {"behaviour_loss": float(behaviour_loss.detach()), **metrics}

    def compute_behaviour_loss(self, batch: TorchMiniBatch) -> Tensor:
        """Squared error of the actions that the model restores, and its divergence from the prior."""
        found = self._modules.behaviour_encoder(batch.observations, batch.actions)
        # In d3rlpy the flag means that whoever asks does the squashing.
        restored = self._modules.behaviour_decoder(batch.observations, found.rsample(), with_squash=False)
        error = (restored - batch.actions).square().sum(dim=1)
        return (error + kl_divergence(found, Normal(0.0, 1.0)).sum(dim=1)).mean()

    def compute_critic_loss(self, batch: TorchMiniBatch, q_tpn: Tensor) -> MCQCriticLoss:
        bellman = super().compute_critic_loss(batch, q_tpn).critic_loss
        now, after = batch.observations, batch.next_observations
        assert isinstance(now, Tensor)  # noqa: S101 - no tuples, which d3rlpy knows too
        assert isinstance(after, Tensor)  # noqa: S101
        states = torch.cat([now, after])
        with torch.no_grad():
            target = self._values(states, self._behaviour_actions(states)).amax(dim=2).amin(dim=0)
            actions = self._policy_actions(states)
        pseudo = (self._values(states, actions) - target[None, :, None]).square().mean(dim=(1, 2)).sum()
        return MCQCriticLoss(self._weight * bellman + (1 - self._weight) * pseudo, bellman, pseudo)

    def _values(self, states: Tensor, actions: Tensor) -> Tensor:
        """What each critic expects of actions (S, N, A) in states (S, O), (critics, S, N)."""
        repeated = states.repeat_interleave(actions.shape[1], dim=0)
        values = self._q_func_forwarder.compute_expected_q(repeated, actions.flatten(0, 1), "none")
        return values.view(-1, *actions.shape[:2])

    def _behaviour_actions(self, states: Tensor) -> Tensor:
        """Actions (S, N, A) as the data have them."""
        size, count = self._modules.behaviour_encoder.latent_size, self._n_action_samples
        found: Tensor = forward_vae_sample_n(self._modules.behaviour_decoder, states, size, count, with_squash=False)
        return found

    def _policy_actions(self, states: Tensor) -> Tensor:
        """Actions (S, N, A) of the policy."""
        found = build_squashed_gaussian_distribution(self._modules.policy(states))
        drawn: Tensor = found.sample_n(self._n_action_samples)
        return drawn


class MCQ(SAC):
    """The algorithm."""

    _config: MCQConfig

    def inner_create_impl(self, observation_shape: Shape, action_size: int) -> None:
        super().inner_create_impl(observation_shape, action_size)
        config, base = self._config, self._impl
        assert base is not None  # noqa: S101 - made in the line before
        options: dict[str, Any] = {
            "observation_shape": observation_shape,
            "action_size": action_size,
            "latent_size": 2 * action_size,
            "encoder_factory": config.behaviour_encoder_factory,
            "device": self._device,
            "enable_ddp": self._enable_ddp,
        }
        encoder = create_vae_encoder(**options, min_logstd=LEAST_LOG_STD, max_logstd=LARGEST_LOG_STD)
        decoder = create_vae_decoder(**options)
        optim = config.behaviour_optim_factory.create(
            [*encoder.named_modules(), *decoder.named_modules()], lr=config.behaviour_learning_rate, compiled=False
        )
        kept = {field.name: getattr(base.modules, field.name) for field in dataclasses.fields(base.modules)}
        modules = MCQModules(**kept, behaviour_encoder=encoder, behaviour_decoder=decoder, behaviour_optim=optim)
        self._impl = MCQImpl(base, modules, config, self._device)


register_learnable(MCQConfig)
