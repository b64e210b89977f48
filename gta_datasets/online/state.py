"""Where a buffer stands: what changes while an agent learns, besides transitions and weights."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gta_datasets.config.fields import whole_number
from gta_datasets.data.episodes import FloatArray

__all__ = ["Costs", "State"]

LARGEST = 2**62
"""Of a counter: numpy's integers hold it."""


@dataclass
class Costs:
    """Seconds spent so far."""

    generation: float = 0.0
    adaptation: float = 0.0


@dataclass
class State:
    """Counters, and what is noted for later."""

    added: int = 0  # transitions that were ever recorded
    batches: int = 0  # that were drawn
    imaginations: int = 0  # how often trajectories were generated
    adaptations: int = 0
    adapted_at: int = 0  # what `added` was at the last adaptation
    owed: float = 0.0  # generated transitions that batches fell short of
    missing: float = 0.0  # transitions that trajectories fell short of
    subset: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """First transitions of the recorded windows that the models learn from, by their numbers."""
    waiting: FloatArray = field(default_factory=lambda: np.zeros((0, 0)))
    """Flat states that trajectories are to begin in, (n, obs_dim)."""
    waiting_steps: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    """How many transitions are left from these, (n,)."""
    waiting_since: int = 0  # number of the transition whose state waits longest

    def wait(self, states: FloatArray, steps: NDArray[np.float64], number: int) -> None:
        """Note states (n, obs_dim) of transition `number` to begin in, and how many are left from there, (n,)."""
        if len(self.waiting) == 0:
            self.waiting_since = number
        self.waiting = np.concatenate([self.waiting, states]) if len(self.waiting) else states
        self.waiting_steps = np.concatenate([self.waiting_steps, steps])

    def split(self) -> tuple[dict[str, float], dict[str, NDArray[Any]]]:
        """Numbers and arrays, by name."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
        return {name: value for name, value in values.items() if name not in arrays}, arrays

    @classmethod
    def joined(cls, numbers: Mapping[str, float], arrays: Mapping[str, NDArray[Any]]) -> State:
        """The inverse of `split`; ValueError for parts that no state has, lacks or would have like this."""
        usual_numbers, usual_arrays = cls().split()
        given, usual = sorted([*numbers, *arrays]), sorted([*usual_numbers, *usual_arrays])
        if given != usual:
            raise ValueError(f"a state of {given}, where {usual} are needed")
        for name, number in numbers.items():
            if isinstance(usual_numbers[name], int):
                whole_number(name, number, 0, LARGEST)
            elif not isinstance(number, float) or not math.isfinite(number):
                raise ValueError(f"{name}={number!r}, where a finite float is needed")
        for name, array in arrays.items():
            like = usual_arrays[name]
            if (array.ndim, array.dtype.kind) != (like.ndim, like.dtype.kind) or not np.isfinite(array).all():
                raise ValueError(f"{name} is {array.dtype} of shape {array.shape}, or holds values that are not finite")
        state = cls(**numbers, **arrays)  # type: ignore[arg-type]
        if (
            max(state.adapted_at, state.waiting_since) > state.added
            or not ((state.subset >= 0) & (state.subset < state.added)).all()
        ):
            raise ValueError(f"what was adapted to, or waits, is not among the {state.added} transitions")
        if len(state.waiting) != len(state.waiting_steps):
            raise ValueError(f"{len(state.waiting)} states wait, and {len(state.waiting_steps)} are estimated")
        return state
