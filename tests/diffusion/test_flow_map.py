"""Flow maps against a Gaussian, whose ODE is solved in closed form."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gta_datasets.diffusion.edm import Condition
from gta_datasets.diffusion.flow_map import (
    EXTRA_CONTEXT,
    FlowMap,
    Jump,
    consistency_loss,
    jump_down,
    trajectory_errors,
)
from gta_datasets.diffusion.samplers import karras_schedule
from tests.diffusion.gaussians import MEAN, STD, condition_of, gaussian_denoiser, ode_solution, seeded_noise

SHAPE = (64, 3, 2)


def exact(x: Tensor, now: Tensor, after: Tensor, condition: Condition) -> Tensor:
    """The Gaussian's flow map."""
    spread = ((STD**2 + after.square()) / (STD**2 + now.square())).sqrt()[:, None, None]
    return (MEAN + (x - MEAN) * spread) * condition.mask


def off_by(amount: float) -> Jump:
    """A map that is wrong by `amount` at the end of every jump."""
    return lambda x, now, after, condition: exact(x, now, after, condition) + amount


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Recorded(nn.Module):
    """A network that notes what it is given and answers with ones."""

    def forward(self, x: Tensor, noise: Tensor, returns: Tensor, keep: Tensor) -> Tensor:
        self.given = x
        return torch.ones_like(x[..., :2])


def test_the_network_is_told_where_the_jump_goes() -> None:
    network = Recorded()
    x = normal(4, 3, 2)
    context = normal(4, 5, seed=1)
    condition = Condition(torch.zeros(4), torch.ones(4), context, torch.ones_like(x))
    now, after = torch.full((4,), 2.0), torch.tensor([0.0, 0.5, 1.0, 2.0])
    moved = FlowMap(network)(x, now, after, condition)
    assert network.given.shape == (4, 3, 2 + 5 + EXTRA_CONTEXT)
    torch.testing.assert_close(network.given[:, 0, 2:7], context)
    torch.testing.assert_close(network.given[:, :, 7], (after / now)[:, None].expand(-1, 3).double())
    assert network.given[:, 0, 8].diff().min() > 0
    torch.testing.assert_close(moved[3], x[3])  # from a level to itself: nothing moves
    estimate = x[0] / (1 + 4) + 2 / 5**0.5  # EDM's c_skip x + c_out
    torch.testing.assert_close(moved[0], estimate)
    torch.testing.assert_close(moved[2], 0.5 * x[2] + 0.5 * (x[2] / 5 + 2 / 5**0.5))


@pytest.mark.parametrize("levels", [[2.4, 0.0], [2.4, 1.0, 0.0], karras_schedule(7, start=2.4)])
def test_any_levels_end_where_the_ode_ends(levels: list[float]) -> None:
    x = 2.4 * normal(*SHAPE)
    found = jump_down(exact, x, levels, condition_of(x))
    torch.testing.assert_close(found, ode_solution(x, 2.4, 0.0))


def test_with_noise_the_distribution_stays() -> None:
    x = MEAN + (STD**2 + 2.4**2) ** 0.5 * normal(4_000, 3, 2, seed=99)
    levels = [2.4, 0.8, 0.2, 0.0]
    found = jump_down(exact, x, levels, condition_of(x), seeded_noise((4_000, 3, 2)))
    assert found.mean().item() == pytest.approx(MEAN, abs=0.02)
    assert found.std().item() == pytest.approx(STD, rel=0.02)
    assert (found - ode_solution(x, 2.4, 0.0)).abs().mean() > 0.1


def test_noise_leaves_padding_alone() -> None:
    x = normal(4, 3, 2)
    condition = condition_of(x)
    condition.mask[:, 2] = 0
    found = jump_down(exact, x * condition.mask, [2.4, 0.5, 0.0], condition, seeded_noise((4, 3, 2)))
    assert (found[:, 2] == 0).all()
    assert found[:, :2].abs().min() > 0


def loss_of(flow_map: Jump, seed: int, levels: int = 40) -> float:
    clean = MEAN + STD * normal(*SHAPE, seed=seed)
    schedule = karras_schedule(levels, start=2.4, end=0.02)
    generator = torch.Generator().manual_seed(seed)
    loss = consistency_loss(flow_map, gaussian_denoiser(), clean, condition_of(clean), schedule, generator)
    return float(loss)


def test_the_loss_is_least_for_the_flow_map_itself() -> None:
    right = [loss_of(exact, seed) for seed in range(20)]
    wrong = [loss_of(off_by(0.3), seed) for seed in range(20)]
    assert max(right) < 1e-3
    assert sum(wrong) / 20 > 0.02


def test_padding_does_not_count() -> None:
    clean = MEAN + STD * normal(*SHAPE)
    condition = condition_of(clean)
    condition.mask[:, 1:] = 0
    generators = (torch.Generator().manual_seed(3) for _ in range(2))
    levels, teacher = [2.4, 1.0, 0.0], gaussian_denoiser()
    masked = [
        consistency_loss(off_by(0.3), teacher, rows, condition, levels, generator)
        for rows, generator in zip((clean, clean + 100 * (1 - condition.mask)), generators, strict=True)
    ]
    torch.testing.assert_close(masked[0], masked[1])


class Small(nn.Module):
    """A network of both levels, enough for one Gaussian."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2))

    def forward(self, x: Tensor, noise: Tensor, returns: Tensor, keep: Tensor) -> Tensor:
        level = noise[:, None, None].expand(-1, x.shape[1], 1)
        result: Tensor = self.layers(torch.cat([x, level], dim=-1).float())
        return result


def test_what_is_distilled_jumps_as_the_ode_flows() -> None:
    torch.manual_seed(0)
    found, steps = FlowMap(Small()), 1_000
    optimizer = torch.optim.Adam(found.parameters(), lr=1e-2)
    slower = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    levels = karras_schedule(8, start=2.4, end=0.02)
    for step in range(steps):
        clean = MEAN + STD * normal(*SHAPE, seed=step).float()
        generator = torch.Generator().manual_seed(step)
        loss = consistency_loss(found, gaussian_denoiser(), clean, condition_of(clean), levels, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        slower.step()
    x = MEAN + 2.4 * normal(256, 3, 2, seed=10_000).float()
    end = ode_solution(x, 2.4, 0.0)
    for path in ([2.4, 0.0], [2.4, levels[3], 0.0]):
        with torch.no_grad():
            error = (jump_down(found, x, path, condition_of(x)) - end).square().mean()
        assert error < 0.1 * STD**2  # the denoiser's own estimate is off by 0.67 STD**2


class Known(FlowMap):
    """The Gaussian's flow map, wrong by some amount in `g`; it notes the jumps that are asked for."""

    def __init__(self, wrong: float = 0.0) -> None:
        nn.Module.__init__(self)
        self.wrong = nn.Parameter(torch.tensor(wrong, dtype=torch.float64))
        self.asked: list[tuple[Tensor, Tensor]] = []

    def aim(self, x: Tensor, now: Tensor, after: Tensor, condition: Condition) -> Tensor:
        self.asked.append((now, after))
        ratio = (after / now)[:, None, None]
        jumped = (exact(x, now, after, condition) - ratio * x) / (1 - ratio)
        estimate = gaussian_denoiser()(x, now, condition)
        return (torch.where(ratio < 1, jumped, estimate) + self.wrong) * condition.mask


FINE = torch.tensor(karras_schedule(60, start=2.4, end=0.02), dtype=torch.float64)


def errors_of(
    flow_map: FlowMap, size: int = 512, levels: Tensor = FINE, *, mask: float | None = None, **options: Any
) -> tuple[Tensor, Tensor]:
    clean = MEAN + STD * normal(size, 3, 2, seed=8)
    condition = condition_of(clean)
    if mask is not None:
        condition.mask[:, 1:] = 0
        clean = clean + mask * (1 - condition.mask)
    generator = torch.Generator().manual_seed(9)
    consistency, flow = trajectory_errors(flow_map, Known(), clean, condition, levels, generator, **options)
    return consistency.detach(), flow.detach()


def test_with_a_solver_only_the_flow_map_itself_is_consistent() -> None:
    right, _ = errors_of(Known(), from_data=False)
    wrong, _ = errors_of(Known(0.3), from_data=False)
    assert right.shape == (512,)
    assert right.mean() < 0.02 * wrong.mean()


def test_on_the_noise_ray_the_flow_map_itself_is_the_most_consistent() -> None:
    """The ray's targets scatter, but around the right ones."""
    found = {wrong: float(errors_of(Known(wrong), 20_000)[0].mean()) for wrong in (-0.1, 0.0, 0.1)}
    assert found[0.0] < min(found[-0.1], found[0.1])


@pytest.mark.parametrize("from_data", [False, True])
def test_the_flow_error_is_that_of_a_denoiser(from_data: bool) -> None:
    level = 1.5
    _, flow = errors_of(Known(), 20_000, torch.tensor([level, 0.0]).double(), from_data=from_data)
    posterior = STD**2 * level**2 / (STD**2 + level**2)  # variance of what was noised
    assert flow.mean() == pytest.approx(6 * posterior * (1 + level**2) / level**2, rel=0.02)


def test_jumps_lead_downwards_from_every_level() -> None:
    flow_map = Known()
    errors_of(flow_map, 4_000, FINE[-6:])
    ((now, after),) = flow_map.asked  # both errors in one evaluation
    (now, _), (after, same) = now.chunk(2), after.chunk(2)
    torch.testing.assert_close(same, now)
    assert set(now.tolist()) == set(FINE[-6:-1].tolist())
    assert (after < now).all()
    assert set(after.tolist()) == set(FINE[-5:].tolist())
    # Half of them go straight down to 0, and of the others those whose end, any level below, happens to be 0.
    by_chance = sum(1 / below for below in range(1, 6)) / 5
    assert float((after == 0).double().mean()) == pytest.approx(0.5 + 0.5 * by_chance, abs=0.03)


def test_what_is_aimed_at_is_not_trained() -> None:
    flow_map, target = Known(0.1), Known(0.1)
    clean = normal(8, 3, 2)
    generator = torch.Generator().manual_seed(0)
    for from_data in (False, True):
        found = trajectory_errors(flow_map, target, clean, condition_of(clean), FINE, generator, from_data=from_data)
        torch.stack(found).sum().backward()
    assert flow_map.wrong.grad is not None
    assert target.wrong.grad is None


def test_padding_does_not_count_on_the_noise_ray_either() -> None:
    plain, marked = (errors_of(Known(0.1), 64, mask=mark) for mark in (0.0, 100.0))
    torch.testing.assert_close(plain, marked)
