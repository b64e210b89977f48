"""Generative trajectory policies (GTP, arXiv 2510.11499) as algorithms of d3rlpy.

The policy is a flow map over actions: K jumps take noise to an action. Without critics it clones the behaviour of the
data with all its modes (GTP-BC); with them it learns most from the actions that are better than its own (GTP).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NoReturn, TypeVar

import numpy as np

from gta_datasets.errors import ConfigError, UnsupportedSpaceError, requires_extra
from gta_datasets.policies.actor import ActionFlow
from gta_datasets.policies.config import GTPBCConfig, GTPConfig
from gta_datasets.policies.updates import Critics, GTPBCImpl, GTPBCModules, GTPImpl, GTPModules

with requires_extra("d3rlpy", "d3rlpy", "gta_datasets.policies needs"):
    from d3rlpy.algos import QLearningAlgoBase
    from d3rlpy.constants import ActionSpace
    from d3rlpy.dataset import ReplayBufferBase
    from d3rlpy.models.builders import create_continuous_q_function
    from d3rlpy.models.q_functions import MeanQFunctionFactory
    from d3rlpy.types import NDArray, Observation, Shape

__all__ = ["GTP", "GTPBC"]

Impl = TypeVar("Impl", bound=GTPBCImpl)
Config = TypeVar("Config", bound=GTPBCConfig)


class _TrajectoryPolicy(QLearningAlgoBase[Impl, Config]):
    """What both have in common: how they act, and what they refuse."""

    def predict(self, x: Observation, steps: int | None = None) -> NDArray:
        """Actions that the policy prefers, (B, A); it is random where several are as good.

        Args:
            x: observations, (B, D).
            steps: K, jumps per action; `sampling_steps` of the configuration by default.

        Raises:
            ConfigError: `steps` is less than 1, or the observations are of another size than the policy's.
        """
        self._check_observations(x)
        with self._taking(steps):
            return super().predict(x)

    def sample_action(self, x: Observation, steps: int | None = None) -> NDArray:
        """Actions drawn from the policy, whatever the critics say, (B, A); otherwise as `predict`."""
        self._check_observations(x)
        with self._taking(steps):
            return super().sample_action(x)

    def predict_value(self, x: Observation, action: NDArray) -> NDArray:
        """What the critics say of some actions (B, A), (B,); errors as of `predict`."""
        self._check_observations(x)
        return super().predict_value(x, action)

    def fitter(
        self, dataset: ReplayBufferBase, *arguments: Any, **options: Any
    ) -> Generator[tuple[int, dict[str, float]], None, None]:
        """d3rlpy's, for vector observations and continuous actions.

        Raises:
            UnsupportedSpaceError: the dataset has others.
            ConfigError: they are of other sizes than those that the policy was made for.
        """
        impl, info = self._impl, dataset.dataset_info
        if info.action_space != ActionSpace.CONTINUOUS:
            raise UnsupportedSpaceError(
                f"GTP needs continuous actions, and the dataset has {info.action_size} discrete ones; choose an "
                "algorithm such as d3rlpy's DiscreteCQL"
            )
        if impl is not None:
            shapes = info.observation_signature.shape  # several where observations are tuples
            _check_size("observations", impl.observation_shape, shapes[0] if len(shapes) == 1 else shapes)
            _check_size("actions", (impl.action_size,), (info.action_size,))
        yield from super().fitter(dataset, *arguments, **options)

    def get_action_type(self) -> ActionSpace:
        return ActionSpace.CONTINUOUS

    def save_policy(self, fname: str) -> NoReturn:
        """Not supported: a traced graph would always act with the same noise."""
        raise NotImplementedError(
            f"GTP draws noise for every action, which an exported graph such as {fname} cannot; use "
            "gta_datasets.policies.save_policy and load_policy"
        )

    def _check_observations(self, x: Observation) -> None:
        if self._impl is not None:
            given = [np.shape(part)[1:] for part in x] if isinstance(x, list | tuple) else np.shape(x)[1:]
            _check_size("observations", self._impl.observation_shape, given)

    def _taking(self, steps: int | None) -> AbstractContextManager[None]:
        return nullcontext() if self._impl is None or steps is None else self._impl.taking(steps)

    def _actor(self, observation_shape: Shape, action_size: int) -> GTPBCModules:
        config, device = self._config, self._device
        size = _vector_size(observation_shape)
        actor, average = (
            ActionFlow(size, action_size, width=config.width, depth=config.depth).to(device) for _ in range(2)
        )
        optimiser = config.actor_optim_factory.create(
            actor.named_modules(), lr=config.actor_learning_rate, compiled=False
        )
        return GTPBCModules(actor, average.requires_grad_(False), optimiser)


class GTPBC(_TrajectoryPolicy[GTPBCImpl, GTPBCConfig]):
    """Behaviour cloning by a generative trajectory policy; made by `GTPBCConfig().create(device)`."""

    def inner_create_impl(self, observation_shape: Shape, action_size: int) -> None:
        """Make networks and optimisers.

        Raises:
            UnsupportedSpaceError: observations are no vectors.
        """
        modules = self._actor(observation_shape, action_size)
        self._impl = GTPBCImpl(_vector_size(observation_shape), action_size, modules, self._config, self._device)


class GTP(_TrajectoryPolicy[GTPImpl, GTPConfig]):
    """Generative trajectory policy; made by `GTPConfig().create(device)`."""

    def inner_create_impl(self, observation_shape: Shape, action_size: int) -> None:
        """Make networks and optimisers.

        Raises:
            UnsupportedSpaceError: observations are no vectors.
        """
        config, actor = self._config, self._actor(observation_shape, action_size)
        (critics, ask), (average, ask_average) = (
            create_continuous_q_function(
                observation_shape,
                action_size,
                config.critic_encoder_factory,
                MeanQFunctionFactory(),
                device=self._device,
                enable_ddp=False,
                n_ensembles=config.n_critics,
            )
            for _ in range(2)
        )
        optimiser = config.critic_optim_factory.create(
            critics.named_modules(), lr=config.critic_learning_rate, compiled=False
        )
        modules = GTPModules(
            actor.actor, actor.average_actor, actor.actor_optim, critics, average.requires_grad_(False), optimiser
        )
        self._impl = GTPImpl(
            _vector_size(observation_shape), action_size, modules, Critics(ask, ask_average), config, self._device
        )


def _check_size(name: str, made_for: Shape, given: Sequence[Any]) -> None:
    """Raise ConfigError unless a policy is given what it was made for."""
    if tuple(given) != tuple(made_for):
        raise ConfigError(
            f"the policy was made for {name} of shape {tuple(made_for)}, and these are of shape {tuple(given)}; give "
            "those of the environment it was made for, or make a new policy by create()"
        )


def _vector_size(shape: Shape) -> int:
    """Columns of the observation."""
    if len(shape) != 1 or not isinstance(shape[0], int):
        raise UnsupportedSpaceError(
            f"GTP needs observations that are vectors, and these are of shape {tuple(shape)}; images and tuples are "
            "not supported: encode images as vectors first, and leave out tuple_observation=True"
        )
    return shape[0]
