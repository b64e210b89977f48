"""Loops in a trajectory, and the trajectory without them: the non-parametric pruner of ATraDiff (arXiv 2406.04323)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["prune"]

AWAY = 2.0
"""How far, in tolerances, a trajectory must have gone for its coming back to be a loop."""


def prune(states: NDArray[np.floating], longest: int, tolerance: float) -> NDArray[np.int64]:
    """Which transitions of a trajectory are left when loops are cut out until it is no longer than `longest`.

    A loop leads from a state away, by more than twice the tolerance, and back to within the tolerance of it. The
    longest that does not make the trajectory shorter than `longest` goes first; of equals, the one that closes best. A
    trajectory without loops stays as it is, however long, and so does one that is slow or stands still.

    Args:
        states: normalised states, (n + 1, S).
        longest: transitions that are wanted.
        tolerance: distance at which two states count as one.

    Returns:
        Numbers of the transitions that are left, ascending, at least `longest` of them unless there were fewer. A
        transition leads from the state of its number to the next one, as before.
    """
    kept = np.arange(len(states) - 1)
    while len(kept) > longest:
        loop = _longest_loop(states[np.append(kept, len(states) - 1)], len(kept) - longest, tolerance)
        if loop is None:
            break
        kept = np.delete(kept, np.arange(*loop))
    return kept


def _longest_loop(states: NDArray[np.floating], most: int, tolerance: float) -> tuple[int, int] | None:
    """First and last state of the longest loop of at most `most` transitions, or None."""
    distances = np.linalg.norm(states[:, None] - states[None], axis=-1)
    steps = np.arange(len(states))[None] - np.arange(len(states))[:, None]
    farthest = np.maximum.accumulate(np.where(steps > 0, distances, 0.0), axis=1)
    closed = (steps > 0) & (steps <= most) & (distances <= tolerance) & (farthest > AWAY * tolerance)
    if not closed.any():
        return None
    candidates = np.argwhere(closed)
    lengths, gaps = steps[closed], distances[closed]
    first, last = candidates[np.lexsort((gaps, -lengths))[0]]
    return int(first), int(last)
