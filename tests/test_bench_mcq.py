"""Mildly conservative Q-learning: its losses recomputed, what it learns and what it leaves alone, saved and loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.algorithms import ALGORITHMS
from benchmarks.quiet import import_d3rlpy
from gta_datasets.adapters import to_d3rlpy
from tests.builders import linear_dataset

d3rlpy = import_d3rlpy()

from d3rlpy.torch_utility import TorchMiniBatch  # noqa: E402

from benchmarks.mcq import MCQ, MCQConfig  # noqa: E402

SIZE, SAMPLES = 6, 4


def create(**settings: Any) -> MCQ:
    small = d3rlpy.models.VectorEncoderFactory([32, 32])
    parts = ("actor", "critic", "behaviour")
    quick = {
        **{f"{name}_encoder_factory": small for name in parts},
        **{f"{name}_learning_rate": 3e-3 for name in parts},
        "initial_temperature": 0.01,
        "n_action_samples": SAMPLES,
        "batch_size": 32,
    }
    d3rlpy.seed(3)
    return MCQConfig(**{**quick, **settings}).create()


def bandit(size: int = 2_000) -> Any:
    """One step of any state with actions between -1 and 0, of which the higher are the better."""
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 0, (size, 1)).astype(np.float32)
    return d3rlpy.dataset.MDPDataset(
        observations=rng.standard_normal((size, 2)).astype(np.float32),
        actions=actions,
        rewards=actions,
        terminals=np.ones(size, np.float32),
    )


def fit(algorithm: MCQ, updates: int) -> MCQ:
    algorithm.fit(
        bandit(),
        n_steps=updates,
        n_steps_per_epoch=updates,
        show_progress=False,
        logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
    )
    return algorithm


def random_batch() -> TorchMiniBatch:
    draw = torch.Generator().manual_seed(0)
    states, following = (torch.randn(SIZE, 3, generator=draw) for _ in range(2))
    return TorchMiniBatch(
        observations=states,
        actions=torch.rand(SIZE, 2, generator=draw) * 2 - 1,
        rewards=torch.randn(SIZE, 1, generator=draw),
        next_observations=following,
        next_actions=torch.zeros(SIZE, 2),
        returns_to_go=torch.zeros(SIZE, 1),
        terminals=(torch.arange(SIZE) < 2).float()[:, None],
        intervals=torch.ones(SIZE, 1),
        device="cpu",
    )


def watch(module: nn.Module, calls: list[tuple[tuple[Tensor, ...], Any]]) -> None:
    """Note what a network is given and what it says."""
    module.register_forward_hook(lambda _module, inputs, output: calls.append((inputs, output)))


def test_the_critics_loss_is_the_papers() -> None:
    algorithm = create(weight=0.7)
    algorithm.create_impl((3,), 2)
    impl, batch = algorithm.impl, random_batch()
    drawn: list[Any] = []
    asked: list[list[Any]] = [[], []]
    watch(impl.modules.behaviour_decoder, drawn)
    for critic, calls in zip(impl.modules.q_funcs, asked, strict=True):
        watch(critic, calls)
    target = torch.linspace(-1, 1, SIZE)[:, None]
    found = impl.compute_critic_loss(batch, target)

    y = batch.rewards + 0.99 * (1 - batch.terminals) * target
    states = torch.cat([batch.observations, batch.next_observations])
    (((decoded, latent, _), restored),) = drawn
    assert latent.abs().max() <= 0.5
    assert restored.abs().max() < 1
    bellman, best, of_policy = [], [], []
    for calls in asked:
        (_, actions), own = calls[0]
        assert torch.equal(actions, batch.actions)
        bellman.append((own.q_value - y).square().mean())
        for (_, actions), said in calls[1:]:
            assert actions.shape == (2 * SIZE * SAMPLES, 2)
            values = said.q_value.view(2 * SIZE, SAMPLES)
            (of_policy if said.q_value.requires_grad else best).append(values)
    for (seen, actions), _ in (calls[1] for calls in asked):  # of the behaviour model, state by state
        rows = restored.tolist()
        assert sorted(rows) == sorted(actions.tolist())
        for row, (state, action) in enumerate(zip(seen, actions, strict=True)):
            assert torch.equal(state, states[row // SAMPLES])
            place = rows.index(action.tolist())
            assert torch.equal(decoded[place], state), "an action drawn in one state is judged in another"
    least = torch.stack([values.max(dim=1).values for values in best]).min(dim=0).values
    pseudo = [(values - least[:, None]).square().mean() for values in of_policy]
    torch.testing.assert_close(found.bellman_loss, sum(bellman))
    torch.testing.assert_close(found.pseudo_loss, sum(pseudo))
    torch.testing.assert_close(found.critic_loss, 0.7 * sum(bellman) + 0.3 * sum(pseudo))
    found.critic_loss.backward()
    assert all(each.grad is None for each in impl.modules.policy.parameters())
    assert all(each.grad is None for each in impl.modules.behaviour_decoder.parameters())


def test_the_behaviour_models_loss_is_that_of_a_variational_autoencoder() -> None:
    algorithm = create()
    algorithm.create_impl((3,), 2)
    impl, batch = algorithm.impl, random_batch()
    encoded: list[Any] = []
    restored: list[Any] = []
    watch(impl.modules.behaviour_encoder, encoded)
    watch(impl.modules.behaviour_decoder, restored)
    found = impl.compute_behaviour_loss(batch)
    ((_, latent),) = encoded
    ((_, actions),) = restored
    variance = latent.stddev.square()
    divergence = 0.5 * (variance + latent.mean.square() - 1 - variance.log()).sum(dim=1).mean()
    torch.testing.assert_close(found, divergence + 2 * (actions - batch.actions).square().mean())


def test_the_behaviour_model_learns_the_datas_actions() -> None:
    algorithm = fit(create(), 200)
    states = torch.randn(200, 2, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        actions = algorithm.impl._behaviour_actions(states)
    assert actions.shape == (200, SAMPLES, 1)
    assert float(actions.mean()) == pytest.approx(-0.5, abs=0.15)


def test_what_the_data_do_not_show_is_not_believed() -> None:
    states = np.random.default_rng(1).standard_normal((100, 2)).astype(np.float32)
    mild, careless = (fit(create(weight=weight), 200) for weight in (0.5, 1.0))
    assert careless.predict(states).mean() > 0.7, "without pseudo targets the critics should go on beyond the data"
    assert -0.4 < mild.predict(states).mean() < 0.3
    beyond = [algorithm.predict_value(states, np.ones((100, 1), np.float32)).mean() for algorithm in (mild, careless)]
    assert beyond[0] < 0 < beyond[1]


def test_saved_and_loaded_it_acts_and_learns_alike(tmp_path: Path) -> None:
    algorithm = fit(create(weight=0.6), 20)
    algorithm.save(str(tmp_path / "mcq.d3"))
    loaded = d3rlpy.load_learnable(str(tmp_path / "mcq.d3"))
    assert isinstance(loaded, MCQ)
    assert loaded.config == algorithm.config
    states = np.random.default_rng(1).standard_normal((50, 2)).astype(np.float32)
    batch = bandit().sample_transition_batch(16)
    for _ in range(2):
        np.testing.assert_array_equal(algorithm.predict(states), loaded.predict(states))
        for each in (algorithm, loaded):
            torch.manual_seed(5)
            each.update(batch)
    for name, module in algorithm.impl.modules.get_torch_modules().items():
        theirs = loaded.impl.modules.get_torch_modules()[name].state_dict()
        assert all(torch.equal(value, theirs[key]) for key, value in module.state_dict().items())


def test_sizes_and_rates_are_the_authors() -> None:
    source = to_d3rlpy(linear_dataset("mcq/linear-v0"))
    algorithm = ALGORITHMS["MCQ"].create(source, "locomotion", updates=1, batch_size=7, device="cpu")
    config = algorithm.config
    assert (config.weight, config.n_action_samples, config.batch_size) == (0.9, 10, 7)
    assert (config.gamma, config.tau, config.n_critics) == (0.99, 0.005, 2)
    assert (config.actor_learning_rate, config.critic_learning_rate, config.behaviour_learning_rate) == (
        3e-4,
        3e-4,
        1e-3,
    )
    algorithm.build_with_dataset(source)
    widths = {
        name: max(
            part.out_features for part in getattr(algorithm.impl.modules, name).modules() if isinstance(part, nn.Linear)
        )
        for name in ("policy", "q_funcs", "targ_q_funcs", "behaviour_encoder", "behaviour_decoder")
    }
    assert set(widths.values()) == {400, 750}
    assert widths["behaviour_decoder"] == widths["behaviour_encoder"] == 750
