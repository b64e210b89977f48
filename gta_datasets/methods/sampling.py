"""From source windows to generated windows with any of the samplers."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import assert_never

import torch
from torch import Tensor

from gta_datasets.config import SamplingConfig, SolverConfig
from gta_datasets.device import is_shortage
from gta_datasets.diffusion.edm import Condition, Denoise
from gta_datasets.diffusion.guidance import guided
from gta_datasets.diffusion.inpainting import inpainted
from gta_datasets.diffusion.samplers import dpm_solver_2m, heun, karras_schedule, stochastic_heun
from gta_datasets.seeding import torch_generator

__all__ = ["Numbers", "guided_above", "in_batches", "normal_numbers", "sample_windows", "solve"]

BLOCK, CPU_WINDOWS = 32, 128
"""Windows in the smallest network evaluation, and in one that suits a CPU."""

logger = logging.getLogger(__name__)

Numbers = Callable[[str, int], Tensor]
"""Standard normal numbers (B, R, F) of a named stream and a step of it."""


def normal_numbers(shape: tuple[int, ...], *, seed: int, prefix: str, number: int, device: torch.device) -> Numbers:
    """The numbers of item `number` (a shard), of streams whose names begin with `prefix`."""

    def numbers(stream: str, step: int) -> Tensor:
        generator = torch_generator(seed, f"{prefix}{stream}/{step}", number, device)
        return torch.randn(shape, generator=generator, device=device)

    return numbers


def sample_windows(
    denoise: Denoise,
    rows: Tensor,
    condition: Condition,
    config: SamplingConfig,
    *,
    sigma: float,
    noise: Numbers,
    known: Tensor | None = None,
) -> Tensor:
    """Noise `rows` up to `sigma` and denoise them again (GTA, algorithm 1).

    Args:
        denoise: the trained denoiser.
        rows: normalised source windows, (B, R, F).
        condition: what the windows are generated under.
        config: sampler and guidance.
        sigma: noise level of the exploration.
        noise: random numbers; the whole batch at once, so that no sample depends on how evaluations are split.
        known: which values end as they are in `rows`, (B, R, F) bool or what broadcasts to it.

    Returns:
        Normalised generated windows, (B, R, F); padding is 0.
    """
    batched = in_batches(denoise, config.generate_batch_size)
    guide, end = guided_above(batched, config, scale=config.guidance, sigma=sigma)
    if known is not None:
        guide = inpainted(guide, known, rows)
    noisy = rows + sigma * noise("start", 0) * condition.mask
    return solve(guide, noisy, condition, config, sigma=sigma, end=end, noise=noise)


def guided_above(denoise: Denoise, config: SamplingConfig, *, scale: float, sigma: float) -> tuple[Denoise, float]:
    """The denoiser guided down to the lowest level of a configuration, and the last level before 0, from `sigma` down.

    With little exploration the fixed levels would lie above the start: nothing would be guided or refined.
    """
    lowest_guided, end = (min(level, sigma / 8) for level in (config.guidance_start, config.sigma_end))
    return guided(denoise, scale, interval=(lowest_guided, float("inf"))), end


def solve(
    denoise: Denoise,
    noisy: Tensor,
    condition: Condition,
    config: SolverConfig,
    *,
    sigma: float,
    end: float,
    noise: Numbers,
) -> Tensor:
    """Denoise `noisy` (B, R, F) from the level `sigma` with the sampler of a configuration.

    Args:
        denoise: the (guided) denoiser.
        noisy: normalised windows at level `sigma`, (B, R, F).
        condition: what the windows are generated under.
        config: sampler and its settings.
        sigma: noise level of `noisy`.
        end: last noise level before 0; stochastic_heun keeps to that of the configuration.
        noise: random numbers.

    Returns:
        Normalised generated windows, (B, R, F).
    """
    schedule = karras_schedule(config.sampler_steps, start=sigma, end=end)

    def step_noise(step: int) -> Tensor:
        return noise("sampler", step)

    with torch.no_grad():
        match config.sampler:
            case "dpm_2m_sde":
                return dpm_solver_2m(denoise, noisy, schedule, condition, step_noise, eta=config.eta)
            case "dpm_2m":
                return dpm_solver_2m(denoise, noisy, schedule, condition)
            case "heun":
                return heun(denoise, noisy, schedule, condition)
            case "stochastic_heun":
                tail = karras_schedule(config.sampler_steps, end=config.sigma_end)
                tail = [sigma, *(level for level in tail if level < sigma * (1 - 1e-9))]
                return stochastic_heun(
                    denoise,
                    noisy,
                    tail,
                    condition,
                    step_noise,
                    churn=config.churn,
                    churn_min=config.churn_min,
                    churn_max=config.churn_max,
                    inflation=config.churn_noise,
                    reference_steps=config.sampler_steps,
                )
            case _:
                assert_never(config.sampler)


def in_batches(denoise: Denoise, size: int) -> Denoise:
    """Evaluate at most `size` windows at a time, rounded up to whole blocks, or as many as suit the device if it is 0.

    Matrix products pick their kernels, and with them the order of summation, by the number of rows. In whole blocks a
    window gets the same bits in a batch of any size; the last block is filled up with copies of its first window.
    Where memory does not suffice, half as many are evaluated from then on. One block that is too much is an error.
    """
    most = size

    def evaluate(x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        nonlocal most
        most = BLOCK * math.ceil((most or _suited(x)) / BLOCK)
        parts: list[Tensor] = []
        start = 0
        while start < len(x):
            rows = torch.arange(start, min(start + most, len(x)), device=x.device)
            filler = rows[:1].expand(-len(rows) % BLOCK)
            padded = torch.cat([rows, filler])
            try:
                parts.append(denoise(x[padded], sigma[padded], condition[padded])[: len(rows)])
            except RuntimeError as error:
                if most == BLOCK or not is_shortage(error):
                    raise
                most = BLOCK * math.ceil(most / (2 * BLOCK))
                logger.warning("out of memory: going on with %d windows per network evaluation", most)
            else:
                start += len(rows)
        return torch.cat(parts)

    return evaluate


def _suited(x: Tensor) -> int:
    """Windows per network evaluation: what caches hold on a CPU, everything on a GPU."""
    return CPU_WINDOWS if x.device.type == "cpu" else len(x)
