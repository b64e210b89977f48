"""TorchRL's view of a dataset, compared with Minari's episodes and with roll-outs of TorchRL's own `GymWrapper`."""

from __future__ import annotations

import collections
import importlib
import pickle
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import Space, spaces
from tensordict import MemoryMappedTensor, TensorDict

from gta_datasets import GTAAugmentedDataset
from gta_datasets.adapters import to_tensordict, to_torchrl
from gta_datasets.errors import CacheError, ConfigError, DatasetError, MissingExtraError, UnsupportedSpaceError
from tests.builders import linear_dataset, make_dataset
from tests.smoke import run_script, tiny

LENGTHS = (20, 12, 25, 9, 20, 17)
OURS = ("episode", "generated")  # entries that a roll-out of GymWrapper does not have


@pytest.fixture(scope="module")
def augmented() -> GTAAugmentedDataset:
    return tiny(linear_dataset("torchrl/linear-v0", lengths=LENGTHS, terminated=(1, 3)))


def expected(dataset: Any) -> dict[Any, np.ndarray]:
    """What a plain loop over Minari's episodes gives for a dataset of Boxes."""
    rows: dict[Any, list[np.ndarray]] = collections.defaultdict(list)
    for number, episode in enumerate(dataset):
        steps = len(episode)
        last = np.arange(steps) == steps - 1
        terminated = last & episode.terminations[-1]
        rows["observation"].append(episode.observations[:-1])
        rows["action"].append(episode.actions)
        rows["episode"].append(np.full(steps, number))
        rows["next", "observation"].append(episode.observations[1:])
        rows["next", "reward"].append(episode.rewards.astype(np.float32)[:, None])
        rows["next", "terminated"].append(terminated[:, None])
        rows["next", "truncated"].append((last & ~terminated)[:, None])
        rows["next", "done"].append(last[:, None])
        for name in ("done", "terminated", "truncated"):
            rows[name].append(np.zeros((steps, 1), bool))
    return {name: np.concatenate(parts) for name, parts in rows.items()}


def assert_content(found: TensorDict, wanted: dict[Any, np.ndarray]) -> None:
    assert set(found.keys(True, True)) - {"generated"} == set(wanted)
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name], values, err_msg=str(name))


def test_the_buffer_holds_the_episodes(augmented: GTAAugmentedDataset) -> None:
    buffer = to_torchrl(augmented)
    assert len(buffer) == augmented.total_steps
    assert_content(buffer[:], expected(augmented))
    generated = buffer[:]["generated"]
    assert generated.tolist() == [n >= augmented.source.total_steps for n in range(len(buffer))]


def test_a_sample_is_what_lies_at_its_index(augmented: GTAAugmentedDataset) -> None:
    buffer, wanted = to_torchrl(augmented, batch_size=33), expected(augmented)
    for _ in range(5):
        sample = buffer.sample()
        assert sample.batch_size == (33,)
        numbers = sample.pop("index").numpy()
        assert_content(sample, {name: values[numbers] for name, values in wanted.items()})


def test_the_method_of_the_dataset_is_the_same(augmented: GTAAugmentedDataset) -> None:
    first, second = augmented.to_torchrl(seed=3).sample(), to_torchrl(augmented, seed=3).sample()
    assert (first == second).all()


def test_a_plain_dataset_works(augmented: GTAAugmentedDataset) -> None:
    found = to_torchrl(augmented.source)[:]
    assert_content(found, expected(augmented.source))
    assert not found["generated"].any()


@pytest.mark.parametrize(
    "index",
    [
        slice(3, 40, 5),
        [2, -1, 7],
        torch.tensor([5, 1]),
        np.array([4, 4]),
        torch.tensor([[1, 2], [3, 4]]),
        range(3),
        [],
    ],
    ids=str,
)
def test_indexing(augmented: GTAAugmentedDataset, index: Any) -> None:
    buffer = to_torchrl(augmented)
    everything = to_tensordict(augmented)
    found, wanted = buffer[index], everything[list(index) if isinstance(index, range) else index]
    assert found.batch_size == wanted.batch_size
    assert (found == wanted).all()


def test_indexing_by_number_mask_and_key(augmented: GTAAugmentedDataset) -> None:
    buffer, everything = to_torchrl(augmented), to_tensordict(augmented)
    assert buffer[9].batch_size == ()
    assert (buffer[9] == everything[9]).all()
    mask = everything["next", "done"][:, 0]
    assert (buffer[mask] == everything[mask]).all()
    assert torch.equal(buffer["next", "reward"], everything["next", "reward"])


@pytest.mark.parametrize("index", [10**6, [0, -(10**6)], [0.5], torch.zeros(3, dtype=torch.bool)], ids=str)
def test_an_index_that_picks_nothing_is_refused(augmented: GTAAugmentedDataset, index: Any) -> None:
    with pytest.raises(IndexError):
        to_torchrl(augmented)[index]


class Anything(gymnasium.Env[Any, Any]):
    """An environment of the given spaces."""

    def __init__(self, observation_space: Space[Any], action_space: Space[Any]) -> None:
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 1.0, False, False, {}


def box(*shape: int, dtype: Any = np.float64) -> spaces.Box:
    return spaces.Box(-1, 1, shape, dtype)


SPACES: dict[str, tuple[Space[Any], Space[Any]]] = {
    "box": (box(3), box(2, dtype=np.float32)),
    "matrix": (box(2, 3), box()),
    "goal": (spaces.Dict(observation=box(2), desired_goal=box(1), achieved_goal=box(1)), box(2)),
    "nested": (spaces.Dict(a=box(2), n=spaces.Dict(x=spaces.Discrete(3), y=box())), box(2)),
    "state": (spaces.Dict(state=box(2), other=box(1)), box(2)),
    "discrete": (spaces.Discrete(4), spaces.Discrete(3, start=1)),
    "integers": (spaces.Box(0, 9, (3,), np.int32), spaces.MultiBinary(3)),
    "choices": (box(2), spaces.MultiDiscrete([2, 3])),
    "equal-choices": (box(2), spaces.MultiDiscrete([3, 3])),
    "dict-actions": (box(2), spaces.Dict(u=box(2), v=spaces.Discrete(2))),
}


@pytest.mark.parametrize("name", SPACES)
def test_the_layout_is_that_of_a_roll_out(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # gym, which TorchRL imports where it is installed, warns of NumPy 2
        from torchrl.envs import GymWrapper

        rollout = GymWrapper(Anything(*SPACES[name])).rollout(5)
    observation_space, action_space = SPACES[name]
    dataset = make_dataset(f"torchrl/{name}-v0", observation_space=observation_space, action_space=action_space)
    found = to_torchrl(dataset)[:5].exclude(*OURS)
    assert described(found) == described(rollout)


def described(content: TensorDict) -> dict[Any, tuple[torch.Size, torch.dtype]]:
    return {name: (values.shape, values.dtype) for name, values in content.items(True, True)}


def test_values_of_mixed_spaces_come_back() -> None:
    observation_space = spaces.Dict(
        a=spaces.Discrete(3, start=-1),
        b=spaces.Tuple((box(2), spaces.MultiDiscrete([2, 4]))),
        c=spaces.Box(-(2**40), 2**40, (2,), np.int64),
    )
    dataset = make_dataset(
        "torchrl/mixed-v0", observation_space=observation_space, action_space=spaces.MultiDiscrete([3, 3])
    )
    found, episodes = to_torchrl(dataset)[:], list(dataset)
    for prefix, steps in (((), slice(None, -1)), (("next",), slice(1, None))):
        a, b0, b1, c = (
            np.concatenate(parts)
            for parts in zip(
                *(
                    (o["a"][steps], o["b"][0][steps], o["b"][1][steps], o["c"][steps])
                    for o in (episode.observations for episode in episodes)
                ),
                strict=True,
            )
        )
        np.testing.assert_array_equal(found[(*prefix, "a")], np.eye(3, dtype=int)[a + 1])
        np.testing.assert_array_equal(found[(*prefix, "b", "0")], b0)
        np.testing.assert_array_equal(found[(*prefix, "b", "1")].numpy().nonzero()[1].reshape(-1, 2) - [0, 2], b1)
        np.testing.assert_array_equal(found[(*prefix, "c")], c)
    np.testing.assert_array_equal(
        found["action"], np.eye(3, dtype=int)[np.concatenate([episode.actions for episode in episodes])]
    )


@pytest.mark.parametrize("key", ["next", "reward", "action", "episode"])
def test_a_key_with_another_meaning_is_refused(key: str) -> None:
    dataset = make_dataset(f"torchrl/clash-{key}-v0", observation_space=spaces.Dict({key: box(1), "fine": box(1)}))
    with pytest.raises(UnsupportedSpaceError, match=f"the key '{key}' .* rebuild the dataset"):
        to_torchrl(dataset)


@pytest.mark.parametrize("ending", ["terminated", "truncated", "both", "none"])
@pytest.mark.parametrize("lengths", [(1,) * 6, (3, 1, 4)], ids=["single", "longer"])
def test_flags_and_next_observations(ending: Any, lengths: tuple[int, ...]) -> None:
    """Faults 21, 22, 26 and 31: terminated wins, and nothing comes from the next episode."""
    dataset = make_dataset(f"torchrl/{ending}-{len(lengths)}-v0", lengths=lengths, endings=ending)
    found = to_torchrl(dataset)[:]
    last = np.cumsum(lengths) - 1
    done = np.isin(np.arange(sum(lengths)), last)
    terminates = ending in ("terminated", "both")
    np.testing.assert_array_equal(found["next", "done"][:, 0], done)
    np.testing.assert_array_equal(found["next", "terminated"][:, 0], done & terminates)
    np.testing.assert_array_equal(found["next", "truncated"][:, 0], done & (not terminates))
    np.testing.assert_array_equal(
        found["next", "observation"], np.concatenate([episode.observations[1:] for episode in dataset])
    )


@pytest.mark.parametrize("fraction", [0, 0.5, 1])
def test_the_share_of_real_data_is_exact(augmented: GTAAugmentedDataset, fraction: float) -> None:
    buffer = to_torchrl(augmented, batch_size=10, real_fraction=fraction)
    seen: set[int] = set()
    for _ in range(200):
        sample = buffer.sample()
        assert int((~sample["generated"]).sum()) == fraction * 10
        seen |= set(sample["index"].tolist())
    if fraction == 1:
        assert seen == set(range(augmented.source.total_steps))


def test_weights(augmented: GTAAugmentedDataset) -> None:
    weights = np.zeros(augmented.total_steps)
    weights[[3, 50]] = 1, 3
    found = to_torchrl(augmented, batch_size=None, weights=weights).sample(4000)["index"].numpy()
    assert set(found) == {3, 50}
    assert abs((found == 50).mean() - 0.75) < 0.05


def test_a_seed_gives_the_same_samples(augmented: GTAAugmentedDataset) -> None:
    first, second, other = (to_torchrl(augmented, seed=seed).sample()["index"] for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_writing_is_refused(augmented: GTAAugmentedDataset) -> None:
    buffer = to_torchrl(augmented, batch_size=4)
    sample = buffer.sample()
    for write in (
        lambda: buffer.add(sample[0]),
        lambda: buffer.extend(sample),
        lambda: buffer.__setitem__(0, sample[0]),
        buffer.empty,
    ):
        with pytest.raises(RuntimeError, match="view on a dataset and cannot be written to; make a TorchRL buffer"):
            write()


def test_changing_a_sample_changes_no_data(augmented: GTAAugmentedDataset) -> None:
    buffer = to_torchrl(augmented)
    before = buffer[:]
    buffer[:].apply_(lambda tensor: tensor.zero_())
    assert (buffer[:] == before).all()


def test_transforms_and_prefetching(augmented: GTAAugmentedDataset) -> None:
    from torchrl.data import TensorDictReplayBuffer
    from torchrl.envs.transforms import RewardScaling

    plain = to_torchrl(augmented)
    buffer = TensorDictReplayBuffer(
        storage=plain.storage,
        sampler=plain.sampler,
        writer=plain.writer,
        collate_fn=lambda batch: batch,
        batch_size=8,
        prefetch=2,
        transform=RewardScaling(loc=0.0, scale=2.0, in_keys=[("next", "reward")]),
    )
    for sample in (buffer.sample() for _ in range(5)):
        torch.testing.assert_close(sample["next", "reward"], plain[sample["index"]]["next", "reward"] * 2)


def test_a_buffer_can_be_pickled_and_saved(augmented: GTAAugmentedDataset, tmp_path: Path) -> None:
    buffer = to_torchrl(augmented)
    content = pickle.dumps(buffer)
    assert len(content) < 20_000
    assert (pickle.loads(content)[:] == buffer[:]).all()
    buffer.dumps(tmp_path)
    buffer.loads(tmp_path)
    buffer.load_state_dict(buffer.state_dict())
    assert len(buffer) == augmented.total_steps


def test_device(augmented: GTAAugmentedDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    assert to_torchrl(augmented).sample().device == torch.device("cpu")
    assert to_torchrl(augmented, device=None).sample().device is None
    # On "meta" nothing can be computed, so it would be refused.
    monkeypatch.setattr("gta_datasets.adapters.torchrl.torch_device", torch.device)
    assert to_torchrl(augmented, device="meta").sample()["observation"].device.type == "meta"


@pytest.mark.parametrize("chunk", [7, 10**6])
@pytest.mark.parametrize("on_disk", [True, False])
def test_a_tensordict_of_everything(
    augmented: GTAAugmentedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, on_disk: bool
) -> None:
    monkeypatch.setattr("gta_datasets.adapters.torchrl.CHUNK", chunk)
    folder = tmp_path / "new" / "data"
    found = to_tensordict(augmented, folder if on_disk else None)
    assert all(isinstance(tensor, MemoryMappedTensor) == on_disk for tensor in found.values(True, True))
    assert_content(found, expected(augmented))
    if on_disk:
        assert (TensorDict.load_memmap(folder) == found).all()
        assert [path.name for path in folder.parent.iterdir()] == ["data"]


def test_a_folder_that_exists_is_refused(augmented: GTAAugmentedDataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"exists; choose a new one, or open it with TensorDict\.load_memmap"):
        to_tensordict(augmented, tmp_path)


def test_a_failure_leaves_no_folder(
    augmented: GTAAugmentedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gta_datasets.adapters.torchrl._fill", fail)
    with pytest.raises(KeyboardInterrupt):
        to_tensordict(augmented, tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_noticed_before_writing(
    augmented: GTAAugmentedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(CacheError, match="bytes and 1,000 are free there; choose another folder"):
        to_tensordict(augmented, tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0 is not allowed"),
        ({"real_fraction": -1}, "real_fraction=-1 is not allowed"),
        ({"weights": [1.0]}, "weights have shape"),
    ],
)
def test_options_that_are_refused(augmented: GTAAugmentedDataset, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        to_torchrl(augmented, **options)


def test_what_is_not_a_dataset_is_refused() -> None:
    with pytest.raises(DatasetError, match=r"give a minari\.MinariDataset"):
        to_torchrl(np.zeros(3))


def test_torchrl_is_imported_when_it_is_needed() -> None:
    run_script("import sys, gta_datasets.adapters; assert not {'torchrl', 'tensordict'} & sys.modules.keys()")


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchrl.data.replay_buffers", None)
    monkeypatch.delitem(sys.modules, "gta_datasets.adapters.torchrl")
    with pytest.raises(MissingExtraError, match=r"torchrl, which is not installed: .*gta-datasets\[torchrl\]"):
        importlib.import_module("gta_datasets.adapters.torchrl")
