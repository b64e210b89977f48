from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from gta_datasets.config import NetworkConfig
from gta_datasets.diffusion.edm import Condition, Denoise, EDMDenoiser, denoising_loss
from gta_datasets.networks import build_network

SIGMAS = [0.002, 0.05, 0.5, 1.0, 2.43, 17.3, 80.0]


class Stub(nn.Module):
    """Answers with a fixed tensor and remembers what it was asked."""

    def __init__(self, answer: float = 1.0) -> None:
        super().__init__()
        self.answer = answer
        self.asked: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def forward(self, x: Tensor, noise: Tensor, returns: Tensor, keep: Tensor) -> Tensor:
        self.asked.append((x, noise, returns, keep))
        return torch.full((len(x), x.shape[1], 3), self.answer)


def condition(batch: int = 2, rows: int = 4, features: int = 3, context: int = 0) -> Condition:
    return Condition(
        torch.arange(batch, dtype=torch.float32),
        torch.ones(batch),
        torch.full((batch, context), 0.5),
        torch.ones(batch, rows, features),
    )


def padded_condition() -> Condition:
    """The second window ends after two of four rows."""
    mask = torch.ones(2, 4, 3)
    mask[0, -1, 1:] = 0
    mask[1, 2:] = 0
    mask[1, 1, 1:] = 0
    return Condition(torch.zeros(2), torch.ones(2), torch.zeros(2, 0), mask)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_coefficients_of_table_1(sigma: float) -> None:
    stub, x = Stub(answer=1.0), torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    found = EDMDenoiser(stub)(x, torch.full((2,), sigma), condition())
    c_skip, c_out, c_in = 1 / (sigma**2 + 1), sigma / math.sqrt(sigma**2 + 1), 1 / math.sqrt(sigma**2 + 1)
    torch.testing.assert_close(found, c_skip * x + c_out)
    asked, noise, returns, keep = stub.asked[0]
    torch.testing.assert_close(asked, c_in * x)
    torch.testing.assert_close(noise, torch.full((2,), math.log(sigma) / 4))
    assert returns.tolist() == [0.0, 1.0]
    assert keep.tolist() == [1.0, 1.0]


def test_every_window_has_its_own_noise_level() -> None:
    x = torch.ones(2, 4, 3)
    found = EDMDenoiser(Stub(answer=0.0))(x, torch.tensor([0.5, 3.0]), condition())
    torch.testing.assert_close(found[:, 0, 0], torch.tensor([1 / 1.25, 1 / 10.0]))


def test_network_input_has_unit_variance_at_every_level() -> None:
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(4000, 4, 3, generator=generator)
    noise = torch.randn(4000, 4, 3, generator=generator)
    for sigma in SIGMAS:
        stub = Stub()
        EDMDenoiser(stub)(clean + sigma * noise, torch.full((4000,), sigma), condition(4000))
        assert stub.asked[0][0].std().item() == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("name", ["temporal_mixer", "mixer_unet"])
def test_at_a_tiny_noise_level_the_input_comes_back(name: str) -> None:
    torch.manual_seed(0)
    network = build_network(NetworkConfig(name, width=8, depth=1), 4, 3, 3)
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    x = torch.randn(2, 4, 3)
    found = EDMDenoiser(network)(x, torch.full((2,), 1e-6), condition())
    torch.testing.assert_close(found, x, atol=1e-4, rtol=0)


def test_context_is_appended_to_every_row_unscaled() -> None:
    stub, x = Stub(), torch.ones(2, 4, 3)
    EDMDenoiser(stub)(x, torch.full((2,), 80.0), condition(context=2))
    asked = stub.asked[0][0]
    assert asked.shape == (2, 4, 5)
    assert (asked[:, :, 3:] == 0.5).all()


def test_padding_neither_enters_the_network_nor_leaves_it() -> None:
    stub, given = Stub(), padded_condition()
    x = torch.where(given.mask > 0, 1.0, 1e6)
    found = EDMDenoiser(stub)(x, torch.ones(2), given)
    assert (stub.asked[0][0][given.mask == 0] == 0).all()
    assert (found[given.mask == 0] == 0).all()
    assert (found[given.mask > 0] != 0).all()


def test_half_precision_inside_stays_inside() -> None:
    network = build_network(NetworkConfig("temporal_mixer", width=8, depth=1), 4, 3, 3)
    x = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0)) * 80
    with torch.autocast("cpu", torch.bfloat16):
        found = EDMDenoiser(network)(x, torch.full((2,), 80.0), condition())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, x / 6401)


def collect(sigmas: list[Tensor], noisy: list[Tensor], offset: float) -> Denoise:
    """A denoiser that is wrong by `offset` everywhere and remembers what it was asked."""

    def denoise(x: Tensor, sigma: Tensor, given: Condition) -> Tensor:
        sigmas.append(sigma)
        noisy.append(x)
        return torch.full_like(x, offset)

    return denoise


def test_loss_weight() -> None:
    """(sigma^2 + 1) / sigma^2 times the squared error, averaged."""
    sigmas: list[Tensor] = []
    denoise = collect(sigmas, [], offset=2.0)
    loss = denoising_loss(denoise, torch.zeros(16, 4, 3), condition(16), torch.Generator().manual_seed(0))
    expected = sum((s**2 + 1) / s**2 * 4.0 for s in sigmas[0].tolist()) / 16
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_levels_are_log_normal_and_the_noise_has_that_level() -> None:
    sigmas: list[Tensor] = []
    noisy: list[Tensor] = []
    clean = torch.full((4000, 4, 3), 5.0)
    denoising_loss(collect(sigmas, noisy, 0.0), clean, condition(4000), torch.Generator().manual_seed(0))
    logs = sigmas[0].log()
    assert logs.mean().item() == pytest.approx(-1.2, abs=0.06)
    assert logs.std().item() == pytest.approx(1.2, rel=0.04)
    unit = (noisy[0] - clean) / sigmas[0][:, None, None]
    assert unit.mean().item() == pytest.approx(0, abs=0.02)
    assert unit.std().item() == pytest.approx(1, rel=0.02)
    # Levels do not depend on the noise.
    assert torch.corrcoef(torch.stack([logs, unit[:, 0, 0]]))[0, 1].abs() < 0.05


def test_a_perfect_denoiser_has_no_loss_and_the_best_constant_has_its_variance() -> None:
    """At huge sigma the weight is 1 and an optimal answer, the mean 0, costs the variance of the data."""
    clean = torch.randn(4000, 4, 3, generator=torch.Generator().manual_seed(0))

    def perfect(x: Tensor, sigma: Tensor, given: Condition) -> Tensor:
        return clean

    generator = torch.Generator().manual_seed(1)
    assert denoising_loss(perfect, clean, condition(4000), generator).item() == 0
    loss = denoising_loss(collect([], [], 0.0), clean, condition(4000), generator, log_sigma_mean=9, log_sigma_std=0)
    assert loss.item() == pytest.approx(1, rel=0.02)


def test_an_untrained_network_has_unit_loss_at_every_level() -> None:
    """The point of the preconditioning: with output 0 the loss is 1 whatever the level."""
    clean = torch.randn(4000, 4, 3, generator=torch.Generator().manual_seed(0))
    for log_sigma in (-6.0, -1.2, 0.0, 4.0):
        loss = denoising_loss(
            EDMDenoiser(Stub(answer=0.0)),
            clean,
            condition(4000),
            torch.Generator().manual_seed(1),
            log_sigma_mean=log_sigma,
            log_sigma_std=0.0,
        )
        assert loss.item() == pytest.approx(1, rel=0.03)


def test_padding_has_no_influence_on_loss_and_gradients() -> None:
    given = padded_condition()
    torch.manual_seed(0)
    denoiser = EDMDenoiser(build_network(NetworkConfig("temporal_mixer", width=8, depth=1), 4, 3, 3))
    for parameter in denoiser.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    clean = torch.randn(2, 4, 3)
    results = []
    for junk in (0.0, 1e3):
        denoiser.zero_grad()
        loss = denoising_loss(
            denoiser, torch.where(given.mask > 0, clean, junk), given, torch.Generator().manual_seed(1)
        )
        loss.backward()
        results.append((loss.item(), [parameter.grad.clone() for parameter in denoiser.parameters()]))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(one, other) for one, other in zip(results[0][1], results[1][1], strict=True))


def test_the_loss_averages_over_unpadded_values() -> None:
    given = padded_condition()
    sigmas: list[Tensor] = []
    loss = denoising_loss(collect(sigmas, [], 3.0), torch.zeros(2, 4, 3), given, torch.Generator().manual_seed(0))
    weight = [(s**2 + 1) / s**2 for s in sigmas[0].tolist()]
    counts = [10, 4]  # unpadded values of the two windows
    assert loss.item() == pytest.approx(9 * (weight[0] * counts[0] + weight[1] * counts[1]) / sum(counts), rel=1e-5)


def test_the_loss_is_a_function_of_the_generator() -> None:
    clean, denoiser = torch.ones(3, 4, 3), EDMDenoiser(Stub())
    losses = []
    for seed, other in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(other)
        losses.append(denoising_loss(denoiser, clean, condition(3), torch.Generator().manual_seed(seed)).item())
    assert losses[0] == losses[1] != losses[2]


def test_conditions_join_split_and_drop() -> None:
    first, second = condition(2, context=1), padded_condition()
    second = Condition(second.returns + 7, second.keep * 0, torch.zeros(2, 1), second.mask)
    joined = first.join(second)
    for name in ("returns", "keep", "context", "mask"):
        assert torch.equal(getattr(joined, name), torch.cat([getattr(first, name), getattr(second, name)]))
        assert torch.equal(getattr(joined[2:], name), getattr(second, name))
    dropped = first.unconditional()
    assert dropped.keep.tolist() == [0, 0]
    assert first.keep.tolist() == [1, 1]
    assert dropped.returns is first.returns
    assert dropped.context is first.context


def test_windows_without_a_value_to_learn_give_no_loss() -> None:
    known = condition(4)
    known = Condition(known.returns, known.keep, known.context, torch.zeros_like(known.mask))
    loss = denoising_loss(
        lambda x, _sigma, _condition: x, torch.zeros(4, 4, 3), known, torch.Generator().manual_seed(0)
    )
    assert loss.item() == 0
