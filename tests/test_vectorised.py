"""Stacks of runs: the updates of d3rlpy, runs that do not disturb each other, interruptions that leave no trace."""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec

from benchmarks import adapters
from benchmarks.quiet import import_d3rlpy
from benchmarks.stepping import Group, opened
from benchmarks.vectorised import ALGORITHMS, draws, training
from benchmarks.vectorised import __main__ as speed
from benchmarks.vectorised import stack as stacks
from benchmarks.vectorised.agreement import largest_difference
from benchmarks.vectorised.draws import Draws, Run
from benchmarks.vectorised.evaluation import evaluate
from benchmarks.vectorised.iql import IQL
from benchmarks.vectorised.learner import MakeLearner
from benchmarks.vectorised.networks import Networks
from benchmarks.vectorised.stack import Stack
from benchmarks.vectorised.tables import Table, read_table
from benchmarks.vectorised.td3_bc import TD3BC
from gta_datasets.adapters import to_d3rlpy
from tests.builders import linear_dataset, make_dataset
from tests.smoke import tiny

CPU = torch.device("cpu")
SMALL = {"batch_size": 16}


def make_table(
    *, size: int = 300, num_real: int = 300, observations: int = 3, actions: int = 2, seed: int = 0
) -> Table:
    """Random transitions, all of which end the task; the reward is how near the action is to half the state."""
    rng = np.random.default_rng(seed)
    state, action = rng.standard_normal((size, observations)), rng.uniform(-1, 1, (size, actions))
    reward = -np.square(action - wanted(state)[:, :actions]).sum(axis=1, keepdims=True)
    rows = np.concatenate([state, action, state, reward, np.zeros((size, 1))], axis=1)
    return Table(
        rows=torch.from_numpy(rows.astype(np.float32)),
        num_real=num_real,
        observation_size=observations,
        action_size=actions,
        mean=torch.zeros(observations),
        scale=torch.ones(observations),
        encode=lambda batch: batch.astype(np.float32),
    )


def wanted(states: np.ndarray) -> np.ndarray:
    return np.clip(states / 2, -1, 1)


def assert_same_runs(stack: Stack, other: Stack, run: int, alone: int = 0, *, atol: float = 0.0) -> None:
    """Run `run` of a stack acts as run `alone` of another one."""
    states = np.random.default_rng(7).standard_normal((1, 20, 3)).astype(np.float32)
    ours, theirs = (each.act(np.repeat(states, each.num_runs, axis=0)) for each in (stack, other))
    np.testing.assert_allclose(ours[run], theirs[alone], rtol=0, atol=atol)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_updates_are_those_of_d3rlpy(algorithm: str) -> None:
    assert 0 < largest_difference(ALGORITHMS[algorithm], updates=4, runs=2, batch_size=64) < 1e-5


@torch._dynamo.config.patch(compiled_autograd=True)  # monkeypatch would leave the setting deleted
def test_d3rlpy_does_not_choose_the_precision_of_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")  # as its import does where there is a GPU
        import_d3rlpy()
        assert torch.get_float32_matmul_precision() == "highest"
        assert not torch._dynamo.config.compiled_autograd
    finally:
        torch.set_float32_matmul_precision(before)


def test_settings_of_iql_are_those_of_d3rlpy() -> None:
    optimizers = import_d3rlpy().optimizers
    falling = optimizers.AdamFactory(lr_scheduler_factory=optimizers.CosineAnnealingLRFactory(T_max=5))
    theirs = {"expectile": 0.9, "weight_temp": 10.0, "actor_optim_factory": falling}
    ours = {"expectile": 0.9, "temperature": 10.0, "anneal": 5}
    sizes = {"updates": 4, "runs": 1, "batch_size": 64}
    assert largest_difference(IQL, config=theirs, settings=ours, **sizes) < 1e-5
    # So hot that most weights reach their limit.
    hot = {"config": {"weight_temp": 1e3}, "settings": {"temperature": 1e3}}
    assert largest_difference(IQL, **hot, **sizes) < 1e-3
    for name in ours:
        others = {key: value for key, value in ours.items() if key != name}
        assert largest_difference(IQL, config=theirs, settings=others, **sizes) > 1e-4


def test_a_falling_learning_rate_goes_on_after_an_interruption() -> None:
    run, algorithm = Run(make_table(), 0), functools.partial(IQL, anneal=12)
    whole, first, second = (Stack([run], algorithm, **SMALL) for _ in range(3))
    whole.train(12)
    first.train(7)
    second.load(0, {name: value.clone() for name, value in first.tensors_of(0).items()}, 7)
    second.train(5)
    assert_same_runs(second, whole, 0)
    before = {name: value.clone() for name, value in whole.tensors_of(0).items()}
    whole.train(1)
    assert torch.equal(whole.tensors_of(0)["actor"], before["actor"]), "the rate should be down to zero"
    assert not torch.equal(whole.tensors_of(0)["value"], before["value"])


@pytest.mark.parametrize("together", [True, False])
def test_a_run_goes_on_in_another_stack(together: bool) -> None:
    runs = [Run(make_table(), seed) for seed in range(3)]
    first = Stack(runs, **SMALL, together=together)
    first.train(7)
    parts = [{name: value.clone() for name, value in first.tensors_of(place).items()} for place in range(3)]
    second = Stack([runs[2], runs[0]], **SMALL, together=together)
    second.load(0, parts[2], 7)
    second.load(1, parts[0], 7)
    for stack in (first, second):
        stack.train(6)
    assert_same_runs(first, second, 2, 0)
    assert_same_runs(first, second, 0, 1)


def test_first_weights_are_drawn_as_torch_draws_them() -> None:
    networks = Networks(2, 30, 4, CPU)
    networks.initialise([torch.Generator().manual_seed(seed) for seed in (0, 1)])
    reference = [torch.nn.Linear(*shape).requires_grad_(False) for shape in ((30, 256), (256, 256), (256, 4))]
    for (weight, bias), linear in zip(networks.layers[0], reference, strict=True):
        assert weight.shape[1:] == linear.weight.T.shape
        assert float(weight.std()) == pytest.approx(float(linear.weight.std()), rel=0.1)
        assert float(bias.abs().max()) <= 1 / np.sqrt(linear.in_features)
    assert not torch.equal(networks.values[0], networks.values[1])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(("together", "atol"), [(False, 0.0), (True, 1e-5)])
def test_a_run_does_not_depend_on_its_neighbours(
    algorithm: str, together: bool, atol: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (draws, stacks):
        monkeypatch.setattr(module, "CHUNK", 5)
    first, second = make_table(seed=1), make_table(size=200, num_real=50, seed=2)
    runs = [Run(first, 0), Run(second, 3, real_fraction=0.3), Run(first, 4)]
    stack = Stack(runs, ALGORITHMS[algorithm], **SMALL, together=together)
    stack.train(12)
    for number, run in enumerate(runs):
        alone = Stack([run], ALGORITHMS[algorithm], **SMALL)
        alone.train(12)
        assert_same_runs(stack, alone, number, atol=atol)
    with pytest.raises(AssertionError):
        assert_same_runs(stack, stack, 0, 2, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_updates_on_a_gpu_are_those_of_d3rlpy(algorithm: str) -> None:
    assert 0 < largest_difference(ALGORITHMS[algorithm], updates=4, runs=2, batch_size=64, device="cuda:0") < 1e-5


@pytest.mark.gpu
@pytest.mark.parametrize("algorithm", [TD3BC, functools.partial(IQL, anneal=130)])
def test_captured_updates_are_the_eager_ones(algorithm: MakeLearner) -> None:
    runs = [Run(make_table(seed=1), seed) for seed in range(3)]
    captured, eager = (Stack(runs, algorithm, **SMALL, device="cuda") for _ in range(2))
    for lane in eager._lanes:
        lane._update = lane._update_eagerly
    for stack in (captured, eager):
        stack.train(130)
    for run in range(3):
        assert_same_runs(captured, eager, run, run, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("algorithm", [TD3BC, functools.partial(IQL, anneal=130)])
def test_no_update_waits_for_the_gpu(algorithm: MakeLearner) -> None:
    stack = Stack([Run(make_table(seed=1), seed) for seed in range(2)], algorithm, **SMALL, device="cuda")
    stack.train(20)
    try:
        torch.cuda.set_sync_debug_mode("error")
        stack.train(110)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_batches_hold_the_share_of_real_data_and_rows_of_their_own_table() -> None:
    table = make_table(size=200, num_real=50)
    numbers = Draws([Run(table, 0, 0.3), Run(table, 1)], [0, 200], 15, CPU).numbers(2).numpy()
    assert numbers.shape == (100, 2, 15)
    assert np.mean(numbers[:, 0] < 50) == 0.3
    assert {4, 5} == set((numbers[:, 0] < 50).sum(axis=1))
    assert np.array_equal(np.unique(numbers[:, 1]), np.arange(200, 400))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_policy_learns_what_is_rewarded(algorithm: str) -> None:
    stack = Stack([Run(make_table(size=3_000), 0)], ALGORITHMS[algorithm], batch_size=32)
    states = np.random.default_rng(5).standard_normal((1, 200, 3)).astype(np.float32)

    def error() -> float:
        return float(np.square(stack.act(states) - wanted(states)[..., :2]).mean())

    before = error()
    stack.train(400)
    assert error() < 0.2 * before


def test_a_table_holds_the_transitions_that_d3rlpy_gets() -> None:
    source = linear_dataset("vectorised/linear-v0", lengths=(12, 5, 9), terminated=(1,))
    augmented = tiny(source)
    scaler, buffer = to_d3rlpy(source).observation_scaler(), to_d3rlpy(augmented)
    reward_scaler = buffer.reward_scaler("return", multiplier=100)
    table = read_table(augmented, scaler, reward_scaler)
    assert (table.num_real, len(table.rows)) == (26, buffer.transition_count)
    observation, action, following, reward, goes_on = table.rows.split([3, 2, 3, 1, 1], dim=1)
    for number in (0, 11, 16, 25, 30, len(table.rows) - 1):
        expected = buffer.transition(number)
        seen = scaler.transform(torch.from_numpy(np.stack([expected.observation, expected.next_observation])))
        torch.testing.assert_close(observation[number], seen[0])
        assert bool(goes_on[number]) != bool(expected.terminal)
        if not expected.terminal:
            torch.testing.assert_close(following[number], seen[1])
        np.testing.assert_array_equal(action[number], expected.action)
        np.testing.assert_allclose(reward[number], reward_scaler.transform_numpy(expected.reward), rtol=1e-6)


def test_what_cannot_be_stacked_is_refused() -> None:
    table = make_table()
    with pytest.raises(ValueError, match="run 1 has 4 observations and 2 actions, run 0 3 and 2; the runs of a stack"):
        Stack([Run(table, 0), Run(make_table(observations=4), 0)])
    with pytest.raises(ValueError, match="at least one run"):
        Stack([])
    with pytest.raises(ValueError, match=r"real_fraction=0.5 needs generated data"):
        Run(table, 0, real_fraction=0.5)
    discrete = make_dataset("vectorised/discrete-v0", action_space=gymnasium.spaces.Discrete(3))
    with pytest.raises(ValueError, match="has actions Discrete"):
        read_table(discrete, to_d3rlpy(discrete).observation_scaler())


def test_episodes_in_step_are_those_one_after_the_other() -> None:
    table = dataclasses.replace(make_table(observations=11, actions=3), mean=torch.full((11,), 0.1))
    stack = Stack([Run(table, 0), Run(table, 1)], **SMALL)
    environments = [gymnasium.make("Hopper-v5") for _ in range(6)]
    returns = evaluate(stack, table, Group(environments), episodes=3, seed=5)
    assert len(np.unique(returns)) == 6
    in_turn = evaluate(stack, table, Group(environments[:3]), episodes=3, seed=5)
    np.testing.assert_array_equal(in_turn, returns)

    def alone(run: int, number: int) -> float:
        env, total, over = gymnasium.make("Hopper-v5"), 0.0, False
        observation, _ = env.reset(seed=5 + number)
        while not over:
            inputs = observation[None, None].astype(np.float32).repeat(2, axis=0)
            observation, reward, terminated, truncated, _ = env.step(stack.act(inputs)[run, 0])
            total, over = total + reward, terminated or truncated
        return total

    expected = [[alone(run, number) for number in range(3)] for run in range(2)]
    np.testing.assert_allclose(returns, expected, rtol=1e-5)


def followed(
    path: Path, *, every: int = 4, seeds: Sequence[int] = (0, 1), processes: int = 1
) -> list[training.Trained]:
    """Six updates of a few runs with evaluations, kept in a folder."""
    runs = [Run(make_table(observations=11, actions=3), seed) for seed in seeds]
    course = training.Course(IQL, gymnasium.spec("Hopper-v5"), 16, updates=6, every=every, episodes=1, seed=5)
    course = dataclasses.replace(course, processes=processes)
    return list(training.train_and_evaluate(runs, course, [path / f"{seed}.safetensors" for seed in seeds]))


def interrupted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, killed at the last evaluation."""

    def killed_at_the_end(stack: Stack, *arguments: Any, **options: Any) -> np.ndarray:
        if stack.updates == 6:
            raise KeyboardInterrupt
        return evaluate(stack, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(training, "evaluate", killed_at_the_end)
        with pytest.raises(KeyboardInterrupt):
            followed(path)


def test_an_interrupted_stack_ends_as_if_it_had_not_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = followed(tmp_path / "whole")
    interrupted(tmp_path / "killed", monkeypatch)
    trained: list[int] = []
    train = Stack.train
    monkeypatch.setattr(Stack, "train", lambda stack, updates: (trained.append(updates), train(stack, updates)))
    resumed = followed(tmp_path / "killed")
    assert trained == []
    assert [list(run.scores) for run in whole] == [[4, 6], [4, 6]]
    assert [run.scores for run in resumed] == [run.scores for run in whole]


def test_scores_do_not_depend_on_who_steps_the_environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def noted(spec: EnvSpec, number: int, processes: int) -> Any:
        asked.append(processes)
        return opened(spec, number, processes)

    monkeypatch.setattr(training, "opened", noted)
    alone, spread = (followed(tmp_path / str(processes), processes=processes) for processes in (1, 2))
    assert asked == [1, 2]
    assert [run.scores for run in spread] == [run.scores for run in alone]


def test_evaluations_at_other_updates_begin_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past ones could only be made up from later weights."""
    whole = followed(tmp_path / "whole", every=2)
    interrupted(tmp_path / "killed", monkeypatch)
    assert [run.scores for run in followed(tmp_path / "killed", every=2)] == [run.scores for run in whole]


def test_rates_are_measured_beside_d3rlpys(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters, "SOURCE_EPISODES", 2)
    monkeypatch.setenv("MINARI_DATASETS_PATH", "")  # set by the script
    sizes = ["--updates", "2", "--rounds", "1", "--batch-size", "16"]
    monkeypatch.setattr(sys, "argv", ["vectorised", "--runs", "1", "--runs", "2", *sizes])
    speed.main()
    found = json.loads((results / "vectorised-cpu.json").read_text())
    for algorithm in ALGORITHMS:
        measured = found[algorithm]
        assert measured["largest_difference_after_4_updates"] < 1e-5
        assert measured["d3rlpy"]["times_d3rlpy_cpu"] == 1
        assert all(measured[name]["run_updates_per_cpu_second"] > 0 for name in ("d3rlpy", "1 runs", "2 runs"))
