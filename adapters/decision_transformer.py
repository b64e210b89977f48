"""Context windows for Decision Transformer (Chen et al., arXiv 2106.01345) and its relatives, as a torch dataset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import minari
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from gta_datasets.adapters.corpus import Corpus, ReturnToGo, check_return_to_go, check_scale
from gta_datasets.adapters.indexing import resolve
from gta_datasets.adapters.mixing import Fraction, Mixture
from gta_datasets.adapters.statistics import RunningStatistics
from gta_datasets.config.fields import truth, whole_number
from gta_datasets.errors import ConfigError

__all__ = ["SampleBy", "SequenceDataset", "to_decision_transformer"]

SampleBy = Literal["length", "return"]
"""What the probability of drawing a trajectory is proportional to."""


def to_decision_transformer(
    dataset: minari.MinariDataset,
    context_length: int = 20,
    *,
    return_to_go: ReturnToGo = "amplified",
    return_scale: float = 1.0,
    normalize: bool = True,
) -> SequenceDataset:
    """A torch dataset of context windows with returns-to-go; what is missing in the cache is generated now.

    Args:
        dataset: an augmented dataset, or any other Minari dataset.
        context_length: steps in a window, `K`.
        return_to_go: what a generated trajectory's return-to-go starts at: its source window's, amplified as when it
            was generated, or as it was (GTA, appendix E.4). Every reward is deducted in turn. Real trajectories always
            have the sum of their remaining rewards, undiscounted.
        return_scale: what returns-to-go are divided by.
        normalize: subtract `state_mean` from the states and divide them by `state_std`.

    Raises:
        ConfigError: an option that is not allowed.
        DatasetError: the dataset breaks Minari's contract or is empty.
        CacheError: the cache cannot be read or written.
        DivergenceError, QualificationError: what is missing cannot be generated, as of the dataset's `generate`.
    """
    context_length = whole_number("context_length", context_length, 1)
    check_return_to_go(return_to_go)
    check_scale("return_scale", return_scale)
    normalize = truth("normalize", normalize)
    return SequenceDataset(
        Corpus(dataset), context_length, return_to_go=return_to_go, return_scale=return_scale, normalize=normalize
    )


class SequenceDataset(Dataset[dict[str, Tensor]]):
    """Item `i` is the window of `K` steps that ends with transition `i`; made by `to_decision_transformer`.

    The real transitions come first. An item holds what `transformers.DecisionTransformerModel` takes, by its names,
    padded with zeros on the left where the trajectory has fewer steps:

    - `states` (K, obs_dim) float32: flat observations, normalised unless that was switched off,
    - `actions` (K, act_dim) float32: flat actions; discrete ones are one-hot,
    - `rewards` (K, 1) float32,
    - `returns_to_go` (K, 1) float32: undiscounted, divided by `return_scale`,
    - `timesteps` (K,) int64: steps since the start of the environment's episode, from 0; a generated trajectory begins
      where its source window does,
    - `attention_mask` (K,) int64: 0 where padded.

    An array of `B` numbers or a slice as index gives one such dictionary with a leading `B`. Pickling carries the
    Minari dataset, not its arrays, so that every worker of a DataLoader opens the files itself.

    Attributes:
        state_mean: mean of the states of the real transitions, or of the generated ones if there are no real ones,
            (obs_dim,).
        state_std: their standard deviation, 1 where they are all equal, (obs_dim,).
    """

    def __init__(
        self, corpus: Corpus, context_length: int, *, return_to_go: ReturnToGo, return_scale: float, normalize: bool
    ) -> None:
        self._corpus, self._return_to_go = corpus, return_to_go
        self.context_length, self.return_scale, self.normalize = context_length, return_scale, normalize
        self.state_mean, self.state_std = _statistics(corpus)

    def __len__(self) -> int:
        return len(self._corpus)

    def __getitem__(self, index: int | slice | Sequence[int] | NDArray[np.integer]) -> dict[str, Tensor]:
        numbers = resolve(index, len(self))
        if numbers.ndim == 0:
            return {name: values[0] for name, values in self._gather(numbers[None]).items()}
        return self._gather(numbers)

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Tensor]]:
        """The items of a batch, gathered together; torch's DataLoader asks for this where it finds it."""
        gathered = self._gather(resolve(indices, len(self)))
        return [{name: values[place] for name, values in gathered.items()} for place in range(len(indices))]

    def normalized(self, observations: ArrayLike) -> Tensor:
        """Flat observations (..., obs_dim) as the model is to see them, float32: for acting in the environment."""
        states = np.asarray(observations)
        if self.normalize:
            states = (states - self.state_mean) / self.state_std
        return torch.from_numpy(states.astype(np.float32))

    def loader(
        self,
        batch_size: int = 64,
        *,
        num_batches: int,
        sample_by: SampleBy = "length",
        real_fraction: Fraction | None = None,
        seed: int = 0,
        num_workers: int = 0,
        **options: Any,
    ) -> DataLoader[dict[str, Tensor]]:
        """A torch DataLoader of batches: the dictionary of an item with a leading `batch_size`.

        Windows are drawn with replacement, in this process, whatever the number of workers; iterating again goes on
        with further draws. A window is that of a transition drawn uniformly within a drawn trajectory.

        Args:
            batch_size: windows per batch.
            num_batches: batches per iteration.
            sample_by: "length" draws trajectories in proportion to their length, which is uniformly over transitions;
                "return" in proportion to how far the sum of their rewards exceeds the lowest one (or all alike if none
                does). Since generated trajectories are shorter, returns are compared among the real and among the
                generated ones only, and both kinds are drawn as often as with "length".
            real_fraction: share of real data in every batch, in [0, 1], or a function of the number of batches drawn so
                far (`gta_datasets.adapters.linear_schedule`); None draws from all transitions alike.
            seed: of the draws.
            num_workers: processes that gather the batches.
            options: others of torch's DataLoader, such as `multiprocessing_context` or `pin_memory`.

        Raises:
            ConfigError: an option that is not allowed.
        """
        batch_size = whole_number("batch_size", batch_size, 1)
        num_batches = whole_number("num_batches", num_batches, 1)
        if sample_by not in ("length", "return"):
            raise ConfigError(f"sample_by={sample_by!r} is not known; choose 'length' or 'return'")
        corpus = self._corpus
        mixture = Mixture(
            corpus.num_real,
            corpus.num_generated,
            real_fraction=real_fraction,
            weights=_weights_by_return(corpus) if sample_by == "return" else None,
            seed=seed,
        )
        draws = _Draws(mixture, batch_size, num_batches)
        # Without automatic batching the loader hands every array of numbers to `__getitem__` as it is.
        return DataLoader(self, batch_size=None, sampler=draws, num_workers=num_workers, **options)

    def _gather(self, numbers: NDArray[np.int64]) -> dict[str, Tensor]:
        """The windows of the given numbers, (B,), with a leading `B`."""
        found = self._corpus.subsequences(numbers, self.context_length, return_to_go=self._return_to_go)
        mask = torch.from_numpy(found.mask)
        return {
            "states": self.normalized(found.observations) * mask[..., None],
            "actions": torch.from_numpy(found.actions.astype(np.float32)),
            "rewards": torch.from_numpy(found.rewards[..., None].astype(np.float32)),
            "returns_to_go": torch.from_numpy((found.returns_to_go[..., None] / self.return_scale).astype(np.float32)),
            "timesteps": torch.from_numpy(found.timesteps),
            "attention_mask": mask.long(),
        }


class _Draws(Sampler[NDArray[np.int64]]):
    """Batches of transition numbers."""

    def __init__(self, mixture: Mixture, batch_size: int, num_batches: int) -> None:
        self._mixture, self._batch_size, self._num_batches = mixture, batch_size, num_batches

    def __len__(self) -> int:
        return self._num_batches

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        return (self._mixture.draw(self._batch_size) for _ in range(self._num_batches))


def _statistics(corpus: Corpus) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and spread of the states of the real transitions, or of all if none is real, each (obs_dim,)."""
    statistics = RunningStatistics()
    for _, found in corpus.parts(corpus.num_real or len(corpus)):
        statistics.add(found.observations)
    constant = statistics.minimum == statistics.maximum
    return (
        np.where(constant, statistics.minimum, statistics.mean).astype(np.float64),
        np.where(constant, 1.0, statistics.std),
    )


def _weights_by_return(corpus: Corpus) -> NDArray[np.float64]:
    """Weights of transitions, (N,), that draw the trajectories of either kind in proportion to return above the least.

    Those of a kind sum to its number of transitions.
    """
    weights = np.empty(corpus.episodes.num_episodes)
    for kind in (slice(None, corpus.num_real_episodes), slice(corpus.num_real_episodes, None)):
        returns, lengths = corpus.episode_returns[kind], corpus.episodes.lengths[kind]
        if len(returns):
            above = returns - returns.min()
            above = above if above.any() else np.ones_like(above)
            weights[kind] = above / above.sum() * lengths.sum() / lengths
    return np.repeat(weights, corpus.episodes.lengths)
