"""From generated rows to transitions: in the dataset's units, inside its spaces, up to the end, without loops."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gta_datasets.data.bank import Columns
from gta_datasets.data.episodes import Episodes, FloatArray, offsets_of
from gta_datasets.data.reading import Source
from gta_datasets.methods.assemble import decoded, valid_episodes
from gta_datasets.online.pruning import prune

__all__ = ["Assembly", "Imagined"]


class Imagined(NamedTuple):
    """Generated transitions, in the dataset's units and flat form."""

    observations: FloatArray  # (n, obs_dim)
    actions: FloatArray  # (n, act_dim)
    rewards: FloatArray  # (n,)
    next_observations: FloatArray  # (n, obs_dim)
    terminated: NDArray[np.bool_]  # (n,)


class Assembly:
    """What rows of one source dataset's models stand for.

    Args:
        source: the dataset's arrays.
        columns: its columns.
        loop_tolerance: distance below which two states count as one, in usual steps of the source; 0 prunes nothing.
    """

    def __init__(self, source: Source, columns: Columns, loop_tolerance: float) -> None:
        self._source, self._columns, self._loop_tolerance = source, columns, loop_tolerance
        self.pruned = 0
        """Transitions that were cut out so far."""

    def episodes(
        self,
        rows: NDArray[np.float32],
        observations: FloatArray,
        lengths: NDArray[np.int64],
        ended: NDArray[np.bool_],
    ) -> Episodes:
        """The first `lengths` (B,) transitions of generated rows as episodes that begin in `observations`."""
        states, actions, rewards = decoded(rows, lengths, observations, self._columns)
        states[offsets_of(lengths + 1)[:-1]] = observations  # normalising and back costs digits
        return valid_episodes(
            self._source,
            observations=states,
            actions=actions,
            rewards=rewards,
            terminated=ended,
            lengths=lengths,
            remedy="train longer, or adapt less (adapt_learning_rate, adapt_steps)",
        )

    def transitions(self, episodes: Episodes, steps: NDArray[np.float64]) -> Imagined:
        """The transitions of episodes of which `steps` (B,) are wanted; the one that ends the task always stays."""
        tolerance = self._loop_tolerance * self._usual_step
        states = self._columns.states(episodes.observations)
        kept = []
        for number, (begin, end) in enumerate(zip(episodes.offsets[:-1], episodes.offsets[1:], strict=True)):
            ended = int(episodes.terminations[end - 1])
            body, wanted = end - begin - ended, max(1 - ended, round(float(steps[number])) - ended)
            pruned = np.arange(body)
            if tolerance > 0:
                pruned = prune(states[begin + number : begin + number + body + 1], wanted, tolerance)
                self.pruned += int(body) - len(pruned)
            kept.append(begin + np.append(pruned, np.arange(body, end - begin)))
        places = np.concatenate(kept)
        rows = episodes.transition_rows[places]
        return Imagined(
            episodes.observations[rows],
            episodes.actions[places],
            episodes.rewards[places],
            episodes.observations[rows + 1],
            episodes.terminations[places],
        )

    @cached_property
    def _usual_step(self) -> float:
        """Median distance between a normalised state and the next one, in the source."""
        episodes = self._source.episodes
        states, rows = self._columns.states(episodes.observations), episodes.transition_rows
        return float(np.median(np.linalg.norm(states[rows + 1] - states[rows], axis=1)))
