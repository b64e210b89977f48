"""The normalised dataset on the device, and windows gathered from it by index."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gta_datasets.data.episodes import Episodes, FloatArray
from gta_datasets.data.normalize import Standardizer, chunks
from gta_datasets.data.windows import Windows
from gta_datasets.device import to_device

__all__ = ["Columns", "WindowBank", "WindowBatch", "static_columns"]


@dataclass(frozen=True)
class Columns:
    """What the columns of a row `[observation | action | reward]` are, and their statistics.

    Observation columns that are constant within every episode (a desired goal, a mass) are not generated: they are
    copied from the source window, and those that differ between episodes are the context of the generator.
    """

    static: NDArray[np.bool_]  # (obs_dim,) constant within every episode
    observation: Standardizer  # (obs_dim,)
    action: Standardizer  # (act_dim,)
    reward: Standardizer  # (1,)

    @classmethod
    def of(cls, episodes: Episodes) -> Columns:
        return cls(
            static=static_columns(episodes),
            observation=Standardizer.fit(episodes.observations),
            action=Standardizer.fit(episodes.actions),
            reward=Standardizer.fit(episodes.rewards[:, None]),
        )

    @cached_property
    def moving(self) -> NDArray[np.bool_]:
        """Columns that change within episodes and are generated, (obs_dim,); `S` of them."""
        return ~self.static

    @cached_property
    def context(self) -> NDArray[np.bool_]:
        """Static columns that differ between episodes, (obs_dim,); `C` of them."""
        return self.static & ~self.observation.constant

    def states(self, observations: FloatArray) -> NDArray[np.float32]:
        """What changes within episodes, normalised, (..., S), of observations (..., obs_dim)."""
        return self._moving_statistics.forward(observations[..., self.moving])

    def context_of(self, observations: FloatArray) -> NDArray[np.float32]:
        """What differs between episodes only, normalised, (..., C), of observations (..., obs_dim)."""
        return self._context_statistics.forward(observations[..., self.context])

    def with_states(self, observations: FloatArray, states: NDArray[np.float32]) -> NDArray[np.float64]:
        """A copy of `observations` (..., obs_dim) that has the given `states` (..., S), in their own units."""
        changed = observations.astype(np.float64)
        changed[..., self.moving] = self._moving_statistics.inverse(states)
        return changed

    @cached_property
    def _moving_statistics(self) -> Standardizer:
        return self.observation.select(self.moving)

    @cached_property
    def _context_statistics(self) -> Standardizer:
        return self.observation.select(self.context)

    @property
    def num_observed(self) -> int:
        """Observation columns that are generated."""
        return int(self.moving.sum())

    @property
    def num_actions(self) -> int:
        return len(self.action.mean)

    @property
    def num_generated(self) -> int:
        """Columns of a generated row: observation, action, reward."""
        return self.num_observed + self.num_actions + 1


def static_columns(episodes: Episodes) -> NDArray[np.bool_]:
    """Observation columns that are constant within every episode, (obs_dim,)."""
    starts = episodes.observation_offsets[:-1]
    highest = np.maximum.reduceat(episodes.observations, starts, axis=0)
    lowest = np.minimum.reduceat(episodes.observations, starts, axis=0)
    return np.asarray((highest == lowest).all(axis=0))


@dataclass(frozen=True)
class WindowBatch:
    """Normalised windows on the device, rows of `[observation | action | reward]`; padding is 0."""

    rows: Tensor  # (B, H + 1, F)
    mask: Tensor  # (B, H + 1, F) 1 where a value belongs to the window
    context: Tensor  # (B, C)


class WindowBank:
    """Holds the normalised rows of a dataset once; batches are gathered from it.

    Args:
        episodes: the dataset.
        columns: its columns.
        horizon: transitions per window.
        device: where rows live.
    """

    def __init__(self, episodes: Episodes, columns: Columns, horizon: int, device: torch.device) -> None:
        self.horizon = horizon
        self._observed = columns.num_observed
        self._rows = torch.from_numpy(_normalised_rows(episodes, columns)).to(device)
        first_rows = episodes.observation_offsets[:-1]
        self._context = torch.from_numpy(columns.context_of(episodes.observations[first_rows])).to(device)
        self._first_rows = torch.from_numpy(first_rows).to(device)
        self._steps = torch.arange(horizon + 1, device=device)

    @property
    def device(self) -> torch.device:
        return self._rows.device

    def gather(self, windows: Windows) -> WindowBatch:
        """The windows' normalised rows."""
        places = np.stack([windows.episode, windows.start, windows.length])
        episode, start, length = to_device(places, self.device)
        mask = self._mask(length)
        rows = (self._first_rows[episode] + start)[:, None] + torch.minimum(self._steps, length[:, None])
        return WindowBatch(self._rows[rows] * mask, mask, self._context[episode])

    def _mask(self, length: Tensor) -> Tensor:
        """Observations count up to the last one of the window, actions and rewards up to the last transition."""
        observed = (self._steps <= length[:, None])[:, :, None].expand(-1, -1, self._observed)
        acted = (self._steps < length[:, None])[:, :, None].expand(-1, -1, self._rows.shape[1] - self._observed)
        return torch.cat([observed, acted], dim=2).to(self._rows.dtype)


def _normalised_rows(episodes: Episodes, columns: Columns) -> NDArray[np.float32]:
    observed, actions = columns.num_observed, columns.num_actions
    rows = np.zeros((len(episodes.observations), columns.num_generated), np.float32)
    for part in chunks(len(rows)):
        rows[part, :observed] = columns.states(episodes.observations[part])
    places = episodes.transition_rows
    for part in chunks(episodes.num_transitions):
        rows[places[part], observed : observed + actions] = columns.action.forward(episodes.actions[part])
        rows[places[part], -1] = columns.reward.forward(episodes.rewards[part, None])[:, 0]
    return rows
