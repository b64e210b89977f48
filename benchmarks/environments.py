"""Where the policies of a dataset are evaluated."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium
import minari
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector.utils import concatenate, create_empty_array
from numpy.typing import NDArray

from benchmarks.datasets import recording
from benchmarks.vectorised.tables import Encode, encoder_of

__all__ = ["evaluation_spec", "facts", "make_flat"]


def evaluation_spec(dataset: minari.MinariDataset) -> EnvSpec:
    """The environment that the dataset names for evaluations, or else that of its data.

    They may differ: a dataset may have been recorded with another limit of time, or with goals that move. Where ants
    that reach the goal would go on and be paid for every step there, the episode ends instead, as D4RL's do.
    """
    if dataset.storage.metadata.get("eval_env_spec") is None:
        own: EnvSpec = dataset.env_spec
        return own
    env = dataset.recover_environment(eval_env=True)
    env.close()
    spec = env.spec
    assert spec is not None  # noqa: S101 - it was made of one
    if spec.id.startswith("AntMaze"):  # D4RL's score is the share of episodes that come to the goal, where they end
        return replace(spec, kwargs={**spec.kwargs, "continuing_task": False})
    return spec


def facts(source: minari.MinariDataset, data: Any, spec: EnvSpec) -> dict[str, Any]:
    """What a result's line says of the environment and of the data behind it, the source and all that were used."""
    return {
        "environment": spec.id,
        "source": source.id,
        "recording": recording(source),
        "transitions": {"source": int(source.total_steps), "all": int(data.total_steps)},
    }


def make_flat(dataset: minari.MinariDataset, number: int) -> list[gymnasium.Env[Any, Any]]:
    """As many of that environment, with observations as d3rlpy's algorithms see them."""
    spec, encode = evaluation_spec(dataset), encoder_of(dataset)
    return [_Flat(gymnasium.make(spec), encode) for _ in range(number)]


class _Flat(gymnasium.ObservationWrapper[NDArray[np.float32], Any, Any]):
    def __init__(self, env: gymnasium.Env[Any, Any], encode: Encode) -> None:
        super().__init__(env)
        self._encode, self._space = encode, env.observation_space
        size = self.observation(self._space.sample()).shape
        self.observation_space = spaces.Box(-np.inf, np.inf, size, np.float32)

    def observation(self, observation: Any) -> NDArray[np.float32]:
        batch: Any = create_empty_array(self._space)
        found: NDArray[np.float32] = self._encode(concatenate(self._space, [observation], batch))[0]
        return found
