"""Observations in a Dict or Tuple, which the environment gives flat."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.wrappers import FilterObservation, FlattenObservation, TimeLimit
from minari.data_collector.episode_buffer import EpisodeBuffer
from stable_baselines3 import SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from gta_datasets.data.spaces import SpaceCodec
from gta_datasets.errors import ConfigError
from gta_datasets.online import ATraDiffReplayBuffer
from tests.builders import stack, write_buffers
from tests.online.test_buffer import same
from tests.online.worlds import ACTIONS, OBSERVATIONS, QUICK, Line, line_dataset

PART = spaces.Box(-np.inf, np.inf, (1,), np.float64)
PARTS = spaces.Dict({"place": PART, "height": PART})  # sorted: the height comes first


class Parts(Line):
    """The line, with observations in a Dict."""

    def __init__(self, space: spaces.Dict = PARTS) -> None:
        super().__init__()
        self.observation_space = space

    def reset(self, **options: Any) -> Any:
        state, info = super().reset(**options)
        return {"place": state[:1], "height": state[1:]}, info

    def step(self, action: np.ndarray) -> Any:
        state, *others = super().step(action)
        return {"place": state[:1], "height": state[1:]}, *others


class Backwards(Line):
    """The line, with the height first."""

    def reset(self, **options: Any) -> Any:
        state, info = super().reset(**options)
        return state[::-1].copy(), info

    def step(self, action: np.ndarray) -> Any:
        state, *others = super().step(action)
        return state[::-1].copy(), *others


def rebuilt(dataset_id: str, space: spaces.Space[Any], form: Callable[[np.ndarray], Any]) -> minari.MinariDataset:
    """The line's episodes with observations (T + 1, 2) in another form."""
    buffers = [
        EpisodeBuffer(
            observations=form(episode.observations),
            actions=episode.actions,
            rewards=episode.rewards,
            terminations=episode.terminations,
            truncations=episode.truncations,
            infos={},
        )
        for episode in line_dataset(dataset_id.replace("-v0", "-line-v0"))
    ]
    return write_buffers(dataset_id, buffers, space, ACTIONS)


@pytest.fixture(scope="module")
def parts() -> minari.MinariDataset:
    return rebuilt("flat/parts-v0", PARTS, lambda states: {"place": states[:, :1], "height": states[:, 1:]})


def learned(dataset: minari.MinariDataset, env: Any) -> ATraDiffReplayBuffer:
    """A buffer that an agent has learned from."""
    buffer = ATraDiffReplayBuffer.from_dataset(dataset, env, **{**QUICK, "adapt_every": 30})
    model = SAC(
        "MlpPolicy", env, policy_kwargs={"net_arch": [8]}, learning_starts=10, batch_size=16, device="cpu", seed=0
    )
    model.learn(80, callback=buffer.callback())
    return buffer


def test_it_is_as_if_the_data_had_been_recorded_flat(parts: minari.MinariDataset, tmp_path: Path) -> None:
    backwards = rebuilt("flat/backwards-v0", OBSERVATIONS, lambda states: states[:, ::-1].copy())
    flat, buffer = learned(backwards, Backwards()), learned(parts, FlattenObservation(Parts()))
    assert buffer.synthetic.size() > 20
    assert same(flat.sample(200), buffer.sample(200))
    buffer.save(tmp_path / "buffer")
    loaded = ATraDiffReplayBuffer.load(tmp_path / "buffer", parts, FlattenObservation(Parts()), device="cpu")
    assert same(loaded.sample(200), buffer.sample(200))


def test_vectorised_and_normalised_environments_are_understood(parts: minari.MinariDataset) -> None:
    buffer = learned(parts, VecNormalize(DummyVecEnv([lambda: TimeLimit(FlattenObservation(Parts()), 20)])))
    assert buffer.size() == 80
    assert torch.isfinite(buffer.sample(50).observations).all()


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (
            Parts(),
            r"the observation space is Dict.* instead of Box.* recorded in gymnasium\.wrappers\.FlattenObservation",
        ),
        (
            FlattenObservation(FilterObservation(Parts(), ["place"])),
            r"\(1,\), float64\) instead of Box.*\(2,\), float64",
        ),
        (
            FlattenObservation(Parts(spaces.Dict(OrderedDict(place=PART, height=PART)))),
            "made of place, height in this order, and those of dataset 'flat/parts-v0' of height, place; .*sorted",
        ),
    ],
)
def test_other_forms_are_refused(parts: minari.MinariDataset, env: gymnasium.Env, message: str) -> None:
    for given in (env, DummyVecEnv([lambda: env])):
        with pytest.raises(ConfigError, match=message):
            ATraDiffReplayBuffer.from_dataset(parts, given, **QUICK)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Dict(z=PART, a=spaces.Box(-1, 1, (2, 3))),
        spaces.Tuple([spaces.Dict({"z": spaces.Box(0, 9, (2,), np.int64), "a": PART}), spaces.Box(-1, 1, (2, 2))]),
    ],
)
def test_flat_columns_are_in_the_order_of_gymnasium(space: spaces.Space[Any]) -> None:
    samples = [space.sample() for _ in range(3)]
    expected = np.stack([spaces.flatten(space, sample) for sample in samples])
    np.testing.assert_array_equal(SpaceCodec.of(space).flatten(stack(space, samples)), expected)
