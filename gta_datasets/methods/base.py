"""What every augmentation method offers to the dataset that wraps it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Augmenter", "Consulted", "Fittable", "Shard"]

Shard = Mapping[str, NDArray[Any]]
"""`Episodes.arrays()` of one shard, one episode per generated trajectory, and per trajectory `source_episode` and
`source_start` (where its source window lies; -1 and 0 where it has none), `asked_return` (what the generator was asked
for; NaN where nothing was) and `source_return`. Where the method knows the undiscounted return from a trajectory's
first step on, beyond its last one, `start_return`. Where recordings may stand in for what was generated,
`recorded` says of which trajectories."""


class Fittable(Protocol):
    """A model whose weights are trained once and kept in a folder."""

    def fit(self, folder: Path, *, progress: bool) -> str:
        """Load the trained weights from `folder`, or train (resuming what is there) and leave them there.

        Returns a digest of the weights.
        """
        ...

    def is_fitted(self, folder: Path) -> bool:
        """Whether `fit` would only load."""
        ...


class Consulted(Fittable, Protocol):
    """A model, or anything else that is found once, with a folder of its own in the cache."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that determines it, for the cache key."""
        ...


class Augmenter(Fittable, Protocol):
    """A method bound to a source dataset, a seed and a device.

    A shard is a pure function of the method's identity, its weights and the shard's number.
    """

    discount: float
    """Gamma of the returns in a shard."""

    stored: bool
    """Whether shards are worth keeping in the cache, because making one costs more than reading it."""

    @property
    def teachers(self) -> Mapping[str, Consulted]:
        """What the method is trained with, by what it is for; fitted in this order before `fit` is called."""
        ...

    @property
    def models(self) -> Mapping[str, Consulted]:
        """What the method consults besides, by what it is for; fitted in this order before `generate` is called."""
        ...

    @property
    def skipped(self) -> Mapping[int, str]:
        """Why nothing is generated from some of the source's episodes, by their places."""
        ...

    @property
    def loss_history(self) -> list[tuple[int, float]]:
        """Pairs of training step and mean loss; empty where nothing is trained."""
        ...

    @property
    def model_identity(self) -> Mapping[str, Any]:
        """All that determines the trained weights, for the cache key."""
        ...

    @property
    def sampling_identity(self) -> Mapping[str, Any]:
        """All that determines a shard besides the weights, for the cache key."""
        ...

    def asked_returns(
        self, returns: NDArray[np.floating[Any]], to_go: NDArray[np.floating[Any]]
    ) -> NDArray[np.floating[Any]]:
        """What is asked for where a source window has one of `returns` (B,), and all transitions have `to_go` (N,)."""
        ...

    def lengths(self, shard: int) -> NDArray[np.int64]:
        """Transitions of every trajectory of a shard, known without generating it."""
        ...

    def generate(self, shard: int) -> Shard:
        """The trajectories of a shard; `fit` must have been called, and that of `teachers` and `models`."""
        ...

    def attempt(self, shard: int, attempt: int, lengths: NDArray[np.int64]) -> Shard:
        """Trajectories of the given lengths (B,), each that of some trajectory of the shard.

        Attempt 0 with all lengths is the shard; every other attempt gives other trajectories.
        """
        ...
