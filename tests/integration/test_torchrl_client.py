"""TorchRL's losses, samplers and environments work with an augmented dataset."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn

from gta_datasets import GTAAugmentedDataset
from gta_datasets.adapters import to_tensordict, to_torchrl
from gta_datasets.demo import make_demo_dataset
from gta_datasets.simulator import simulator_for
from tests.builders import linear_dataset, make_dataset
from tests.smoke import tiny

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # gym, which TorchRL imports where it is installed, warns of NumPy 2
    from torchrl.data import LazyTensorStorage, ReplayBufferEnsemble, TensorDictReplayBuffer, TensorStorage
    from torchrl.data.replay_buffers import SliceSampler
    from torchrl.envs import GymEnv
    from torchrl.envs.transforms import DoubleToFloat
    from torchrl.modules import MLP, ProbabilisticActor, QValueActor, TanhNormal, ValueOperator
    from torchrl.objectives import DQNLoss, IQLLoss, SoftUpdate, TD3Loss

ENV = "HalfCheetah-v5"


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> GTAAugmentedDataset:
    source = linear_dataset("torchrl-clients/linear-v0", terminated=(1, 3))
    return tiny(source, cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def cheetah(tmp_path_factory: pytest.TempPathFactory) -> GTAAugmentedDataset:
    source = make_demo_dataset("torchrl-clients/cheetah-v0", episodes=1)
    return tiny(source, cache_dir=tmp_path_factory.mktemp("cache"))


def mlp(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 16), nn.ReLU(), nn.Linear(16, outputs))


def action_value(observation_size: int, action_size: int) -> ValueOperator:
    net = MLP(in_features=observation_size + action_size, out_features=1, num_cells=[16])  # joins its inputs
    return ValueOperator(net, in_keys=["observation", "action"])


def train(loss: Any, buffer: Any, updates: int = 100) -> list[float]:
    """Sum of the losses of every update."""
    optimizer = torch.optim.Adam(loss.parameters(), 1e-3)
    targets = SoftUpdate(loss, eps=0.99)
    found = []
    for _ in range(updates):
        losses = loss(buffer.sample())
        total = sum(value for name, value in losses.items() if name.startswith("loss"))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        targets.step()
        found.append(float(total.detach()))
    return found


def td3() -> Any:
    actor = TensorDictModule(nn.Sequential(mlp(3, 2), nn.Tanh()), in_keys=["observation"], out_keys=["action"])
    return TD3Loss(actor, action_value(3, 2), bounds=(-1.0, 1.0))


def iql() -> Any:
    class Policy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(3, 4)

        def forward(self, observation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            location, scale = self.net(observation).chunk(2, dim=-1)
            return location, scale.exp()

    actor = ProbabilisticActor(
        TensorDictModule(Policy(), in_keys=["observation"], out_keys=["loc", "scale"]),
        in_keys=["loc", "scale"],
        distribution_class=TanhNormal,
    )
    return IQLLoss(actor, action_value(3, 2), ValueOperator(mlp(3, 1), in_keys=["observation"]))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("make_loss", [td3, iql])
def test_continuous_control_trains(linear: GTAAugmentedDataset, make_loss: Any) -> None:
    torch.manual_seed(0)
    losses = train(make_loss(), to_torchrl(linear, batch_size=32, real_fraction=0.5))
    assert np.isfinite(losses).all()
    assert len(set(losses)) > 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_discrete_control_trains() -> None:
    torch.manual_seed(0)
    dataset = make_dataset("torchrl-clients/discrete-v0", action_space=spaces.Discrete(3), endings="terminated")
    actor = QValueActor(mlp(3, 3), in_keys=["observation"], action_space="one_hot")
    losses = train(DQNLoss(actor, action_space="one_hot"), to_torchrl(dataset, batch_size=32))
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]


def test_real_transitions_are_those_of_the_simulator(cheetah: GTAAugmentedDataset) -> None:
    sample = to_torchrl(cheetah, batch_size=64, real_fraction=1.0).sample()
    simulator = simulator_for(ENV)
    assert simulator is not None
    steps = simulator.step(sample["observation"].numpy(), sample["action"].numpy())
    np.testing.assert_allclose(sample["next", "observation"], steps.next_observations, atol=1e-6)
    np.testing.assert_allclose(sample["next", "reward"][:, 0], steps.rewards, atol=1e-6)
    np.testing.assert_array_equal(sample["next", "terminated"][:, 0], steps.terminations)


def test_samples_look_like_the_environments(cheetah: GTAAugmentedDataset) -> None:
    rollout = GymEnv(ENV).rollout(8)
    sample = to_torchrl(cheetah, batch_size=8).sample().exclude("index", "episode", "generated")
    assert {name: (value.shape, value.dtype) for name, value in sample.items(True, True)} == {
        name: (value.shape, value.dtype) for name, value in rollout.items(True, True)
    }


def test_a_transform_makes_float32(cheetah: GTAAugmentedDataset) -> None:
    buffer = to_torchrl(cheetah)
    buffer.append_transform(DoubleToFloat(in_keys=["observation", ("next", "observation")]))
    sample = buffer.sample()
    assert sample["observation"].dtype == sample["next", "observation"].dtype == torch.float32


def test_slices_of_trajectories(linear: GTAAugmentedDataset, tmp_path: Any) -> None:
    content = to_tensordict(linear, tmp_path / "data")
    buffer = TensorDictReplayBuffer(
        storage=TensorStorage(content), sampler=SliceSampler(slice_len=4, traj_key="episode"), batch_size=32
    )
    for _ in range(20):
        slices = buffer.sample().reshape(-1, 4)
        assert (slices["episode"] == slices["episode"][:, :1]).all()
        assert torch.equal(slices["next", "observation"][:, :-1], slices["observation"][:, 1:])


def test_going_on_online(linear: GTAAugmentedDataset) -> None:
    """What the error of a write to the buffer suggests."""
    offline = to_torchrl(linear, batch_size=None)
    online = TensorDictReplayBuffer(storage=LazyTensorStorage(100))
    fresh: TensorDict = offline[:10].exclude("episode", "generated")
    online.extend(fresh)
    both = ReplayBufferEnsemble(offline, online, batch_size=16)
    assert both.sample()["observation"].shape == (2, 8, 3)
