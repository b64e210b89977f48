"""Context windows for Decision Transformer, compared with windows cut out of Minari's episodes in plain loops."""

from __future__ import annotations

import itertools
import pickle
from typing import Any

import minari
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from gta_datasets import GTAAugmentedDataset
from gta_datasets.adapters import to_decision_transformer
from gta_datasets.adapters.decision_transformer import SequenceDataset
from gta_datasets.demo import make_demo_dataset
from gta_datasets.errors import ConfigError, DatasetError
from gta_datasets.simulator import simulator_for
from tests.builders import edit_file, linear_dataset, make_dataset
from tests.smoke import tiny

LENGTHS = (20, 12, 25, 9, 20, 17)
CONTEXT = 6

Windows = list[dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def augmented() -> GTAAugmentedDataset:
    return tiny(linear_dataset("dt/linear-v0", lengths=LENGTHS, terminated=(1, 3)), alpha=1.4)


@pytest.fixture(scope="module")
def sequences(augmented: GTAAugmentedDataset) -> SequenceDataset:
    return to_decision_transformer(augmented, CONTEXT)


def start_of(augmented: GTAAugmentedDataset, number: int, *, amplified: bool) -> tuple[int, float]:
    """First timestep and first return-to-go of an episode, from Minari's view of the source."""
    (metadata,) = augmented.storage.get_episode_metadata([number])
    if "source_start" not in metadata:
        return 0, float(augmented[number].rewards.sum(dtype=np.float64))
    start = metadata["source_start"]
    left = float(augmented.source[metadata["source_episode"]].rewards[start:].sum(dtype=np.float64))
    if amplified:
        sampling = augmented.config.sampling
        best = max(e.rewards[i:].sum(dtype=np.float64) for e in augmented.source for i in range(len(e)))
        ceiling = best + (sampling.return_limit - 1) * abs(best)
        left = min(left + (sampling.alpha - 1) * abs(left), max(ceiling, left))
    return start, left


def expected_windows(augmented: GTAAugmentedDataset, context: int, *, amplified: bool = True) -> Windows:
    """The window that ends with each transition, by loops over Minari's episodes."""
    windows = []
    for number, episode in enumerate(augmented):
        first, left = start_of(augmented, number, amplified=amplified)
        to_go = [left - float(episode.rewards[:step].sum(dtype=np.float64)) for step in range(len(episode))]
        for end in range(1, len(episode) + 1):
            begin = max(end - context, 0)
            padding = context - (end - begin)
            fields = {
                "states": episode.observations[begin:end],
                "actions": episode.actions[begin:end],
                "rewards": episode.rewards[begin:end, None],
                "returns_to_go": np.array(to_go[begin:end])[:, None],
                "timesteps": first + np.arange(begin, end),
                "attention_mask": np.ones(end - begin, np.int64),
            }
            windows.append({name: np.pad(a, [(padding, 0)] + [(0, 0)] * (a.ndim - 1)) for name, a in fields.items()})
    return windows


def assert_windows(found: dict[str, torch.Tensor], expected: Windows) -> None:
    """A gathered batch holds the expected windows."""
    assert list(found) == list(expected[0])
    for name, values in found.items():
        np.testing.assert_allclose(values, np.stack([w[name] for w in expected]), rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("context", [1, CONTEXT, 40])
@pytest.mark.parametrize("return_to_go", ["amplified", "source"])
def test_windows_are_those_of_the_episodes(augmented: GTAAugmentedDataset, context: int, return_to_go: Any) -> None:
    found = to_decision_transformer(augmented, context, return_to_go=return_to_go, normalize=False)
    expected = expected_windows(augmented, context, amplified=return_to_go == "amplified")
    assert len(found) == len(expected) == augmented.total_steps
    assert_windows(found[np.arange(len(found))], expected)


def test_amplification_asks_for_more(augmented: GTAAugmentedDataset) -> None:
    """Otherwise the two modes above would be compared with the same numbers."""
    amplified, source = (
        to_decision_transformer(augmented, 1, return_to_go=kind)[np.arange(augmented.total_steps)]["returns_to_go"]
        for kind in ("amplified", "source")
    )
    real = augmented.source.total_steps
    assert torch.equal(amplified[:real], source[:real])
    assert (amplified[real:] >= source[real:]).all()
    assert not torch.equal(amplified[real:], source[real:])


def test_shapes_and_types(sequences: SequenceDataset) -> None:
    item = sequences[0]
    assert {name: (tuple(values.shape), values.dtype) for name, values in item.items()} == {
        "states": ((CONTEXT, 3), torch.float32),
        "actions": ((CONTEXT, 2), torch.float32),
        "rewards": ((CONTEXT, 1), torch.float32),
        "returns_to_go": ((CONTEXT, 1), torch.float32),
        "timesteps": ((CONTEXT,), torch.int64),
        "attention_mask": ((CONTEXT,), torch.int64),
    }


def test_return_scale_divides_returns_only(augmented: GTAAugmentedDataset, sequences: SequenceDataset) -> None:
    scaled = to_decision_transformer(augmented, CONTEXT, return_scale=4.0)[30]
    for name, values in sequences[30].items():
        torch.testing.assert_close(scaled[name] * (4 if name == "returns_to_go" else 1), values)


def test_states_are_normalised_by_the_real_ones(augmented: GTAAugmentedDataset, sequences: SequenceDataset) -> None:
    states = np.concatenate([episode.observations[:-1] for episode in augmented.source]).astype(np.float64)
    np.testing.assert_allclose(sequences.state_mean, states.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(sequences.state_std, states.std(axis=0), rtol=1e-6)
    found = sequences[np.arange(len(sequences))]
    raw = np.stack([window["states"] for window in expected_windows(augmented, CONTEXT)])
    normalised = (raw - states.mean(axis=0)) / states.std(axis=0)
    mask = found["attention_mask"].bool().numpy()
    np.testing.assert_allclose(found["states"][mask], normalised[mask], rtol=1e-4, atol=1e-5)
    assert (found["states"][~mask] == 0).all()
    torch.testing.assert_close(sequences.normalized(raw[-1]), found["states"][-1])


def test_a_constant_observation_stays_finite() -> None:
    dataset = make_dataset("dt/constant-v0", lengths=(4, 4))

    def flatten(file: Any) -> None:
        for episode in file.values():
            observations = episode["observations"][...]
            observations[:, 1] = 0.1
            episode["observations"][...] = observations

    found = to_decision_transformer(edit_file(dataset, flatten), 2)
    assert found.state_std[1] == 1
    assert (found[np.arange(8)]["states"][..., 1] == 0).all()


def test_generated_data_alone_has_its_own_statistics(augmented: GTAAugmentedDataset) -> None:
    found = to_decision_transformer(augmented.generated, CONTEXT)
    states = np.concatenate([episode.observations[:-1] for episode in augmented.generated])
    np.testing.assert_allclose(found.state_mean, states.mean(axis=0, dtype=np.float64), rtol=1e-5)


def test_a_plain_dataset_works(augmented: GTAAugmentedDataset, sequences: SequenceDataset) -> None:
    found, numbers = to_decision_transformer(augmented.source, CONTEXT), np.arange(augmented.source.total_steps)
    for name, values in sequences[numbers].items():
        torch.testing.assert_close(found[numbers][name], values)


def test_the_method_of_the_dataset_is_the_same(augmented: GTAAugmentedDataset, sequences: SequenceDataset) -> None:
    found = augmented.to_decision_transformer(CONTEXT, return_scale=1.0)
    assert all(torch.equal(found[7][name], values) for name, values in sequences[7].items())


def test_one_item_many_items_and_batches_agree(sequences: SequenceDataset) -> None:
    numbers = [5, len(sequences) - 1, 0, -1]
    batch, items = sequences[numbers], sequences.__getitems__(numbers)
    for place, number in enumerate(numbers):
        for name, values in sequences[number].items():
            assert torch.equal(batch[name][place], values)
            assert torch.equal(items[place][name], values)


@pytest.mark.parametrize("index", [10**6, -(10**6), [0, 10**6]])
def test_an_index_out_of_range_is_refused(sequences: SequenceDataset, index: Any) -> None:
    with pytest.raises(IndexError, match=r"no transition -?1000000"):
        sequences[index]


def test_iterating_ends(augmented: GTAAugmentedDataset) -> None:
    # torch's Dataset has no __iter__: Python counts up until an IndexError.
    assert sum(1 for _ in to_decision_transformer(augmented.source, 2)) == sum(LENGTHS)


def test_torchs_own_loader_sees_every_window_once(sequences: SequenceDataset) -> None:
    batches = list(DataLoader(sequences, batch_size=50, shuffle=True))
    found = torch.cat([batch["actions"][:, -1] for batch in batches])
    expected = sequences[np.arange(len(sequences))]["actions"][:, -1]
    assert torch.equal(found[found[:, 0].argsort()], expected[expected[:, 0].argsort()])


def test_discrete_actions_are_one_hot() -> None:
    from gymnasium import spaces

    dataset = make_dataset("dt/discrete-v0", action_space=spaces.Discrete(3, start=1))
    found = to_decision_transformer(dataset, 2)[np.arange(15)]["actions"][:, -1]
    chosen = np.concatenate([episode.actions for episode in dataset])
    np.testing.assert_array_equal(found, np.eye(3)[chosen - 1])


def drawn(sequences: SequenceDataset, **options: Any) -> np.ndarray:
    """Numbers of the transitions in batches of a loader, recognised by their actions, (batches, B)."""
    actions = sequences[np.arange(len(sequences))]["actions"][:, -1].numpy()
    number_of = {action.tobytes(): number for number, action in enumerate(actions)}
    assert len(number_of) == len(sequences)
    batches = [batch["actions"][:, -1].numpy() for batch in sequences.loader(**options)]
    return np.array([[number_of[action.tobytes()] for action in batch] for batch in batches])


@pytest.mark.parametrize("fraction", [0, 0.5, 1])
def test_the_share_of_real_windows_is_exact(
    augmented: GTAAugmentedDataset, sequences: SequenceDataset, fraction: float
) -> None:
    real = augmented.source.total_steps
    numbers = drawn(sequences, batch_size=10, num_batches=200, real_fraction=fraction)
    assert (((numbers < real).sum(axis=1)) == fraction * 10).all()
    if fraction == 1:
        assert set(numbers.ravel()) == set(range(real))


def test_by_length_every_transition_is_as_likely(sequences: SequenceDataset) -> None:
    numbers = drawn(sequences, batch_size=100, num_batches=200)
    counts = np.bincount(numbers.ravel(), minlength=len(sequences))
    expected = numbers.size / len(sequences)
    assert (abs(counts - expected) < 6 * np.sqrt(expected)).all()


def test_by_return_trajectories_are_drawn_in_proportion(
    augmented: GTAAugmentedDataset, sequences: SequenceDataset
) -> None:
    real = augmented.source.total_steps
    numbers = drawn(sequences, batch_size=100, num_batches=200, sample_by="return", real_fraction=1.0, seed=3).ravel()
    returns = np.array([episode.rewards.sum(dtype=np.float64) for episode in augmented.source])
    probability = (returns - returns.min()) / (returns - returns.min()).sum()
    episode = np.repeat(np.arange(len(LENGTHS)), LENGTHS)
    counts = np.bincount(numbers, minlength=real)
    expected = (probability / LENGTHS)[episode] * numbers.size
    assert (abs(counts - expected) <= 6 * np.sqrt(expected)).all()


def test_by_return_keeps_the_natural_share(augmented: GTAAugmentedDataset, sequences: SequenceDataset) -> None:
    real = augmented.source.total_steps
    numbers = drawn(sequences, batch_size=100, num_batches=200, sample_by="return").ravel()
    share = real / len(sequences)
    assert abs((numbers < real).mean() - share) < 6 * np.sqrt(share * (1 - share) / numbers.size)


def test_by_return_with_equal_returns_draws_all() -> None:
    dataset = edit_file(make_dataset("dt/equal-v0", lengths=(3, 3)), zero_rewards)
    sequences = to_decision_transformer(dataset, 2)
    assert set(drawn(sequences, batch_size=10, num_batches=20, sample_by="return").ravel()) == set(range(6))


def zero_rewards(file: Any) -> None:
    for episode in file.values():
        episode["rewards"][...] = 0


def test_a_seed_gives_the_same_batches_and_iterating_goes_on(sequences: SequenceDataset) -> None:
    first, second = (sequences.loader(8, num_batches=3, seed=5) for _ in range(2))
    assert len(first) == 3
    epochs = [list(first), list(first)]
    for epoch in epochs:
        for found, expected in zip(epoch, second, strict=True):
            assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert not torch.equal(epochs[0][0]["states"], epochs[1][0]["states"])


def test_a_schedule_counts_batches(augmented: GTAAugmentedDataset, sequences: SequenceDataset) -> None:
    real = augmented.source.total_steps
    numbers = drawn(sequences, batch_size=4, num_batches=5, real_fraction=lambda batch: batch / 4)
    assert (numbers < real).sum(axis=1).tolist() == [0, 1, 2, 3, 4]


def test_pickling_carries_no_arrays(sequences: SequenceDataset) -> None:
    copy = pickle.loads(pickle.dumps(sequences))
    numbers = np.arange(0, len(sequences), 7)
    for name, values in sequences[numbers].items():
        assert torch.equal(copy[numbers][name], values)
    assert len(pickle.dumps(sequences)) < 20_000


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_give_the_batches_of_one_process(sequences: SequenceDataset, method: str) -> None:
    """Fault 36: no duplicates, no deadlock, no handle that two processes share."""
    options: dict[str, Any] = {"batch_size": 16, "num_batches": 6, "real_fraction": 0.5}
    alone = list(sequences.loader(**options))
    shared = list(sequences.loader(**options, num_workers=2, multiprocessing_context=method))
    assert len(shared) == len(alone)
    for found, expected in zip(shared, alone, strict=True):
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    for first, second in itertools.combinations(shared, 2):
        assert not torch.equal(first["states"], second["states"])


def test_windows_follow_the_simulator() -> None:
    dataset = make_demo_dataset("dt/cheetah-v0", episodes=1)
    simulator = simulator_for(dataset.env_spec)
    assert simulator is not None
    found = to_decision_transformer(dataset, 3, normalize=False)[np.random.default_rng(0).integers(2, 1000, 100)]
    for step in range(2):
        truth = simulator.step(found["states"][:, step].numpy(), found["actions"][:, step].numpy())
        np.testing.assert_allclose(found["states"][:, step + 1], truth.next_observations, atol=1e-3)
        np.testing.assert_allclose(found["rewards"][:, step, 0], truth.rewards, atol=1e-3)


@pytest.mark.parametrize("endings", ["terminated", "truncated", "both", "none"])
def test_episodes_of_one_step(endings: Any) -> None:
    """Faults 22, 26 and 31: every window holds one step, whatever the flags."""
    dataset = make_dataset(f"dt/single-{endings}-v0", lengths=(1,) * 5, endings=endings)
    found = to_decision_transformer(dataset, 3, normalize=False)[np.arange(5)]
    assert found["attention_mask"].tolist() == [[0, 0, 1]] * 5
    np.testing.assert_array_equal(found["states"][:, -1], [episode.observations[0] for episode in dataset])
    np.testing.assert_array_equal(found["returns_to_go"][:, -1, 0], [episode.rewards[0] for episode in dataset])


def test_short_episodes_are_padded_and_never_joined() -> None:
    """Fault 21: episodes of every length up to the context."""
    dataset = make_dataset("dt/short-v0", lengths=range(1, 7), endings="none")
    found = to_decision_transformer(dataset, 6, normalize=False)
    last = np.cumsum(range(1, 7)) - 1
    for steps, (number, episode) in enumerate(zip(last, dataset, strict=True), start=1):
        window = found[int(number)]
        assert window["attention_mask"].sum() == steps
        np.testing.assert_array_equal(window["states"][-steps:], episode.observations[:-1])
        assert (window["states"][:-steps] == 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context_length": 0}, "context_length=0 is not allowed"),
        ({"context_length": 2.5}, "context_length=2.5 is not allowed"),
        ({"return_to_go": "asked"}, "return_to_go='asked' is not known; choose 'amplified' or 'source'"),
        ({"return_scale": 0.0}, "return_scale=0.0 is not allowed"),
        ({"return_scale": float("nan")}, "return_scale=nan is not allowed"),
    ],
)
def test_options_that_are_refused(augmented: GTAAugmentedDataset, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        to_decision_transformer(augmented, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0 is not allowed"),
        ({"num_batches": 0}, "num_batches=0 is not allowed"),
        ({"sample_by": "reward"}, "sample_by='reward' is not known; choose 'length' or 'return'"),
        ({"real_fraction": 1.5}, "real_fraction=1.5 is not allowed"),
    ],
)
def test_options_of_the_loader_that_are_refused(
    sequences: SequenceDataset, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        sequences.loader(**{"num_batches": 1, **options})


def test_what_is_not_a_dataset_is_refused() -> None:
    with pytest.raises(DatasetError, match=r"give a minari\.MinariDataset"):
        to_decision_transformer(np.zeros(3))


def test_an_empty_dataset_is_refused(augmented: GTAAugmentedDataset) -> None:
    nothing: minari.MinariDataset = augmented.filter_episodes(lambda episode: False)
    with pytest.raises(DatasetError, match="has no transitions"):
        to_decision_transformer(nothing)
