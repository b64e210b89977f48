"""From a Minari dataset to verified shards on disk: each stage is done when first needed and never twice."""

from __future__ import annotations

import copy
import importlib.metadata
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import minari
import numpy as np
import torch

from gta_datasets.config import MethodConfig
from gta_datasets.data.episodes import Episodes
from gta_datasets.data.reading import Source, read_episodes
from gta_datasets.errors import CacheError, WorkerError
from gta_datasets.methods import build_augmenter
from gta_datasets.methods.base import Augmenter, Consulted, Shard
from gta_datasets.methods.levels import LevelSearch
from gta_datasets.models.dynamics import DynamicsModel
from gta_datasets.plan import Combined, Plan
from gta_datasets.progress import progress_bar
from gta_datasets.seeding import derived_seed
from gta_datasets.shelf import Shelf
from gta_datasets.store import ShardStore, content_key
from gta_datasets.surroundings import plain_torch
from gta_datasets.training.team import Team
from gta_datasets.warn import warn
from gta_datasets.workers import Backend, check_children, check_workers, make_shards

__all__ = ["Pipeline"]

WARNED_EPISODES = 5
"""How many episodes a warning describes."""


class Pipeline:
    """The lazy stages behind an augmented dataset. Pickling carries what they are made from, not what they hold.

    Args:
        dataset: the source, never modified; episodes that it gets later do not count.
        config: the method's configuration.
        seed: seed of training and generation.
        device: where the network runs.
        num_transitions: how many to generate at least; None for as many as the source has.
        cache_root: folder of the cache.
        progress: show bars while training and generating.
    """

    def __init__(
        self,
        dataset: minari.MinariDataset,
        config: MethodConfig,
        *,
        seed: int,
        device: str,
        num_transitions: int | None,
        cache_root: Path,
        progress: bool,
    ) -> None:
        # Minari replaces the numbers of a dataset's episodes when some are added; the copy keeps those of now.
        self.dataset, self.config, self.seed, self.device = copy.copy(dataset), config, seed, device
        self.num_transitions, self.cache_root, self.progress = num_transitions, cache_root, progress

    def __getstate__(self) -> dict[str, Any]:
        kept = ("dataset", "config", "seed", "device", "num_transitions", "cache_root", "progress")
        return {name: self.__dict__[name] for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        # It may have been pickled on another machine.
        device, gpus = torch.device(self.device), torch.cuda.device_count() if torch.cuda.is_available() else 0
        if device.type == "cuda" and (device.index or 0) >= gpus:
            self.device = "cuda" if gpus else "cpu"

    @cached_property
    def source(self) -> Source:
        """The source's arrays, checked."""
        return read_episodes(self.dataset, invalid=self.config.data.invalid)

    @cached_property
    @plain_torch()
    def augmenter(self) -> Augmenter:
        """The method bound to the source; a warning names the episodes that nothing is generated from."""
        augmenter = build_augmenter(self.source, self.config, seed=self.seed, device=torch.device(self.device))
        skipped, dropped = self._skipped(augmenter), len(self.source.dropped)
        if skipped:
            some = "; ".join(skipped[:WARNED_EPISODES])
            invalid = f", and {dropped} of these are left out as invalid" if dropped else ""
            warn(
                f"nothing is generated from {len(skipped)} of {self.dataset.total_episodes} source episodes{invalid} "
                f"(the attribute `skipped` names them all): {some}"
            )
        return augmenter

    @property
    def skipped(self) -> tuple[str, ...]:
        """One sentence for every source episode that nothing is generated from."""
        return self._skipped(self.augmenter)

    def _skipped(self, augmenter: Augmenter) -> tuple[str, ...]:
        ids = self.source.episode_ids
        return self.source.dropped + tuple(
            f"episode {ids[place]} of {self.dataset.id!r} {reason}: skipped"
            for place, reason in augmenter.skipped.items()
        )

    @cached_property
    def plan(self) -> Plan:
        """Which trajectories there are; needs the source, but no model."""
        wanted = self.source.episodes.num_transitions if self.num_transitions is None else self.num_transitions
        return Plan.of(self.augmenter.lengths, wanted)

    @cached_property
    def model_store(self) -> ShardStore:
        """Where the trained weights lie."""
        return ShardStore(self.cache_root, content_key(self.augmenter.model_identity))

    def fit(self) -> ShardStore:
        """Train what is not trained yet, once, and give the store of the shards, whose key depends on the weights."""
        return self._fitted_store

    @cached_property
    def _fitted_store(self) -> ShardStore:
        teachers = self._fitted(self.augmenter.teachers)
        weights = self._shelf.fit(self.model_store, self.augmenter)
        key = content_key(
            {
                "model": self.model_store.key,
                "weights": weights,
                **({"teachers": teachers} if teachers else {}),  # there were none once: other shards stay
                "models": self._fitted(self.augmenter.models),
                "sampling": self.augmenter.sampling_identity,
            }
        )
        return ShardStore(self.cache_root, key)

    def _fitted(self, models: Mapping[str, Consulted]) -> dict[str, list[str]]:
        """Keys and digests of some models, which are fitted if they are not."""
        stores = {name: self._shelf.store_of(model) for name, model in models.items()}
        return {name: [stores[name].key, self._shelf.fit(stores[name], model)] for name, model in models.items()}

    @property
    def _shelf(self) -> Shelf:
        return Shelf(self.cache_root, self.device, self.description, self.progress)

    def fitted_judge(self) -> DynamicsModel:
        """A learned forward model of the source for measuring; trained if there is none.

        Its seed is not that of the model behind `qualify` and the search for levels: data chosen by a model look better
        to that model than they are.
        """
        seed = derived_seed(self.seed, "judge of quality")
        model = DynamicsModel(self.source, self.config.dynamics, seed=seed, device=torch.device(self.device))
        self._shelf.fit(self._shelf.store_of(model), model)
        return model

    @property
    def description(self) -> dict[str, Any]:
        """What was done, in JSON: for the manifest and for exported datasets."""
        return {
            "dataset": self.dataset.id,
            "method": self.config.method,
            "config": self.config.to_dict(),
            "seed": self.seed,
            "versions": {
                name: importlib.metadata.version(name) for name in ("gta-datasets", "torch", "minari", "numpy")
            },
        }

    @property
    def is_fitted(self) -> bool:
        models = [*self.augmenter.teachers.values(), *self.augmenter.models.values()]
        return self._shelf.holds(self.model_store, self.augmenter) and all(
            self._shelf.holds(self._shelf.store_of(model), model) for model in models
        )

    @property
    def is_complete(self) -> bool:
        """Whether every shard of the plan is committed, if the method stores any."""
        if not self.augmenter.stored:
            return True
        return self.is_fitted and set(range(self.plan.num_shards)) <= set(self.fit().indices())

    @property
    def acceptance_rate(self) -> float | None:
        """Share of the drawn trajectories that were kept, in the shards that are there; None without any."""
        if self.config.qualification.qualify == 0 or not self.is_fitted:
            return None
        store = self.fit()
        shards = [shard for shard in store.get_many(store.indices()) if shard is not None]
        drawn = sum(int(shard["attempts"].sum()) for shard in shards)
        return sum(len(shard["attempts"]) for shard in shards) / drawn if drawn else None

    @property
    def levels(self) -> dict[str, Any] | None:
        """What `alpha="auto"` and `mu="auto"` came to, and why; None where neither was asked for."""
        search = self.augmenter.models.get("levels")
        if not isinstance(search, LevelSearch):
            return None
        self.fit()
        return search.found

    @property
    def loss_history(self) -> list[tuple[int, float]]:
        """Pairs of training step and mean loss."""
        self.fit()
        return self.augmenter.loss_history

    def shard(self, number: int) -> Shard:
        """A shard from the cache, made and committed first if it is missing; or made anew if the method stores none."""
        if not self.augmenter.stored:
            return self._remembered(number)
        return self.fit().get_or_make(number, lambda: self._make(number))

    def holds(self, number: int) -> bool:
        """Whether a shard costs no more than reading it."""
        return not self.augmenter.stored or number in self.fit().indices()

    def generate(self, workers: int = 1, backend: Backend = "process") -> None:
        """Make every missing shard of the plan, if the method stores any; arguments as of the dataset's `generate`."""
        workers = check_workers(workers, backend)
        if not self.augmenter.stored:
            return
        wanted = min(workers, self.plan.num_shards)
        if wanted > 1 and backend == "process" and not self.is_complete:  # before it is trained
            check_children(workers)
        store = self.fit()
        committed = set(store.indices())
        team = Team.of_launch()
        missing = team.own_first([number for number in range(self.plan.num_shards) if number not in committed])
        shown = bool(missing) and self.progress and team.leads
        with progress_bar(len(missing), "generating", "shard", shown=shown) as bar:
            if min(workers, len(missing)) > 1:
                sent = _Sent(self, self.model_store.key, store.key)
                make_shards(sent, missing, workers=workers, backend=backend, done=bar.update)
                return
            for number in missing:
                self.shard(number)
                bar.update()

    def generated(self) -> Iterator[Episodes]:
        """The generated trajectories, shard by shard."""
        for number, size in enumerate(self.plan.shard_sizes):
            yield Episodes.from_arrays(self.shard(number)).slice(0, int(size))

    @cached_property
    def combined(self) -> Combined:
        """All episodes, to draw transitions from; makes what is missing. Nothing is copied."""
        self.generate()
        stored = self.augmenter.stored
        found = self.fit().get_many(range(self.plan.num_shards)) if stored else [None] * self.plan.num_shards
        # A shard that turned out damaged is made again.
        shards = [self.shard(number) if shard is None else shard for number, shard in enumerate(found)]
        return Combined.of(self.source.episodes, shards, self.plan)

    def trajectory(self, number: int) -> dict[str, Any]:
        """A generated trajectory in the form of Minari's episode dictionaries, without its number."""
        shard, place = self.plan.locate(number)
        episode = Episodes.from_arrays(self.shard(shard)).slice(place, place + 1)
        return {
            "observations": self.source.observation_codec.unflatten(episode.observations),
            "actions": self.source.action_codec.unflatten(episode.actions),
            "rewards": np.array(episode.rewards),
            "terminations": np.array(episode.terminations),
            "truncations": np.array(episode.truncations),
            "infos": {},
        }

    def provenance(self, number: int) -> dict[str, float]:
        """Where a generated trajectory comes from (-1 where it was made from none) and what was asked of it."""
        shard, place = self.plan.locate(number)
        arrays = self.shard(shard)
        episode = int(arrays["source_episode"][place])
        return {
            "source_episode": -1 if episode < 0 else int(self.source.episode_ids[episode]),
            "source_start": int(arrays["source_start"][place]),
            "source_return": float(arrays["source_return"][place]),
            "asked_return": float(arrays["asked_return"][place]),
        }

    @cached_property
    def _remembered(self) -> Callable[[int], Shard]:
        """The last few shards of a method that stores none, for readers who go through them episode by episode."""
        return lru_cache(maxsize=4)(plain_torch()(self.augmenter.generate))

    @plain_torch()
    def _make(self, number: int) -> Shard:
        store = self.fit()
        try:
            described = store.read_manifest() is not None
        except CacheError:  # damaged, or a link, which is not written through either
            described = False
        if not described:
            store.write_manifest({"kind": "trajectories", **self.description})
        return self.augmenter.generate(number)


class _Sent:
    """A pipeline as other processes have it; it refuses to work where the library or the data are others."""

    def __init__(self, pipeline: Pipeline, model_key: str, shard_key: str) -> None:
        self._pipeline = copy.copy(pipeline)  # as by pickling
        self._pipeline.progress = False
        self.device = pipeline.device
        self._model_key, self._shard_key = model_key, shard_key

    def shard(self, number: int) -> None:
        """Make a shard and commit it."""
        # In this order: another model would have to be trained before its shards had a key.
        if self._pipeline.model_store.key != self._model_key or self._pipeline.fit().key != self._shard_key:
            raise WorkerError(
                "a worker has another version of this library, or another dataset under the same name, than the "
                "process that started it; make them the same on all machines"
            )
        self._pipeline.shard(number)
