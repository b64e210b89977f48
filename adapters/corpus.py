"""What every adapter reads: one numbering of a dataset's real and generated transitions, on arrays that all share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import minari
import numpy as np
from numpy.typing import NDArray

from gta_datasets.adapters.parts import Part, ReturnToGo, Subsequences
from gta_datasets.data.episodes import FloatArray
from gta_datasets.data.reading import read_episodes
from gta_datasets.data.spaces import SpaceCodec
from gta_datasets.data.table import EpisodeTable, Transitions
from gta_datasets.errors import DatasetError
from gta_datasets.storage import AugmentedStorage

__all__ = ["Corpus"]


Result = TypeVar("Result")


class Corpus:
    """A dataset's transitions, the real ones first, then the generated ones, numbered from 0.

    Of a `GTAAugmentedDataset` (or a filtered one) nothing is copied: source arrays and memory-mapped shards are those
    of the dataset itself, and what is missing in the cache is generated. Any other Minari dataset is read into memory,
    and all of it is real. Pickling carries the dataset, not its arrays.

    Args:
        dataset: a Minari dataset, never modified.

    Raises:
        DatasetError: it is not a Minari dataset, has no transitions, or breaks Minari's contract.
        UnsupportedSpaceError: a space that cannot be turned into vectors.
        CacheError: the cache cannot be read, or what is missing cannot be written to it.
    """

    def __init__(self, dataset: minari.MinariDataset) -> None:
        if not isinstance(dataset, minari.MinariDataset):
            raise DatasetError(
                f"dataset is of type {type(dataset).__name__}; give a minari.MinariDataset, such as the result of "
                "minari.load_dataset() or gta_datasets.augment()"
            )
        self.dataset = dataset
        self.observation_codec = SpaceCodec.of(dataset.observation_space, name="observation")
        self.action_codec = SpaceCodec.of(dataset.action_space, name="action")
        if isinstance(dataset.storage, AugmentedStorage):
            kinds = _augmented_parts(dataset, dataset.storage)
        else:
            kinds = (Part.of_real(EpisodeTable.of(read_episodes(dataset).episodes)),)
        sizes = [part.episodes.num_transitions for part in kinds]
        self.num_real, self.num_generated = sizes[0], sum(sizes[1:])
        self.parts = [part for part, size in zip(kinds, sizes, strict=True) if size]
        if not self.parts:
            raise DatasetError(f"dataset {dataset.id!r} has no transitions; if it was filtered, loosen the filter")

    def __reduce__(self) -> tuple[type[Corpus], tuple[minari.MinariDataset]]:
        return Corpus, (self.dataset,)

    def __len__(self) -> int:
        return self.num_real + self.num_generated

    def transitions(self, numbers: NDArray[np.integer]) -> Transitions:
        """The transitions of the given numbers, (B,), in the dtypes of the data."""
        return self._read(Transitions, numbers, lambda part, chosen: part.episodes.transitions(chosen))

    def next_actions(self, numbers: NDArray[np.integer]) -> FloatArray:
        """The actions that follow the given transitions, (B, act_dim); zeros after the last one of an episode."""
        found: FloatArray = self._read(np.asarray, numbers, lambda part, chosen: (part.next_actions(chosen),))
        return found

    def subsequences(
        self, numbers: NDArray[np.integer], length: int, *, return_to_go: ReturnToGo = "amplified"
    ) -> Subsequences:
        """The last `length` steps of an episode up to each of the given transitions, (B,), padded on the left."""
        return self._read(Subsequences, numbers, lambda part, chosen: part.subsequences(chosen, length, return_to_go))

    def episode_returns(self) -> NDArray[np.float64]:
        """Sum of the rewards of every episode, (E,)."""
        return np.concatenate([part.episode_returns for part in self.parts])

    def episode_lengths(self) -> NDArray[np.int64]:
        """Transitions of every episode, (E,)."""
        return np.concatenate([part.episodes.lengths for part in self.parts])

    def _read(
        self,
        make: Callable[..., Result],
        numbers: NDArray[np.integer],
        read: Callable[[Part, NDArray[np.integer]], tuple[NDArray[Any], ...]],
    ) -> Result:
        """What `make` makes of the fields that `read` gives for transitions of either kind, in the order asked for."""
        if len(self.parts) == 1:
            return make(*read(self.parts[0], numbers))
        generated = numbers >= self.num_real
        count = int(generated.sum())
        if count == 0:
            return make(*read(self.parts[0], numbers))
        if count == len(numbers):
            return make(*read(self.parts[1], numbers - self.num_real))
        real = ~generated
        batches = read(self.parts[0], numbers[real]), read(self.parts[1], numbers[generated] - self.num_real)
        fields = []
        for first, second in zip(*batches, strict=True):
            merged = np.empty((len(numbers), *first.shape[1:]), first.dtype)
            merged[real], merged[generated] = first, second
            fields.append(merged)
        return make(*fields)


def _augmented_parts(dataset: minari.MinariDataset, storage: AugmentedStorage) -> tuple[Part, ...]:
    """Real and generated episodes of a dataset on `storage`, which may have been filtered."""
    pipeline, num_source = storage.pipeline, storage.num_source
    indices = np.asarray(dataset.episode_indices)
    real = pipeline.source_table
    chosen = pipeline.dataset.episode_indices[indices[indices < num_source]]
    kept = np.flatnonzero(np.isin(pipeline.source.episode_ids, chosen))
    if len(kept) < real.num_episodes:
        real = real.select(kept)
    generated = pipeline.generated_table
    trajectories = indices[indices >= num_source] - num_source
    if len(trajectories) < generated.episodes.num_episodes:
        generated = generated.select(trajectories)
    return Part.of_real(real), Part.of_generated(generated, pipeline.source.episodes, pipeline.config.sampling)
