"""The examples in docs/ run."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from minari.data_collector.episode_buffer import EpisodeBuffer

from gta_datasets import GTAAugmentedDataset
from tests.builders import write_buffers
from tests.smoke import tiny

PAGES = sorted((Path(__file__).parents[2] / "docs" / "adapters").glob("*.md"))
ENV = "HalfCheetah-v5"
STEPS = 30


@pytest.fixture(scope="module")
def augmented(tmp_path_factory: pytest.TempPathFactory) -> GTAAugmentedDataset:
    env = gymnasium.make(ENV)
    buffers = []
    for seed in range(3):
        env.action_space.seed(seed)
        actions = np.stack([env.action_space.sample() for _ in range(STEPS)])
        observations, rewards = [env.reset(seed=seed)[0]], []
        for action in actions:
            observation, reward, *_ = env.step(action)
            observations.append(observation)
            rewards.append(reward)
        last = np.arange(STEPS) == STEPS - 1
        buffers.append(
            EpisodeBuffer(
                observations=np.stack(observations),
                actions=actions,
                rewards=np.array(rewards),
                terminations=np.zeros(STEPS, bool),
                truncations=last,
                infos={},
            )
        )
    source = write_buffers("docs/cheetah-v0", buffers, env.observation_space, env.action_space, env=ENV)
    return tiny(source, cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_examples_of_a_page_run(
    page: Path, augmented: GTAAugmentedDataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    assert blocks, f"{page.name} has no example"
    names: dict[str, object] = {"augmented": augmented, "env": gymnasium.make(ENV)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what other libraries warn of is theirs
        for block in blocks:
            exec(compile(block, page.name, "exec"), names)


def test_every_adapter_has_a_page() -> None:
    assert {page.stem for page in PAGES} >= {"d3rlpy", "stable-baselines3", "decision-transformer", "torchrl"}
