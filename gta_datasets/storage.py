"""Minari's storage interface over a source dataset and what is generated from it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

from minari.dataset.minari_storage import MinariStorage

from gta_datasets.pipeline import Pipeline

__all__ = ["AugmentedStorage"]


class AugmentedStorage(MinariStorage):
    """Minari's storage interface over a source dataset and a pipeline; read-only.

    Episodes are numbered from 0: the source's valid ones first (if included), then the generated ones.
    """

    FORMAT = "hdf5"  # what minari.combine_datasets makes of it

    def __init__(self, pipeline: Pipeline, *, include_source: bool) -> None:
        self.pipeline, self.include_source = pipeline, include_source
        source = pipeline.dataset
        # minari.split_dataset reopens `data_path`: it must fail, and say why, instead of finding the source there.
        path = pipeline.cache_root / "an-augmented-dataset-has-no-folder-export-it-first"
        super().__init__(path, source.observation_space, source.action_space)

    @property
    def metadata(self) -> dict[str, Any]:
        """The source's metadata, its id among them, and how it was augmented.

        Counts are left to `total_episodes` and `total_steps`.
        """
        metadata = dict(self.pipeline.dataset.storage.metadata)
        for name in ("total_episodes", "total_steps", "dataset_size"):
            metadata.pop(name, None)
        metadata["data_format"] = self.FORMAT
        metadata["gta_datasets"] = self.pipeline.description
        return metadata

    def update_metadata(self, *_: object, **__: object) -> NoReturn:
        raise self._read_only("update_metadata")

    def update_episode_metadata(self, *_: object, **__: object) -> NoReturn:
        raise self._read_only("update_episode_metadata")

    def update_episodes(self, *_: object, **__: object) -> NoReturn:
        raise self._read_only("update_episodes")

    def _read_only(self, operation: str) -> TypeError:
        return TypeError(
            f"{operation} is not supported: an augmented dataset is read-only; export() makes a writable one"
        )

    @classmethod
    def _create(cls, *_: object, **__: object) -> NoReturn:
        raise TypeError("an augmented dataset is made by gta_datasets.augment(), not by Minari")

    @property
    def num_source(self) -> int:
        """Source episodes in this storage; those left out as invalid are not."""
        return len(self.pipeline.source.episode_ids) if self.include_source else 0

    @property
    def total_episodes(self) -> int:
        return self.num_source + len(self.pipeline.plan.lengths)

    @property
    def total_steps(self) -> int:
        of_source = self.pipeline.source.episodes.num_transitions if self.include_source else 0
        return of_source + int(self.pipeline.plan.lengths.sum())

    def get_size(self) -> float:
        """Megabytes of the source and of the shards that are in the cache."""
        source = self.pipeline.dataset.storage.get_size() if self.include_source else 0.0
        shards = self.pipeline.fit().nbytes if self.pipeline.is_fitted else 0
        return float(source + round(shards / 1e6, 1))

    def get_episode_metadata(self, episode_indices: Iterable[int]) -> Iterable[dict[str, Any]]:
        """Steps of every episode, and which of `source` it is; of a generated one, from which window it was made.

        `source_episode` is a number of `source.episode_indices`: those of this storage differ where some were left out.
        """
        for index in map(int, episode_indices):
            self._check_number(index)
            if index < self.num_source:
                number = self.pipeline.source.episode_ids[index]
                (found,) = self.pipeline.dataset.storage.get_episode_metadata([number])
                yield {**found, "id": index, "source_episode": int(number)}
            else:
                trajectory = index - self.num_source
                yield {
                    "id": index,
                    "total_steps": int(self.pipeline.plan.lengths[trajectory]),
                    "generated": True,
                    **self.pipeline.provenance(trajectory),
                }

    def get_episodes(self, episode_indices: Iterable[int]) -> Iterable[dict[str, Any]]:
        """Episodes as Minari's dictionaries; a generated one is made on first access."""
        return (self._episode(int(index)) for index in episode_indices)

    def _episode(self, index: int) -> dict[str, Any]:
        self._check_number(index)
        if index < self.num_source:
            (found,) = self.pipeline.dataset.storage.get_episodes([self.pipeline.source.episode_ids[index]])
            # Minari gives None for episodes written without infos, and then cannot even print them.
            return {**found, "id": index, "infos": found["infos"] or {}}
        return {**self.pipeline.trajectory(index - self.num_source), "id": index}

    def _check_number(self, index: int) -> None:
        total = self.total_episodes
        if not 0 <= index < total:
            raise IndexError(f"episode {index} does not exist; the dataset has episodes 0 to {total - 1}")
