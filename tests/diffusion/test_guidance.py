"""Guidance as a wrapper. Each of the first four tests guards against a fault of the released GTA code."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gta_datasets.config import NetworkConfig
from gta_datasets.diffusion.edm import Condition, Denoise, EDMDenoiser
from gta_datasets.diffusion.guidance import guided
from gta_datasets.diffusion.samplers import dpm_solver_2m, heun, karras_schedule, stochastic_heun
from gta_datasets.networks import build_network
from tests.diffusion.gaussians import Counted, condition_of, gaussian_denoiser, seeded_noise

CONDITIONAL, UNCONDITIONAL = gaussian_denoiser(1.5, 0.3), gaussian_denoiser(0.2, 0.8)
SHAPE = (4, 3, 2)


def by_keep(x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
    """One denoiser for kept returns and another for dropped ones."""
    return torch.where(
        condition.keep[:, None, None] > 0, CONDITIONAL(x, sigma, condition), UNCONDITIONAL(x, sigma, condition)
    )


def analytic(scale: float) -> Denoise:
    """The guided denoiser written out: D_u + w (D_c - D_u)."""

    def denoise(x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        conditional, unconditional = CONDITIONAL(x, sigma, condition), UNCONDITIONAL(x, sigma, condition)
        return (1 - scale) * unconditional + scale * conditional

    return denoise


def start(dtype: torch.dtype = torch.float64) -> Tensor:
    return 2.43 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize("sampler", ["heun", "stochastic_heun", "dpm_2m", "dpm_2m_sde"])
@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0, 4.0])
def test_the_second_order_correction_is_guided(sampler: str, scale: float) -> None:
    """Every evaluation of a sampler is guided: it follows the analytically guided denoiser to the end."""
    levels, noise, condition = karras_schedule(8, start=2.43), seeded_noise(SHAPE), condition_of(start())
    run = {
        "heun": lambda denoise: heun(denoise, start(), levels, condition),
        "stochastic_heun": lambda denoise: stochastic_heun(denoise, start(), levels, condition, noise),
        "dpm_2m": lambda denoise: dpm_solver_2m(denoise, start(), levels, condition),
        "dpm_2m_sde": lambda denoise: dpm_solver_2m(denoise, start(), levels, condition, noise),
    }[sampler]
    torch.testing.assert_close(run(guided(by_keep, scale)), run(analytic(scale)), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(run(guided(by_keep, scale)), run(CONDITIONAL), atol=1e-3)


@pytest.mark.parametrize("training", [False, True])
def test_no_condition_is_dropped_when_sampling(training: bool) -> None:
    """In the released code a quarter of the guided evaluations are unconditional."""
    torch.manual_seed(0)
    denoiser = EDMDenoiser(build_network(NetworkConfig("temporal_mixer", width=8, depth=1), 3, 2, 2))
    for parameter in denoiser.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    counted = Counted(denoiser.train(training))
    x, levels = start(torch.float32), karras_schedule(12, start=2.43)
    with torch.no_grad():
        first = heun(guided(counted, 2.0), x, levels, condition_of(x))
        assert all(keep == [1.0] * 4 + [0.0] * 4 for keep in counted.keeps)
        torch.manual_seed(1)
        assert torch.equal(first, heun(guided(denoiser, 2.0), x, levels, condition_of(x)))
        counted.keeps.clear()
        heun(guided(counted, 1.0), x, levels, condition_of(x))
    assert all(keep == [1.0] * 4 for keep in counted.keeps)


def test_scale_one_makes_no_unconditional_pass() -> None:
    """The paper's setting: 64 of 128 levels are 127 evaluations, where the released code makes 191."""
    levels = karras_schedule(128)[64:]
    counted = Counted(by_keep)
    plain = heun(guided(counted, 1.0), start(), levels, condition_of(start()))
    assert counted.rows == [4] * 127
    torch.testing.assert_close(plain, heun(CONDITIONAL, start(), levels, condition_of(start())))


def test_both_halves_are_one_batch() -> None:
    counted, levels = Counted(by_keep), karras_schedule(128)[64:]
    heun(guided(counted, 2.0), start(), levels, condition_of(start()))
    assert counted.rows == [8] * 127


def test_scale_zero_is_unconditional_at_single_cost() -> None:
    counted = Counted(by_keep)
    x, sigma = start(), torch.full((4,), 1.0, dtype=torch.float64)
    found = guided(counted, 0.0)(x, sigma, condition_of(x))
    torch.testing.assert_close(found, UNCONDITIONAL(x, sigma, condition_of(x)))
    assert counted.rows == [4]


def test_a_window_that_is_unconditional_already_stays_so() -> None:
    x, sigma = start(), torch.full((4,), 1.0, dtype=torch.float64)
    dropped = condition_of(x).unconditional()
    torch.testing.assert_close(guided(by_keep, 3.0)(x, sigma, dropped), UNCONDITIONAL(x, sigma, dropped))


@pytest.mark.parametrize(
    ("level", "is_guided"), [(0.29, False), (0.3, True), (1.0, True), (5.0, True), (5.1, False), (80.0, False)]
)
def test_outside_of_the_interval_the_scale_is_one(level: float, is_guided: bool) -> None:
    counted, x = Counted(by_keep), start()
    sigma = torch.full((4,), level, dtype=torch.float64)
    found = guided(counted, 2.0, interval=(0.3, 5.0))(x, sigma, condition_of(x))
    expected = (analytic(2.0) if is_guided else CONDITIONAL)(x, sigma, condition_of(x))
    torch.testing.assert_close(found, expected)
    assert counted.rows == ([8] if is_guided else [4])


def test_the_condition_is_not_changed() -> None:
    x = start()
    condition = condition_of(x)
    guided(by_keep, 2.0)(x, torch.ones(4, dtype=torch.float64), condition)
    assert condition.keep.tolist() == [1.0] * 4
    assert len(condition.mask) == 4


def test_guidance_moves_samples_towards_the_condition_and_beyond() -> None:
    levels, x = karras_schedule(32, start=80.0), 80 * torch.randn(SHAPE, dtype=torch.float64)
    means = [heun(guided(by_keep, scale), x, levels, condition_of(x)).mean().item() for scale in (0.0, 1.0, 2.0)]
    assert means[0] < means[1] < means[2]
