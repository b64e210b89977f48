"""Stable-Baselines3's replay buffers with the transitions of a dataset in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import minari
import numpy as np
import torch
from numpy.typing import NDArray

from gta_datasets.adapters.corpus import Corpus
from gta_datasets.adapters.mixing import Mixture
from gta_datasets.adapters.sb3_layout import STORED, Array, Layout, Observations
from gta_datasets.data.normalize import chunks
from gta_datasets.errors import requires_extra
from gta_datasets.warn import warn

with requires_extra("sb3", "stable-baselines3", "the adapter needs"):
    from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
    from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
    from stable_baselines3.common.vec_env import VecNormalize

__all__ = ["AugmentedDictReplayBuffer", "AugmentedReplayBuffer", "filled_buffer", "num_added"]

CHUNK = 1 << 15  # transitions copied at once


class AugmentedReplayBuffer(ReplayBuffer):
    """A dataset's transitions, read from its own arrays, and those added online; made by `to_sb3`.

    SB3's arrays, `pos` and `full` hold what was added, which `reset()` forgets; the dataset always stays. Transitions
    are numbered: real ones, generated ones, those added. Pickling carries the dataset's place, not its data.
    """

    def __init__(
        self,
        corpus: Corpus,
        layout: Layout,
        mixture: Mixture,
        buffer_size: int,
        device: torch.device | str,
        n_envs: int,
    ) -> None:
        super().__init__(buffer_size, layout.observation_space, layout.action_space, device, n_envs)
        self._corpus, self._layout, self._mixture = corpus, layout, mixture

    @property
    def dataset(self) -> minari.MinariDataset:
        return self._corpus.dataset

    def size(self) -> int:
        """Transitions of the dataset and those added."""
        return len(self._corpus) + num_added(self)

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        return self._get_samples(self._mixture.draw(batch_size, num_added(self)), env)

    def _get_samples(self, batch_inds: NDArray[np.integer], env: VecNormalize | None = None) -> ReplayBufferSamples:
        """The transitions of the given numbers."""
        batch = self._read(batch_inds) if num_added(self) else self._read_offline(batch_inds)
        if env is not None:
            batch = batch._replace(
                observations=env.normalize_obs(batch.observations),
                next_observations=env.normalize_obs(batch.next_observations),
                rewards=env.normalize_reward(batch.rewards),
            )
        values = [_each(self._tensor, value) for value in batch]
        return cast(
            ReplayBufferSamples, (DictReplayBufferSamples if self._layout.is_dict else ReplayBufferSamples)(*values)
        )

    def _tensor(self, array: Array) -> torch.Tensor:
        """`array`, which is the batch's own, without a copy of it on the CPU."""
        tensor = torch.from_numpy(array)
        return tensor if self.device.type == "cpu" else tensor.to(self.device)

    def _read(self, numbers: NDArray[np.integer]) -> _Batch:
        added = numbers >= len(self._corpus)
        batch, places = self._read_offline(np.where(added, 0, numbers)), np.flatnonzero(added)
        for values, new in zip(batch, self._read_online(numbers[places] - len(self._corpus)), strict=True):
            for array, of_added in _pairs(values, new):
                array[places] = of_added
        return batch

    def _read_offline(self, numbers: NDArray[np.integer]) -> _Batch:
        found = self._corpus.transitions(numbers)
        return _Batch(
            self._layout.observations(found.observations),
            self._layout.actions(found.actions),
            self._layout.observations(found.next_observations),
            found.terminated[:, None].astype(np.float32),
            found.rewards[:, None].astype(np.float32),
        )

    def _read_online(self, numbers: NDArray[np.integer]) -> _Batch:
        place = np.divmod(numbers, self.n_envs)
        return _Batch(
            _each(lambda array: array[place], self.observations),
            self.actions[place],
            _each(lambda array: array[place], self.next_observations),
            (self.dones[place] * (1 - self.timeouts[place]))[:, None],
            self.rewards[place][:, None],
        )

    def __getstate__(self) -> dict[str, Any]:
        rows = self.buffer_size if self.full else self.pos
        arrays = {name: _each(lambda array: array[:rows], getattr(self, name)) for name in STORED}
        return {**self.__dict__, **arrays}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        for name in STORED:
            setattr(self, name, _each(self._with_room, state[name]))

    def _with_room(self, array: Array) -> Array:
        """`array (rows, n_envs, ...)` followed by zeros up to the full size."""
        whole = np.zeros((self.buffer_size, *array.shape[1:]), array.dtype)
        whole[: len(array)] = array
        return whole


class AugmentedDictReplayBuffer(AugmentedReplayBuffer, DictReplayBuffer):  # type: ignore[misc]
    """The same for Dict observations."""


class _Batch(NamedTuple):
    """Transitions in the order of fields of SB3's samples."""

    observations: Observations  # (B, ...), in the dtypes of the space
    actions: Array  # (B, A)
    next_observations: Observations
    dones: Array  # (B, 1) float32, 1 where the task ended
    rewards: Array  # (B, 1) float32


def num_added(buffer: ReplayBuffer) -> int:
    """Transitions in SB3's own arrays."""
    return (buffer.buffer_size if buffer.full else buffer.pos) * buffer.n_envs


def _each(function: Callable[[Array], Any], values: Any) -> Any:
    """`function` of an array, or of every array of a dict."""
    return {key: function(value) for key, value in values.items()} if isinstance(values, dict) else function(values)


def _pairs(first: Any, second: Any) -> list[tuple[Array, Array]]:
    """Two arrays, or the arrays of two dicts that have the same key."""
    return [(first[key], second[key]) for key in first] if isinstance(first, dict) else [(first, second)]


def filled_buffer(
    corpus: Corpus, layout: Layout, buffer_size: int, device: torch.device | str, n_envs: int
) -> ReplayBuffer:
    """SB3's own buffer, with the arrays that adding row by row would have given it."""
    rows, left = divmod(len(corpus), n_envs)
    if left:
        warn(
            f"copy=True leaves out the last {left} of the {len(corpus)} transitions of dataset {corpus.dataset.id!r}: "
            f"rows of an ordinary ReplayBuffer hold one for each of {n_envs} environments; copy=False keeps all"
        )
    kind = DictReplayBuffer if layout.is_dict else ReplayBuffer
    room = rows * n_envs + buffer_size
    buffer = kind(room, cast(Any, layout.observation_space), layout.action_space, device, n_envs)
    for part in chunks(rows, max(CHUNK // n_envs, 1)):
        _copy(corpus, layout, buffer, part)
    buffer.pos, buffer.full = rows % buffer.buffer_size, rows == buffer.buffer_size
    return buffer


def _copy(corpus: Corpus, layout: Layout, buffer: ReplayBuffer, rows: slice) -> None:
    found = corpus.transitions(np.arange(rows.start * buffer.n_envs, rows.stop * buffer.n_envs))
    values: tuple[Observations, ...] = (
        layout.observations(found.observations),
        layout.observations(found.next_observations),
        layout.actions(found.actions),
        found.rewards,
        found.terminated | found.truncated,
        found.truncated,
    )
    for name, value in zip(STORED, values, strict=True):
        for target, array in _pairs(getattr(buffer, name), value):
            target[rows] = array.reshape(target[rows].shape)
