"""Which windows are drawn: for training, reweighted, and to be augmented. Every draw depends on its name alone."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gta_datasets.config import DataConfig, SamplingConfig
from gta_datasets.data.episodes import Episodes
from gta_datasets.data.reweighting import dense_weights, sparse_weights
from gta_datasets.data.windows import WindowIndex, Windows
from gta_datasets.seeding import numpy_generator

__all__ = ["SourceDraws", "TrainingDraws"]


class TrainingDraws:
    """Windows to train on (GTA, section 4.1).

    Args:
        episodes: the source.
        index: its windows.
        returns: return-to-go of every transition, (N,).
        config: how often each window is drawn.
        seed: of the draws.
    """

    def __init__(
        self, episodes: Episodes, index: WindowIndex, returns: NDArray[np.float64], config: DataConfig, seed: int
    ) -> None:
        self._index, self._seed = index, seed
        self._cumulative = self._distribution(episodes, returns, config)

    def draw(self, step: int, size: int) -> Windows:
        """`size` windows for a training step."""
        generator = numpy_generator(self._seed, "batch", step)
        if self._cumulative is None:
            return self._index.locate(generator.integers(len(self._index), size=size))
        return self._index.locate(_weighted(self._cumulative, size, generator))

    def _distribution(
        self, episodes: Episodes, returns: NDArray[np.float64], config: DataConfig
    ) -> NDArray[np.float64] | None:
        """Cumulative probability of the windows; None where all are equally likely."""
        if config.reweighting == "none":
            return None
        if config.reweighting == "sparse":
            return np.cumsum(sparse_weights(episodes, self._index, success_weight=config.success_weight))
        return np.cumsum(
            dense_weights(
                returns[self._index.first_transitions],
                bins=config.bins,
                smoothing=config.smoothing,
                temperature=config.temperature,
            )
        )


class SourceDraws:
    """Windows to be augmented, each as likely as any other, or those around transitions that are.

    Args:
        episodes: the source.
        index: its windows.
        config: how many belong to a shard, and of which episodes they are.
        seed: of the draws.
    """

    def __init__(self, episodes: Episodes, index: WindowIndex, config: SamplingConfig, seed: int) -> None:
        self._episodes, self._index, self._config, self._seed = episodes, index, config, seed

    def shard(self, number: int) -> Windows:
        """The windows of a shard."""
        return self.some(self._config.windows_per_shard, "augment", number)

    def some(self, size: int, stream: str, number: int) -> Windows:
        """`size` windows of a stream of one's own."""
        generator = numpy_generator(self._seed, stream, number)
        return self._index.locate(self._drawn(self._eligible, size, generator))

    def again(self, number: int, attempt: int, lengths: NDArray[np.int64]) -> Windows:
        """Other windows of given lengths (B,) for a shard, each drawn among all of that length."""
        generator = numpy_generator(self._seed, f"augment {attempt}", number)
        numbers = np.empty(len(lengths), np.int64)
        for length in np.unique(lengths):
            # Shorter windows than the horizon are whole episodes.
            fitting = self._eligible[self._index.locate(self._eligible).length == length]
            slots = lengths == length
            numbers[slots] = self._drawn(fitting, int(slots.sum()), generator)
        return self._index.locate(numbers)

    def _drawn(self, windows: NDArray[np.int64], size: int, generator: np.random.Generator) -> NDArray[np.int64]:
        """`size` of some windows, by their numbers."""
        if self._config.coverage == "windows":
            return windows[generator.integers(len(windows), size=size)]
        return windows[_weighted(np.cumsum(self._around[windows]), size, generator)]

    @cached_property
    def _around(self) -> NDArray[np.float64]:
        """How often each window is drawn where every transition counts alike."""
        return self._index.around()

    @cached_property
    def below_quantile(self) -> NDArray[np.int64]:
        """Episodes with windows that may not be augmented, because their return is below `source_quantile`."""
        if self._config.source_quantile == 0:
            return np.zeros(0, np.int64)
        of_episode = self._episodes.returns
        of_episode[self._index.skipped] = np.inf
        least = np.quantile(np.delete(of_episode, self._index.skipped), self._config.source_quantile)
        return np.flatnonzero(of_episode < least)

    @cached_property
    def _eligible(self) -> NDArray[np.int64]:
        """Numbers of the windows that may be augmented: those of the best episodes, or all."""
        every = np.arange(len(self._index))
        if len(self.below_quantile) == 0:
            return every
        best: NDArray[np.int64] = every[~np.isin(self._index.locate(every).episode, self.below_quantile)]
        return best


def _weighted(cumulative: NDArray[np.float64], size: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """`size` places, drawn by their weights, of which these are the sums."""
    drawn = np.searchsorted(cumulative, generator.random(size) * cumulative[-1], side="right")
    places: NDArray[np.int64] = np.minimum(drawn, len(cumulative) - 1)
    return places
