"""A method whose trajectories have to agree with a learned model of the dynamics.

DiffStitch (arXiv 2402.02439, section 4.4) keeps a generated trajectory only if a forward model predicts its states well
enough; here the check is applied to any method. What fails is drawn again, from other windows.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gta_datasets.config import QualificationConfig
from gta_datasets.data.episodes import Episodes, concatenate
from gta_datasets.data.windows import take
from gta_datasets.errors import QualificationError
from gta_datasets.methods.base import Augmenter, Consulted, Shard
from gta_datasets.models.dynamics import DynamicsModel

__all__ = ["Qualified"]


class Qualified:
    """A method behind the check. Its shards say in `attempts` how often each trajectory was drawn until it passed.

    Args:
        method: what generates.
        dynamics: what judges; must be fitted before `generate`.
        config: how strict it is.
    """

    stored = True  # whatever the method costs, checking costs more than reading

    def __init__(self, method: Augmenter, dynamics: DynamicsModel, config: QualificationConfig) -> None:
        self._method, self._dynamics, self._config = method, dynamics, config
        self.discount = method.discount
        self.teachers = method.teachers
        self.models: Mapping[str, Consulted] = {**method.models, "judge": dynamics}

    @property
    def skipped(self) -> Mapping[int, str]:
        return self._method.skipped

    @property
    def loss_history(self) -> list[tuple[int, float]]:
        return self._method.loss_history

    @property
    def model_identity(self) -> Mapping[str, Any]:
        return self._method.model_identity

    @property
    def sampling_identity(self) -> Mapping[str, Any]:
        return {**self._method.sampling_identity, "qualification": self._config.data_fields()}

    def fit(self, folder: Path, *, progress: bool) -> str:
        return self._method.fit(folder, progress=progress)

    def is_fitted(self, folder: Path) -> bool:
        return self._method.is_fitted(folder)

    def asked_returns(
        self, returns: NDArray[np.floating[Any]], to_go: NDArray[np.floating[Any]]
    ) -> NDArray[np.floating[Any]]:
        return self._method.asked_returns(returns, to_go)

    def lengths(self, shard: int) -> NDArray[np.int64]:
        return self._method.lengths(shard)

    def generate(self, shard: int) -> Shard:
        return self.attempt(shard, 0, self.lengths(shard))

    def attempt(self, shard: int, attempt: int, lengths: NDArray[np.int64]) -> Shard:
        """As the method's, but only with trajectories that pass.

        Raises:
            QualificationError: after `qualify_attempts` attempts some still do not.
        """
        kept: list[tuple[NDArray[np.int64], Shard]] = []
        missing = np.arange(len(lengths))
        attempts = np.zeros(len(lengths), np.int64)
        for further in range(self._config.qualify_attempts):
            made = self._method.attempt(shard, attempt + further, lengths[missing])
            attempts[missing] += 1
            passed = self.worst_errors(made) <= self._config.qualify
            kept.append((missing[passed], _select(made, np.flatnonzero(passed))))
            missing = missing[~passed]
            if len(missing) == 0:
                return {**_in_order(kept), "attempts": attempts}
        raise QualificationError(
            f"shard {shard}: {len(missing)} of {len(lengths)} trajectories still exceed qualify={self._config.qualify} "
            f"after {self._config.qualify_attempts} attempts ({len(lengths) - len(missing)} passed in "
            f"{int(attempts.sum())}); raise qualify or qualify_attempts, or train the model of the data longer"
        )

    def worst_errors(self, shard: Shard) -> NDArray[np.float64]:
        """The largest dynamics error within every trajectory of a shard, by the learned model, (B,).

        Where the shard says which transitions were generated, only those count: recorded ones are true.
        """
        episodes = Episodes.from_arrays(shard)
        if episodes.num_episodes == 0:
            return np.zeros(0)
        errors = self._dynamics.errors(episodes)
        if "stitch_start" in shard:
            step = np.arange(episodes.num_transitions) - np.repeat(episodes.offsets[:-1], episodes.lengths)
            first, count = (np.repeat(shard[name], episodes.lengths) for name in ("stitch_start", "stitch_length"))
            errors = np.where((step >= first) & (step < first + count), errors, 0.0)
        worst: NDArray[np.float64] = np.maximum.reduceat(errors, episodes.offsets[:-1])
        # A recording in the place of what was generated says nothing of that.
        return np.where(shard["recorded"], np.inf, worst) if "recorded" in shard else worst


def _select(shard: Shard, chosen: NDArray[np.int64]) -> Shard:
    """Some trajectories of a shard."""
    arrays = take(Episodes.from_arrays(shard), chosen).arrays()
    return {**arrays, **{name: shard[name][chosen] for name in shard.keys() - arrays.keys()}}


def _in_order(kept: list[tuple[NDArray[np.int64], Shard]]) -> Shard:
    """The shards' trajectories in the order of their numbers."""
    order = np.argsort(np.concatenate([numbers for numbers, _ in kept]))
    episodes = concatenate(Episodes.from_arrays(shard) for _, shard in kept)
    others = kept[0][1].keys() - episodes.arrays().keys()
    return _select(
        {**episodes.arrays(), **{name: np.concatenate([shard[name] for _, shard in kept]) for name in others}}, order
    )
