"""A diffusion model of windows of states of which some are revealed (DiffStitch, arXiv 2402.02439, section 4.2).

The revealed states enter beside the noisy ones, with a column that says which they are, and stay as they are. Training
reveals what generation reveals: the first state alone, or the first and all from some step on. The authors mask states
at random instead; a model that has only learned the two tasks it is used for learns them sooner.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gta_datasets.config import DiffStitchConfig
from gta_datasets.data.bank import Columns, WindowBank
from gta_datasets.data.reading import Source
from gta_datasets.data.windows import WindowIndex
from gta_datasets.device import to_device
from gta_datasets.diffusion.edm import Condition, EDMDenoiser, denoising_loss
from gta_datasets.diffusion.samplers import SIGMA_MAX
from gta_datasets.methods.sampling import Numbers, in_batches, solve
from gta_datasets.networks import build_network
from gta_datasets.networks.precision import autocast
from gta_datasets.seeding import numpy_generator, seeded, torch_generator
from gta_datasets.training.fitting import Fitted, is_fitted, load_or_train

__all__ = ["StateModel"]

END_REVEALED = 0.5
"""Share of the training windows whose last states are revealed, too."""


class StateModel:
    """A model of one source dataset's states.

    Args:
        source: the dataset's arrays.
        config: network, training and sampling.
        seed: of weights and batches.
        device: where the network runs.
    """

    def __init__(self, source: Source, config: DiffStitchConfig, *, seed: int, device: torch.device) -> None:
        self._source, self._config, self._seed, self._device = source, config, seed, device
        self.fitted: Fitted[EDMDenoiser] | None = None

    @cached_property
    def columns(self) -> Columns:
        return Columns.of(self._source.episodes)

    @property
    def loss_history(self) -> list[tuple[int, float]]:
        """Pairs of training step and mean loss."""
        return self.fitted.loss_history(self._config.training.training_steps) if self.fitted else []

    def is_fitted(self, folder: Path) -> bool:
        """Whether `fit` would only load."""
        return is_fitted(folder)

    def fit(self, folder: Path, *, progress: bool) -> str:
        """Load the weights from `folder`, or train them and leave them there; returns a digest of them."""
        self.fitted = load_or_train(folder, self._new_denoiser, self._loss, self._config.training, progress=progress)
        return self.fitted.digest

    def complete(
        self,
        states: NDArray[np.float32],
        revealed: NDArray[np.bool_],
        context: NDArray[np.float32],
        noise: Numbers,
    ) -> NDArray[np.float32]:
        """Windows with their revealed states as they are and all others generated.

        Args:
            states: normalised states, (B, H + 1, S); those that are not revealed are not read.
            revealed: (B, H + 1).
            context: normalised columns that are constant within an episode, (B, C).
            noise: random numbers (B, H + 1, S).
        """
        if self.fitted is None:
            raise RuntimeError("fit() must be called before complete()")
        known, shown, constant = (torch.from_numpy(given).to(self._device) for given in (states, revealed, context))
        condition = self._condition(known, shown, torch.ones_like(known), constant)
        stitching = self._config.stitching
        with autocast(self._config.network.precision, self._device):
            made = solve(
                in_batches(self.fitted.module, stitching.generate_batch_size),
                SIGMA_MAX * noise("start", 0) * condition.mask,
                condition,
                stitching,
                sigma=SIGMA_MAX,
                end=stitching.sigma_end,
                noise=noise,
            )
        return torch.where(shown[..., None], known, made).cpu().numpy()

    def _condition(self, states: Tensor, revealed: Tensor, mask: Tensor, context: Tensor) -> Condition:
        """Only what is not revealed is noisy, and counts; there is nothing to reveal beyond the end of a window."""
        shown = revealed[..., None] * mask[..., :1]
        constant = context[:, None, :].expand(-1, states.shape[1], -1)
        given = torch.cat([constant, states * shown, shown], dim=-1)
        nothing = torch.zeros(len(states), device=self._device)
        return Condition(nothing, nothing, given, mask * (1 - shown))

    def _new_denoiser(self) -> EDMDenoiser:
        size, context = self.columns.num_observed, int(self.columns.context.sum())
        with seeded(self._seed):
            network = build_network(self._config.network, self._config.data.horizon + 1, 2 * size + context + 1, size)
        return EDMDenoiser(network).to(self._device)

    def _loss(self, denoiser: EDMDenoiser) -> Callable[[int], Tensor]:
        horizon, training, size = self._config.data.horizon, self._config.training, self.columns.num_observed
        index = WindowIndex.of(self._source.episodes, horizon)
        bank = WindowBank(self._source.episodes, self.columns, horizon, self._device)

        def loss_of_step(step: int) -> Tensor:
            numbers = numpy_generator(self._seed, "batch", step)
            batch = bank.gather(index.locate(numbers.integers(len(index), size=training.train_batch_size)))
            revealed = to_device(_revealed(numbers, training.train_batch_size, horizon), self._device)
            states, mask = batch.rows[..., :size], batch.mask[..., :size]
            condition = self._condition(states, revealed, mask, batch.context)
            with autocast(self._config.network.precision, self._device):
                return denoising_loss(
                    denoiser,
                    states * condition.mask,
                    condition,
                    torch_generator(self._seed, "train", step, self._device),
                    log_sigma_mean=training.log_sigma_mean,
                    log_sigma_std=training.log_sigma_std,
                )

        return loss_of_step


def _revealed(generator: np.random.Generator, windows: int, horizon: int) -> NDArray[np.bool_]:
    """Which states of training windows are revealed, (B, H + 1)."""
    end = generator.integers(1, horizon + 1, size=windows)
    end = np.where(generator.random(windows) < END_REVEALED, end, horizon + 1)
    steps = np.arange(horizon + 1)
    return np.asarray((steps == 0) | (steps >= end[:, None]))
