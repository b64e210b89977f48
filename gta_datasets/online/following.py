"""From one recorded transition to the next: which trajectories begin in its state, and when they are generated."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gta_datasets.online.assembling import Imagined
from gta_datasets.online.opening import Opened
from gta_datasets.online.ratio import left_missing, trajectories
from gta_datasets.online.state import State
from gta_datasets.seeding import numpy_generator

__all__ = ["followed"]

LONGEST_WAIT = 500
"""Transitions after which trajectories are generated from however few states wait."""


def followed(opened: Opened, state: State, observation: NDArray[Any], number: int) -> Imagined | None:
    """What is generated after a recorded transition, or None where too few states wait.

    Args:
        opened: what generates.
        state: where the buffer stands; it is changed.
        observation: that the transition leads from, (1, ...), in the environment's form.
        number: of the transition.
    """
    _note(opened, state, observation, number)
    state.missing = left_missing(opened.config.imagination.rho, state.missing)
    waiting = len(state.waiting)
    if waiting >= opened.config.imagination.starts_per_batch or (
        waiting and number - state.waiting_since >= LONGEST_WAIT
    ):
        return _imagined(opened, state)
    return None


def _note(opened: Opened, state: State, observation: NDArray[Any], number: int) -> None:
    """Let the state of a transition wait as often as trajectories are to begin there."""
    diffuser, rho = opened.diffuser, opened.config.imagination.rho
    chance = numpy_generator(opened.seed, "generate", number).random()
    # Most states need no estimate: not even the shortest trajectory would begin there.
    if trajectories(rho, state.missing, diffuser.announced(1.0), chance):
        current = opened.source.observation_codec.flatten(observation)
        steps = diffuser.estimate(current)
        count = trajectories(rho, state.missing, diffuser.announced(float(steps[0])), chance)
        state.wait(np.repeat(current, count, axis=0), np.repeat(steps, count), number)


def _imagined(opened: Opened, state: State) -> Imagined:
    """Trajectories from the states that wait."""
    starts, steps, number = state.waiting, state.waiting_steps, state.imaginations
    # Before generating: states from which it fails would fail for ever.
    state.waiting, state.waiting_steps, state.imaginations = starts[:0], steps[:0], number + 1
    made = opened.diffuser.imagine(starts, steps, number)
    state.missing += sum(map(opened.diffuser.announced, steps.tolist())) - len(made.rewards)
    return made
