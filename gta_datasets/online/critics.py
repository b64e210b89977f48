"""What a model of Stable-Baselines3 still has to learn from a transition."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from gta_datasets.errors import ConfigError, requires_extra
from gta_datasets.seeding import seeded

with requires_extra("sb3", "stable-baselines3", "gta_datasets.online needs"):
    from stable_baselines3 import SAC, TD3
    from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
    from stable_baselines3.common.type_aliases import ReplayBufferSamples

__all__ = ["check_critic", "td_errors"]


def check_critic(model: OffPolicyAlgorithm) -> None:
    """Raise ConfigError unless `td_errors` knows the critics of `model`."""
    if not isinstance(model, SAC | TD3):
        raise ConfigError(_unknown(model))


def td_errors(model: OffPolicyAlgorithm, batch: ReplayBufferSamples, seed: int) -> NDArray[np.float64]:
    """Size of the temporal-difference errors of some transitions, (B,), the mean over the critics.

    Targets are the algorithm's own: for SAC those of an action drawn from the policy by `seed`, with its entropy; for
    TD3 those of the target policy's action, without the noise that smooths it. Torch's global generator is left alone.

    Raises:
        ConfigError: the model is neither.
    """
    with torch.no_grad(), seeded(seed, model.device):
        if isinstance(model, SAC):
            actions, log_likelihood = model.actor.action_log_prob(batch.next_observations)
            alpha = model.ent_coef_tensor if model.log_ent_coef is None else model.log_ent_coef.exp()
            bonus = -alpha * log_likelihood[:, None]
        elif isinstance(model, TD3):
            actions, bonus = model.actor_target(batch.next_observations), torch.zeros_like(batch.rewards)
        else:
            raise ConfigError(_unknown(model))
        following = torch.cat(model.critic_target(batch.next_observations, actions), dim=1).amin(dim=1, keepdim=True)
        target = batch.rewards + (1 - batch.dones) * model.gamma * (following + bonus)
        found = torch.cat(model.critic(batch.observations, batch.actions), dim=1)
        return (found - target).abs().mean(dim=1).cpu().numpy().astype(np.float64)


def _unknown(model: OffPolicyAlgorithm) -> str:
    return (
        f"importance='td_error' needs a SAC or TD3 model, and this one is a {type(model).__name__}; choose "
        "importance='reward' or adapt_every=0"
    )
