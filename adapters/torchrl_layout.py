"""Transitions of a dataset as the TensorDicts that TorchRL's `GymWrapper` makes of the same environment."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import Space, spaces
from numpy.typing import NDArray
from torch import Tensor

from gta_datasets.adapters.corpus import Corpus
from gta_datasets.data.spaces import SpaceCodec
from gta_datasets.errors import UnsupportedSpaceError, requires_extra

with requires_extra("torchrl", "torchrl", "the adapter needs"):
    from tensordict import TensorDict

__all__ = ["Layout"]

Key = tuple[str, ...]

TAKEN = {"done", "episode", "generated", "index", "next", "reward", "terminated", "truncated"}
"""Entries that are not observations or actions."""


class _Entry(NamedTuple):
    """One elementary space in the TensorDict and in the flat vector."""

    key: Key
    columns: slice
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def read(self, flat: NDArray[Any]) -> Tensor:
        """Its values from flat vectors (B, size), (B, *shape)."""
        # Data of a dataset lie in their space, so nothing has to be rounded.
        values = flat[:, self.columns].astype(self.dtype, copy=False)
        return torch.from_numpy(values.reshape(len(flat), *self.shape))


class Layout:
    """Makes TensorDicts of transitions.

    The keys are those of TorchRL's `GymWrapper`: "observation" and "action", or where the space is a Dict its own keys
    at the root; elements of a Tuple, which `GymWrapper` cannot take apart, are keyed by their numbers. Values have the
    dtypes of the spaces; Discrete and MultiDiscrete ones are one-hot int64.

    Raises:
        UnsupportedSpaceError: a key of the dataset's space is one that TorchRL uses otherwise.
    """

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        self._observations = list(_entries(corpus.observation_codec))
        self._actions = list(_entries(corpus.action_codec))
        of_observations, of_actions = ({entry.key[0] for entry in part} for part in (self._observations, self._actions))
        clashes = sorted((of_observations & of_actions) | ((of_observations | of_actions) & TAKEN))
        if clashes:
            raise UnsupportedSpaceError(
                f"the key {clashes[0]!r} of the dataset's spaces has another meaning in TorchRL's layout; rebuild the "
                "dataset with another name for it"
            )

    def __len__(self) -> int:
        return len(self._corpus)

    def read(self, numbers: NDArray[np.int64], device: torch.device | str | None = None) -> TensorDict:
        """The transitions of the given numbers, (B,), copied."""
        table = self._corpus.episodes
        places = table.locate(numbers)
        found = table.transitions(places)
        terminated, truncated = (torch.from_numpy(flags)[:, None] for flags in (found.terminated, found.truncated))
        content = self._nested(self._observations, found.observations)
        content |= self._nested(self._actions, found.actions)
        content |= {name: torch.zeros_like(terminated) for name in ("done", "terminated", "truncated")}
        content["episode"] = torch.from_numpy(places.episode.astype(np.int64))
        content["generated"] = torch.from_numpy(numbers >= self._corpus.num_real)
        content["next"] = self._nested(self._observations, found.next_observations) | {
            "reward": torch.from_numpy(found.rewards.astype(np.float32))[:, None],
            "done": terminated | truncated,
            "terminated": terminated,
            "truncated": truncated,
        }
        return TensorDict(content, batch_size=[len(numbers)], device=device)

    def _nested(self, entries: list[_Entry], flat: NDArray[Any]) -> dict[str, Any]:
        """Flat vectors (B, size) as nested dictionaries of tensors."""
        content: dict[str, Any] = {}
        for entry in entries:
            inner = content
            for name in entry.key[:-1]:
                inner = inner.setdefault(name, {})
            inner[entry.key[-1]] = entry.read(flat)
        return content


def _entries(codec: SpaceCodec) -> Iterator[_Entry]:
    """The entries of a space, in the order of its flat vector."""
    for leaf in codec.leaves:
        key, (shape, dtype) = tuple(map(str, leaf.keys)), _form(leaf.space)
        if not isinstance(codec.space, spaces.Dict):
            key = (codec.name, *key)
        elif codec.name == "observation" and key[0] == "state" and "observation" not in codec.space.spaces:
            key = ("observation", *key[1:])  # as in GymWrapper
        yield _Entry(key, slice(leaf.start, leaf.stop), shape, dtype)


def _form(space: Space[Any]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype that `GymWrapper` gives to one value of an elementary space."""
    integer = np.dtype(np.int64)
    if isinstance(space, spaces.Discrete):
        return (int(space.n),), integer
    if isinstance(space, spaces.MultiDiscrete):
        counts = np.unique(space.nvec)
        return ((*space.nvec.shape, int(counts[0])) if len(counts) == 1 else (int(space.nvec.sum()),)), integer
    return space.shape or (1,), np.dtype(space.dtype)
