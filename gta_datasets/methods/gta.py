"""Generative Trajectory Augmentation (Lee et al. 2024, arXiv 2405.16907).

A diffusion model of sub-trajectories is trained on the dataset. To augment, a source window is noised up to the
exploration level `mu` and denoised under its return-to-go amplified by `alpha`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gta_datasets.config import GTAConfig
from gta_datasets.data.bank import Columns, WindowBank, WindowBatch
from gta_datasets.data.reading import Source
from gta_datasets.data.returns import asked_returns, returns_to_go
from gta_datasets.data.reweighting import dense_weights, sparse_weights
from gta_datasets.data.windows import WindowIndex, Windows
from gta_datasets.diffusion.edm import Condition, EDMDenoiser, denoising_loss
from gta_datasets.diffusion.samplers import exploration_sigma
from gta_datasets.methods.assemble import assemble_shard
from gta_datasets.methods.base import Shard
from gta_datasets.methods.sampling import sample_windows
from gta_datasets.networks import build_network
from gta_datasets.seeding import numpy_generator, torch_generator
from gta_datasets.training.fitting import Fitted, is_fitted, load_or_train
from gta_datasets.training.loop import CHECK_EVERY

__all__ = ["GTA"]

ALGORITHM_VERSION = 1
"""Raised whenever the same configuration would give other trajectories."""


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
        self._index = WindowIndex.of(source.episodes, data.horizon, short_episodes=data.short_episodes)
        self._fitted: Fitted[EDMDenoiser] | None = None
        self._bank: WindowBank | None = None

    # A reader of a complete cache needs none of these.

    @cached_property
    def _columns(self) -> Columns:
        return Columns.of(self._source.episodes)

    @cached_property
    def _returns(self) -> NDArray[np.float64]:
        """Return-to-go of every transition, (N,)."""
        data = self._config.data
        return returns_to_go(self._source.episodes, discount=data.discount, terminal_penalty=data.terminal_penalty)

    @cached_property
    def _return_statistics(self) -> tuple[float, float]:
        """Mean and spread of the returns; 1 where they are all the same."""
        spread, rounding = float(self._returns.std()), 1e-9 * float(np.abs(self._returns).max())
        return float(self._returns.mean()), spread if spread > rounding else 1.0

    @property
    def skipped(self) -> Mapping[int, str]:
        lengths, horizon = self._source.episodes.lengths, self._config.data.horizon
        return {
            int(episode): f"has {lengths[episode]} transitions, fewer than {horizon=}"
            for episode in self._index.skipped
        }

    @property
    def loss_history(self) -> list[tuple[int, float]]:
        last = self._config.training.training_steps
        losses = self._fitted.losses if self._fitted else []
        return [(min((place + 1) * CHECK_EVERY, last), loss) for place, loss in enumerate(losses)]

    @property
    def model_identity(self) -> Mapping[str, Any]:
        return {
            "method": "gta",
            "version": ALGORITHM_VERSION,
            "seed": self._seed,
            "source": self._source.episodes.arrays(),
            "spaces": [self._source.observation_codec.identity, self._source.action_codec.identity],
            "config": self._config.data_fields("data", "network", "training"),
        }

    @property
    def sampling_identity(self) -> Mapping[str, Any]:
        return self._config.data_fields("sampling")

    def is_fitted(self, folder: Path) -> bool:
        return is_fitted(folder)

    def fit(self, folder: Path, *, progress: bool) -> str:
        self._fitted = load_or_train(folder, self._new_denoiser, self._loss, self._config.training, progress=progress)
        return self._fitted.digest

    def asked_returns(self, returns: NDArray[np.floating[Any]], *, best: float) -> NDArray[np.floating[Any]]:
        return asked_returns(returns, self._config.sampling, best=best)

    def lengths(self, shard: int) -> NDArray[np.int64]:
        return self._draw(shard).length

    def generate(self, shard: int) -> Shard:
        return self._rewrite(self._draw(shard), shard, "")

    def attempt(self, shard: int, attempt: int, lengths: NDArray[np.int64]) -> Shard:
        if attempt == 0:
            return self.generate(shard)
        return self._rewrite(self._draw_again(shard, attempt, lengths), shard, f"attempt {attempt}/")

    def _rewrite(self, windows: Windows, shard: int, streams: str) -> Shard:
        """Generated trajectories for some windows; `streams` tells the random numbers of attempts apart."""
        if self._fitted is None:
            raise RuntimeError("fit() must be called before generate()")
        batch = self._gather(windows)
        source_return = self._returns_of(windows)
        asked_return = self.asked_returns(source_return, best=float(self._returns.max()))
        condition, sampling = self._condition(batch, asked_return), self._config.sampling
        if sampling.condition == "none":
            condition, sampling = condition.unconditional(), dataclasses.replace(sampling, guidance=1.0)
        sigma = exploration_sigma(sampling.mu)

        def noise(stream: str, step: int) -> Tensor:
            generator = torch_generator(self._seed, f"{streams}{stream}/{step}", shard, self._device)
            return torch.randn(batch.rows.shape, generator=generator, device=self._device)

        with self._precision():
            rows = sample_windows(self._fitted.module, batch.rows, condition, sampling, sigma=sigma, noise=noise)
        return assemble_shard(
            rows.cpu().numpy(),
            windows,
            self._source,
            self._columns,
            source_return=source_return,
            asked_return=asked_return,
        )

    def _returns_of(self, windows: Windows) -> NDArray[np.float64]:
        """Return-to-go from the first transition of every window, (B,)."""
        returns: NDArray[np.float64] = self._returns[self._source.episodes.offsets[windows.episode] + windows.start]
        return returns

    def _draw(self, shard: int) -> Windows:
        """Source windows of a shard, drawn uniformly."""
        generator = numpy_generator(self._seed, "augment", shard)
        drawn = generator.integers(len(self._eligible), size=self._config.sampling.windows_per_shard)
        return self._index.locate(self._eligible[drawn])

    def _draw_again(self, shard: int, attempt: int, lengths: NDArray[np.int64]) -> Windows:
        """Source windows of the given lengths, drawn uniformly among all of that length."""
        generator = numpy_generator(self._seed, f"augment {attempt}", shard)
        numbers = np.empty(len(lengths), np.int64)
        for length in np.unique(lengths):
            fitting, slots = self._windows_of(int(length)), lengths == length
            numbers[slots] = fitting[generator.integers(len(fitting), size=int(slots.sum()))]
        return self._index.locate(numbers)

    def _windows_of(self, length: int) -> NDArray[np.int64]:
        """Numbers of the windows of `length` transitions: shorter ones than the horizon are whole episodes."""
        fitting: NDArray[np.int64] = self._eligible[self._index.locate(self._eligible).length == length]
        return fitting

    @cached_property
    def _eligible(self) -> NDArray[np.int64]:
        """Numbers of the windows that may be augmented: those of the best episodes, or all."""
        every, quantile = np.arange(len(self._index)), self._config.sampling.source_quantile
        if quantile == 0:
            return every
        episodes = self._source.episodes
        of_episode = np.add.reduceat(episodes.rewards.astype(np.float64), episodes.offsets[:-1])
        of_episode[self._index.skipped] = -np.inf
        with_windows = np.delete(of_episode, self._index.skipped)
        best: NDArray[np.int64] = every[
            of_episode[self._index.locate(every).episode] >= np.quantile(with_windows, quantile)
        ]
        return best

    def _gather(self, windows: Windows) -> WindowBatch:
        if self._bank is None:
            self._bank = WindowBank(self._source.episodes, self._columns, self._config.data.horizon, self._device)
        return self._bank.gather(windows)

    def _condition(self, batch: WindowBatch, returns: NDArray[np.floating[Any]]) -> Condition:
        mean, spread = self._return_statistics
        standardised = ((returns - mean) / spread).astype(np.float32)
        on_device = torch.from_numpy(standardised).to(self._device)
        return Condition(on_device, torch.ones_like(on_device), batch.context, batch.mask)

    def _precision(self) -> torch.autocast:
        enabled = self._config.network.precision == "bfloat16"
        return torch.autocast(self._device.type, torch.bfloat16, enabled=enabled)

    def _new_denoiser(self) -> EDMDenoiser:
        columns, horizon = self._columns, self._config.data.horizon
        inputs = columns.num_generated + int(columns.context.sum())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            network = build_network(self._config.network, horizon + 1, inputs, columns.num_generated)
        return EDMDenoiser(network).to(self._device)

    def _loss(self, denoiser: EDMDenoiser) -> Callable[[int], Tensor]:
        training = self._config.training
        cumulative = self._training_distribution()

        def loss_of_step(step: int) -> Tensor:
            numbers = self._draw_for_training(step, cumulative)
            windows = self._index.locate(numbers)
            batch = self._gather(windows)
            condition = self._condition(batch, self._returns_of(windows))
            generator = torch_generator(self._seed, "train", step, self._device)
            kept = torch.rand(len(windows), generator=generator, device=self._device) >= training.condition_dropout
            condition = Condition(condition.returns, kept.float(), batch.context, batch.mask)
            with self._precision():
                return denoising_loss(
                    denoiser,
                    batch.rows,
                    condition,
                    generator,
                    log_sigma_mean=training.log_sigma_mean,
                    log_sigma_std=training.log_sigma_std,
                )

        return loss_of_step

    def _training_distribution(self) -> NDArray[np.float64] | None:
        """Cumulative probability of the windows; None where all are equally likely."""
        data = self._config.data
        if data.reweighting == "none":
            return None
        if data.reweighting == "sparse":
            return np.cumsum(sparse_weights(self._source.episodes, self._index, success_weight=data.success_weight))
        returns = self._returns_of(self._index.locate(np.arange(len(self._index))))
        return np.cumsum(dense_weights(returns, bins=data.bins, smoothing=data.smoothing, temperature=data.temperature))

    def _draw_for_training(self, step: int, cumulative: NDArray[np.float64] | None) -> NDArray[np.int64]:
        generator = numpy_generator(self._seed, "batch", step)
        size = self._config.training.train_batch_size
        if cumulative is None:
            return generator.integers(len(self._index), size=size)
        drawn = np.searchsorted(cumulative, generator.random(size) * cumulative[-1], side="right")
        inside: NDArray[np.int64] = np.minimum(drawn, len(self._index) - 1)
        return inside
