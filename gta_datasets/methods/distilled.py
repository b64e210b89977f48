"""A trained denoiser, guidance included, as a flow map: a few evaluations per window in the place of a solver's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gta_datasets.config import FlowConfig, SamplingConfig, TrainingConfig
from gta_datasets.diffusion.edm import Condition, EDMDenoiser
from gta_datasets.diffusion.flow_map import FlowMap, consistency_loss, jump_down
from gta_datasets.diffusion.samplers import karras_schedule
from gta_datasets.methods.sampling import Numbers, guided_above, in_batches
from gta_datasets.networks.compiled import compile_network
from gta_datasets.seeding import torch_generator
from gta_datasets.training.fitting import Fitted, is_fitted, load_or_train

__all__ = ["DistilledFlow"]

VERSION = 2
"""Raised whenever the same configuration would give other windows."""

Batches = Callable[[int], tuple[Tensor, Condition]]
"""Clean normalised windows (B, R, F) and what is asked for of them, by training step."""


class DistilledFlow:
    """The flow map of one trained generator.

    Args:
        identity: of the generator.
        config: size of the training, and how windows are made.
        sampling: the generator's settings.
        sigma: highest noise level that windows are made from.
        denoiser: the trained denoiser, once it is trained.
        network: a new flow map on its device.
        batches: what it is trained on.
        precision: the context of network evaluations.
        seed: of the training.
        device: where the network runs.
    """

    def __init__(
        self,
        identity: Mapping[str, Any],
        config: FlowConfig,
        sampling: SamplingConfig,
        *,
        sigma: float,
        denoiser: Callable[[], EDMDenoiser],
        network: Callable[[], FlowMap],
        batches: Batches,
        precision: Callable[[], AbstractContextManager[None]],
        seed: int,
        device: torch.device,
    ) -> None:
        self._generator, self._config, self._sampling, self._sigma = identity, config, sampling, sigma
        self._denoiser, self._network, self._batches = denoiser, network, batches
        self._precision, self._seed, self._device = precision, seed, device
        self._fitted: Fitted[FlowMap] | None = None

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that determines the weights, for the cache key."""
        config = self._config.data_fields()
        made_otherwise = ("flow_steps", "flow_end", "flow_noise")
        return {
            "model": "flow map",
            "version": VERSION,
            "generator": self._generator,
            "config": {name: value for name, value in config.items() if name not in made_otherwise},
            "sigma": self._sigma,
            "guidance_start": self._sampling.guidance_start,
            "sigma_end": self._sampling.sigma_end,
            "return_limit": self._sampling.return_limit,
            "condition": self._sampling.condition,
        }

    def is_fitted(self, folder: Path) -> bool:
        """Whether `fit` would only load."""
        return is_fitted(folder)

    def fit(self, folder: Path, *, progress: bool) -> str:
        """Load the weights from `folder`, or distil them and leave them there; returns a digest of them."""
        config = TrainingConfig(
            training_steps=self._config.distill_steps,
            train_batch_size=self._config.distill_batch_size,
            learning_rate=self._config.distill_rate,
            warmup_steps=min(50, self._config.distill_steps),
            ema_decay=0.99,
        )
        self._fitted = load_or_train(folder, self._start, self._loss, config, progress=progress)
        if self._sampling.compile:
            compile_network(self._fitted.module.estimate.network)
        return self._fitted.digest

    def sample(self, rows: Tensor, condition: Condition, *, sigma: float, size: int, noise: Numbers) -> Tensor:
        """Noise `rows` up to `sigma` and jump down again.

        Args:
            rows: normalised source windows, (B, R, F).
            condition: what the windows are generated under.
            sigma: noise level of the exploration, at most the one that was trained for.
            size: windows per network evaluation.
            noise: random numbers.

        Returns:
            Normalised generated windows, (B, R, F).
        """
        if self._fitted is None:
            raise RuntimeError("fit() must be called before sample()")
        flow_map, steps = self._fitted.module, self._config.flow_steps
        levels = [sigma, 0.0]
        if steps > 1:
            levels = karras_schedule(steps, start=sigma, end=min(self._config.flow_end, sigma / 8))
        noisy = rows + sigma * noise("start", 0) * condition.mask

        def jump(x: Tensor, now: Tensor, after: Tensor, given: Condition) -> Tensor:
            end = float(after[0])

            def part(x: Tensor, now: Tensor, given: Condition) -> Tensor:
                moved: Tensor = flow_map(x, now, torch.full_like(now, end), given)
                return moved

            return in_batches(part, size)(x, now, given)

        def step_noise(step: int) -> Tensor:
            return noise("sampler", step)

        with torch.no_grad(), self._precision():
            return jump_down(jump, noisy, levels, condition, step_noise if self._config.flow_noise else None)

    def _start(self) -> FlowMap:
        return self._network().start_from(self._denoiser()).to(self._device)

    def _loss(self, flow_map: FlowMap) -> Callable[[int], Tensor]:
        config, sampling = self._config, self._sampling
        teacher, end = guided_above(self._denoiser(), sampling, scale=config.flow_guidance, sigma=self._sigma)
        levels = karras_schedule(config.flow_levels, start=self._sigma, end=end)

        def loss_of_step(step: int) -> Tensor:
            rows, condition = self._batches(step)
            generator = torch_generator(self._seed, "distil", step, self._device)
            with self._precision():
                return consistency_loss(flow_map, teacher, rows, condition, levels, generator)

        return loss_of_step
