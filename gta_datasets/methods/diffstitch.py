"""DiffStitch (Li et al. 2024, arXiv 2402.02439): low-return episodes continued into high-return ones.

A piece of an episode of low return is followed by a generated bridge that ends on a state of an episode of high return,
and by what came after that state. The bridge's states come from a diffusion model, its actions from an inverse model
and its rewards from a reward model; a forward model judges it (`qualify`).

As in the authors' released code, a start gets the one target of many that its imagined future leads to (`candidates`):
there a random one of the most similar, here the most similar. A random pair hardly ever has a bridge that is true.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gta_datasets.config import DiffStitchConfig
from gta_datasets.data.episodes import Episodes
from gta_datasets.data.normalize import chunks
from gta_datasets.data.reading import Source
from gta_datasets.data.returns import returns_to_go
from gta_datasets.methods.assemble import check_finite, finite_as, stored_returns
from gta_datasets.methods.base import Shard
from gta_datasets.methods.pairs import Pairs
from gta_datasets.methods.sampling import Numbers, normal_numbers
from gta_datasets.methods.state_model import StateModel
from gta_datasets.methods.stitching import Plans, estimate_steps, join, window_rows
from gta_datasets.models.ensemble import LearnedModel
from gta_datasets.models.inverse import InverseDynamicsModel
from gta_datasets.models.reward import RewardModel
from gta_datasets.seeding import numpy_generator

__all__ = ["DiffStitch"]

ALGORITHM_VERSION = 3
"""Raised whenever the same configuration would give other trajectories."""

CHUNK = 16  # starts whose candidates are compared at once

REMEDY = "train longer, or lower learning_rate"


class DiffStitch:
    """DiffStitch on one source dataset. All trajectories have the same length.

    Args:
        source: the dataset's arrays.
        config: all settings.
        seed: seed of training and generation.
        device: where the networks run.

    Raises:
        DatasetError: no two episodes can be joined.
    """

    discount = 1.0
    stored = True

    def __init__(self, source: Source, config: DiffStitchConfig, *, seed: int, device: torch.device) -> None:
        self._source, self._config, self._seed, self._device = source, config, seed, device
        self._states = StateModel(source, config, seed=seed, device=device)
        self._actions = InverseDynamicsModel(source, config.dynamics, seed=seed, device=device)
        self._rewards = RewardModel(source, config.dynamics, seed=seed, device=device)
        self.teachers: Mapping[str, LearnedModel] = {}
        self.models: Mapping[str, LearnedModel] = {"inverse": self._actions, "reward": self._rewards}
        stitching, horizon = config.stitching, config.data.horizon
        self._length = stitching.steps_before + horizon + stitching.steps_after
        self._pairs = Pairs.of(
            source.episodes,
            self._returns[source.episodes.offsets[:-1]],
            high_quantile=stitching.high_quantile,
            # One more: what follows the last step of a task is no state to go on from.
            before=stitching.steps_before + 1,
            after=horizon - stitching.min_bridge + stitching.steps_after,
        )

    @cached_property
    def _returns(self) -> NDArray[np.float64]:
        """Return-to-go of every transition, (N,)."""
        return returns_to_go(self._source.episodes, discount=self.discount)

    @property
    def skipped(self) -> Mapping[int, str]:
        return self._pairs.skipped

    @property
    def loss_history(self) -> list[tuple[int, float]]:
        return self._states.loss_history

    @property
    def model_identity(self) -> Mapping[str, Any]:
        return {
            "method": "diffstitch",
            "version": ALGORITHM_VERSION,
            "seed": self._seed,
            **self._source.identity,
            "config": self._config.data_fields("data", "network", "training"),
        }

    @property
    def sampling_identity(self) -> Mapping[str, Any]:
        return self._config.data_fields("stitching")

    def is_fitted(self, folder: Path) -> bool:
        return self._states.is_fitted(folder)

    def fit(self, folder: Path, *, progress: bool) -> str:
        return self._states.fit(folder, progress=progress)

    def asked_returns(
        self,
        returns: NDArray[np.floating[Any]],
        to_go: NDArray[np.floating[Any]],  # noqa: ARG002
    ) -> NDArray[np.floating[Any]]:
        return returns

    def lengths(self, shard: int) -> NDArray[np.int64]:  # noqa: ARG002 - all are alike
        return np.full(self._config.stitching.trajectories_per_shard, self._length)

    def generate(self, shard: int) -> Shard:
        return self.attempt(shard, 0, self.lengths(shard))

    def attempt(self, shard: int, attempt: int, lengths: NDArray[np.int64]) -> Shard:
        noise = normal_numbers(
            (len(lengths), self._config.data.horizon + 1, self._states.columns.num_observed),
            seed=self._seed,
            prefix=f"attempt {attempt}/",
            number=shard,
            device=self._device,
        )
        generator = numpy_generator(self._seed, f"stitch {attempt}", shard)
        plans = self._plan(generator, len(lengths), noise)
        joined = self._joined(plans, noise)
        before_target = np.arange(self._length) < plans.arrival[:, None]
        gained = np.where(before_target, joined.rewards.reshape(before_target.shape), 0).sum(axis=1, dtype=np.float64)
        asked = gained + self._return_from(plans.target_episode, plans.target_start)
        return {
            **joined.arrays(),
            "source_episode": plans.source_episode,
            "source_start": plans.source_start,
            "source_return": stored_returns(self._return_from(plans.source_episode, plans.source_start)),
            "asked_return": stored_returns(asked),
            "start_return": stored_returns(asked),
            "target_episode": plans.target_episode,
            "target_start": plans.target_start,
            "stitch_start": np.full(len(lengths), plans.before),
            "stitch_length": plans.bridge,
        }

    def _return_from(self, episode: NDArray[np.int64], start: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return from some transitions to the end of their episodes, (B,)."""
        returns: NDArray[np.float64] = self._returns[self._source.episodes.offsets[episode] + start]
        return returns

    def _plan(self, generator: np.random.Generator, count: int, noise: Numbers) -> Plans:
        """Draw starts, imagine what follows them, and choose a target of each (DiffStitch, section 4.1)."""
        episodes, stitching = self._source.episodes, self._config.stitching
        (episode, start), (targets, target_starts) = self._pairs.draw(generator, count, stitching.candidates)
        left = episodes.observation_offsets[episode] + start + stitching.steps_before
        states = np.repeat(self._normalised(left)[:, None], self._config.data.horizon + 1, axis=1)
        revealed = np.zeros(states.shape[:2], np.bool_)
        revealed[:, 0] = True
        imagined = self._complete(states, revealed, episode, "imagine", noise)
        numbers, bridge, chosen = np.arange(count), np.empty(count, np.int64), np.empty(count, np.int64)
        target_rows = episodes.observation_offsets[targets] + target_starts
        for part in chunks(count, CHUNK):
            choices = self._normalised(target_rows[part])
            bridge[part], chosen[part] = estimate_steps(imagined[part], choices, shortest=stitching.min_bridge)
        return Plans(
            source_episode=episode,
            source_start=start,
            target_episode=targets[numbers, chosen],
            target_start=target_starts[numbers, chosen],
            bridge=bridge,
            before=stitching.steps_before,
            length=self._length,
        )

    def _joined(self, plans: Plans, noise: Numbers) -> Episodes:
        """Join the pieces and fill the bridges: states, actions, rewards (DiffStitch, sections 4.2 and 4.3)."""
        source = self._source
        step = np.arange(self._config.data.horizon + 1)
        states = self._normalised(window_rows(plans, source.episodes, self._config.data.horizon))
        revealed = (step == 0) | (step >= plans.bridge[:, None])
        made = self._complete(states, revealed, plans.source_episode, "stitch", noise)
        joined = source.within_spaces(join(plans, source.episodes))
        between, steps = (np.flatnonzero(chosen) for chosen in (plans.generated_states(), plans.generated_steps()))
        generated = self._states.columns.with_states(joined.observations[between], made[~revealed])
        observations = finite_as(joined.observations.dtype, "observation", generated, remedy=REMEDY)
        joined.observations[between] = source.observation_codec.project(observations)
        now = joined.observations[joined.transition_rows[steps]]
        following = joined.observations[joined.transition_rows[steps] + 1]
        predicted = self._actions.predict(now, following)
        actions = finite_as(joined.actions.dtype, "action", predicted, remedy=REMEDY)
        joined.actions[steps] = source.action_codec.project(actions)
        rewards = self._rewards.predict(now, joined.actions[steps], following)
        joined.rewards[steps] = finite_as(joined.rewards.dtype, "reward", rewards, remedy=REMEDY)
        return joined

    def _complete(
        self,
        states: NDArray[np.float32],
        revealed: NDArray[np.bool_],
        episode: NDArray[np.int64],
        stream: str,
        noise: Numbers,
    ) -> NDArray[np.float32]:
        """Generate what is not revealed of windows (B, H + 1, S), each within an episode."""
        episodes = self._source.episodes
        context = self._states.columns.context_of(episodes.observations[episodes.observation_offsets[episode]])
        made = self._states.complete(states, revealed, context, lambda name, step: noise(f"{stream}/{name}", step))
        check_finite("state", made, remedy=REMEDY)
        return made

    def _normalised(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Normalised states of some rows of the source's observations, in the shape of `rows` with (S,) added."""
        return self._states.columns.states(self._source.episodes.observations[rows])
