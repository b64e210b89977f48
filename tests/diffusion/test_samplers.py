from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gta_datasets.config import NetworkConfig
from gta_datasets.diffusion.edm import Condition, Denoise, EDMDenoiser
from gta_datasets.diffusion.samplers import (
    SIGMA_MAX,
    SIGMA_MIN,
    Noise,
    dpm_solver_2m,
    exploration_sigma,
    heun,
    karras_schedule,
    stochastic_heun,
)
from gta_datasets.networks import build_network
from tests.diffusion.gaussians import MEAN, STD, Counted, condition_of, gaussian_denoiser, ode_solution, seeded_noise

Sampler = Callable[[Denoise, Tensor, list[float], Condition, Noise], Tensor]

SAMPLERS: dict[str, Sampler] = {
    "heun": lambda denoise, x, sigmas, condition, noise: heun(denoise, x, sigmas, condition),
    "stochastic_heun": stochastic_heun,
    "dpm_2m": lambda denoise, x, sigmas, condition, noise: dpm_solver_2m(denoise, x, sigmas, condition),
    "dpm_2m_sde": dpm_solver_2m,
}
DETERMINISTIC, STOCHASTIC = ["heun", "dpm_2m"], ["stochastic_heun", "dpm_2m_sde"]
SHAPE = (5, 3, 2)


def standard(shape: tuple[int, ...] = SHAPE, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# --- noise levels ---------------------------------------------------------------------------------------------------


def test_the_schedule_of_the_paper() -> None:
    levels = karras_schedule(128)
    assert len(levels) == 129
    assert levels[0] == pytest.approx(80, rel=1e-12)
    assert levels[127] == pytest.approx(0.002, rel=1e-12)
    assert levels[128] == 0
    roots = [level ** (1 / 7) for level in levels[:-1]]
    steps = [before - after for before, after in pairwise(roots)]
    assert max(steps) - min(steps) < 1e-12  # equal steps in the seventh root


@given(steps=st.integers(1, 200), start=st.floats(0.003, 80))
def test_a_schedule_falls_from_its_start_to_zero(steps: int, start: float) -> None:
    levels = karras_schedule(steps, start=start)
    assert len(levels) == steps + 1
    assert levels[0] == pytest.approx(start, rel=1e-12)
    assert levels[-1] == 0
    assert all(before > after for before, after in pairwise(levels))
    if steps > 1:
        assert levels[-2] == pytest.approx(SIGMA_MIN, rel=1e-9)


def test_a_start_below_the_end_leaves_one_step() -> None:
    assert karras_schedule(16, start=0.002) == [0.002, 0.0]
    assert karras_schedule(16, start=0.001) == [0.001, 0.0]
    assert karras_schedule(16, start=0.5, end=0.5) == [0.5, 0.0]


@pytest.mark.parametrize(("mu", "sigma"), [(0.25, 0.16), (0.5, 2.43), (0.75, 17.3), (1.0, 80.0)])
def test_exploration_levels_of_the_paper(mu: float, sigma: float) -> None:
    assert float(f"{exploration_sigma(mu):.3g}") == pytest.approx(sigma, rel=0.02)
    assert round(exploration_sigma(mu), 2 if mu < 0.7 else 1) == sigma


@pytest.mark.parametrize("steps", [1, 2, 5, 16, 64, 127, 128])
def test_mu_is_the_share_of_128_steps_that_is_undone(steps: int) -> None:
    assert exploration_sigma(steps / 128) == pytest.approx(karras_schedule(128)[128 - steps], rel=1e-9)


@pytest.mark.parametrize("mu", [0.25, 0.5, 0.75])
def test_fewer_steps_explore_as_far(mu: float) -> None:
    """In the released code the start falls from 2.43 at 128 steps to 1.85 at 16."""
    starts = {round(karras_schedule(steps, start=exploration_sigma(mu))[0], 9) for steps in (4, 8, 16, 32, 128)}
    assert len(starts) == 1
    drifting = karras_schedule(16)[16 - round(16 * mu)]
    assert drifting < 0.95 * exploration_sigma(mu)


@given(first=st.floats(1e-4, 1), second=st.floats(1e-4, 1))
def test_exploration_level_rises_with_mu(first: float, second: float) -> None:
    low, high = sorted((first, second))
    assert SIGMA_MIN * (1 - 1e-9) <= exploration_sigma(low) <= exploration_sigma(high) <= SIGMA_MAX * (1 + 1e-9)
    if low > 1 / 128 and high > low * 1.01:
        assert exploration_sigma(low) < exploration_sigma(high)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("mu", [1e-3, 1 / 128, 0.0079, 0.02])
def test_the_least_exploration_gives_the_source_back(name: str, mu: float) -> None:
    sigma = exploration_sigma(mu)
    source = MEAN + STD * standard()
    x = source + sigma * standard(seed=1)
    levels = karras_schedule(8, start=sigma)
    found = SAMPLERS[name](gaussian_denoiser(), x, levels, condition_of(x), seeded_noise(SHAPE))
    torch.testing.assert_close(found, source, atol=0.02, rtol=0)


# --- accuracy -------------------------------------------------------------------------------------------------------


def karras_levels(steps: int) -> list[float]:
    return karras_schedule(steps, start=2.43)[:-1]


def uneven_levels(steps: int) -> list[float]:
    """Steps in ln sigma that are alternately short and three times as long."""
    sizes = [1.0 if step % 2 else 3.0 for step in range(steps)]
    done = [sum(sizes[:step]) / sum(sizes) for step in range(steps + 1)]
    return [2.43 * (0.02 / 2.43) ** share for share in done]


def error(name: str, levels: list[float]) -> float:
    """Largest error at the last level, which is above 0, in units of the data's standard deviation."""
    x = MEAN + math.sqrt(STD**2 + levels[0] ** 2) * standard()
    found = SAMPLERS[name](gaussian_denoiser(), x, levels, condition_of(x), seeded_noise(SHAPE))
    return float((found - ode_solution(x, levels[0], levels[-1])).abs().max() / STD)


@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize("levels", [karras_levels, uneven_levels])
def test_deterministic_samplers_converge_with_order_two(name: str, levels: Callable[[int], list[float]]) -> None:
    errors = [error(name, levels(steps)) for steps in (32, 64, 128, 256)]
    orders = [math.log2(before / after) for before, after in pairwise(errors)]
    assert errors[-1] < 1e-3
    assert all(1.7 < order < 2.5 for order in orders), orders


@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize("start", [0.16, 2.43, 80.0])
def test_deterministic_samplers_reach_the_exact_solution(name: str, start: float) -> None:
    x = MEAN + math.sqrt(STD**2 + start**2) * standard()
    found = SAMPLERS[name](
        gaussian_denoiser(), x, karras_schedule(64, start=start), condition_of(x), seeded_noise(SHAPE)
    )
    torch.testing.assert_close(found, ode_solution(x, start, 0.0), atol=0.01, rtol=0)


def test_without_stochasticity_the_stochastic_samplers_are_the_deterministic_ones() -> None:
    x, levels, noise = 2.43 * standard(), karras_schedule(12, start=2.43), seeded_noise(SHAPE)
    denoise, condition = gaussian_denoiser(), condition_of(x)
    still = stochastic_heun(denoise, x, levels, condition, noise, churn=0.0)
    assert torch.equal(still, heun(denoise, x, levels, condition))
    outside = stochastic_heun(denoise, x, levels, condition, noise, churn_min=5.0)
    assert torch.equal(outside, heun(denoise, x, levels, condition))
    assert torch.equal(
        dpm_solver_2m(denoise, x, levels, condition, noise, eta=0.0), dpm_solver_2m(denoise, x, levels, condition)
    )


@pytest.mark.parametrize(("name", "steps"), [("stochastic_heun", 128), ("dpm_2m_sde", 128)])
def test_stochastic_samplers_reproduce_the_data_from_pure_noise(name: str, steps: int) -> None:
    """mu = 1. The stochastic samplers' own bias (S_noise, discretisation) is within the tolerance."""
    shape = (20_000, 1, 1)
    sigma = exploration_sigma(1.0)
    x = sigma * standard(shape)
    found = SAMPLERS[name](
        gaussian_denoiser(), x, karras_schedule(steps, start=sigma), condition_of(x), seeded_noise(shape)
    )
    assert found.mean().item() == pytest.approx(MEAN, abs=0.015)
    assert found.std().item() == pytest.approx(STD, rel=0.03)
    # Nothing of the starting point is left, unlike in the ODE.
    correlation = torch.corrcoef(torch.stack([x.flatten(), found.flatten()]))[0, 1].abs().item()
    assert correlation < 0.1


@pytest.mark.parametrize("eta", [0.5, 1.0, 5.0])
def test_any_amount_of_noise_keeps_the_marginals(eta: float) -> None:
    """From the exact marginal at sigma 2.43 the SDE solver ends in the data's distribution."""
    shape = (20_000, 1, 1)
    x = MEAN + math.sqrt(STD**2 + 2.43**2) * standard(shape)
    levels = karras_schedule(128, start=2.43)
    found = dpm_solver_2m(gaussian_denoiser(), x, levels, condition_of(x), seeded_noise(shape), eta=eta)
    assert found.mean().item() == pytest.approx(MEAN, abs=0.015)
    assert found.std().item() == pytest.approx(STD, rel=0.03)


def test_churn_raises_the_level_as_in_algorithm_2() -> None:
    """Levels at which the denoiser is asked: raised by gamma within S_tmin and S_tmax, as they are elsewhere."""
    levels = [80.0, 40.0, 1.0, 0.04, 0.0]
    counted, x = Counted(gaussian_denoiser()), standard()
    stochastic_heun(counted, x, levels, condition_of(x), seeded_noise(SHAPE), churn=20.0, reference_steps=100)
    assert counted.levels == pytest.approx([80, 40, 40 * 1.2, 1, 1 * 1.2, 0.04, 0.04], rel=1e-12)
    counted.levels.clear()
    stochastic_heun(counted, x, levels, condition_of(x), seeded_noise(SHAPE), churn=1e9)
    assert counted.levels[2] == pytest.approx(40 * math.sqrt(2), rel=1e-12)


def test_the_added_noise_has_the_missing_variance() -> None:
    """With a denoiser that answers 0, x shrinks with the level, and what is added can be read off."""
    shape = (50_000, 1, 1)
    x = torch.zeros(shape, dtype=torch.float64)

    def zero(x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        return torch.zeros_like(x)

    noise = seeded_noise(shape)
    found = stochastic_heun(zero, x, [1.0, 0.5], condition_of(x), noise, churn=40.0, reference_steps=128)
    raised = 1 + 40 / 128
    # From the raised level to 0.5 the ODE scales x by 0.5 / raised exactly, as its slope x / sigma is constant.
    expected = 1.003 * math.sqrt(raised**2 - 1) * 0.5 / raised
    assert found.std().item() == pytest.approx(expected, rel=0.02)
    found = dpm_solver_2m(zero, x, [1.0, 0.5], condition_of(x), noise, eta=1.0)
    assert found.std().item() == pytest.approx(0.5 * math.sqrt(1 - 0.5**2), rel=0.02)


# --- cost, determinism, padding --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "per_level", "saved"), [("heun", 2, 1), ("stochastic_heun", 2, 1), ("dpm_2m", 1, 0), ("dpm_2m_sde", 1, 0)]
)
@pytest.mark.parametrize("steps", [1, 2, 16, 64])
def test_number_of_evaluations(name: str, per_level: int, saved: int, steps: int) -> None:
    counted, x = Counted(gaussian_denoiser()), standard()
    SAMPLERS[name](counted, x, karras_schedule(steps, start=2.43), condition_of(x), seeded_noise(SHAPE))
    assert len(counted.rows) == per_level * steps - saved
    assert min(counted.levels) > 0


@pytest.mark.parametrize("name", SAMPLERS)
def test_samples_are_a_function_of_the_injected_noise(name: str) -> None:
    x, levels = 2.43 * standard(), karras_schedule(6, start=2.43)

    def run(seed: int, other: int) -> Tensor:
        torch.manual_seed(other)
        return SAMPLERS[name](gaussian_denoiser(), x, levels, condition_of(x), seeded_noise(SHAPE, seed))

    before, state = x.clone(), torch.get_rng_state()
    assert torch.equal(run(0, 1), run(0, 2))
    assert torch.equal(run(0, 1), run(1, 1)) == (name in DETERMINISTIC)
    assert torch.equal(x, before)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    SAMPLERS[name](gaussian_denoiser(), x, levels, condition_of(x), seeded_noise(SHAPE))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", SAMPLERS)
@settings(max_examples=15, deadline=None)
@given(chosen=st.lists(st.integers(0, 4), min_size=1, max_size=7))
def test_a_sample_does_not_depend_on_the_batch_it_is_in(name: str, chosen: list[int]) -> None:
    places = torch.tensor(chosen)
    x, levels, noise = 2.43 * standard(), karras_schedule(6, start=2.43), seeded_noise(SHAPE)
    every = SAMPLERS[name](gaussian_denoiser(), x, levels, condition_of(x), noise)
    some = SAMPLERS[name](
        gaussian_denoiser(), x[places], levels, condition_of(x[places]), lambda step: noise(step)[places]
    )
    assert torch.equal(some, every[places])


@pytest.mark.parametrize("name", SAMPLERS)
def test_padding_stays_zero(name: str) -> None:
    x = 2.43 * standard()
    mask = torch.ones(SHAPE, dtype=torch.float64)
    mask[:, 2:] = 0
    condition = Condition(torch.zeros(5), torch.ones(5), torch.zeros(5, 0), mask)
    levels, noise = karras_schedule(6, start=2.43), seeded_noise(SHAPE)
    found = SAMPLERS[name](gaussian_denoiser(), x * mask, levels, condition, noise)
    assert (found[:, 2:] == 0).all()
    whole = SAMPLERS[name](gaussian_denoiser(), x, levels, condition_of(x), noise)
    assert torch.equal(found[:, :2], whole[:, :2])


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_real_network_in_single_precision(name: str) -> None:
    torch.manual_seed(0)
    denoiser = EDMDenoiser(build_network(NetworkConfig("temporal_mixer", width=8, depth=1), 3, 2, 2)).eval()
    x = 2.43 * standard(dtype=torch.float32)
    noise = seeded_noise(SHAPE, dtype=torch.float32)
    with torch.no_grad():
        found = SAMPLERS[name](denoiser, x, karras_schedule(8, start=2.43), condition_of(x), noise)
    assert found.dtype == torch.float32
    assert torch.isfinite(found).all()
    # The untrained network is the optimal denoiser of N(0, 1), so the ODE ends at x / sqrt(1 + sigma^2).
    if name in DETERMINISTIC:
        torch.testing.assert_close(found, ode_solution(x, 2.43, 0.0, mean=0.0, std=1.0), atol=0.05, rtol=0.05)
