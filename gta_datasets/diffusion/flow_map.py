"""Flow maps: jumps along the ODE of a diffusion model, from any noise level to any lower one, in one evaluation.

A flow map is `Phi(x, t, u) = (u/t) x + (1 - u/t) g(x, t, u)` (Kim et al. 2023, "Consistency Trajectory Models",
equation 9; GTP, arXiv 2510.11499). With `u = 0` it is `g`, an estimate of where the ODE ends; at `u = t` it stays where
it is. Here `g` is an EDM denoiser that is told `u` as well.

It is learned from a trained denoiser (`consistency_loss`), or from data alone (`trajectory_errors`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from gta_datasets.diffusion.edm import Condition, Denoise, EDMDenoiser, loss_weight
from gta_datasets.diffusion.samplers import SIGMA_MIN, heun_step

__all__ = ["EXTRA_CONTEXT", "FlowMap", "Jump", "consistency_loss", "jump_down", "trajectory_errors"]

EXTRA_CONTEXT = 2
"""Columns of context that tell the network where a jump goes."""

STRAIGHT = 0.5
"""Share of the jumps of a training step that go down to 0 at once."""

Jump = Callable[[Tensor, Tensor, Tensor, Condition], Tensor]
"""(x (B, R, F) at level t (B,), t, u (B,), condition) -> x at level u (B, R, F)."""


class FlowMap(nn.Module):
    """The flow map of a network for windows.

    Args:
        network: takes `EXTRA_CONTEXT` more columns of context, the last ones, than the denoiser it is distilled from.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.estimate = EDMDenoiser(network)

    def start_from(self, denoiser: EDMDenoiser) -> FlowMap:
        """Take over the weights of what is to be distilled; then `g` ignores where a jump goes.

        The first layer may have the extra columns, and no other may: `mixer_unet` has them everywhere.

        Raises:
            ValueError: one has.
        """
        own = self.estimate.state_dict()
        for name, weights in denoiser.state_dict().items():
            if own[name].shape == weights.shape:
                own[name].copy_(weights)
            elif own[name].ndim == 2 and own[name].shape == (len(weights), weights.shape[1] + EXTRA_CONTEXT):
                own[name].zero_()
                own[name][:, :-EXTRA_CONTEXT] = weights
            else:
                raise ValueError(f"weights {name} {tuple(weights.shape)} do not fit {tuple(own[name].shape)}")
        return self

    def forward(self, x: Tensor, now: Tensor, after: Tensor, condition: Condition) -> Tensor:
        """Jump from the levels `now` (B,) to the levels `after` (B,), which are not above.

        Args:
            x: noisy normalised windows at the levels `now`, (B, R, F).
            now: t, above 0.
            after: u, in [0, t].
            condition: what the windows are generated under; its context has two dimensions.

        Returns:
            The windows at the levels `after`, (B, R, F), zero at padding.
        """
        return _slide(x * condition.mask, self.aim(x, now, after, condition), after / now)

    def aim(self, x: Tensor, now: Tensor, after: Tensor, condition: Condition) -> Tensor:
        """`g(x, t, u)`, (B, R, F); at u = t the clean windows that are expected, as of a denoiser. As in `forward`."""
        where = torch.stack([after / now, (after + SIGMA_MIN).log() / 4], dim=1)
        told = replace(condition, context=torch.cat([condition.context, where], dim=1))
        estimate: Tensor = self.estimate(x, now, told)
        return estimate


def _slide(x: Tensor, estimate: Tensor, ratio: Tensor) -> Tensor:
    """From `x` (B, R, F) straight towards an estimate of its end, as far as the ratio (B,) of noise levels says."""
    kept = ratio[:, None, None]
    return kept * x + (1 - kept) * estimate


def consistency_loss(
    flow_map: Jump,
    teacher: Denoise,
    clean: Tensor,
    condition: Condition,
    levels: list[float],
    generator: torch.Generator,
) -> Tensor:
    """How far a jump from a level is from the jump that starts one step of the teacher's solver further down.

    Kim et al. 2023, section 3, with the flow map itself, without gradient, as the target (Song and Dhariwal 2023); from
    the last level the target is the teacher's own estimate. Errors of `g` are weighted like a denoiser's (Karras et al.
    2022, table 1).

    Args:
        flow_map: what is trained.
        teacher: the denoiser, guidance included; one level per batch.
        clean: normalised windows, (B, R, F).
        condition: their condition.
        levels: decreasing levels that end in 0; one of them, but not 0, is drawn for the whole batch.
        generator: source of levels and noise.

    Returns:
        The loss, a scalar.
    """
    size, device = len(clean), clean.device
    place = int(torch.randint(len(levels) - 1, (), generator=generator, device=device))
    start, below = levels[place], levels[place + 1]
    noise = torch.randn(clean.shape, generator=generator, device=device)
    # The end of every jump: 0, or any level from the one below on.
    ends = torch.tensor(levels[place + 1 :], device=device)
    drawn = ends[torch.randint(len(ends), (size,), generator=generator, device=device)]
    straight = torch.rand(size, generator=generator, device=device) < STRAIGHT
    after = torch.where(straight, torch.zeros_like(drawn), drawn)
    now = torch.full((size,), start, device=device)
    noisy = clean + start * noise * condition.mask
    with torch.no_grad():
        moved = heun_step(teacher, noisy, start, below, condition)
        target = moved if below == 0 else flow_map(moved, torch.full_like(now, below), after, condition)
    jumped = flow_map(noisy, now, after, condition)
    weight = loss_weight(start) / (1 - after / start).square()
    error = ((jumped - target).square() * condition.mask).sum(dim=(1, 2))
    return (weight * error).sum() / condition.mask.sum()


def trajectory_errors(
    flow_map: FlowMap,
    target: FlowMap,
    clean: Tensor,
    condition: Condition,
    levels: Tensor,
    generator: torch.Generator,
    *,
    from_data: bool = True,
) -> tuple[Tensor, Tensor]:
    """Errors of a flow map that learns from data alone (GTP, arXiv 2510.11499).

    Consistency: a jump from a level is to end where the jump of `target` ends that starts at the next level on the same
    noise ray, `clean + u z`. That point is the step of a solver whose score is that of the one clean window; the ray
    thereby replaces the solver ("score approximation"). Flow: `g(x, t, t)` is to be the clean window, as a denoiser's
    estimate.

    Args:
        flow_map: what is trained.
        target: its average, whose jumps are aimed at.
        clean: normalised windows, (B, R, F).
        condition: their condition.
        levels: decreasing levels that end in 0, (L,); every row has its own, but not 0.
        generator: source of levels and noise.
        from_data: whether points lie on the noise ray; False for a step of Euler's solver with `target`'s own score.

    Returns:
        Squared errors of `g` for consistency and for the flow, each (B,), sums over a window, weighted like a
        denoiser's (Karras et al. 2022, table 1).
    """
    now, below, after = _draw_jumps(levels, len(clean), generator)
    noise = torch.randn(clean.shape, generator=generator, device=clean.device)
    noisy = clean + now[:, None, None] * noise * condition.mask
    with torch.no_grad():
        end = clean if from_data else target.aim(noisy, now, now, condition)
        lower = _slide(noisy * condition.mask, end, below / now)
        jumped = target(lower, below.clamp(min=float(levels[-2])), after, condition)
        aimed_at = torch.where(below[:, None, None] > 0, jumped, lower)
    # Both errors in one evaluation.
    aims = flow_map.aim(noisy.repeat(2, 1, 1), now.repeat(2), torch.cat([after, now]), condition.join(condition))
    to_end, to_clean = aims.chunk(2)
    ratio = after / now
    consistency = (_slide(noisy * condition.mask, to_end, ratio) - aimed_at).square() * condition.mask
    flow = (to_clean - clean).square() * condition.mask
    weight = loss_weight(now)
    return weight / (1 - ratio).square() * consistency.sum(dim=(1, 2)), weight * flow.sum(dim=(1, 2))


def _draw_jumps(levels: Tensor, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """For every row a level, the one below it, and the end of a jump: 0, or any level from the one below on."""
    last, device = len(levels) - 1, levels.device
    place = torch.randint(last, (size,), generator=generator, device=device)
    further, straight = torch.rand((2, size), generator=generator, device=device)
    end = place + 1 + (further * (last - place)).long()
    end = torch.where(straight < STRAIGHT, last, end.clamp(max=last))
    return levels[place], levels[place + 1], levels[end]


def jump_down(
    flow_map: Jump, x: Tensor, levels: list[float], condition: Condition, noise: Callable[[int], Tensor] | None = None
) -> Tensor:
    """Follow the flow map down a list of levels, one evaluation per level.

    Args:
        flow_map: the flow map.
        x: noisy windows at level `levels[0]`, (B, R, F).
        levels: decreasing levels that end in 0.
        condition: what the windows are generated under.
        noise: random numbers by step. With it every jump goes down to 0 and noise is added up to the next level (Song
            et al. 2023, algorithm 1), which corrects errors of the jumps before; None to follow the ODE.

    Returns:
        Generated windows, (B, R, F).
    """
    for step, (now, after) in enumerate(itertools.pairwise(levels)):
        here = torch.full((len(x),), now, dtype=x.dtype, device=x.device)
        if noise is None or after == 0:
            x = flow_map(x, here, torch.full_like(here, after), condition)
        else:
            x = flow_map(x, here, torch.zeros_like(here), condition) + after * noise(step) * condition.mask
    return x
