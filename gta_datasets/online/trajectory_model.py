"""A diffusion model of trajectories of one length that begin in a given state.

The state enters beside every row of the noisy window and stays as it is (inpainting). The model of the offline data is
kept as it is; a copy of it follows the environment.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gta_datasets.config import ATraDiffConfig, TrainingConfig
from gta_datasets.data.bank import Columns, WindowBank
from gta_datasets.data.episodes import Episodes
from gta_datasets.data.reading import Source
from gta_datasets.data.windows import Windows, starting_at
from gta_datasets.diffusion.edm import Condition, EDMDenoiser, denoising_loss
from gta_datasets.diffusion.inpainting import inpainted
from gta_datasets.diffusion.samplers import SIGMA_MAX
from gta_datasets.methods.sampling import Numbers, solve
from gta_datasets.networks import build_network
from gta_datasets.networks.precision import autocast
from gta_datasets.seeding import numpy_generator, seeded, torch_generator
from gta_datasets.training.checkpoint import under
from gta_datasets.training.fitting import Fitted, is_fitted, load_or_train
from gta_datasets.training.loop import train
from gta_datasets.training.team import Team

__all__ = ["TrajectoryModel"]

ALGORITHM_VERSION = 3
"""Raised whenever the same configuration would give other weights."""


class TrajectoryModel:
    """A model of trajectories of `length` transitions, of one source dataset.

    Args:
        source: the dataset's arrays.
        columns: its columns.
        config: network, training and sampling.
        length: transitions of a trajectory.
        seed: of the offline weights and their batches.
        device: where the network runs.
    """

    def __init__(
        self, source: Source, columns: Columns, config: ATraDiffConfig, length: int, *, seed: int, device: torch.device
    ) -> None:
        self._source, self._columns, self._config, self._length = source, columns, config, length
        self._seed, self._device = seed, device
        self._offline: EDMDenoiser | None = None
        self._adapted: EDMDenoiser | None = None

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that determines the offline weights, for the cache key."""
        return {
            "model": "trajectories",
            "version": ALGORITHM_VERSION,
            "seed": self._seed,
            "length": self._length,
            **self._source.identity,  # with the bounds of actions, on which their scales depend
            "config": self._config.data_fields("network", "training"),
        }

    @property
    def is_adapted(self) -> bool:
        """Whether there is a copy that differs from the offline model."""
        return self._adapted is not None

    def is_fitted(self, folder: Path) -> bool:
        """Whether `fit` would only load."""
        return is_fitted(folder)

    def fit(self, folder: Path, *, progress: bool) -> str:
        """Load the offline weights from `folder`, or train them and leave them there; returns a digest of them."""
        fitted: Fitted[EDMDenoiser] = load_or_train(
            folder, self._new_denoiser, self._offline_loss, self._config.training, progress=progress
        )
        self._offline = fitted.module
        return fitted.digest

    def adapted(
        self, windows: Episodes, config: TrainingConfig, number: int, *, seed: int
    ) -> tuple[EDMDenoiser, float]:
        """What training on recorded windows, each of at most `length` transitions, makes of the copy; it stays.

        Args:
            windows: an episode for every window.
            config: the training.
            number: of the adaptation; random numbers depend on it.
            seed: of these random numbers.

        Returns:
            What `follow` takes, and the mean loss.

        Raises:
            DivergenceError: training diverged.
        """
        module = copy.deepcopy(self._trained if self._adapted is None else self._adapted).train().requires_grad_(True)
        starts = windows.offsets[:-1]

        def draw(step: int) -> Windows:
            generator = numpy_generator(seed, f"adapt {self._length}/{number}", step)
            return starting_at(windows, generator.choice(starts, config.train_batch_size), self._length)

        loss = self._loss(module, windows, draw, f"adapt noise {self._length}/{number}", config, seed=seed)
        with tempfile.TemporaryDirectory() as folder:  # the loop could be resumed, but this is too short to be worth it
            # Each agent adapts by itself, also where a launch runs several.
            checkpoint = Path(folder) / "adaptation"
            result = train(module, loss, config, checkpoint=checkpoint, run_id="adaptation", team=Team())
        return self._frozen(result.weights), float(np.mean(result.losses))

    def follow(self, copy: EDMDenoiser) -> None:
        """Let `copy` be what follows the environment."""
        self._adapted = copy

    def generate(
        self, states: NDArray[np.float32], context: NDArray[np.float32], noise: Numbers, *, offline: bool
    ) -> NDArray[np.float32]:
        """Trajectories that begin in some states.

        Args:
            states: normalised first states, (B, S).
            context: normalised columns that are constant within an episode, (B, C).
            noise: random numbers, (B, length + 1, F).
            offline: by the offline model instead of the copy that follows the environment.

        Returns:
            Normalised rows of `[observation | action | reward]`, (B, length + 1, F); padding is 0.
        """
        first, constant = (torch.from_numpy(values).to(self._device) for values in (states, context))
        size = first.shape[1]
        rows = torch.zeros((len(first), self._length + 1, self._columns.num_generated), device=self._device)
        rows[:, 0, :size] = first
        known = torch.zeros_like(rows[:1], dtype=torch.bool)
        known[:, 0, :size] = True
        mask = torch.ones_like(rows)
        mask[:, -1, size:] = 0  # no action follows the last state
        condition = _condition(first, constant, mask)
        denoiser = self._trained if offline or self._adapted is None else self._adapted
        imagination = self._config.imagination
        with autocast(self._config.network.precision, self._device):
            made = solve(
                inpainted(denoiser, known, rows),
                rows + SIGMA_MAX * noise("start", 0) * mask,
                condition,
                imagination,
                sigma=SIGMA_MAX,
                end=imagination.sigma_end,
                noise=noise,
            )
        return made.cpu().numpy()

    @property
    def weights(self) -> dict[str, Tensor]:
        """Those of the offline model and of the copy, by name."""
        named = {"offline": self._trained, **({"adapted": self._adapted} if self._adapted is not None else {})}
        return {f"{kind}.{name}": value for kind, m in named.items() for name, value in m.state_dict().items()}

    def restore(self, weights: Mapping[str, Tensor]) -> None:
        """Take over `weights` in the place of `fit`; RuntimeError if they are of another model."""
        adapted = under(weights, "adapted")
        self._offline = self._frozen(under(weights, "offline"))
        self._adapted = self._frozen(adapted) if adapted else None

    @property
    def _trained(self) -> EDMDenoiser:
        if self._offline is None:
            raise RuntimeError("fit() must be called before generate()")
        return self._offline

    def _frozen(self, weights: Mapping[str, Tensor]) -> EDMDenoiser:
        denoiser = self._new_denoiser()
        denoiser.load_state_dict(dict(weights))
        return denoiser.eval().requires_grad_(False)

    def _new_denoiser(self) -> EDMDenoiser:
        columns = self._columns
        context = int(columns.context.sum()) + columns.num_observed
        with seeded(self._seed):
            network = build_network(
                self._config.network, self._length + 1, columns.num_generated + context, columns.num_generated
            )
        return EDMDenoiser(network).to(self._device)

    def _offline_loss(self, denoiser: EDMDenoiser) -> Callable[[int], Tensor]:
        episodes, config = self._source.episodes, self._config.training

        def draw(step: int) -> Windows:
            generator = numpy_generator(self._seed, f"trajectories {self._length}", step)
            numbers = generator.integers(episodes.num_transitions, size=config.train_batch_size)
            return starting_at(episodes, numbers, self._length)

        return self._loss(denoiser, episodes, draw, f"trajectories noise {self._length}", config, seed=self._seed)

    def _loss(
        self,
        denoiser: EDMDenoiser,
        episodes: Episodes,
        draw: Callable[[int], Windows],
        stream: str,
        config: TrainingConfig,
        *,
        seed: int,
    ) -> Callable[[int], Tensor]:
        """The loss of a step on the windows of it; its noise is that of `stream` and `seed`."""
        bank = WindowBank(episodes, self._columns, self._length, self._device)

        def loss_of_step(step: int) -> Tensor:
            batch = bank.gather(draw(step))
            condition = _condition(batch.rows[:, 0, : self._columns.num_observed], batch.context, batch.mask)
            with autocast(self._config.network.precision, self._device):
                return denoising_loss(
                    denoiser,
                    batch.rows,
                    condition,
                    torch_generator(seed, stream, step, self._device),
                    log_sigma_mean=config.log_sigma_mean,
                    log_sigma_std=config.log_sigma_std,
                )

        return loss_of_step


def _condition(first: Tensor, constant: Tensor, mask: Tensor) -> Condition:
    """The first state, (B, S), is told like what is constant within an episode, (B, C); no return is asked for."""
    nothing = torch.zeros(len(first), device=first.device)
    return Condition(nothing, nothing, torch.cat([constant, first], dim=1), mask)
