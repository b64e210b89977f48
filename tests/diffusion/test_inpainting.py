"""Inpainting as a wrapper."""

from __future__ import annotations

import torch

from gta_datasets.diffusion.inpainting import inpainted
from gta_datasets.diffusion.samplers import dpm_solver_2m, karras_schedule, stochastic_heun
from tests.diffusion.gaussians import condition_of, gaussian_denoiser, seeded_noise

SHAPE = (4, 3, 2)


def test_estimates_hold_what_is_known_and_nothing_else() -> None:
    denoise = gaussian_denoiser(1.5, 0.3)
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    known, values = torch.tensor([True, False]), torch.full(SHAPE, 7.0)
    condition, sigma = condition_of(x), torch.full((4,), 2.0)
    estimate = inpainted(denoise, known, values)(x, sigma, condition)
    assert (estimate[..., 0] == 7).all()
    torch.testing.assert_close(estimate[..., 1], denoise(x, sigma, condition)[..., 1], rtol=0, atol=0)


def test_samplers_end_on_what_is_known() -> None:
    start = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = torch.linspace(-1, 1, 24, dtype=torch.float64).reshape(SHAPE)
    known = torch.zeros(SHAPE, dtype=torch.bool)
    known[:, 1:] = True
    denoise = inpainted(gaussian_denoiser(1.5, 0.3), known, values)
    schedule = karras_schedule(12, start=2.43)
    noisy = values + 2.43 * start
    for sampled in (
        dpm_solver_2m(denoise, noisy, schedule, condition_of(noisy)),
        stochastic_heun(denoise, noisy, schedule, condition_of(noisy), seeded_noise(SHAPE), reference_steps=12),
    ):
        torch.testing.assert_close(sampled[known], values[known], rtol=1e-9, atol=1e-9)
        assert (sampled[~known] - values[~known]).abs().min() > 0.05
