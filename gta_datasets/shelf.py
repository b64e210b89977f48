"""Models in the cache: each trained once, by one process or by a launch of several, whoever asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gta_datasets.methods.base import Consulted, Fittable
from gta_datasets.store import ShardStore, content_key
from gta_datasets.surroundings import plain_torch
from gta_datasets.training.fitting import CHECKPOINT_FILE
from gta_datasets.training.team import Team

__all__ = ["Shelf"]

MODEL_LOCK_TIMEOUT = 4 * 3600.0
"""Seconds without a checkpoint after which another process that trains the same model is no longer waited for."""


@dataclass(frozen=True)
class Shelf:
    """The models of a cache.

    Args:
        root: folder of the cache.
        device: where networks run.
        description: what a manifest says of a model that is trained now.
        progress: show bars while training.
    """

    root: Path
    device: str
    description: Mapping[str, Any]
    progress: bool

    def store_of(self, model: Consulted) -> ShardStore:
        """Where the weights of a model of the source lie; all methods share them."""
        return ShardStore(self.root, content_key(model.identity))

    def holds(self, store: ShardStore, model: Fittable) -> bool:
        """Whether a model is trained."""
        store.exists()  # an error if something else is in its place
        return model.is_fitted(store.path)

    @plain_torch()
    def fit(self, store: ShardStore, model: Fittable) -> str:
        """Load or train a model in its store; returns a digest of its weights.

        In a launch of several processes all of them have to call this, unless the model is trained.
        """
        team = Team.of_launch()
        team.take_device(torch.device(self.device))
        if self.holds(store, model):
            return model.fit(store.path, progress=False)
        store.write_manifest({"kind": "model", **_name_of(model), **self.description})
        alone = store.working("model", timeout=MODEL_LOCK_TIMEOUT, progress=CHECKPOINT_FILE)
        with alone if team.leads else nullcontext():
            team.meet(torch.device(self.device))  # nobody else changes the folder from here on: all see the same in it
            return model.fit(store.path, progress=self.progress and team.leads)


def _name_of(model: Fittable) -> dict[str, str]:
    """What a manifest says of a model that a method consults besides its own."""
    identity = getattr(model, "identity", {})
    words = [str(identity[name]) for name in ("model", "length") if name in identity]
    return {"model": " ".join(words)} if words else {}
