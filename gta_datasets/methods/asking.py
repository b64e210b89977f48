"""What a generator of windows is told: their returns, or their rewards."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gta_datasets.config import DataConfig
from gta_datasets.data.bank import WindowBatch
from gta_datasets.data.episodes import Episodes
from gta_datasets.data.normalize import Standardizer
from gta_datasets.data.reading import Source
from gta_datasets.data.returns import amplify, n_step_returns, returns_to_go
from gta_datasets.data.windows import WindowIndex, Windows
from gta_datasets.device import to_device
from gta_datasets.diffusion.edm import Condition
from gta_datasets.models.value import ValueModel
from gta_datasets.warn import warn

__all__ = ["Returns", "best_of_windows", "warn_of_punished_success", "with_known_rewards"]

FEWEST = 5
"""Episodes that terminate, and that do not, from which something can be said about both."""


class Returns:
    """Returns-to-go of a source, and how a network is told of them: in standard deviations from their mean.

    Args:
        episodes: the source.
        index: its windows.
        config: discount, terminal penalty and horizon.
        device: where conditions are.
        value: a fitted model of what follows a window; None to take what was recorded.
    """

    def __init__(
        self,
        episodes: Episodes,
        index: WindowIndex,
        config: DataConfig,
        device: torch.device,
        value: ValueModel | None = None,
    ) -> None:
        self._offsets, self._device = episodes.offsets, device
        discounting = {"discount": config.discount, "terminal_penalty": config.terminal_penalty}
        self.to_go = (
            returns_to_go(episodes, **discounting)
            if value is None
            else n_step_returns(episodes, value.predict(episodes.observations), steps=config.horizon, **discounting)
        )
        """Of every transition, (N,)."""
        self.best = best_of_windows(self.to_go, index)
        spread, rounding = float(self.to_go.std()), 1e-9 * float(np.abs(self.to_go).max())
        # 1 where they are all the same
        self._mean, self._spread = float(self.to_go.mean()), spread if spread > rounding else 1.0

    def of(self, windows: Windows) -> NDArray[np.float64]:
        """Return-to-go from the first transition of every window, (B,)."""
        found: NDArray[np.float64] = self.to_go[self._offsets[windows.episode] + windows.start]
        return found

    def condition(self, batch: WindowBatch, returns: NDArray[np.floating[Any]]) -> Condition:
        """The condition of windows that are to have these returns, (B,)."""
        standardised = ((returns - self._mean) / self._spread).astype(np.float32)
        on_device = to_device(standardised, self._device)
        return Condition(on_device, torch.ones_like(on_device), batch.context, batch.mask)


def best_of_windows(to_go: NDArray[np.floating[Any]], index: WindowIndex) -> float:
    """The best return-to-go (N,) from the first transition of a window.

    A network is told of no others. Towards the end of an episode, where no window begins, returns can be better than
    any of these: of negative rewards the fewest are left there.
    """
    return float(to_go[index.first_transitions].max())


def with_known_rewards(batch: WindowBatch, statistics: Standardizer, alpha: float) -> tuple[Tensor, Tensor]:
    """The rows with their rewards amplified, and which of their values are to stay: those.

    The ablation "reward inpainting" of GTA, tables 16 and 17.
    """
    rewards = amplify(statistics.inverse(batch.rows[..., -1:].cpu().numpy()), alpha)
    amplified = torch.from_numpy(statistics.forward(rewards)).to(batch.rows.device)
    rows = torch.cat([batch.rows[..., :-1], amplified], dim=-1) * batch.mask
    known = torch.zeros(rows.shape[-1], dtype=torch.bool, device=rows.device)
    known[-1] = True
    return rows, known


def warn_of_punished_success(source: Source, config: DataConfig) -> None:
    """Warn if a terminal penalty is set and episodes that terminate have higher returns than those that were cut off.

    Where the task ends in success the penalty makes the best endings the worst. A difference within two standard errors
    may be chance, and so may a few episodes that were cut: where a recording ends, one is. Most generated episodes are
    cut, whatever the task: where there are some, nothing is said.
    """
    if source.augmented:
        return
    episodes = source.episodes
    terminated = episodes.terminated
    if config.terminal_penalty == 0 or min(terminated.sum(), (~terminated).sum()) < FEWEST:
        return
    returns = episodes.returns
    of_terminated, of_cut = returns[terminated].mean(), returns[~terminated].mean()
    error = returns.std() / np.sqrt(terminated.mean() * (~terminated).sum())
    if of_terminated <= of_cut + 2 * error or np.isclose(of_terminated, of_cut):
        return
    warn(
        f"the {terminated.sum()} episodes that terminate have a higher mean return ({of_terminated:.4g}) than the "
        f"{(~terminated).sum()} that were cut off ({of_cut:.4g}), as in tasks that end in success, and "
        f"terminal_penalty={config.terminal_penalty:g} makes these endings the worst: terminal_penalty=0 is right for "
        "such tasks"
    )
