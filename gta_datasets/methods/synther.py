"""Synthetic Experience Replay (Lu et al. 2023, arXiv 2303.06614).

A diffusion model of single transitions `[s, a, r, s', done]` is trained without any condition. To augment, transitions
are made from pure noise; each is an episode of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gta_datasets.config import SynthERConfig
from gta_datasets.data.bank import Columns, WindowBank
from gta_datasets.data.endings import Limits
from gta_datasets.data.reading import Source
from gta_datasets.data.windows import WindowIndex
from gta_datasets.device import to_device
from gta_datasets.diffusion.edm import Condition, EDMDenoiser, denoising_loss
from gta_datasets.diffusion.samplers import SIGMA_MAX
from gta_datasets.methods.assemble import valid_episodes
from gta_datasets.methods.base import Shard
from gta_datasets.methods.sampling import in_batches, normal_numbers, solve
from gta_datasets.models.ensemble import LearnedModel
from gta_datasets.networks.precision import autocast
from gta_datasets.networks.residual_mlp import ResidualMLP
from gta_datasets.seeding import numpy_generator, seeded, torch_generator
from gta_datasets.training.fitting import Fitted, is_fitted, load_or_train

__all__ = ["SynthER"]

ALGORITHM_VERSION = 1
"""Raised whenever the same configuration would give other transitions."""


class SynthER:
    """SynthER on one source dataset.

    A row of the generator is `[context | s | a | r | s' | done]`. The context is what differs between episodes but not
    within one, such as a goal: generated once, it is the same in s and s'. What is the same in the whole dataset is
    copied. `done` is 0 or 1 and not normalised; where the task ends beyond limits of the state, these decide instead:
    of the states beyond them a network flags few if it was not trained for very long.

    Args:
        source: the dataset's arrays.
        config: all settings.
        seed: seed of training and generation.
        device: where the network runs.
    """

    discount = 1.0
    stored = True

    def __init__(self, source: Source, config: SynthERConfig, *, seed: int, device: torch.device) -> None:
        self._source, self._config, self._seed, self._device = source, config, seed, device
        self.teachers: Mapping[str, LearnedModel] = {}
        self.models: Mapping[str, LearnedModel] = {}
        self.skipped: Mapping[int, str] = {}
        self._fitted: Fitted[EDMDenoiser] | None = None

    @property
    def loss_history(self) -> list[tuple[int, float]]:
        return self._fitted.loss_history(self._config.training.training_steps) if self._fitted else []

    @property
    def model_identity(self) -> Mapping[str, Any]:
        return {
            "method": "synther",
            "version": ALGORITHM_VERSION,
            "seed": self._seed,
            **self._source.identity,
            "config": self._config.data_fields("network", "training"),
        }

    @property
    def sampling_identity(self) -> Mapping[str, Any]:
        return self._config.data_fields("sampling")

    def is_fitted(self, folder: Path) -> bool:
        return is_fitted(folder)

    def fit(self, folder: Path, *, progress: bool) -> str:
        self._fitted = load_or_train(folder, self._new_denoiser, self._loss, self._config.training, progress=progress)
        return self._fitted.digest

    def asked_returns(
        self,
        returns: NDArray[np.floating[Any]],
        to_go: NDArray[np.floating[Any]],  # noqa: ARG002 - nothing is asked for
    ) -> NDArray[np.floating[Any]]:
        return returns

    def lengths(self, shard: int) -> NDArray[np.int64]:  # noqa: ARG002 - all shards are alike
        return np.ones(self._config.sampling.transitions_per_shard, np.int64)

    def generate(self, shard: int) -> Shard:
        return self.attempt(shard, 0, self.lengths(shard))

    def attempt(self, shard: int, attempt: int, lengths: NDArray[np.int64]) -> Shard:
        if self._fitted is None:
            raise RuntimeError("fit() must be called before generate()")
        noise = normal_numbers(
            (len(lengths), 1, self._num_columns),
            seed=self._seed,
            prefix=f"attempt {attempt}/" if attempt else "",
            number=shard,
            device=self._device,
        )
        sampling = self._config.sampling
        with autocast(self._config.network.precision, self._device):
            rows = solve(
                in_batches(self._fitted.module, sampling.generate_batch_size),
                SIGMA_MAX * noise("start", 0),
                self._no_condition(len(lengths)),
                sampling,
                sigma=SIGMA_MAX,
                end=sampling.sigma_end,
                noise=noise,
            )
        return self._assembled(rows[:, 0].cpu().numpy())

    def _assembled(self, rows: NDArray[np.float32]) -> Shard:
        """Generated rows (B, F) as episodes of one transition."""
        columns, size = self._columns, len(rows)
        context, states, actions, rewards, following, done = np.split(rows, self._bounds, axis=1)
        observed = np.zeros((size, 2, len(columns.static)), np.float32)
        observed[:, :, columns.context] = context[:, None]
        observed[:, 0, columns.moving] = states
        observed[:, 1, columns.moving] = following
        episodes = valid_episodes(
            self._source,
            observations=columns.observation.inverse(observed).reshape(2 * size, -1),
            actions=columns.action.inverse(actions),
            rewards=columns.reward.inverse(rewards)[:, 0],
            terminated=self._ends(done[:, 0]),
            lengths=np.ones(size, np.int64),
            remedy="train longer or take more sampler_steps",
        )
        if self._limits is not None:
            episodes = episodes.ending(self._limits.reached(episodes))
        return {
            **episodes.arrays(),
            "source_episode": np.full(size, -1, np.int64),
            "source_start": np.zeros(size, np.int64),
            "source_return": np.full(size, np.nan, np.float32),
            "asked_return": np.full(size, np.nan, np.float32),
        }

    def _ends(self, done: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Which of the generated values (B,) stand for a termination; the source's own where all its are the same."""
        flags = self._source.episodes.terminations
        return np.full(len(done), flags[0]) if flags.all() or not flags.any() else done > 0.5

    # A reader of a complete cache needs none of these.

    @cached_property
    def _columns(self) -> Columns:
        return Columns.of(self._source.episodes)

    @cached_property
    def _limits(self) -> Limits | None:
        return Limits.of(self._source) if self._config.sampling.terminations == "limits" else None

    @cached_property
    def _bounds(self) -> NDArray[np.int64]:
        """Where the parts of a row end, but for the last."""
        columns = self._columns
        observed, actions = columns.num_observed, columns.num_actions
        return np.cumsum([columns.context.sum(), observed, actions, 1, observed])

    @property
    def _num_columns(self) -> int:
        return int(self._bounds[-1]) + 1

    @cached_property
    def _index(self) -> WindowIndex:
        return WindowIndex.of(self._source.episodes, 1)

    @cached_property
    def _bank(self) -> WindowBank:
        return WindowBank(self._source.episodes, self._columns, 1, self._device)

    def _gather(self, numbers: NDArray[np.int64]) -> Tensor:
        """Normalised rows of the transitions of the given numbers, (B, 1, F)."""
        batch = self._bank.gather(self._index.locate(numbers))
        done = to_device(self._source.episodes.terminations[numbers, None].astype(np.float32), self._device)
        following = batch.rows[:, 1, : self._columns.num_observed]
        parts = [batch.context, batch.rows[:, 0], following, done]
        return torch.cat(parts, dim=1)[:, None]

    def _no_condition(self, size: int) -> Condition:
        zeros = torch.zeros(size, device=self._device)
        shape = (size, 1, self._num_columns)
        return Condition(zeros, zeros, zeros[:, None][:, :0], torch.ones(shape, device=self._device))

    def _new_denoiser(self) -> EDMDenoiser:
        config = self._config.network
        with seeded(self._seed):
            network = ResidualMLP(self._num_columns, width=config.width, depth=config.depth)
        return EDMDenoiser(network).to(self._device)

    def _loss(self, denoiser: EDMDenoiser) -> Callable[[int], Tensor]:
        training = self._config.training
        condition = self._no_condition(training.train_batch_size)

        def loss_of_step(step: int) -> Tensor:
            drawn = numpy_generator(self._seed, "batch", step).integers(
                len(self._index), size=training.train_batch_size
            )
            rows = self._gather(drawn)
            generator = torch_generator(self._seed, "train", step, self._device)
            with autocast(self._config.network.precision, self._device):
                return denoising_loss(
                    denoiser,
                    rows,
                    condition,
                    generator,
                    log_sigma_mean=training.log_sigma_mean,
                    log_sigma_std=training.log_sigma_std,
                )

        return loss_of_step
