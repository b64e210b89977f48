"""A replay buffer for d3rlpy (https://d3rlpy.readthedocs.io) on the dataset's own arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, BinaryIO, Literal, NoReturn, overload

import minari
import numpy as np
from numpy.typing import ArrayLike, NDArray

from gta_datasets.adapters.corpus import Corpus, ReturnToGo, check_return_to_go, check_scale
from gta_datasets.adapters.d3rlpy_episodes import EpisodeSequence, Layout, PlacedEpisode, PlacedTrajectorySlicer
from gta_datasets.adapters.mixing import Fraction, Mixture
from gta_datasets.adapters.statistics import RunningStatistics
from gta_datasets.config.fields import truth
from gta_datasets.errors import ConfigError, requires_extra

with requires_extra("d3rlpy", "d3rlpy", "the adapter needs"):
    from d3rlpy.dataset import (
        BasicTransitionPicker,
        BufferProtocol,
        DatasetInfo,
        PartialTrajectory,
        ReplayBuffer,
        ReplayBufferBase,
        TrajectoryMiniBatch,
        TrajectorySlicerProtocol,
        Transition,
        TransitionMiniBatch,
        TransitionPickerProtocol,
        dump,
    )
    from d3rlpy.preprocessing import (
        MinMaxObservationScaler,
        MinMaxRewardScaler,
        ObservationScaler,
        ReturnBasedRewardScaler,
        RewardScaler,
        StandardObservationScaler,
        StandardRewardScaler,
        TupleObservationScaler,
    )

__all__ = ["AugmentedReplayBuffer", "to_d3rlpy"]


def to_d3rlpy(
    dataset: minari.MinariDataset,
    *,
    real_fraction: Fraction | None = None,
    weights: ArrayLike | None = None,
    return_to_go: ReturnToGo = "amplified",
    tuple_observation: bool = False,
    seed: int = 0,
) -> AugmentedReplayBuffer:
    """A drop-in for d3rlpy's `ReplayBuffer`, for `fit()` of any of its algorithms.

    Args:
        dataset: an augmented dataset, or any other Minari dataset; what is missing in the cache is generated now.
        real_fraction: share of real data in every batch, in [0, 1], or a function of the number of batches drawn so far
            (`gta_datasets.adapters.linear_schedule`); None draws from all transitions alike.
        weights: how much more likely each transition is drawn than others, (N,), the real ones first.
        return_to_go: for Decision Transformer and TACR, what a generated trajectory's return-to-go starts at: its
            source window's, amplified as when it was generated, or as it was (GTA, appendix E.4).
        tuple_observation: give goal-conditioned observations as tuples of observation and goal instead of one vector.
        seed: of the draws.

    Raises:
        MissingExtraError: d3rlpy is not installed.
        ConfigError: an option that is not allowed, or actions that d3rlpy does not have.
        DatasetError: the dataset breaks Minari's contract or is empty.
        CacheError: the cache cannot be read or written.
        DivergenceError, QualificationError: what is missing cannot be generated, as of the dataset's `generate`.
    """
    check_return_to_go(return_to_go)
    tuple_observation = truth("tuple_observation", tuple_observation)
    corpus = Corpus(dataset)
    layout = Layout(corpus, tuple_observation=tuple_observation)
    mixture = Mixture(corpus.num_real, corpus.num_generated, real_fraction=real_fraction, weights=weights, seed=seed)
    return AugmentedReplayBuffer(corpus.open(), mixture, layout, return_to_go)


class AugmentedReplayBuffer(ReplayBufferBase):
    """Real and generated transitions as d3rlpy's algorithms read them; made by `to_d3rlpy`, read-only.

    Batches are gathered from arrays, where d3rlpy's own buffer builds them from Python objects. The values are those of
    d3rlpy's `BasicTransitionPicker` and of its slicer on `episodes`, including the last transition of episodes that
    were cut, which d3rlpy's buffer drops.
    """

    def __init__(self, corpus: Corpus, mixture: Mixture, layout: Layout, return_to_go: ReturnToGo) -> None:
        self._corpus, self._mixture, self._layout, self._return_to_go = corpus, mixture, layout, return_to_go
        self._episodes = EpisodeSequence(corpus, layout, return_to_go)
        self._picker, self._slicer = BasicTransitionPicker(), PlacedTrajectorySlicer()

    def sample_transition_batch(self, batch_size: int) -> TransitionMiniBatch:
        numbers = self._mixture.draw(batch_size)
        places = self._corpus.episodes.locate(numbers)
        found = self._corpus.episodes.transitions(places)
        return TransitionMiniBatch(
            observations=self._layout.observations(found.observations),
            actions=self._layout.actions(found.actions),
            rewards=found.rewards[:, None].astype(np.float32),
            # After a terminal state there is nothing: for d3rlpy, zeros.
            next_observations=self._layout.observations(found.next_observations, nothing=found.terminated),
            next_actions=self._layout.actions(self._corpus.episodes.next_actions(places)),
            terminals=found.terminated[:, None].astype(np.float32),
            intervals=np.ones((batch_size, 1), np.float32),
            transitions=_LazyTransitions(self, numbers),
        )

    def sample_transition(self) -> Transition:
        return self.sample_transition_batch(1).transitions[0]

    def sample_trajectory_batch(self, batch_size: int, length: int) -> TrajectoryMiniBatch:
        found = self._corpus.subsequences(self._mixture.draw(batch_size), length, return_to_go=self._return_to_go)
        terminals = np.zeros((batch_size, length, 1), np.float32)
        terminals[:, -1, 0] = found.terminated
        return TrajectoryMiniBatch(
            observations=self._layout.observations(found.observations),
            actions=self._layout.actions(found.actions),
            rewards=found.rewards[..., None].astype(np.float32),
            returns_to_go=found.returns_to_go[..., None],
            terminals=terminals,
            timesteps=((found.timesteps + 1) * found.mask).astype(np.float32),  # d3rlpy counts from 1
            masks=found.mask.astype(np.float32),
            length=length,
        )

    def sample_trajectory(self, length: int) -> PartialTrajectory:
        (number,) = self._mixture.draw(1)
        episode, index = self.buffer[number]
        return self._slicer(episode, index, length)

    def transition(self, number: int) -> Transition:
        """Transition `number`, counted over all episodes, as d3rlpy's picker gives it."""
        episode, index = self.buffer[number]
        return self._picker(episode, index)

    @property
    def episodes(self) -> Sequence[PlacedEpisode]:
        return self._episodes

    def size(self) -> int:
        return len(self._episodes)

    @property
    def transition_count(self) -> int:
        return len(self._corpus)

    @property
    def transition_picker(self) -> TransitionPickerProtocol:
        return self._picker

    @property
    def trajectory_slicer(self) -> TrajectorySlicerProtocol:
        return self._slicer

    @property
    def dataset_info(self) -> DatasetInfo:
        return self._layout.info

    @property
    def buffer(self) -> BufferProtocol:
        return _Transitions(self._corpus, self._episodes)

    def observation_scaler(self, kind: Literal["standard", "min_max"] = "standard") -> ObservationScaler:
        """d3rlpy's scaler of that kind, fitted to all transitions; fitting by itself would take a Python loop.

        "min_max" makes -1 of what is the same in all of them, where d3rlpy's own fit would make NaN.

        Raises:
            ConfigError: `kind` is not known.
        """
        if kind not in ("standard", "min_max"):
            raise ConfigError(f"kind={kind!r} is not known; choose 'standard' or 'min_max'")
        statistics = [RunningStatistics() for _ in self._layout.info.observation_signature.shape]
        for _, found in self._corpus.parts():
            parts = self._layout.observations(found.observations)
            for part, statistic in zip(parts if self._layout.is_tuple else [parts], statistics, strict=True):
                statistic.add(part)
        scalers: list[ObservationScaler] = [
            StandardObservationScaler(statistic.mean, statistic.std)
            if kind == "standard"
            else MinMaxObservationScaler(statistic.minimum, statistic.ceiling)
            for statistic in statistics
        ]
        return TupleObservationScaler(scalers) if self._layout.is_tuple else scalers[0]

    def reward_scaler(
        self, kind: Literal["return", "standard", "min_max"] = "return", *, multiplier: float = 1.0
    ) -> RewardScaler:
        """d3rlpy's scaler of that kind, fitted.

        "return" divides by the range of episode returns (IQL's locomotion rewards: `multiplier=1000`) and is fitted to
        the real episodes, because the sums of short generated trajectories are no returns; the others are fitted to all
        transitions.

        Raises:
            ConfigError: `kind` is not known, or is "return" and no two real episodes differ in their returns, or a
                multiplier that is not above 0.
        """
        check_scale("multiplier", multiplier)
        if kind == "return":
            returns = self._corpus.episode_returns[: self._corpus.num_real_episodes]
            if len(set(returns.tolist())) < 2:
                known = f"all {len(returns)} of them have {returns[0]:g}" if len(returns) else "there are none"
                raise ConfigError(
                    f"kind='return' divides by the range of the real episodes' returns, and {known}; choose 'standard' "
                    "or 'min_max', or take this scaler from a buffer of more real episodes"
                )
            return ReturnBasedRewardScaler(float(returns.max()), float(returns.min()), multiplier)
        if kind not in ("standard", "min_max"):
            raise ConfigError(f"kind={kind!r} is not known; choose 'return', 'standard' or 'min_max'")
        statistic = RunningStatistics()
        for _, found in self._corpus.parts():
            statistic.add(found.rewards[:, None])
        if kind == "standard":
            return StandardRewardScaler(float(statistic.mean[0]), float(statistic.std[0]), multiplier=multiplier)
        return MinMaxRewardScaler(float(statistic.minimum[0]), float(statistic.ceiling[0]), multiplier)

    def dump(self, f: BinaryIO) -> None:
        dump(self.episodes, f)

    def append(self, *_: object, **__: object) -> NoReturn:
        raise _read_only("append")

    def append_episode(self, *_: object, **__: object) -> NoReturn:
        raise _read_only("append_episode")

    def clip_episode(self, *_: object, **__: object) -> NoReturn:
        raise _read_only("clip_episode")

    @classmethod
    def from_episode_generator(cls, *arguments: Any, **options: Any) -> ReplayBuffer:
        """d3rlpy's own, which makes a buffer of its own kind."""
        return ReplayBuffer.from_episode_generator(*arguments, **options)

    @classmethod
    def load(cls, *arguments: Any, **options: Any) -> ReplayBuffer:
        """d3rlpy's own, which makes a buffer of its own kind, also from what `dump` wrote."""
        return ReplayBuffer.load(*arguments, **options)


def _read_only(operation: str) -> NotImplementedError:
    return NotImplementedError(
        f"{operation} is not supported: the buffer is a view on a dataset. To go on online, give d3rlpy's "
        "MixedReplayBuffer an ordinary buffer (made with this one's trajectory_slicer) as the primary one and this one "
        "as the secondary one"
    )


class _LazyTransitions(Sequence[Transition]):
    """The transitions of a batch, which only Cal-QL looks at, made one by one."""

    def __init__(self, buffer: AugmentedReplayBuffer, numbers: NDArray[np.int64]) -> None:
        self._buffer, self._numbers = buffer, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> Transition: ...

    @overload
    def __getitem__(self, index: slice) -> list[Transition]: ...

    def __getitem__(self, index: int | slice) -> Transition | list[Transition]:
        if isinstance(index, slice):
            return [self._buffer.transition(number) for number in self._numbers[index].tolist()]
        return self._buffer.transition(int(self._numbers[index]))


class _Transitions:
    """d3rlpy's `BufferProtocol`: every transition as its episode and its place there."""

    def __init__(self, corpus: Corpus, episodes: EpisodeSequence) -> None:
        self._corpus, self.episodes = corpus, episodes

    @property
    def transition_count(self) -> int:
        return len(self._corpus)

    def __getitem__(self, index: int) -> tuple[PlacedEpisode, int]:
        return self.episodes.locate(range(len(self._corpus))[index])

    def append(self, *_: object, **__: object) -> NoReturn:
        raise _read_only("append")
