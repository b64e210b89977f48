"""Generative Trajectory Augmentation (Lee et al. 2024, arXiv 2405.16907).

A diffusion model of sub-trajectories is trained on the dataset. To augment, a source window is noised up to the
exploration level `mu` and denoised under its return-to-go amplified by `alpha`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gta_datasets.config import GTAConfig, SamplingConfig
from gta_datasets.config.gta import MOST_DISTILLED_ALPHA
from gta_datasets.data.bank import Columns, WindowBank, WindowBatch
from gta_datasets.data.draws import SourceDraws, TrainingDraws
from gta_datasets.data.endings import Limits
from gta_datasets.data.episodes import Episodes
from gta_datasets.data.reading import Source
from gta_datasets.data.returns import asked_returns, returns_to_go
from gta_datasets.data.reweighting import reward_of_failure
from gta_datasets.data.windows import WindowIndex, Windows, cut
from gta_datasets.diffusion.edm import Condition, EDMDenoiser, denoising_loss
from gta_datasets.diffusion.flow_map import EXTRA_CONTEXT, FlowMap
from gta_datasets.diffusion.samplers import exploration_sigma
from gta_datasets.methods.asking import Returns, best_of_windows, warn_of_punished_success, with_known_rewards
from gta_datasets.methods.assemble import assemble_shard, finite_as, stored_returns
from gta_datasets.methods.base import Consulted, Shard
from gta_datasets.methods.distilled import DistilledFlow
from gta_datasets.methods.levels import MUS, LevelSearch
from gta_datasets.methods.sampling import normal_numbers, sample_windows
from gta_datasets.models.dynamics import DynamicsModel
from gta_datasets.models.reward import RewardModel
from gta_datasets.models.value import ValueModel
from gta_datasets.networks import build_network
from gta_datasets.networks.compiled import compile_network
from gta_datasets.networks.precision import autocast
from gta_datasets.seeding import numpy_generator, seeded, torch_generator
from gta_datasets.training.fitting import Fitted, is_fitted, load_or_train
from gta_datasets.training.team import Team

__all__ = ["GTA"]

ALGORITHM_VERSION = 1
"""Raised whenever the same configuration would give other weights."""

SAMPLING_VERSION = 3
"""Raised whenever the same weights would give other trajectories."""


class GTA:
    """GTA on one source dataset.

    Args:
        source: the dataset's arrays.
        config: all settings.
        seed: seed of training and generation.
        device: where the network runs.
    """

    stored = True

    def __init__(self, source: Source, config: GTAConfig, *, seed: int, device: torch.device) -> None:
        self._source, self._config, self._seed, self._device = source, config, seed, device
        data = config.data
        self.discount = data.discount
        warn_of_punished_success(source, data)
        self._index = WindowIndex.of(source.episodes, data.horizon, short_episodes=data.short_episodes)
        self._rewards = RewardModel(source, config.dynamics, seed=seed, device=device)
        self._value: ValueModel | None = None
        if data.returns == "expected":
            returns = {"discount": data.discount, "terminal_penalty": data.terminal_penalty}
            self._value = ValueModel(source, config.dynamics, **returns, seed=seed, device=device)
        self._levels: LevelSearch | None = None
        self._flow: DistilledFlow | None = None
        self._models: dict[str, Consulted] = {"rewards": self._rewards} if config.sampling.relabel else {}
        if config.flow.flow_steps > 0:
            self._flow = self._new_flow()
            self._models["flow map"] = self._flow
        if "auto" in (config.sampling.alpha, config.sampling.mu) or config.search.auto_steps > 0:
            judge = DynamicsModel(source, config.dynamics, seed=seed, device=device)
            self._levels = LevelSearch(
                {**self.model_identity, **({"flow": config.flow.data_fields()} if self._flow else {})},
                config.sampling,
                config.search,
                windows=lambda: cut(source.episodes, self._probed()),
                probe=lambda sampling: self._rewrite(self._probed(), 0, "levels/", sampling),
                dynamics=judge,
            )
            # In this order: what is consulted first is fitted first.
            self._models |= {"judge of levels": judge, "levels": self._levels}
        self._draws = SourceDraws(source.episodes, self._index, config.sampling, seed)
        self._fitted: Fitted[EDMDenoiser] | None = None
        self._bank: WindowBank | None = None

    # A reader of a complete cache needs none of these.

    @cached_property
    def _columns(self) -> Columns:
        return Columns.of(self._source.episodes)

    @cached_property
    def _limits(self) -> Limits | None:
        return Limits.of(self._source) if self._config.sampling.terminations == "limits" else None

    @cached_property
    def _undiscounted(self) -> NDArray[np.float64]:
        """Returns-to-go of all recorded transitions, (N,)."""
        return returns_to_go(self._source.episodes, discount=1.0)

    @cached_property
    def _returns(self) -> Returns:
        return Returns(self._source.episodes, self._index, self._config.data, self._device, self._value)

    @cached_property
    def _training_draws(self) -> TrainingDraws:
        return TrainingDraws(self._source.episodes, self._index, self._returns.to_go, self._config.data, self._seed)

    @property
    def _trained(self) -> Fitted[EDMDenoiser]:
        if self._fitted is None:
            raise RuntimeError("fit() must be called before generate()")
        return self._fitted

    @property
    def teachers(self) -> Mapping[str, Consulted]:
        return {} if self._value is None else {"value": self._value}

    @property
    def models(self) -> Mapping[str, Consulted]:
        return self._models

    @property
    def _sampling(self) -> SamplingConfig:
        """The settings with their levels found."""
        return self._config.sampling if self._levels is None else self._levels.chosen

    @property
    def skipped(self) -> Mapping[int, str]:
        lengths, horizon = self._source.episodes.lengths, self._config.data.horizon
        quantile = self._config.sampling.source_quantile
        poor = dict.fromkeys(self._draws.below_quantile.tolist(), f"has a return below source_quantile={quantile}")
        short = {
            int(episode): f"has {lengths[episode]} transitions, fewer than {horizon=}"
            for episode in self._index.skipped
        }
        return dict(sorted({**short, **poor}.items()))

    @property
    def loss_history(self) -> list[tuple[int, float]]:
        return self._fitted.loss_history(self._config.training.training_steps) if self._fitted else []

    @property
    def model_identity(self) -> Mapping[str, Any]:
        failure = reward_of_failure(self._source.episodes.rewards) if self._config.data.reweighting == "sparse" else 0.0
        return {
            "method": "gta",
            "version": ALGORITHM_VERSION,
            "seed": self._seed,
            **self._source.identity,
            "config": self._config.data_fields("data", "network", "training"),
            **({"failure": failure} if failure else {}),  # it was 0 for all data once: other models stay
            **({"value": self._value.identity} if self._value else {}),
        }

    @property
    def sampling_identity(self) -> Mapping[str, Any]:
        stages = ("sampling",) if self._flow is None else ("sampling", "flow")
        return {"version": SAMPLING_VERSION, **self._config.data_fields(*stages)}

    def is_fitted(self, folder: Path) -> bool:
        return is_fitted(folder)

    def fit(self, folder: Path, *, progress: bool) -> str:
        self._fitted = load_or_train(folder, self._new_denoiser, self._loss, self._config.training, progress=progress)
        if self._config.sampling.compile:
            compile_network(self._fitted.module.network)
        return self._fitted.digest

    def asked_returns(
        self, returns: NDArray[np.floating[Any]], to_go: NDArray[np.floating[Any]]
    ) -> NDArray[np.floating[Any]]:
        return asked_returns(returns, self._sampling, best=best_of_windows(to_go, self._index))

    def lengths(self, shard: int) -> NDArray[np.int64]:
        return self._draws.shard(shard).length

    def generate(self, shard: int) -> Shard:
        return self._rewrite(self._draws.shard(shard), shard, "", self._sampling)

    def attempt(self, shard: int, attempt: int, lengths: NDArray[np.int64]) -> Shard:
        if attempt == 0:
            return self.generate(shard)
        return self._rewrite(self._draws.again(shard, attempt, lengths), shard, f"attempt {attempt}/", self._sampling)

    def _probed(self) -> Windows:
        """The windows that settings are tried on."""
        return self._draws.some(self._config.search.auto_windows, "levels", 0)

    def _rewrite(self, windows: Windows, shard: int, streams: str, sampling: SamplingConfig) -> Shard:
        """Generated trajectories for some windows; `streams` tells the random numbers of attempts apart."""
        denoiser = self._trained.module
        batch, source_return = self._gather(windows), self._returns.of(windows)
        asked_return = asked_returns(source_return, sampling, best=self._returns.best)
        condition = self._returns.condition(batch, asked_return)
        if sampling.condition in ("none", "rewards"):
            asked_return = np.full_like(asked_return, np.nan)
            condition, sampling = condition.unconditional(), dataclasses.replace(sampling, guidance=1.0)
        rows, known = batch.rows, None
        if sampling.condition == "rewards":
            rows, known = with_known_rewards(batch, self._columns.reward, sampling.amplification)
        sigma = exploration_sigma(sampling.exploration)
        noise = normal_numbers(rows.shape, seed=self._seed, prefix=streams, number=shard, device=self._device)
        if self._flow is not None:
            size = sampling.generate_batch_size
            made = self._flow.sample(rows, condition, sigma=sigma, size=size, noise=noise)
        else:
            with self._precision():
                made = sample_windows(denoiser, rows, condition, sampling, sigma=sigma, noise=noise, known=known)
        assembled = assemble_shard(
            made.cpu().numpy(),
            windows,
            self._source,
            self._columns,
            limits=self._limits,
            source_return=source_return,
            asked_return=asked_return,
        )
        if sampling.relabel:
            assembled = self._relabelled(assembled)
        return {**assembled, "start_return": self._start_returns(assembled)}

    def _relabelled(self, shard: Shard) -> Shard:
        """The shard with the rewards that the model of rewards gives."""
        episodes = Episodes.from_arrays(shard)
        rewards = self._rewards.predict(
            episodes.observations[episodes.transition_rows], episodes.actions, episodes.next_observations
        )
        remedy = "raise dynamics_steps, or leave relabel out"
        made = finite_as(episodes.rewards.dtype, "reward", rewards, remedy=remedy)
        return {**shard, "rewards": np.where(np.repeat(shard["recorded"], episodes.lengths), episodes.rewards, made)}

    def _start_returns(self, shard: Shard) -> NDArray[np.floating[Any]]:
        """Undiscounted returns from the first step on, (B,), where known: of recordings, and up to new ends."""
        episodes, source = Episodes.from_arrays(shard), self._source.episodes
        first = source.offsets[shard["source_episode"]] + shard["source_start"]
        ended = episodes.terminated & ~source.terminations[first + episodes.lengths - 1]
        known = np.where(ended, episodes.returns, np.nan)
        if shard["recorded"].any():
            known = np.where(shard["recorded"], self._undiscounted[first], known)
        return stored_returns(known)

    def _gather(self, windows: Windows) -> WindowBatch:
        if self._bank is None:
            self._bank = WindowBank(self._source.episodes, self._columns, self._config.data.horizon, self._device)
        return self._bank.gather(windows)

    def _new_flow(self) -> DistilledFlow:
        sampling = self._config.sampling
        mu = max(MUS) if isinstance(sampling.mu, str) else sampling.mu
        return DistilledFlow(
            self.model_identity,
            self._config.flow,
            sampling,
            sigma=exploration_sigma(mu),
            denoiser=lambda: self._trained.module,
            network=lambda: FlowMap(self._new_network(EXTRA_CONTEXT)),
            batches=self._asked_batch,
            precision=self._precision,
            seed=self._seed,
            device=self._device,
        )

    def _asked_batch(self, step: int) -> tuple[Tensor, Condition]:
        """Windows to distil on, asked for returns amplified by any alpha that may be wanted."""
        windows = self._training_draws.draw(step, self._config.flow.distill_batch_size)
        batch = self._gather(windows)
        alpha = 1 + (MOST_DISTILLED_ALPHA - 1) * numpy_generator(self._seed, "distil alpha", step).random()
        sampling = dataclasses.replace(self._config.sampling, alpha=alpha)
        asked = asked_returns(self._returns.of(windows), sampling, best=self._returns.best)
        return batch.rows, self._returns.condition(batch, asked)

    def _precision(self) -> AbstractContextManager[None]:
        return autocast(self._config.network.precision, self._device)

    def _new_denoiser(self) -> EDMDenoiser:
        return EDMDenoiser(self._new_network()).to(self._device)

    def _new_network(self, extra_context: int = 0) -> nn.Module:
        columns, horizon = self._columns, self._config.data.horizon
        inputs = columns.num_generated + int(columns.context.sum()) + extra_context
        with seeded(self._seed):
            return build_network(self._config.network, horizon + 1, inputs, columns.num_generated)

    def _loss(self, denoiser: EDMDenoiser) -> Callable[[int], Tensor]:
        training, team = self._config.training, Team.of_launch()
        if self._config.sampling.compile:
            compile_network(denoiser.network)

        def loss_of_step(step: int) -> Tensor:
            windows = self._training_draws.draw(step, training.train_batch_size)
            batch = self._gather(windows)
            condition = self._returns.condition(batch, self._returns.of(windows))
            generator = torch_generator(self._seed, "train", step, self._device)
            kept = torch.rand(len(windows), generator=generator, device=self._device) >= training.condition_dropout
            condition = Condition(condition.returns, kept.float(), batch.context, batch.mask)
            with self._precision():
                return team.size * denoising_loss(
                    team.share(denoiser, batch.rows),
                    batch.rows,
                    condition,
                    generator,
                    log_sigma_mean=training.log_sigma_mean,
                    log_sigma_std=training.log_sigma_std,
                )

        return loss_of_step
