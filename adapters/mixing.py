"""Which transitions a batch holds: uniform, weighted, or an exact share of real data that may change over time."""

from __future__ import annotations

import math
import multiprocessing
import os
from collections.abc import Callable
from functools import cached_property, partial
from multiprocessing.context import get_spawning_popen
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from gta_datasets.config.fields import whole_number
from gta_datasets.errors import ConfigError

__all__ = ["Fraction", "Mixture", "linear_schedule", "whole_part"]

_REAL, _GENERATED = range(2)

Fraction = float | Callable[[int], float]
"""Share of real data in a batch, in [0, 1]: a number, or a function of how many batches were drawn before."""


def linear_schedule(start: float, end: float, num_batches: int) -> Callable[[int], float]:
    """A share of real data that goes from `start` to `end` within `num_batches` batches and then stays.

    Raises:
        ConfigError: a share is not in [0, 1], or `num_batches` is less than 1.
    """
    _check_share(start, "start")
    _check_share(end, "end")
    num_batches = whole_number("num_batches", num_batches, 1)
    return partial(_interpolate, start, end, num_batches)  # can be pickled, so that buffers can


def _interpolate(start: float, end: float, num_batches: int, batch: int) -> float:
    return start + (end - start) * min(batch / num_batches, 1.0)


class Mixture:
    """Draws batches of transition numbers.

    With a share `f` a batch of `B` has `f * B` real transitions. Where that is not a whole number, batches take turns
    in rounding down and up, so that the share holds for every batch within one transition and in total exactly (the
    fixed ratio of real to synthetic data per batch of DiffStitch, arXiv 2402.02439).

    A process forked from the one that made it, or started by `multiprocessing` with a copy of it, draws from a stream
    of its own; workers of a torch `DataLoader` one in every epoch, where a `real_fraction` that changes begins again.
    One that was saved and is loaded again goes on where it was.

    Args:
        num_real: real transitions, numbered from 0.
        num_generated: generated ones, numbered after them.
        real_fraction: share of real data; None draws from all transitions alike.
        weights: how much more likely each transition is drawn than others of its kind (with a share) or than all others
            (without), (num_real + num_generated,); any non-negative scale.
        online_fraction: share of transitions that were added since, once there are any, as exact; the rest of a batch
            is drawn as if there were none. None counts them among the real ones.
        seed: of the draws.

    Raises:
        ConfigError: a share that is not in [0, 1] or asks for data that do not exist, or weights of another size,
            negative, not finite, or without any sum, or a seed that is no whole number of at least 0.
    """

    def __init__(
        self,
        num_real: int,
        num_generated: int,
        *,
        real_fraction: Fraction | None = None,
        weights: ArrayLike | None = None,
        online_fraction: float | None = None,
        seed: int = 0,
    ) -> None:
        seed = whole_number("seed", seed, 0)
        self.num_real, self.num_generated, self.real_fraction = num_real, num_generated, real_fraction
        self.online_fraction = None if online_fraction is None else _check_share(online_fraction, "online_fraction")
        self._seed, self._owner, self._batches, self._owed, self._owed_online = seed, os.getpid(), 0, 0.0, 0.0
        self._generator = np.random.default_rng(seed)
        self._cumulative = None if weights is None else self._accumulate(weights)
        if real_fraction is not None:
            self._share(*self._masses[:2])

    def __getstate__(self) -> tuple[dict[str, Any], bool]:
        return self.__dict__, get_spawning_popen() is not None

    def __setstate__(self, state: tuple[dict[str, Any], bool]) -> None:
        attributes, is_spawning = state
        self.__dict__.update(attributes)
        if not is_spawning and multiprocessing.parent_process() is None:
            self._owner = os.getpid()

    def draw(self, size: int, online: int = 0) -> NDArray[np.int64]:
        """Transition numbers of the next batch, (size,).

        Args:
            size: of the batch.
            online: real transitions that were added since, numbered after the generated ones; without a share of their
                own and with weights, each is as likely as one of average weight.
        """
        self._leave_parent()
        end = self.num_real + self.num_generated
        if online and self.online_fraction is not None:
            self._owed_online, new = whole_part(self._owed_online + self.online_fraction * size, size)
            return np.concatenate([self.draw(size - new), self._generator.integers(end, end + online, new)])
        if self.real_fraction is None and self._cumulative is None:
            self._batches += 1
            return self._generator.integers(0, end + online, size)
        of_real, of_generated, of_one = self._masses
        of_online = online * of_one
        real = self._num_real_of(size, of_real + of_online, of_generated)
        self._batches += 1
        new = int(self._generator.binomial(real, of_online / (of_real + of_online))) if online and real else 0
        parts = [self._draw_of(_REAL, real - new), self._draw_of(_GENERATED, size - real)]
        if new:
            parts.append(self._generator.integers(end, end + online, new))
        return np.concatenate(parts)

    def _num_real_of(self, size: int, of_real: float, of_generated: float) -> int:
        """How many transitions of the next batch are real, if all real and all generated ones weigh that much."""
        if self.real_fraction is None:
            return int(self._generator.binomial(size, of_real / (of_real + of_generated)))
        self._owed, real = whole_part(self._owed + self._share(of_real, of_generated) * size, size)
        return real

    @cached_property
    def _masses(self) -> tuple[float, float, float]:
        """Weight of all real transitions, of all generated ones, and of an average one."""
        if self._cumulative is None:
            return self.num_real, self.num_generated, 1.0
        of_real, of_generated = (float(cumulative[-1]) for cumulative in self._cumulative)
        return of_real, of_generated, (of_real + of_generated) / (self.num_real + self.num_generated)

    def _draw_of(self, kind: int, size: int) -> NDArray[np.int64]:
        start, count = (0, self.num_real) if kind == _REAL else (self.num_real, self.num_generated)
        if self._cumulative is None or size == 0:
            return self._generator.integers(start, start + count, size) if size else np.zeros(0, np.int64)
        cumulative = self._cumulative[kind]
        drawn = np.searchsorted(cumulative, self._generator.random(size) * cumulative[-1], side="right") - 1
        inside: NDArray[np.int64] = start + np.minimum(drawn, count - 1)
        return inside

    def _share(self, of_real: float, of_generated: float) -> float:
        """The share for the next batch, where all real and all generated transitions weigh that much."""
        share = self.real_fraction(self._batches) if callable(self.real_fraction) else self.real_fraction
        share = _check_share(share, "real_fraction")
        for needed, kind, count, mass in (
            (share, "real", self.num_real, of_real),
            (1 - share, "generated", self.num_generated, of_generated),
        ):
            if needed > 0 and mass == 0:
                raise ConfigError(
                    f"real_fraction={share} needs {kind} data, and the dataset has none"
                    f"{' of positive weight' if count else ''}; leave real_fraction out"
                )
        return share

    def _accumulate(self, weights: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Running sums of the weights of the real transitions and of the generated ones, from 0.

        They are apart because next to the sum of one kind the weights of the other may be lost.
        """
        try:
            array = np.asarray(weights, np.float64)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"weights are no numbers ({error}); give one per transition") from error
        size = self.num_real + self.num_generated
        if array.shape != (size,):
            raise ConfigError(
                f"weights have shape {array.shape}; give one per transition, {(size,)}, the real ones first"
            )
        if not np.isfinite(array).all() or (array < 0).any() or not array.any():
            raise ConfigError("weights must be finite and at least 0, and one of them positive")
        array = array / array.max()  # sums stay finite
        real, generated = array[: self.num_real], array[self.num_real :]
        return np.append(0.0, np.cumsum(real)), np.append(0.0, np.cumsum(generated))

    def _leave_parent(self) -> None:
        if os.getpid() != self._owner:
            worker = torch.utils.data.get_worker_info()
            self._owner = os.getpid()
            self._generator = np.random.default_rng([self._seed, worker.seed if worker else self._owner, self._batches])


def whole_part(owed: float, most: int) -> tuple[float, int]:
    """What stays owed, and the whole number, at most `most`, that is given now."""
    # Sums of shares such as 0.1 fall short of whole numbers by rounding errors.
    given = min(math.floor(owed + 1e-6), most)
    return owed - given, given


def _check_share(share: object, name: str) -> float:
    if isinstance(share, bool) or not isinstance(share, int | float | np.number) or not 0 <= share <= 1:
        raise ConfigError(f"{name}={share!r} is not allowed; choose a number in [0, 1]")
    return float(share)
