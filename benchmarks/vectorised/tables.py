"""Transitions of a dataset as rows of one tensor, so that a batch is gathered by a single kernel."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import minari
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.quiet import import_d3rlpy
from gta_datasets.adapters.corpus import Corpus
from gta_datasets.errors import DatasetError

__all__ = ["Batch", "Encode", "Table", "encoder_of", "read_table"]

Encode = Callable[[Any], NDArray[np.float32]]
"""Of a batch of an environment's observations: what algorithms see, (n, O), not standardised."""


@dataclass(frozen=True, eq=False)
class Table:
    """`N` transitions, the real ones first, as d3rlpy's algorithms see them."""

    rows: Tensor  # (N, 2 O + A + 2): a `Batch`, one field after the other
    num_real: int
    observation_size: int  # O
    action_size: int  # A
    mean: Tensor  # (O,) of observations, which are standardised in `rows`
    scale: Tensor  # (O,)
    encode: Encode

    @cached_property
    def digest(self) -> str:
        """blake2b of all that is learned from."""
        digest = hashlib.blake2b(str(self.num_real).encode(), digest_size=16)
        for tensor in (self.rows, self.mean, self.scale):
            digest.update(tensor.numpy().data)
        return digest.hexdigest()


class Batch(NamedTuple):
    """A batch of every run."""

    observations: Tensor  # (R, B, O)
    actions: Tensor  # (R, B, A)
    next_observations: Tensor  # (R, B, O)
    rewards: Tensor  # (R, B, 1)
    goes_on: Tensor  # (R, B, 1) 0 where the task ended, else 1
    pairs: Tensor  # (R, B, O + A) observations and actions side by side

    @classmethod
    def of(cls, rows: Tensor, observation_size: int, action_size: int) -> Batch:
        """Views of rows of tables, (R, B, columns)."""
        sizes = [observation_size, action_size, observation_size, 1, 1]
        observations, actions, next_observations, rewards, goes_on = rows.split(sizes, dim=-1)
        pairs = rows[..., : observation_size + action_size]
        return cls(observations, actions, next_observations, rewards, goes_on, pairs)


def read_table(dataset: minari.MinariDataset, observation_scaler: Any, reward_scaler: Any = None) -> Table:
    """Read a dataset; what is missing of an augmented one is generated now.

    Args:
        dataset: an augmented dataset, or any other Minari dataset.
        observation_scaler: d3rlpy's standard one, fitted.
        reward_scaler: any of d3rlpy's, fitted; None leaves rewards as they are.

    Raises:
        DatasetError: its actions are not continuous.
    """
    corpus = Corpus(dataset)
    layout = _layout(corpus)
    if layout.is_discrete:
        raise DatasetError(f"dataset {dataset.id!r} has actions {dataset.action_space}; a Box is needed")
    mean = torch.as_tensor(observation_scaler.mean, dtype=torch.float32)
    scale = torch.as_tensor(observation_scaler.std, dtype=torch.float32) + observation_scaler.eps
    observation_size, action_size = len(mean), layout.info.action_size

    rows = torch.empty(len(corpus), 2 * observation_size + action_size + 2)
    for part, found in corpus.parts():
        batch = Batch.of(rows[part], observation_size, action_size)
        batch.observations.copy_((torch.from_numpy(layout.observations(found.observations)) - mean) / scale)
        batch.actions.copy_(torch.from_numpy(layout.actions(found.actions)))
        batch.next_observations.copy_((torch.from_numpy(layout.observations(found.next_observations)) - mean) / scale)
        rewards = torch.from_numpy(found.rewards.astype(np.float32))[:, None]
        batch.rewards.copy_(rewards if reward_scaler is None else reward_scaler.transform(rewards))
        batch.goes_on.copy_(torch.from_numpy(~found.terminated)[:, None])

    return Table(rows, corpus.num_real, observation_size, action_size, mean, scale, _encoder(corpus, layout))


def encoder_of(dataset: minari.MinariDataset) -> Encode:
    """How d3rlpy's algorithms see the observations of a dataset's environment."""
    corpus = Corpus(dataset)
    return _encoder(corpus, _layout(corpus))


def _layout(corpus: Corpus) -> Any:
    import_d3rlpy()
    from gta_datasets.adapters.d3rlpy_episodes import Layout

    return Layout(corpus, tuple_observation=False)


def _encoder(corpus: Corpus, layout: Any) -> Encode:
    def encode(observations: Any) -> NDArray[np.float32]:
        encoded: NDArray[np.float32] = layout.observations(corpus.observation_codec.flatten(observations))
        return encoded

    return encode
