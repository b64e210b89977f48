"""Samplers: pure functions of a denoiser, a noisy batch and a decreasing list of noise levels.

All start at `sigmas[0]`, the noise level of `x`, and end at `sigmas[-1] == 0`. Partial noising is therefore nothing but
a lower first level. Schedules and coefficients are computed in float64; random numbers come from the caller, so that a
sample does not depend on the batch it is in.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from gta_datasets.diffusion.edm import Condition, Denoise

__all__ = [
    "SIGMA_MAX",
    "SIGMA_MIN",
    "Noise",
    "dpm_solver_2m",
    "exploration_sigma",
    "heun",
    "heun_step",
    "karras_schedule",
    "stochastic_heun",
]

SIGMA_MIN, SIGMA_MAX, RHO = 0.002, 80.0, 7.0
REFERENCE_STEPS = 128

Noise = Callable[[int], Tensor]
"""Standard normal numbers (B, R, F) of a sampler step; the same step gives the same numbers."""


def karras_schedule(steps: int, *, start: float = SIGMA_MAX, end: float = SIGMA_MIN) -> list[float]:
    """Noise levels of Karras et al. 2022, equation 5: `steps` levels from `start` to `end`, then 0.

    Where `start` is not above `end` there is nothing to divide: the levels are `start` and 0.
    """
    if steps == 1 or start <= end * (1 + 1e-9):
        return [start, 0.0]
    high, low = start ** (1 / RHO), end ** (1 / RHO)
    return [(high + i / (steps - 1) * (low - high)) ** RHO for i in range(steps)] + [0.0]


def exploration_sigma(mu: float) -> float:
    """Noise level at which augmentation with exploration level `mu` starts (GTA, section 4.2).

    `mu` in (0, 1] is the fraction of the 128-step Karras schedule that is undone: 0.25 -> 0.16, 0.5 -> 2.43,
    0.75 -> 17.3. Samplers start there whatever their number of steps; how far they go from the source depends on the
    noise that they add as well.
    """
    high, low = SIGMA_MAX ** (1 / RHO), SIGMA_MIN ** (1 / RHO)
    position = min(REFERENCE_STEPS * (1 - mu) / (REFERENCE_STEPS - 1), 1.0)
    return float((high + position * (low - high)) ** RHO)


def _denoise_at(denoise: Denoise, x: Tensor, sigma: float, condition: Condition) -> Tensor:
    return denoise(x, torch.full((len(x),), sigma, dtype=x.dtype, device=x.device), condition)


def heun(denoise: Denoise, x: Tensor, sigmas: list[float], condition: Condition) -> Tensor:
    """Deterministic second-order sampler (Karras et al. 2022, algorithm 1)."""
    for now, after in itertools.pairwise(sigmas):
        x = heun_step(denoise, x, now, after, condition)
    return x


def heun_step(denoise: Denoise, x: Tensor, now: float, after: float, condition: Condition) -> Tensor:
    """One step of the ODE from level `now` to level `after`, to second order unless that is 0."""
    slope = (x - _denoise_at(denoise, x, now, condition)) / now
    moved = x + (after - now) * slope
    if after == 0:
        return moved
    slope_after = (moved - _denoise_at(denoise, moved, after, condition)) / after
    return x + (after - now) * 0.5 * (slope + slope_after)


def stochastic_heun(
    denoise: Denoise,
    x: Tensor,
    sigmas: list[float],
    condition: Condition,
    noise: Noise,
    *,
    churn: float = 80.0,
    churn_min: float = 0.05,
    churn_max: float = 50.0,
    inflation: float = 1.003,
    reference_steps: int = REFERENCE_STEPS,
) -> Tensor:
    """Stochastic sampler (Karras et al. 2022, algorithm 2), the one the GTA paper uses.

    Args:
        denoise: the (guided) denoiser.
        x: noisy windows at level `sigmas[0]`, (B, R, F).
        sigmas: decreasing noise levels that end in 0.
        condition: what the windows are generated under.
        noise: random numbers by step.
        churn: S_churn, total amount of added noise over a schedule of `reference_steps` steps.
        churn_min: S_tmin, lowest level at which noise is added.
        churn_max: S_tmax, highest level at which noise is added.
        inflation: S_noise, standard deviation of the added noise.
        reference_steps: steps of the full schedule of which `sigmas` is a tail.
    """
    gamma = min(churn / reference_steps, math.sqrt(2) - 1)
    for step, (now, after) in enumerate(itertools.pairwise(sigmas)):
        if churn_min <= now <= churn_max and gamma > 0:
            raised = now * (1 + gamma)
            x = x + inflation * math.sqrt(raised**2 - now**2) * noise(step) * condition.mask
            now = raised
        x = heun_step(denoise, x, now, after, condition)
    return x


def dpm_solver_2m(
    denoise: Denoise,
    x: Tensor,
    sigmas: list[float],
    condition: Condition,
    noise: Noise | None = None,
    *,
    eta: float = 1.0,
) -> Tensor:
    """DPM-Solver++(2M), one evaluation per step (Lu et al. 2022, algorithm 2; SDE form of its appendix B).

    With `eta = 0` (or no `noise`) it solves the ODE; `eta = 1` solves the reverse SDE, larger values add more noise.

    Args:
        denoise: the (guided) denoiser.
        x: noisy windows at level `sigmas[0]`, (B, R, F).
        sigmas: decreasing noise levels that end in 0.
        condition: what the windows are generated under.
        noise: random numbers by step; None for the deterministic solver.
        eta: amount of stochasticity.
    """
    eta = 0.0 if noise is None else eta
    previous: Tensor | None = None
    previous_step = 0.0
    for step, (now, after) in enumerate(itertools.pairwise(sigmas)):
        estimate = _denoise_at(denoise, x, now, condition)
        if after == 0:
            return estimate
        log_step = math.log(now / after)
        decay = math.exp(-eta * log_step)
        weight = -math.expm1(-(1 + eta) * log_step)
        x = (after / now) * decay * x + weight * estimate
        if previous is not None:
            x = x + 0.5 * weight * (log_step / previous_step) * (estimate - previous)
        if noise is not None and eta > 0:
            spread = after * math.sqrt(-math.expm1(-2 * eta * log_step))
            x = x + spread * noise(step) * condition.mask
        previous, previous_step = estimate, log_step
    return x
