"""From source windows to generated ones: noise, batches and padding, with a denoiser that is known exactly."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gta_datasets.config import SamplingConfig
from gta_datasets.diffusion.edm import Condition
from gta_datasets.diffusion.samplers import exploration_sigma
from gta_datasets.methods.sampling import sample_windows

WINDOWS, ROWS, FEATURES = 20, 5, 3
PADDED, GUIDED = 32, 64  # evaluations hold whole blocks of 32 windows: 20 in 1, twice 20 in 2
SAMPLERS = ("dpm_2m_sde", "dpm_2m", "heun", "stochastic_heun")


def numbers(stream: str, step: int) -> Tensor:
    generator = torch.Generator().manual_seed(1000 * len(stream) + step)
    return torch.randn(WINDOWS, ROWS, FEATURES, generator=generator)


def condition() -> Condition:
    """The last two windows are half padding."""
    mask = torch.ones(WINDOWS, ROWS, FEATURES)
    mask[-2:, 2:] = 0
    return Condition(torch.linspace(-1, 1, WINDOWS), torch.ones(WINDOWS), torch.zeros(WINDOWS, 0), mask)


def clean() -> Tensor:
    return numbers("clean", 0) * condition().mask


class Denoiser:
    """Exact for standard normal data whose mean is the return (0 without it); records how it was called."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.levels: list[float] = []
        self.kept: list[float] = []

    def __call__(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        self.sizes.append(len(x))
        self.levels.append(float(sigma[0]))
        self.kept.extend(condition.keep.tolist())
        mean = (condition.returns * condition.keep)[:, None, None]
        level = sigma[:, None, None]
        return (mean + (x - mean) / (1 + level**2)) * condition.mask


def sample(denoiser: Denoiser, config: SamplingConfig, mu: float = 0.5) -> Tensor:
    return sample_windows(denoiser, clean(), condition(), config, sigma=exploration_sigma(mu), noise=numbers)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("size", [1, 32, 33, 100])
def test_how_evaluations_are_split_does_not_matter(sampler: str, size: int) -> None:
    denoiser, whole = Denoiser(), Denoiser()
    split = sample(denoiser, SamplingConfig(sampler=sampler, sampler_steps=6, generate_batch_size=size))
    assert torch.equal(split, sample(whole, SamplingConfig(sampler=sampler, sampler_steps=6)))
    assert max(denoiser.sizes) == min(32 * -(-size // 32), GUIDED)
    assert all(evaluated % 32 == 0 for evaluated in denoiser.sizes)
    assert sum(denoiser.sizes) == sum(whole.sizes)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("mu", [0.25, 0.5, 1.0])
def test_every_sampler_starts_at_the_level_of_mu(sampler: str, mu: float) -> None:
    denoiser = Denoiser()
    sample(denoiser, SamplingConfig(sampler=sampler, sampler_steps=32, churn=0.0), mu)
    assert denoiser.levels[0] == pytest.approx(exploration_sigma(mu), rel=1e-6)
    assert max(denoiser.levels) == denoiser.levels[0]


def test_the_paper_sampler_undoes_its_share_of_the_schedule() -> None:
    """mu 0.5 of 128 steps leaves 64, two evaluations each but for the last."""
    denoiser = Denoiser()
    config = SamplingConfig(sampler="stochastic_heun", sampler_steps=128, guidance=1.0, sigma_end=0.002)
    sample(denoiser, config)
    assert len(denoiser.levels) == 2 * 64 - 1


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_padding_stays_zero(sampler: str) -> None:
    made = sample(Denoiser(), SamplingConfig(sampler=sampler, sampler_steps=6))
    assert (made[condition().mask == 0] == 0).all()
    assert (made[condition().mask == 1] != 0).all()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_little_exploration_gives_the_source_back(sampler: str) -> None:
    made = sample(Denoiser(), SamplingConfig(sampler=sampler, sampler_steps=8), mu=0.01)
    torch.testing.assert_close(made, clean(), atol=0.02, rtol=0)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_source_given_is_not_changed(sampler: str) -> None:
    rows = clean()
    sample_windows(Denoiser(), rows, condition(), SamplingConfig(sampler=sampler), sigma=2.4, noise=numbers)
    assert torch.equal(rows, clean())


def test_the_return_is_never_dropped_for_one_half_and_always_for_the_other() -> None:
    """The released code drops a quarter of the conditions when sampling, too."""
    denoiser = Denoiser()
    sample(denoiser, SamplingConfig(guidance=2.0, guidance_start=0.0))
    kept = torch.tensor(denoiser.kept).view(-1, GUIDED)
    assert (kept[:, :WINDOWS] == 1).all()
    assert (kept[:, WINDOWS : 2 * WINDOWS] == 0).all()
    plain = Denoiser()
    sample(plain, SamplingConfig(guidance=1.0))
    assert set(plain.kept) == {1.0}
    assert set(plain.sizes) == {PADDED}


def test_guidance_ends_below_its_lowest_level() -> None:
    denoiser = Denoiser()
    sample(denoiser, SamplingConfig(guidance=2.0, guidance_start=0.3, generate_batch_size=100))
    for level, size in zip(denoiser.levels, denoiser.sizes, strict=True):
        assert size == (GUIDED if level >= 0.3 else PADDED)
    assert min(denoiser.levels) < 0.3 < max(denoiser.levels)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_guidance_moves_windows_towards_their_return(sampler: str) -> None:
    means = [
        sample(Denoiser(), SamplingConfig(sampler=sampler, sampler_steps=12, guidance=scale, guidance_start=0.0), 1.0)
        for scale in (0.0, 1.0, 3.0)
    ]
    by_return = [made[0].mean() - made[-3].mean() for made in means]  # the lowest return and a high one
    assert by_return[0] > by_return[1] > by_return[2]


def test_streams_of_noise_are_kept_apart() -> None:
    asked: list[tuple[str, int]] = []

    def noise(stream: str, step: int) -> Tensor:
        asked.append((stream, step))
        return numbers(stream, step)

    config = SamplingConfig(sampler_steps=5, sigma_end=0.002)
    sample_windows(Denoiser(), clean(), condition(), config, sigma=2.4, noise=noise)
    assert len(set(asked)) == len(asked)
    assert asked[0] == ("start", 0)
    assert {stream for stream, _ in asked[1:]} == {"sampler"}


@pytest.mark.parametrize("mu", [0.1, 0.25])
def test_little_exploration_is_still_guided_and_refined(mu: float) -> None:
    """The fixed levels for guidance and for the end lie above the start of such a run."""
    denoiser = Denoiser()
    sample(denoiser, SamplingConfig(guidance=2.0, sampler_steps=8), mu)
    assert len(denoiser.sizes) == 8
    assert min(denoiser.levels) == pytest.approx(min(0.02, exploration_sigma(mu) / 8))
    assert denoiser.sizes.count(GUIDED) == sum(level >= exploration_sigma(mu) / 8 for level in denoiser.levels)
