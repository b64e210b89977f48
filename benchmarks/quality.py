"""Judging what a method generates: true rewards, true dynamics, novelty, and seconds."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import minari

import gta_datasets
from benchmarks.environments import facts

__all__ = ["METRICS", "measure"]


def measure(dataset: minari.MinariDataset, unit: Mapping[str, Any], novelty_sample: int) -> dict[str, Any]:
    """Numbers and seconds of one judged unit; novelty is that of so many transitions.

    Models stay in the cache, so that units which share one train it once.
    """
    augmented = gta_datasets.augment(
        dataset,
        preset=unit["preset"],
        num_transitions=unit["num_transitions"],
        seed=unit["seed"],
        progress=False,
        **unit["settings"],
    )
    known = facts(dataset, augmented, dataset.env_spec)
    fitted_before = augmented.is_fitted
    started = time.perf_counter()
    augmented.fit()
    fitted = time.perf_counter()
    augmented.generate()
    seconds = {
        "fit": None if fitted_before else round(fitted - started, 1),
        "generate": round(time.perf_counter() - fitted, 1),
    }
    generated = time.perf_counter()
    quality = augmented.quality(sample=unit["sample"], novelty_sample=novelty_sample, seed=unit["seed"])
    seconds["judge"] = round(time.perf_counter() - generated, 1)
    return {
        **known,
        "config": augmented.config.to_dict(),
        "seconds": seconds,
        "acceptance_rate": augmented.acceptance_rate,
        "levels": augmented.levels,
        "quality": json.loads(quality.to_json()),
    }


def _novelty(scores: Mapping[str, Any], space: str) -> float | None:
    return None if scores["novelty"] is None else scores["novelty"][space]


def _hundredfold(value: float | None) -> float | None:
    return None if value is None else 100 * value


METRICS: Mapping[str, tuple[str, Callable[[Any], float | None]]] = {
    "oracle_reward": ("Oracle reward", lambda scores: scores["oracle_reward"]),
    "dynamic_mse_x1e-2": ("Dynamics MSE x 100", lambda scores: _hundredfold(scores["dynamics_mse"])),
    "novelty_state": ("Novelty, state", lambda scores: _novelty(scores, "state")),
    "novelty_action": ("Novelty, action", lambda scores: _novelty(scores, "action")),
    "novelty_state_action": ("Novelty, both", lambda scores: _novelty(scores, "both")),
}
"""Titles, and how the scores of a sample are read, by their names in the paper's numbers."""
