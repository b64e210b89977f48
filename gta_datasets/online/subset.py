"""Which recorded windows the models learn from online: pure functions (ATraDiff, arXiv 2406.04323, online adaptation).

Importance counts by rank (Schaul et al. 2016, arXiv 1511.05952, section 3.3): whatever its units and its sign, the
window of rank r is drawn with probability in proportion to 1 / r.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["important", "surviving"]


def surviving(
    windows: NDArray[np.int64], drop_share: float, oldest: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """The windows that stay, of those that are learned from: not dropped at random, and still recorded.

    Args:
        windows: numbers of their first transitions, (n,).
        drop_share: how likely each leaves.
        oldest: number of the oldest transition that is still recorded.
        generator: source of the drops.
    """
    stays = generator.random(len(windows)) >= drop_share
    return windows[stays & (windows >= oldest)]


def important(scores: NDArray[np.floating], size: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Places of at most `size` windows, drawn without replacement by the rank of their scores (n,), ascending."""
    ranks = np.empty(len(scores))
    ranks[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
    # The largest of u ** (1 / weight) are a weighted draw without replacement (Efraimidis and Spirakis 2006).
    keys = np.log(generator.random(len(scores))) * ranks
    return np.sort(np.argsort(-keys, kind="stable")[:size])
