"""The flow map over actions: an action is a window of one row, the observation its context."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gta_datasets.diffusion.edm import Condition
from gta_datasets.diffusion.flow_map import EXTRA_CONTEXT, FlowMap, jump_down, trajectory_errors
from gta_datasets.diffusion.samplers import karras_schedule
from gta_datasets.errors import CacheError
from gta_datasets.networks.residual_mlp import ResidualMLP

__all__ = ["VERSION", "ActionFlow", "check_version", "sampling_levels", "training_levels"]

VERSION = 1
"""Raised whenever the same weights would act otherwise."""

ACTION_STD = 0.5
"""Actions lie within -1 and 1; divided by this they spread about as the normalised data of the diffusion core do."""


HIGHEST, LOWEST = 10.0, 0.02
"""Noise levels between which jumps are learned. Beside noise of 10 standard deviations an action no longer shows, and
one of 0.02 is a hundredth of an action's range; the levels of images, 80 to 0.002, would spend half of them outside."""


def training_levels(number: int) -> list[float]:
    """`number` noise levels and 0."""
    return karras_schedule(number, start=HIGHEST, end=LOWEST)


def sampling_levels(steps: int) -> list[float]:
    """Noise levels of `steps` jumps from pure noise to 0: a Karras schedule whose lowest level is 0 instead."""
    return [*training_levels(steps + 1)[:steps], 0.0]


class ActionFlow(nn.Module):
    """A distribution of actions for every observation, as a flow map (GTP, arXiv 2510.11499).

    Args:
        observation_size: D.
        action_size: A.
        width: channels of the network.
        depth: residual blocks of the network.
    """

    def __init__(self, observation_size: int, action_size: int, *, width: int, depth: int) -> None:
        super().__init__()
        network = ResidualMLP(
            action_size + observation_size + EXTRA_CONTEXT, width=width, depth=depth, outputs=action_size
        )
        self.flow_map = FlowMap(network)
        self._size = action_size

    def sample(self, observations: Tensor, noise: Tensor, steps: int) -> Tensor:
        """Actions within -1 and 1, (B, A), as `steps` jumps make them from standard normal `noise` (B, A)."""
        levels = sampling_levels(steps)
        start = levels[0] * noise[:, None]
        rows = jump_down(self.flow_map, start, levels, self._condition(observations))
        return (rows[:, 0] * ACTION_STD).clamp(-1, 1)

    def errors(
        self,
        average: ActionFlow,
        observations: Tensor,
        actions: Tensor,
        levels: Tensor,
        generator: torch.Generator,
        *,
        from_data: bool,
    ) -> tuple[Tensor, Tensor]:
        """Consistency and flow errors of `trajectory_errors`, means over the columns of an action, (B,) each.

        Args:
            average: whose jumps are aimed at.
            observations: (B, D).
            actions: within -1 and 1, (B, A).
            levels: noise levels that end in 0, (L,).
            generator: source of levels and noise.
            from_data: whether targets lie on the noise ray; see there.
        """
        consistency, flow = trajectory_errors(
            self.flow_map,
            average.flow_map,
            actions[:, None] / ACTION_STD,
            self._condition(observations),
            levels,
            generator,
            from_data=from_data,
        )
        return consistency / self._size, flow / self._size

    def _condition(self, observations: Tensor) -> Condition:
        zeros = observations.new_zeros(len(observations))
        return Condition(zeros, zeros, observations, observations.new_ones(len(observations), 1, self._size))

    def get_extra_state(self) -> Tensor:
        """The version, beside the weights."""
        return torch.tensor(VERSION)

    def set_extra_state(self, state: Any) -> None:
        """Check the version of weights that are loaded.

        Raises:
            CacheError: they are of another version.
        """
        check_version(state.item() if isinstance(state, Tensor) and state.numel() == 1 else state)


def check_version(version: object) -> None:
    """Whether this release acts on weights as the one that saved them.

    Raises:
        CacheError: it does not.
    """
    if version != VERSION:
        raise CacheError(
            f"the saved policy is of version {version!r}, and this release of gta-datasets reads version {VERSION}; "
            "load it with the release that saved it, or train again"
        )
