"""From one recorded transition to the next: which trajectories begin in its state, and when they are generated."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gta_datasets.data.episodes import FloatArray
from gta_datasets.errors import DivergenceError
from gta_datasets.online.assembling import Imagined
from gta_datasets.online.opening import Opened
from gta_datasets.online.ratio import left_missing, trajectories, with_failed
from gta_datasets.online.state import State
from gta_datasets.seeding import numpy_generator
from gta_datasets.warn import warn

__all__ = ["followed"]

LONGEST_WAIT = 500
"""Transitions after which trajectories are generated from however few states wait."""


def followed(opened: Opened, state: State, observation: NDArray[Any], number: int) -> Imagined | None:
    """What is generated after a recorded transition; None where too few states wait, or where it fails, with a warning.

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
    shortest = diffuser.announced(1.0)
    most = trajectories(rho, state.missing, shortest, chance)
    if not most:
        return
    current = opened.source.observation_codec.flatten(observation)
    with np.errstate(over="ignore", invalid="ignore"):
        steps = diffuser.estimate(current)
    if np.isfinite(steps[0]):
        count = trajectories(rho, state.missing, diffuser.announced(float(steps[0])), chance)
        state.wait(np.repeat(current, count, axis=0), np.repeat(steps, count), number)
    else:
        _give_up(opened, state, current, most * shortest, f"the transitions left there are estimated at {steps[0]}")


def _imagined(opened: Opened, state: State) -> Imagined | None:
    """Trajectories from the states that wait, or None where that fails."""
    starts, steps, number = state.waiting, state.waiting_steps, state.imaginations
    # Before generating: states from which it fails would fail for ever.
    state.waiting, state.waiting_steps, state.imaginations = starts[:0], steps[:0], number + 1
    announced = sum(map(opened.diffuser.announced, steps.tolist()))
    try:
        made = opened.diffuser.imagine(starts, steps, number)
    except DivergenceError as error:
        _give_up(opened, state, starts, announced, str(error))
        return None
    state.missing += announced - len(made.rewards)
    return made


def _give_up(opened: Opened, state: State, states: FloatArray, announced: float, reason: str) -> None:
    """Warn that nothing comes of some states (n, obs_dim); a long run need not end for that."""
    state.missing = with_failed(opened.config.imagination.rho, state.missing, announced)
    with np.errstate(over="ignore", invalid="ignore"):
        farthest = opened.diffuser.farthest(states)
    warn(
        f"nothing is generated from {len(states)} of the recorded states, which is made up for later: {reason}. The "
        f"farthest of them lies {farthest:.3g} standard deviations from the data; if that is far, look at what the "
        "environment observes"
    )
