"""What every adapter reads: one numbering of a dataset's real and generated transitions, on arrays that all share."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from functools import cached_property
from typing import Any, Literal, NamedTuple, get_args

import minari
import numpy as np
from numpy.typing import NDArray

from gta_datasets.data.episodes import Episodes, FloatArray
from gta_datasets.data.normalize import chunks
from gta_datasets.data.reading import read_episodes
from gta_datasets.data.returns import returns_to_go
from gta_datasets.data.spaces import SpaceCodec
from gta_datasets.data.table import EpisodeTable, Transitions
from gta_datasets.errors import ConfigError, DatasetError
from gta_datasets.methods.base import Augmenter
from gta_datasets.pipeline import Pipeline
from gta_datasets.storage import AugmentedStorage

__all__ = ["Corpus", "ReturnToGo", "Subsequences", "check_return_to_go", "check_scale"]

REMEDY = "leave it out with dataset.filter_episodes(lambda episode: episode.id != ...)"
"""Against an invalid episode: an adapter reads a dataset as it is."""

ReturnToGo = Literal["amplified", "source"]
"""Where the return-to-go of a generated trajectory starts: at its source window's, amplified or as it is."""


def check_return_to_go(kind: str) -> None:
    """Raise ConfigError if `kind` is no `ReturnToGo`."""
    if kind not in get_args(ReturnToGo):
        raise ConfigError(f"return_to_go={kind!r} is not known; choose 'amplified' or 'source'")


def check_scale(name: str, value: object) -> None:
    """Raise ConfigError unless something can be multiplied or divided by `value`."""
    sound = isinstance(value, int | float | np.integer | np.floating) and 0 < value < math.inf
    if not sound or isinstance(value, bool):
        raise ConfigError(f"{name}={value!r} is not allowed; choose a number above 0")


class Subsequences(NamedTuple):
    """Windows of `L` steps, padded with zeros on the left."""

    observations: FloatArray  # (B, L, obs_dim)
    actions: FloatArray  # (B, L, act_dim)
    rewards: FloatArray  # (B, L)
    returns_to_go: NDArray[np.float32]  # (B, L) undiscounted
    timesteps: NDArray[np.int64]  # (B, L) steps since the start of the (source) episode, from 0
    mask: NDArray[np.bool_]  # (B, L) False where padded
    terminated: NDArray[np.bool_]  # (B,) whether the last step ended the task


class _Origin(NamedTuple):
    """The windows of the source that the generated trajectories come from."""

    source: Episodes
    episode: NDArray[np.int64]  # (G,) -1 if it comes from no window
    start: NDArray[np.int64]  # (G,)
    known_return: NDArray[np.floating[Any]]  # (G,) return-to-go of the first step, NaN where that is the window's
    augmenter: Augmenter


class _Opened(NamedTuple):
    """The episodes that transitions are read from."""

    episodes: EpisodeTable
    origin: _Origin | None  # of the generated ones, if there can be any


class _Chosen(NamedTuple):
    """The episodes of an augmented dataset, which may have been filtered, before any is generated."""

    pipeline: Pipeline
    real: NDArray[np.int64]  # (R,) places among the source's valid episodes
    generated: NDArray[np.int64]  # (G,) numbers of trajectories

    @classmethod
    def of(cls, dataset: minari.MinariDataset, storage: AugmentedStorage) -> _Chosen:
        indices, first = np.asarray(dataset.episode_indices), storage.num_source
        return cls(storage.pipeline, indices[indices < first], indices[indices >= first] - first)

    @property
    def num_real(self) -> int:
        """Transitions of the real episodes."""
        return int(self.pipeline.source.episodes.lengths[self.real].sum())

    @property
    def num_generated(self) -> int:
        """Transitions of the generated trajectories."""
        return int(self.pipeline.plan.lengths[self.generated].sum())

    def read(self) -> _Opened:
        """The episodes; what is missing in the cache is generated first."""
        combined = self.pipeline.combined
        kept = np.concatenate([self.real, combined.num_source + self.generated])
        complete = np.array_equal(kept, np.arange(combined.episodes.num_episodes))
        origin = _Origin(
            self.pipeline.source.episodes,
            combined.source_episode[self.generated],
            combined.source_start[self.generated],
            combined.start_return[self.generated],
            self.pipeline.augmenter,
        )
        return _Opened(combined.episodes if complete else combined.episodes.select(kept), origin)


class Corpus:
    """A dataset's transitions, the real ones first, then the generated ones, numbered from 0.

    Of a `GTAAugmentedDataset` (or a filtered one) nothing is copied: source arrays and memory-mapped shards are those
    of the dataset itself. What is missing in the cache is generated when `episodes` are first read, or by `open()`: how
    many transitions there will be is known before, so that an adapter can check all that it was given. Any other Minari
    dataset is read into memory at once, and all of it is real. Pickling carries the dataset, not its arrays.

    Args:
        dataset: a Minari dataset, never modified.

    Raises:
        DatasetError: it is not a Minari dataset, has no transitions, or breaks Minari's contract.
        UnsupportedSpaceError: a space that cannot be turned into vectors.
    """

    def __init__(self, dataset: minari.MinariDataset) -> None:
        if not isinstance(dataset, minari.MinariDataset):
            raise DatasetError(
                f"dataset is of type {type(dataset).__name__}; give a minari.MinariDataset, such as the result of "
                "minari.load_dataset() or gta_datasets.augment()"
            )
        self.dataset, self._frozen = dataset, copy.copy(dataset)  # which stays as it is when episodes are added
        self.observation_codec = SpaceCodec.of(dataset.observation_space, name="observation")
        self.action_codec = SpaceCodec.of(dataset.action_space, name="action")
        self._returns_to_go: dict[ReturnToGo, NDArray[np.float32]] = {}
        self._opened: _Opened | None = None
        self._chosen = _Chosen.of(dataset, dataset.storage) if isinstance(dataset.storage, AugmentedStorage) else None
        if self._chosen is None:
            self.num_real_episodes, self.num_generated = self.episodes.num_episodes, 0
            self.num_real = self.episodes.num_transitions
        else:
            self.num_real_episodes = len(self._chosen.real)
            self.num_real, self.num_generated = self._chosen.num_real, self._chosen.num_generated
        if len(self) == 0:
            raise DatasetError(f"dataset {dataset.id!r} has no transitions; if it was filtered, loosen the filter")

    def open(self) -> Corpus:
        """Generate now what is missing in the cache.

        Raises:
            CacheError: the cache cannot be read, or what is missing cannot be written to it.
            DivergenceError: training diverged.
            QualificationError: too few trajectories pass `qualify`.
        """
        self._read()
        return self

    @property
    def episodes(self) -> EpisodeTable:
        """The `E` episodes, the real ones first; raises as `open`."""
        return self._read().episodes

    @property
    def _origin(self) -> _Origin | None:
        return self._read().origin

    def _read(self) -> _Opened:
        """What there is to read from; found once, by `open` or at the first look at it."""
        if self._opened is None and self._chosen is not None:
            self._opened = self._chosen.read()
        elif self._opened is None:
            self._opened = _Opened(EpisodeTable.of([read_episodes(self.dataset, remedy=REMEDY).episodes]), None)
        return self._opened

    def __reduce__(self) -> tuple[type[Corpus], tuple[minari.MinariDataset]]:
        return Corpus, (self._frozen,)

    def __len__(self) -> int:
        return self.num_real + self.num_generated

    def transitions(self, numbers: NDArray[np.integer]) -> Transitions:
        """The transitions of the given numbers, (B,), in the dtypes of the data."""
        return self.episodes.transitions(self.episodes.locate(numbers))

    def parts(self, stop: int | None = None) -> Iterator[tuple[slice, Transitions]]:
        """All transitions, or the first `stop`, in order and a part at a time, each part with its numbers."""
        for part in chunks(len(self) if stop is None else stop):
            yield part, self.transitions(np.arange(part.start, part.stop))

    @cached_property
    def rewards(self) -> FloatArray:
        """Reward of every transition, (N,)."""
        places = self.episodes.locate(np.arange(len(self)))
        return self.episodes.rewards(places, places.step)

    @cached_property
    def episode_returns(self) -> NDArray[np.float64]:
        """Sum of the rewards of every episode, (E,)."""
        sums: NDArray[np.float64] = np.add.reduceat(self.rewards.astype(np.float64), self.episodes.offsets[:-1])
        return sums

    @cached_property
    def first_timestep(self) -> NDArray[np.int64]:
        """Step of the environment's episode at which every episode begins, (E,): not 0 for most generated ones.

        One that would go on past the end of the longest recorded episode, as stitched ones may, begins earlier.
        """
        steps = np.zeros(self.episodes.num_episodes, np.int64)
        if self._origin is not None:
            source, episode, start = self._origin[:3]
            latest = source.lengths.max() - self.episodes.lengths[self.num_real_episodes :]
            steps[self.num_real_episodes :] = np.where(episode >= 0, np.clip(start, 0, np.maximum(latest, 0)), 0)
        return steps

    def start_returns(self, kind: ReturnToGo) -> NDArray[np.float64]:
        """Undiscounted return-to-go at the first step of every episode, (E,).

        That of a recorded episode, and of a generated trajectory without a source window, is the sum of its rewards.
        Where the method knows the return of a trajectory, as of one that ends on a recorded episode, it is that. Any
        other generated trajectory starts at its source window's (GTA, appendix E.4), amplified as when the trajectory
        was generated, or as it is.

        Raises:
            ConfigError: `kind` is not known.
        """
        check_return_to_go(kind)
        returns = self.episode_returns.copy()
        if self._origin is not None:
            source, episode, start, known, augmenter = self._origin
            placed = np.flatnonzero(episode >= 0)
            every = returns_to_go(source, discount=1.0)
            of_window = every[source.offsets[episode[placed]] + start[placed]]
            if kind == "amplified":
                of_window = augmenter.asked_returns(of_window, every)
            returns[self.num_real_episodes + placed] = np.where(np.isnan(known[placed]), of_window, known[placed])
        return returns

    def returns_to_go(self, kind: ReturnToGo) -> NDArray[np.float32]:
        """The return at the start of an episode less the rewards since, for every transition, (N,).

        Raises:
            ConfigError: `kind` is not known.
        """
        if kind not in self._returns_to_go:
            received = np.cumsum(self.rewards, dtype=np.float64) - self.rewards
            start = self.start_returns(kind) + received[self.episodes.offsets[:-1]]
            self._returns_to_go[kind] = (np.repeat(start, self.episodes.lengths) - received).astype(np.float32)
        return self._returns_to_go[kind]

    def subsequences(
        self, numbers: NDArray[np.integer], length: int, *, return_to_go: ReturnToGo = "amplified"
    ) -> Subsequences:
        """Up to `length` steps of an episode that end with the transitions `numbers` (B,), padded on the left.

        Raises:
            ConfigError: `return_to_go` is not known.
        """
        places = self.episodes.locate(numbers)
        steps = places.step[:, None] + np.arange(1 - length, 1)
        mask = steps >= 0
        steps = np.maximum(steps, 0)
        first_number = (numbers - places.step)[:, None]
        return Subsequences(
            observations=self.episodes.observations(places, steps) * mask[..., None],
            actions=self.episodes.actions(places, steps) * mask[..., None],
            rewards=self.episodes.rewards(places, steps) * mask,
            returns_to_go=self.returns_to_go(return_to_go)[first_number + steps] * mask,
            timesteps=(self.first_timestep[places.episode][:, None] + steps) * mask,
            mask=mask,
            terminated=places.terminated,
        )
