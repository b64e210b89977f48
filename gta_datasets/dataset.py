"""The augmented dataset: a Minari dataset whose generated episodes come into being when they are read."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from minari import MinariDataset
from minari.dataset.minari_storage import MinariStorage
from numpy.typing import NDArray

from gta_datasets.config import GTAConfig
from gta_datasets.data.episodes import Episodes, concatenate
from gta_datasets.errors import DatasetError
from gta_datasets.export import write_minari
from gta_datasets.metrics import Quality, quality
from gta_datasets.pipeline import Pipeline
from gta_datasets.report import write_report

__all__ = ["AugmentedStorage", "GTAAugmentedDataset"]

EXPORTED_METADATA = (
    "algorithm_name",
    "author",
    "author_email",
    "code_permalink",
    "env_spec",
    "eval_env_spec",
    "num_episodes_average_score",
    "ref_max_score",
    "ref_min_score",
    "requirements",
)
"""What an exported dataset keeps of its source's metadata."""


class AugmentedStorage(MinariStorage):
    """Minari's storage interface over a source dataset and a pipeline; read-only.

    Episodes are numbered from 0: the source's first (if included), then the generated ones.
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
        """The source's metadata under a name of its own; counts are left to `total_episodes` and `total_steps`."""
        metadata = dict(self.pipeline.dataset.storage.metadata)
        for name in ("total_episodes", "total_steps", "dataset_size"):
            metadata.pop(name, None)
        metadata["data_format"] = self.FORMAT
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
        """Source episodes in this storage."""
        return self.pipeline.dataset.total_episodes if self.include_source else 0

    @property
    def total_episodes(self) -> int:
        return self.num_source + len(self.pipeline.plan.lengths)

    @property
    def total_steps(self) -> int:
        of_source = self.pipeline.dataset.total_steps if self.include_source else 0
        return of_source + int(self.pipeline.plan.lengths.sum())

    def get_size(self) -> float:
        """Megabytes of the source and of the shards that are in the cache."""
        source = self.pipeline.dataset.storage.get_size() if self.include_source else 0.0
        shards = self.pipeline.shard_store.nbytes if self.pipeline.is_fitted else 0
        return float(source + round(shards / 1e6, 1))

    def get_episode_metadata(self, episode_indices: Iterable[int]) -> Iterable[dict[str, Any]]:
        """Steps of every episode; a generated one also says which window of the source it was made from."""
        for index in map(int, episode_indices):
            if index < self.num_source:
                dataset = self.pipeline.dataset
                (found,) = dataset.storage.get_episode_metadata([dataset.episode_indices[index]])
                yield {**found, "id": index}
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
        total = self.total_episodes
        if not 0 <= index < total:
            raise IndexError(f"episode {index} does not exist; the dataset has episodes 0 to {total - 1}")
        if index < self.num_source:
            dataset = self.pipeline.dataset
            (found,) = dataset.storage.get_episodes([dataset.episode_indices[index]])
            # Minari gives None for episodes written without infos, and then cannot even print them.
            return {**found, "id": index, "infos": found["infos"] or {}}
        return {**self.pipeline.trajectory(index - self.num_source), "id": index}


class GTAAugmentedDataset(MinariDataset):
    """A source dataset and what is generated from it, as one `minari.MinariDataset`.

    Made by `gta_datasets.augment`. Constructing it does no work; the first look at its size reads the source, and the
    first generated episode trains the model and generates a shard, unless the cache has them.
    """

    def __init__(self, pipeline: Pipeline, *, include_source: bool = True) -> None:
        self._indices: NDArray[np.int_] | None = None
        self._include_source = include_source
        storage = AugmentedStorage(pipeline, include_source=include_source)
        super().__init__(storage, episode_indices=np.zeros(0, np.int_))
        self._indices = None
        self._pipeline = pipeline

    # Minari keeps the numbers of the episodes in this attribute; here they are counted when first asked for.
    @property
    def _episode_indices(self) -> NDArray[np.int_]:
        if self._indices is None:
            self._indices = np.arange(self.storage.total_episodes)
            self._total_steps = self.storage.total_steps
        return self._indices

    @_episode_indices.setter
    def _episode_indices(self, value: NDArray[np.int_]) -> None:
        self._indices = value

    @property
    def total_steps(self) -> int:
        """Transitions in all episodes."""
        self._episode_indices  # noqa: B018 - counts them, before Minari would add up their metadata
        return super().total_steps

    @property
    def source(self) -> MinariDataset:
        """The dataset that was augmented."""
        return self._pipeline.dataset

    @property
    def generated(self) -> GTAAugmentedDataset:
        """The generated episodes alone."""
        return GTAAugmentedDataset(self._pipeline, include_source=False)

    @property
    def config(self) -> GTAConfig:
        """All settings of the method."""
        return self._pipeline.config

    @property
    def key(self) -> str:
        """Name of the shards in the cache; it depends on the weights, so asking for it trains them if need be."""
        return self._pipeline.shard_store.key

    @property
    def path(self) -> Path:
        """Folder of the shards."""
        return self._pipeline.shard_store.path

    @property
    def is_fitted(self) -> bool:
        """Whether the model is trained."""
        return self._pipeline.is_fitted

    @property
    def is_complete(self) -> bool:
        """Whether everything is generated."""
        return self._pipeline.is_complete

    @property
    def skipped(self) -> tuple[str, ...]:
        """One sentence for every source episode that nothing is generated from."""
        return self._pipeline.skipped

    def fit(self) -> GTAAugmentedDataset:
        """Train the model now, or finish training that was interrupted."""
        self._pipeline.shard_store  # noqa: B018 - opening it trains
        return self

    def generate(self) -> GTAAugmentedDataset:
        """Make every missing shard now."""
        self._pipeline.generate()
        return self

    def quality(self, *, sample: int = 16_384, novelty_sample: int = 1_024, seed: int = 0) -> Quality:
        """Measure generated trajectories against the source (GTA, appendix D, and the tail of the dynamics error).

        Args:
            sample: transitions that are set into the simulator; only as many shards as they need are generated.
            novelty_sample: transitions whose nearest source point is searched.
            seed: of the samples.
        """
        generated, asked = self._sample(sample)
        return self._measure(generated, asked, sample=sample, novelty_sample=novelty_sample, seed=seed)

    def report(self, path: str | Path, *, sample: int = 16_384, seed: int = 0) -> Quality:
        """Write the quality table and its plots to one HTML file; returns the numbers.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        generated, asked = self._sample(sample)
        found = self._measure(generated, asked, sample=sample, novelty_sample=1_024, seed=seed)
        write_report(
            Path(path),
            found,
            generated,
            self._pipeline.source.episodes,
            title=f"{self.id}, augmented",
            config=self.config.to_dict(),
            loss_history=self._pipeline.loss_history,
        )
        return found

    def _sample(self, transitions: int) -> tuple[Episodes, NDArray[np.floating[Any]]]:
        """Whole shards that hold at least `transitions` (or all there are), and the returns asked for."""
        parts: list[Episodes] = []
        asked: list[NDArray[np.floating[Any]]] = []
        for number, part in enumerate(self._pipeline.generated()):
            parts.append(part)
            asked.append(self._pipeline.shard(number)["asked_return"][: part.num_episodes])
            if sum(part.num_transitions for part in parts) >= transitions:
                break
        if not parts:
            raise DatasetError("num_transitions=0 leaves nothing to measure; augment() with at least 1")
        return concatenate(parts), np.concatenate(asked)

    def _measure(
        self, generated: Episodes, asked: NDArray[np.floating[Any]], *, sample: int, novelty_sample: int, seed: int
    ) -> Quality:
        return quality(
            generated,
            self._pipeline.source.episodes,
            env_spec=self.env_spec,
            asked_returns=asked,
            sample=sample,
            novelty_sample=novelty_sample,
            discount=self.config.data.discount,
            seed=seed,
        )

    def export(self, dataset_id: str) -> MinariDataset:
        """Write all episodes as an ordinary Minari dataset that needs this library no longer.

        Source episodes that were left out as invalid are not in it, and of the others one that was cut without a flag
        ends in a truncation, one that is both terminated and truncated in a termination.

        Args:
            dataset_id: its name, such as "hopper/medium-gta-v0".

        Raises:
            DatasetError: the name is taken, or the source has infos that are not numbers.
            UntrustedDatasetError: the name is malformed.
        """
        pipeline = self._pipeline
        source = pipeline.source
        metadata = self.storage.metadata
        kept = {name: metadata[name] for name in EXPORTED_METADATA if metadata.get(name) is not None}
        kept["description"] = f"{self.id} augmented by generative trajectory augmentation"
        kept["gta_datasets"] = pipeline.description
        return write_minari(
            dataset_id,
            self._parts(),
            observation_codec=source.observation_codec,
            action_codec=source.action_codec,
            metadata=kept,
            infos=self._infos(),
        )

    def _parts(self) -> Iterator[Episodes]:
        if self._include_source:
            yield self._pipeline.source.episodes
        self._pipeline.generate()
        yield from self._pipeline.generated()

    def _infos(self) -> Iterator[dict[str, Any]]:
        """Infos of every episode of `_parts`; generated ones have none."""
        if self._include_source:
            ids = self._pipeline.source.episode_ids
            yield from (found["infos"] or {} for found in self.source.storage.get_episodes(ids))
        yield from itertools.repeat({}, len(self._pipeline.plan.lengths))
