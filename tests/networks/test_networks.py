"""What both window networks have in common, and where they differ."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gta_datasets.config import GTAConfig, NetworkConfig
from gta_datasets.networks import MixerUNet, TemporalMixer, build_network
from gta_datasets.networks.embeddings import ConditionEmbedding
from gta_datasets.presets import PRESETS

FEATURES, OUTPUTS = 6, 5
NAMES = ["temporal_mixer", "mixer_unet"]


def small(name: str, rows: int = 6) -> nn.Module:
    """A small network whose weights are all non-zero, so that nothing is switched off by its initialisation."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_network(NetworkConfig(name, width=8, depth=2), rows, FEATURES, OUTPUTS)
        for parameter in network.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return network


def inputs(rows: int = 6, batch: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, rows, FEATURES, generator=generator)
    return x, torch.linspace(-1, 1, batch), torch.linspace(-2, 3, batch), torch.ones(batch)


def parameters_of(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rows", [2, 3, 7, 8, 9, 16, 31, 33])
def test_any_horizon(name: str, rows: int) -> None:
    output = small(name, rows)(*inputs(rows))
    assert output.shape == (3, rows, OUTPUTS)
    assert torch.isfinite(output).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_dropped_return_is_irrelevant(name: str) -> None:
    network, (x, noise, returns, keep) = small(name), inputs()
    dropped = network(x, noise, returns, torch.zeros(3))
    assert torch.equal(dropped, network(x, noise, returns * 7 + 100, torch.zeros(3)))
    given = network(x, noise, returns, keep)
    assert not torch.allclose(given, network(x, noise, returns + 1, keep), atol=1e-4)
    assert not torch.allclose(given, dropped, atol=1e-4)
    mixed = network(x, noise, returns, torch.tensor([1.0, 0.0, 1.0]))
    torch.testing.assert_close(mixed, torch.where(torch.tensor([1, 0, 1])[:, None, None] > 0, given, dropped))


@pytest.mark.parametrize("name", NAMES)
def test_noise_level_matters(name: str) -> None:
    network, (x, noise, returns, keep) = small(name), inputs()
    assert not torch.allclose(network(x, noise, returns, keep), network(x, noise + 0.3, returns, keep), atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_windows_do_not_see_each_other(name: str) -> None:
    network, (x, noise, returns, keep) = small(name), inputs()
    together = network(x, noise, returns, keep)
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(network(x[order], noise[order], returns[order], keep[order]), together[order])
    alone = network(x[1:2], noise[1:2], returns[1:2], keep[1:2])
    torch.testing.assert_close(alone, together[1:2], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_every_row_sees_every_row_and_knows_its_place(name: str) -> None:
    network, (x, noise, returns, keep) = small(name), inputs()
    x.requires_grad_()
    output = network(x, noise, returns, keep)
    for row in range(6):
        (gradient,) = torch.autograd.grad(output[0, row].sum(), x, retain_graph=True)
        assert (gradient[0].abs().sum(dim=1) > 0).all()
        assert (gradient[1:] == 0).all()
    reversed_rows = network(x.flip(1), noise, returns, keep)
    assert not torch.allclose(reversed_rows.flip(1), output, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_no_parameter_is_dead(name: str) -> None:
    network, (x, noise, returns, _) = small(name), inputs()
    network(x, noise, returns, torch.tensor([1.0, 0.0, 1.0])).square().sum().backward()
    dead = [label for label, value in network.named_parameters() if value.grad is None or not value.grad.any()]
    assert dead == []


@pytest.mark.parametrize("name", NAMES)
def test_networks_are_deterministic_also_in_training_mode(name: str) -> None:
    """In the released code the return is dropped inside the network, and stays so when sampling."""
    network, given = small(name).train(), inputs()
    first = network(*given)
    assert torch.equal(first, network(*given))
    torch.testing.assert_close(network.eval()(*given), first)


@pytest.mark.parametrize("name", NAMES)
def test_state_dict_restores_a_network(name: str) -> None:
    """Everything that was drawn at random is in the state, fixed frequencies included."""
    first, second = small(name), build_network(NetworkConfig(name, width=8, depth=2), 6, FEATURES, OUTPUTS)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(*inputs()), second(*inputs()))


def test_the_papers_network_has_the_papers_size() -> None:
    with torch.device("meta"):
        network = MixerUNet(32, 24, 24, width=16)
    assert parameters_of(network) == pytest.approx(29.6e6, rel=0.02)


@pytest.mark.parametrize("features", [24, 15, 30])  # halfcheetah, hopper, walker2d with actions and reward
def test_the_cpu_preset_has_one_to_five_million_parameters(features: int) -> None:
    config = GTAConfig().replace(**PRESETS["cpu"])
    with torch.device("meta"):
        network = build_network(config.network, config.data.horizon + 1, features, features)
    assert isinstance(network, TemporalMixer)
    assert 1e6 < parameters_of(network) < 5e6


def test_the_temporal_mixer_starts_as_zero() -> None:
    network = TemporalMixer(6, FEATURES, OUTPUTS, width=8, depth=2)
    assert (network(*inputs()) == 0).all()


def test_the_embedding_of_a_return_goes_on_beyond_the_data() -> None:
    """An amplified return lies outside of what was trained on: far out the embedding is linear, not periodic."""
    torch.manual_seed(0)
    embedding = ConditionEmbedding(64)
    noise, keep = torch.zeros(4), torch.ones(4)
    embedded = embedding(noise, torch.tensor([20.0, 40.0, 80.0, 160.0]), keep)
    steps = (embedded[1:] - embedded[:-1]).norm(dim=1)
    torch.testing.assert_close(steps[1:] / steps[:-1], torch.full((2,), 2.0), atol=0.2, rtol=0)


def test_rows_are_padded_by_zeros_that_are_cut_off_again() -> None:
    """A window of 6 rows is treated as one of 8 whose last two are zero."""
    network, (x, noise, returns, keep) = small("mixer_unet"), inputs()
    padded = small("mixer_unet", rows=8)
    padded.load_state_dict(network.state_dict())
    longer = torch.cat([x, torch.zeros(3, 2, FEATURES)], dim=1)
    torch.testing.assert_close(padded(longer, noise, returns, keep)[:, :6], network(x, noise, returns, keep))
