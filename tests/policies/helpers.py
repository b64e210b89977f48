"""d3rlpy without its warnings, and small policies and data for it."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # gym, which d3rlpy imports, warns of NumPy 2
    import d3rlpy

__all__ = ["TINY", "built", "d3rlpy", "fit", "minibatch", "signs"]

TINY: dict[str, Any] = {"width": 16, "depth": 1, "batch_size": 32, "levels": 6}
CRITIC = d3rlpy.models.VectorEncoderFactory([16])


def built(config: type[Any], *, seed: int = 0, **settings: Any) -> Any:
    """A small algorithm for three observations and two actions."""
    d3rlpy.seed(seed)
    critic = {"critic_encoder_factory": CRITIC} if config.__name__ == "GTPConfig" else {}
    algorithm = config(**{**TINY, **critic, **settings}).create()
    algorithm.create_impl((3,), 2)
    return algorithm


def fit(algorithm: Any, data: Any, steps: int, **options: Any) -> dict[str, float]:
    """The metrics of one epoch."""
    found: list[tuple[int, dict[str, float]]] = algorithm.fit(
        data,
        n_steps=steps,
        n_steps_per_epoch=steps,
        show_progress=False,
        logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
        **options,
    )
    return found[-1][1]


def minibatch(size: int = 32, *, terminal: float = 1.0, seed: int = 0) -> Any:
    """Random transitions of three observations and two actions; the reward is 1 where the first action is positive."""
    rng = np.random.default_rng(seed)
    observations, after = rng.normal(size=(2, size, 3)).astype(np.float32)
    mode = rng.integers(2, size=(size, 1)) - 0.5
    actions = (mode + 0.05 * rng.normal(size=(size, 2))).astype(np.float32)
    return d3rlpy.dataset.TransitionMiniBatch(
        observations=observations,
        actions=actions,
        rewards=(actions[:, :1] > 0).astype(np.float32),
        next_observations=after,
        next_actions=actions,
        terminals=np.full((size, 1), terminal, np.float32),
        intervals=np.ones((size, 1), np.float32),
        transitions=[],
    )


def signs(actions: np.ndarray) -> float:
    """Share of actions of which the first entry is positive."""
    return float((actions[:, 0] > 0).mean())
