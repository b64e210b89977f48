"""S4RL's Gaussian state noise (Sinha, Mandlekar, Garg 2021, arXiv 2103.06326), the GTA paper's baseline.

Every state of a recorded episode is perturbed a little; rewards stay, and actions but for what lies outside of their
space. There is nothing to train, and making a trajectory costs no more than reading one, so nothing is stored.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gta_datasets.config import S4RLConfig
from gta_datasets.data.bank import static_columns
from gta_datasets.data.normalize import Standardizer
from gta_datasets.data.reading import Source
from gta_datasets.data.returns import returns_to_go
from gta_datasets.data.windows import take
from gta_datasets.methods.assemble import check_finite, stored_returns
from gta_datasets.methods.base import Shard
from gta_datasets.models.ensemble import LearnedModel
from gta_datasets.seeding import numpy_generator

__all__ = ["S4RL"]

ALGORITHM_VERSION = 2
"""Raised whenever the same configuration would give other trajectories."""


class S4RL:
    """S4RL on one source dataset: all of its episodes, shuffled, again and again, each time with other noise.

    Args:
        source: the dataset's arrays.
        config: all settings.
        seed: seed of the noise.
    """

    discount = 1.0
    stored = False

    def __init__(self, source: Source, config: S4RLConfig, *, seed: int) -> None:
        self._source, self._config, self._seed = source, config, seed
        self.teachers: Mapping[str, LearnedModel] = {}
        self.models: Mapping[str, LearnedModel] = {}
        self.skipped: Mapping[int, str] = {}
        self.loss_history: list[tuple[int, float]] = []
        episodes = source.episodes
        statistics = Standardizer.fit(episodes.observations)
        # What is constant within an episode, such as a goal, is no state.
        self._noise_scale = np.where(static_columns(episodes), 0.0, statistics.scale * config.perturbation.noise)
        self._returns = returns_to_go(episodes, discount=1.0)[episodes.offsets[:-1]]
        mean_length = episodes.num_transitions / episodes.num_episodes
        self._per_shard = max(1, round(config.perturbation.transitions_per_shard / mean_length))

    @property
    def model_identity(self) -> Mapping[str, Any]:
        return {
            "method": "s4rl",
            "version": ALGORITHM_VERSION,
            "seed": self._seed,
            **self._source.identity,
        }

    @property
    def sampling_identity(self) -> Mapping[str, Any]:
        return self._config.data_fields()

    def fit(self, folder: Path, *, progress: bool) -> str:  # noqa: ARG002 - there is nothing to train
        return "no weights"

    def is_fitted(self, folder: Path) -> bool:  # noqa: ARG002
        return True

    def asked_returns(
        self,
        returns: NDArray[np.floating[Any]],
        to_go: NDArray[np.floating[Any]],  # noqa: ARG002
    ) -> NDArray[np.floating[Any]]:
        return returns

    def lengths(self, shard: int) -> NDArray[np.int64]:
        return self._source.episodes.lengths[self._draw(shard)]

    def generate(self, shard: int) -> Shard:
        return self._perturbed(self._draw(shard), shard, "s4rl")

    def attempt(self, shard: int, attempt: int, lengths: NDArray[np.int64]) -> Shard:
        if attempt == 0:
            return self.generate(shard)
        generator = numpy_generator(self._seed, f"s4rl draw {attempt}", shard)
        fitting = [np.flatnonzero(self._source.episodes.lengths == length) for length in lengths]
        chosen = np.array([generator.choice(episodes) for episodes in fitting], np.int64)
        return self._perturbed(chosen, shard, f"s4rl {attempt}")

    def _perturbed(self, chosen: NDArray[np.int64], shard: int, stream: str) -> Shard:
        """Source episodes with noise on their states, within the spaces."""
        copied = take(self._source.episodes, chosen)
        noise = numpy_generator(self._seed, stream, shard).standard_normal(copied.observations.shape)
        with np.errstate(over="ignore"):
            observations = copied.observations + (self._noise_scale * noise).astype(copied.observations.dtype)
        check_finite("observation", observations, remedy="lower noise")
        perturbed = self._source.within_spaces(dataclasses.replace(copied, observations=observations))
        returns = stored_returns(self._returns[chosen])
        return {
            **perturbed.arrays(),
            "source_episode": chosen,
            "source_start": np.zeros(len(chosen), np.int64),
            "source_return": returns,
            "asked_return": np.full_like(returns, np.nan),
        }

    def _draw(self, shard: int) -> NDArray[np.int64]:
        """Source episodes of a shard."""
        first = shard * self._per_shard
        passes, places = np.divmod(np.arange(first, first + self._per_shard), self._source.episodes.num_episodes)
        return np.concatenate([self._order(number)[places[passes == number]] for number in np.unique(passes).tolist()])

    def _order(self, number: int) -> NDArray[np.int64]:
        """In which order a pass goes through the episodes: where few are asked for, they are no matter of their age."""
        return numpy_generator(self._seed, "s4rl order", number).permutation(self._source.episodes.num_episodes)
