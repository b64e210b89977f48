"""The Stable-Baselines3 buffers against the dataset and against a buffer that is filled row by row."""

from __future__ import annotations

import pickle
from typing import Any

import gymnasium
import minari
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import DQN, PPO, SAC, TD3
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from gta_datasets import GTAAugmentedDataset
from gta_datasets.adapters import linear_schedule, pretrain, to_sb3
from gta_datasets.errors import ConfigError, DatasetError
from tests.builders import LINEAR_OBSERVATION_SPACE, linear_dataset, make_dataset
from tests.smoke import tiny

WIDE = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 1.0], np.float32))
GOAL = spaces.Dict(
    {
        "observation": spaces.Box(-1, 1, (4,), np.float64),
        "desired_goal": spaces.Box(-1, 1, (2, 2), np.float32),
        "phase": spaces.Discrete(3),
    }
)


class Idle(gymnasium.Env):
    """An environment with the given spaces, in which nothing ends."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 0.5, False, False, {}


@pytest.fixture(scope="module")
def augmented(tmp_path_factory: pytest.TempPathFactory) -> GTAAugmentedDataset:
    source = linear_dataset("to-sb3/linear-v0", lengths=(12, 5, 1, 9), terminated=(1, 2))
    return tiny(source, cache_dir=tmp_path_factory.mktemp("cache"))


def idle_of(dataset: minari.MinariDataset) -> Idle:
    return Idle(dataset.observation_space, dataset.action_space)


def added_row_by_row(dataset: minari.MinariDataset, n_envs: int = 1) -> ReplayBuffer:
    """SB3's own buffer after `add` of every transition in the dataset's order, `n_envs` at a time."""
    low, high = dataset.action_space.low, dataset.action_space.high
    rows = []
    for episode in dataset:
        for t in range(len(episode.rewards)):
            ended, last = bool(episode.terminations[t]), t == len(episode.rewards) - 1
            scaled = 2.0 * ((episode.actions[t] - low) / (high - low)) - 1.0
            info = {"TimeLimit.truncated": last and not ended}
            pair = episode.observations[t], episode.observations[t + 1]
            rows.append((*pair, scaled, episode.rewards[t], last, info))
    rows = rows[: len(rows) // n_envs * n_envs]
    buffer = ReplayBuffer(len(rows), dataset.observation_space, dataset.action_space, "cpu", n_envs)
    for start in range(0, len(rows), n_envs):
        *arrays, infos = zip(*rows[start : start + n_envs], strict=True)
        buffer.add(*map(np.array, arrays), list(infos))
    return buffer


@pytest.mark.parametrize("n_envs", [1, 3])
def test_a_copy_equals_what_adding_gives(n_envs: int) -> None:
    dataset = make_dataset(
        f"to-sb3/copy-{n_envs}-v0", action_space=WIDE, lengths=(5, 4, 3), endings=("terminated", "both", "truncated")
    )
    env = DummyVecEnv([lambda: idle_of(dataset)] * n_envs)
    ours, stock = to_sb3(dataset, env, copy=True, device="cpu"), added_row_by_row(dataset, n_envs)
    rows = 12 // n_envs
    assert type(ours) is ReplayBuffer
    assert (ours.pos, ours.full, stock.full) == (rows, False, True)
    for name in ("observations", "next_observations", "actions", "rewards", "dones", "timeouts"):
        array, expected = getattr(ours, name), getattr(stock, name)
        assert array.dtype == expected.dtype
        np.testing.assert_array_equal(array[:rows], expected, err_msg=name)


def test_a_copy_made_in_pieces_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    odd = spaces.Box(np.array([-0.3, -1.0, 0.1], np.float32), np.array([0.7, 1.0, 0.9], np.float32))
    dataset = make_dataset("to-sb3/pieces-v0", action_space=odd, lengths=(7, 6, 8))
    monkeypatch.setattr("gta_datasets.adapters.sb3_buffers.CHUNK", 4)
    ours, stock = to_sb3(dataset, copy=True, device="cpu"), added_row_by_row(dataset)
    for name in ("observations", "next_observations", "actions", "rewards", "dones", "timeouts"):
        np.testing.assert_array_equal(getattr(ours, name)[:21], getattr(stock, name), err_msg=name)


def test_a_copy_says_what_does_not_fill_a_row() -> None:
    dataset = make_dataset("to-sb3/rest-v0", lengths=(5, 3))
    env = DummyVecEnv([lambda: idle_of(dataset)] * 3)
    with pytest.warns(UserWarning, match="leaves out the last 2 of the 8 transitions"):
        assert to_sb3(dataset, env, copy=True).pos == 2
    assert to_sb3(dataset, env).size() == 8


def test_samples_are_transitions_of_the_dataset(augmented: GTAAugmentedDataset) -> None:
    stock = added_row_by_row(augmented)
    known = {stock.observations[row, 0].tobytes(): row for row in range(stock.buffer_size)}
    batch = to_sb3(augmented, device="cpu").sample(500)
    seen = set()
    for k in range(500):
        row = known[batch.observations[k].numpy().tobytes()]
        seen.add(row)
        np.testing.assert_array_equal(batch.next_observations[k], stock.next_observations[row, 0])
        np.testing.assert_array_equal(batch.actions[k], stock.actions[row, 0])
        assert batch.rewards[k, 0] == stock.rewards[row, 0]
        assert batch.dones[k, 0] == stock.dones[row, 0] * (1 - stock.timeouts[row, 0])
    assert len(seen) > 0.9 * stock.buffer_size
    assert batch.dones.dtype == batch.rewards.dtype


@pytest.mark.parametrize("copy", [False, True])
def test_dict_observations_keep_their_parts(copy: bool) -> None:
    dataset = make_dataset(f"to-sb3/goal-{copy}-v0", observation_space=GOAL, lengths=(4,))
    buffer = to_sb3(dataset, device="cpu", copy=copy)
    assert isinstance(buffer, DictReplayBuffer)
    batch, episode = buffer.sample(60), dataset[0]
    for k in range(60):
        places = np.flatnonzero(
            (episode.observations["observation"] == batch.observations["observation"][k].numpy()).all(1)
        )
        (t,) = places
        for key in GOAL:
            expected = np.asarray(episode.observations[key][t + 1]).reshape(batch.next_observations[key][k].shape)
            np.testing.assert_array_equal(batch.next_observations[key][k], expected)


def test_discrete_actions_are_indices() -> None:
    dataset = make_dataset("to-sb3/discrete-v0", action_space=spaces.Discrete(4), lengths=(9,))
    actions = to_sb3(dataset, device="cpu").sample(200).actions
    assert actions.shape == (200, 1)
    assert set(actions[:, 0].tolist()) == set(dataset[0].actions.tolist())


def test_pretraining_moves_the_target_network_as_learning_does() -> None:
    """Every 8 steps of the environment, of which there are 4 for an update."""
    dataset = make_dataset("to-sb3/target-v0", action_space=spaces.Discrete(3), lengths=(20,))
    rhythm = {"train_freq": 4, "target_update_interval": 8, "batch_size": 8, "buffer_size": 50}
    model = DQN("MlpPolicy", idle_of(dataset), policy_kwargs={"net_arch": [8]}, device="cpu", **rhythm)
    for update in range(1, 5):
        pretrain(model, dataset, 1, progress=False)
        pairs = zip(model.q_net.parameters(), model.q_net_target.parameters(), strict=True)
        assert all(bool((online == target).all()) for online, target in pairs) == (update % 2 == 0)
    assert not model._custom_logger  # learn() sets up its own


@pytest.mark.parametrize("fraction", [0.0, 0.5, 1.0])
def test_the_share_of_real_data_is_exact(augmented: GTAAugmentedDataset, fraction: float) -> None:
    buffer = augmented.to_sb3(real_fraction=fraction, device="cpu")
    real = {row.tobytes() for episode in augmented.source for row in episode.observations}
    seen = set()
    for _ in range(30):
        rows = [row.numpy().tobytes() for row in buffer.sample(16).observations]
        assert sum(row in real for row in rows) == 16 * fraction
        seen.update(rows)
    if fraction == 1:
        assert len(seen) == augmented.source.total_steps


def test_what_is_added_joins_the_real_data(augmented: GTAAugmentedDataset) -> None:
    buffer = augmented.to_sb3(real_fraction=linear_schedule(0.5, 0.5, 1), device="cpu", buffer_size=6)
    new = np.full((1, 3), 7.0, np.float32)
    for _ in range(8):
        buffer.add(new, new, np.zeros((1, 2), np.float32), np.ones(1), np.zeros(1), [{}])
    assert (buffer.full, buffer.pos) == (True, 2)
    assert buffer.size() == augmented.total_steps + 6
    generated = {row.tobytes() for episode in augmented.generated for row in episode.observations}
    added = 0
    for _ in range(200):
        batch = buffer.sample(8).observations.numpy()
        assert sum(row.tobytes() in generated for row in batch) == 4
        added += int((batch == 7).all(axis=1).sum())
    assert added / 800 == pytest.approx(6 / (27 + 6), abs=0.05)
    carried = pickle.loads(pickle.dumps(buffer))
    assert carried.size() == buffer.size()
    np.testing.assert_array_equal(carried.observations, buffer.observations)
    assert (carried.sample(50).observations == 7).any()
    buffer.reset()
    assert buffer.size() == augmented.total_steps


def test_half_of_every_batch_may_be_what_was_added(augmented: GTAAugmentedDataset) -> None:
    buffer = augmented.to_sb3(online_fraction=0.5, device="cpu", buffer_size=6)
    buffer.add(*(np.full((1, size), 0.7, np.float32) for size in (3, 3, 2)), np.ones(1), np.zeros(1), [{}])
    for _ in range(5):
        assert (buffer.sample(8).observations.numpy() == np.float32(0.7)).all(axis=1).sum() == 4


def test_what_is_added_counts_as_of_average_weight(augmented: GTAAugmentedDataset) -> None:
    weights = np.zeros(augmented.total_steps)
    weights[:2] = 1.0, 3.0
    buffer = augmented.to_sb3(weights=weights, device="cpu", buffer_size=10)
    new = np.full((1, 3), 7.0, np.float32)
    for _ in range(10):
        buffer.add(new, new, np.zeros((1, 2), np.float32), np.ones(1), np.zeros(1), [{}])
    of_added = 10 * weights.mean()
    found = (buffer.sample(20_000).observations == 7).all(dim=1).float().mean()
    assert float(found) == pytest.approx(of_added / (of_added + 4), abs=0.02)


@pytest.mark.parametrize("room", [30, 12])
def test_several_environments_add_dict_observations(room: int) -> None:
    dataset = make_dataset(f"to-sb3/several-{room}-v0", observation_space=GOAL, action_space=WIDE, lengths=(4, 3))
    env = DummyVecEnv([lambda: idle_of(dataset)] * 3)
    model = SAC("MultiInputPolicy", env, learning_starts=0, batch_size=8, buffer_size=room, device="cpu")
    pretrain(model, dataset, 2, progress=False)
    model.learn(24)
    buffer, added = model.replay_buffer, min(24, room)
    assert (buffer.full, buffer.size()) == (room == 12, 7 + added)
    batch, of_dataset = buffer._get_samples(np.arange(7, 7 + added)), buffer._get_samples(np.array([0, 3]))
    for key in GOAL:
        expected = buffer.observations[key][: added // 3].reshape(batch.observations[key].shape)
        np.testing.assert_array_equal(batch.observations[key], expected)
    mixed = buffer._get_samples(np.array([7, 0, 8, 3]))  # in the order asked for
    np.testing.assert_array_equal(mixed.actions[[0, 2]], batch.actions[:2])
    np.testing.assert_array_equal(mixed.rewards[[1, 3]], of_dataset.rewards)


def test_normalisation_is_the_environments(augmented: GTAAugmentedDataset) -> None:
    env = VecNormalize(DummyVecEnv([lambda: idle_of(augmented)]))
    env.obs_rms.mean, env.obs_rms.var, env.ret_rms.var = np.full(3, 0.5), np.full(3, 4.0), np.float64(9.0)
    raw, seen = (augmented.to_sb3(seed=5, device="cpu").sample(20, env=given) for given in (None, env))
    np.testing.assert_allclose(seen.observations, (raw.observations - 0.5) / 2, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(seen.next_observations, (raw.next_observations - 0.5) / 2, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(seen.rewards, raw.rewards / 3, rtol=1e-4, atol=1e-4)


def test_terminal_only_and_cut_episodes() -> None:
    dataset = make_dataset("to-sb3/flags-v0", lengths=(1, 1, 3, 3), endings=("terminated", "both", "none", "truncated"))
    batch = to_sb3(dataset, device="cpu").sample(300)
    after = {e.observations[t].tobytes(): (e, t) for e in dataset for t in range(len(e.rewards))}
    for k in range(300):
        episode, t = after[batch.observations[k].numpy().tobytes()]
        np.testing.assert_array_equal(batch.next_observations[k], episode.observations[t + 1])
        assert batch.dones[k, 0] == float(len(episode.rewards) == 1)


@pytest.mark.parametrize(
    ("observation_space", "action_space", "message"),
    [
        (LINEAR_OBSERVATION_SPACE, spaces.MultiDiscrete([2, 2]), "only Box and Discrete ones"),
        (LINEAR_OBSERVATION_SPACE, spaces.MultiBinary(2), "only Box and Discrete ones"),
        (LINEAR_OBSERVATION_SPACE, spaces.Box(-np.inf, np.inf, (2,)), "bounds that are finite"),
        (LINEAR_OBSERVATION_SPACE, spaces.Discrete(3, start=1), "counts from 0"),
        (spaces.Dict({"a": spaces.Dict({"b": LINEAR_OBSERVATION_SPACE})}), WIDE, "nested observations under 'a'"),
        (spaces.Tuple([LINEAR_OBSERVATION_SPACE, LINEAR_OBSERVATION_SPACE]), WIDE, "observations in a Tuple"),
    ],
)
def test_spaces_that_sb3_lacks_are_refused(
    observation_space: spaces.Space, action_space: spaces.Space, message: str, request: pytest.FixtureRequest
) -> None:
    number = request.node.callspec.indices["observation_space"]
    dataset = make_dataset(f"to-sb3/lack{number}-v0", observation_space=observation_space, action_space=action_space)
    with pytest.raises(ConfigError, match=message):
        to_sb3(dataset)


def test_an_environment_with_other_spaces_is_refused(augmented: GTAAugmentedDataset) -> None:
    other_actions = Idle(augmented.observation_space, spaces.Box(-1.0, 2.0, (2,)))
    with pytest.raises(ConfigError, match=r"action space has the bounds \[-1.0, 2.0\] in element 0 instead of"):
        augmented.to_sb3(other_actions)
    with pytest.raises(ConfigError, match=r"the observation space is Discrete.*recover_environment\(\)\), or None$"):
        augmented.to_sb3(Idle(spaces.Discrete(3), augmented.action_space))
    with pytest.raises(ConfigError, match=r"env is of type str.*, or None$"):
        augmented.to_sb3("HalfCheetah-v5")


def test_options_that_make_no_sense_are_refused(augmented: GTAAugmentedDataset) -> None:
    for options in ({"real_fraction": 0.5}, {"weights": np.ones(augmented.total_steps)}, {"online_fraction": 0.5}):
        with pytest.raises(ConfigError, match="need copy=False"):
            augmented.to_sb3(copy=True, **options)
    with pytest.raises(ConfigError, match="buffer_size=0"):
        augmented.to_sb3(buffer_size=0)
    with pytest.raises(TypeError, match="ratio"):
        augmented.to_sb3(ratio=0.5)
    with pytest.raises(DatasetError, match=r"minari\.MinariDataset"):
        to_sb3("to-sb3/linear-v0")


def test_models_that_cannot_learn_from_recorded_data_are_refused(augmented: GTAAugmentedDataset) -> None:
    env, small = idle_of(augmented), {"policy_kwargs": {"net_arch": [4]}, "device": "cpu"}
    with pytest.raises(ConfigError, match="model of type PPO"):
        pretrain(PPO("MlpPolicy", env, n_steps=8, batch_size=8, **small), augmented, 1)
    with pytest.raises(ConfigError, match="n_steps > 1"):
        pretrain(TD3("MlpPolicy", env, n_steps=3, buffer_size=10, **small), augmented, 1)
    with pytest.raises(ConfigError, match="gradient_steps=0"):
        pretrain(TD3("MlpPolicy", env, buffer_size=10, **small), augmented, 0)
    other = Idle(LINEAR_OBSERVATION_SPACE, spaces.Discrete(2))
    with pytest.raises(ConfigError, match="the environment does not fit"):
        pretrain(DQN("MlpPolicy", other, buffer_size=10, **small), augmented, 1)
    ours = TD3("MlpPolicy", env, buffer_size=10, batch_size=4, **small)
    pretrain(ours, augmented, 1, progress=False)
    with pytest.raises(ConfigError, match="already has a buffer of this dataset, which seed cannot change"):
        pretrain(ours, augmented, 1, seed=3)
    for wrong in (0, True, 2.0):
        with pytest.raises(ConfigError, match=f"batch_size={wrong} is not allowed"):
            pretrain(ours, augmented, 1, batch_size=wrong)
        with pytest.raises(ConfigError, match=f"gradient_steps={wrong} is not allowed"):
            pretrain(ours, augmented, wrong)
    assert pretrain(ours, augmented, np.int64(1), batch_size=np.int64(2), progress=False) is ours
    used = TD3("MlpPolicy", env, buffer_size=10, **small)
    used.replay_buffer.add(*(np.zeros((1, 3)),) * 2, np.zeros((1, 2)), np.zeros(1), np.zeros(1), [{}])
    with pytest.raises(ConfigError, match="holds 1 transitions"):
        pretrain(used, augmented, 1)
