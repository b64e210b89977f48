"""The flow map over actions, and what it learns from data alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gta_datasets.errors import CacheError
from gta_datasets.policies.actor import VERSION, ActionFlow, sampling_levels, training_levels

CENTRES = torch.tensor([[-0.6, 0.4], [0.6, -0.4]])


@pytest.mark.parametrize("steps", [1, 2, 5, 10])
def test_so_many_jumps_lead_from_noise_to_nothing(steps: int) -> None:
    levels = sampling_levels(steps)
    assert len(levels) == steps + 1
    assert levels[0] == pytest.approx(training_levels(20)[0])
    assert levels == sorted(levels, reverse=True)
    assert levels[-1] == 0
    assert all(level > 0.02 for level in levels[:-1])


def trained(steps: int) -> ActionFlow:
    """Of two modes in every state, but for the sign of the only observation, which chooses one."""
    torch.manual_seed(0)
    flow, average = (ActionFlow(1, 2, width=32, depth=1) for _ in range(2))
    optimiser = torch.optim.Adam(flow.parameters(), lr=5e-3)
    generator, levels = torch.Generator().manual_seed(0), torch.tensor(training_levels(10))
    for _ in range(steps):
        observations, actions = data(64, generator)
        consistency, clean = flow.errors(average, observations, actions, levels, generator, from_data=True)
        optimiser.zero_grad()
        (consistency + clean).mean().backward()
        optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(flow.parameters()), 0.1)
    return average


def data(number: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """States -1, 0, 1: only the first mode, any of the two, only the second."""
    observations = torch.randint(-1, 2, (number, 1), generator=generator).float()
    either = torch.randint(2, (number,), generator=generator)
    mode = torch.where(observations[:, 0] == 0, either, (observations[:, 0] > 0).long())
    return observations, CENTRES[mode] + 0.05 * torch.randn((number, 2), generator=generator)


@pytest.fixture(scope="module")
def flow() -> ActionFlow:
    return trained(350)


def shares(flow: ActionFlow, observation: float, steps: int) -> Tensor:
    """How many of the actions lie near each mode."""
    noise = torch.randn((400, 2), generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        actions = flow.sample(torch.full((400, 1), observation), noise, steps)
    near = torch.cdist(actions, CENTRES) < 0.3
    return near.float().mean(dim=0)


@pytest.mark.parametrize("steps", [2, 5])
def test_both_modes_are_kept_where_both_are_in_the_data(flow: ActionFlow, steps: int) -> None:
    assert shares(flow, 0.0, steps).min() > 0.25
    assert shares(flow, -1.0, steps)[0] > 0.9
    assert shares(flow, 1.0, steps)[1] > 0.9


def test_actions_stay_within_their_bounds() -> None:
    flow = ActionFlow(1, 2, width=8, depth=1)
    noise = 3 * torch.randn((64, 2), generator=torch.Generator().manual_seed(0))
    actions = flow.sample(torch.zeros(64, 1), noise, 1)
    assert actions.abs().max() <= 1
    assert (actions.abs() < 1).any()


def test_weights_of_another_version_are_refused() -> None:
    flow = ActionFlow(1, 2, width=8, depth=1)
    state = flow.state_dict()
    flow.load_state_dict(state)
    state["_extra_state"] = torch.tensor(VERSION + 1)
    with pytest.raises(CacheError, match=rf"version {VERSION + 1}, and this release .* reads version {VERSION}"):
        flow.load_state_dict(state)
