"""The same updates by d3rlpy and by a stack, from the same weights, batches and noise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.quiet import import_d3rlpy
from benchmarks.vectorised.iql import IQL
from benchmarks.vectorised.learner import Learner, Setup
from benchmarks.vectorised.networks import Layer
from benchmarks.vectorised.tables import Batch
from benchmarks.vectorised.td3_bc import TD3BC

__all__ = ["largest_difference"]

OBSERVATIONS, ACTIONS = 17, 6

Pairs = list[tuple[Tensor, Tensor]]
"""Tensors of d3rlpy's beside ours."""


def largest_difference(
    algorithm: type[Learner],
    *,
    updates: int = 4,
    runs: int = 2,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    config: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> float:
    """After some updates, the largest difference of a parameter, targets included, or of an average gradient.

    The averages are Adam's. Parameters alone would not do: Adam makes steps of the same size from gradients of any.
    `config` are d3rlpy's settings, `settings` ours of the same meaning.
    """
    d3rlpy = import_d3rlpy()
    create = getattr(d3rlpy.algos, algorithm.config)(batch_size=batch_size, **config or {}).create
    theirs = []
    for run in range(runs):
        d3rlpy.seed(run)
        theirs.append(create(device=str(device)))
        theirs[-1].create_impl((OBSERVATIONS,), ACTIONS)
    setup = Setup([torch.Generator(device)] * runs, OBSERVATIONS, ACTIONS, batch_size, torch.device(device))
    ours = algorithm(setup, **settings or {})
    parameters = [pair for run in range(runs) for pair in _parameters(theirs[run].impl.modules, ours, run)]
    for their, our in parameters:
        our.copy_(their)
    for update in range(updates):
        _update_both(theirs, ours, update, setup)
    averages = [pair for run in range(runs) for pair in _averages(theirs[run].impl.modules, ours, run)]
    return max(float((our - their).abs().max()) for their, our in parameters + averages)


def _parameters(modules: Any, ours: Learner, run: int) -> Pairs:
    pairs = _trained(modules, ours, run, {name: optimiser.values for name, optimiser in ours.optimisers.items()})
    for module, layers in zip(modules.targ_q_funcs, ours.target_critics.layers, strict=True):
        pairs += _layers(module, layers, run)
    if isinstance(ours, TD3BC):
        pairs += _layers(modules.targ_policy, ours.target_actor.layers[0], run)
    return [(their.data, our) for their, our in pairs]


def _averages(modules: Any, ours: Learner, run: int) -> Pairs:
    state = modules.actor_optim.optim.state | modules.critic_optim.optim.state
    own = {name: optimiser.tensors["mean"] for name, optimiser in ours.optimisers.items()}
    return [(state[their]["exp_avg"], our) for their, our in _trained(modules, ours, run, own)]


def _trained(modules: Any, ours: Learner, run: int, own: dict[str, Tensor]) -> Pairs:
    """What d3rlpy trains, beside parts of tensors of ours by the names of what is trained."""
    theirs = {"actor": [modules.policy], "critic": modules.q_funcs}
    pairs: Pairs = []
    if isinstance(ours, IQL):
        theirs["value"] = [modules.value_func]
        pairs.append((modules.policy.get_parameter("_logstd"), own["spread"][run]))
    for name, networks in theirs.items():
        for module, layers in zip(networks, ours.networks[name].views(own[name]), strict=True):
            pairs += _layers(module, layers, run)
    return pairs


def _layers(module: nn.Module, layers: Iterable[Layer], run: int) -> Pairs:
    linear = [part for part in module.modules() if isinstance(part, nn.Linear)]
    pairs: Pairs = []
    for their, our in zip(linear, layers, strict=True):
        pairs += [(their.weight, our.weight[run].mT), (their.bias, our.bias[run, 0])]
    return pairs


def _update_both(theirs: list[Any], ours: Learner, update: int, setup: Setup) -> None:
    """One update with random batches in which a tenth of the transitions ends the task."""
    from d3rlpy.dataset import TransitionMiniBatch

    batch_size, device = setup.batch_size, setup.device
    rng = np.random.default_rng(update)
    rows = rng.standard_normal((len(theirs), batch_size, 2 * OBSERVATIONS + ACTIONS + 2)).astype(np.float32)
    given = Batch.of(torch.from_numpy(rows), OBSERVATIONS, ACTIONS)
    given.actions.clamp_(-1, 1)
    given.goes_on.copy_(torch.from_numpy(rng.random(given.goes_on.shape) < 0.9))
    noise = []
    for run, their in enumerate(theirs):
        mini_batch = TransitionMiniBatch(
            observations=given.observations[run].numpy(),
            actions=given.actions[run].numpy(),
            rewards=given.rewards[run].numpy(),
            next_observations=given.next_observations[run].numpy(),
            next_actions=np.zeros_like(given.actions[run].numpy()),
            terminals=1 - given.goes_on[run].numpy(),
            intervals=np.ones((batch_size, 1), np.float32),
            transitions=[],
        )
        torch.manual_seed(1_000 * update + run)
        noise.append(torch.randn(batch_size, ours.noise_size, device=device))  # what d3rlpy draws first after this seed
        torch.manual_seed(1_000 * update + run)
        their.update(mini_batch)
    batch = Batch.of(torch.from_numpy(rows).to(device), OBSERVATIONS, ACTIONS)
    ours.update(batch, torch.stack(noise), with_actor=update % ours.actor_interval == 0)
