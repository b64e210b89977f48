"""`alpha="auto"`, `mu="auto"`, `auto_steps`: how far to explore, how much to ask for, how finely to solve, by trying.

GTA's guideline (section 5.4) is low levels for data that are near expert or unknown, high ones for plainly suboptimal
data. Here a few settings are tried on the same windows with the same random numbers. A learned model of the dynamics
judges what comes out; of the settings that keep to the dynamics, the one with the highest predicted reward is taken.
Where more of its windows are bad than should be, the sampler gets more steps as long as these help.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gta_datasets.atomic import atomic_write, is_file, read_bytes
from gta_datasets.config import SamplingConfig, SearchConfig
from gta_datasets.data.episodes import Episodes
from gta_datasets.errors import CacheError
from gta_datasets.methods.base import Shard
from gta_datasets.models.dynamics import DynamicsModel

__all__ = ["MUS", "LevelSearch", "load_choice"]

ALPHAS, MUS = (1.1, 1.3, 1.5), (0.1, 0.25, 0.5)
"""What is tried, from the least to the most: the range of GTA, appendix C."""

FILE, MOST_BYTES = "levels.json", 1_000_000
VERSION = 3
"""Raised whenever the same configuration would give another choice."""

HELPS = 0.9
"""Twice the steps are worth their time if at most this share of the bad windows beyond the source's is left."""

logger = logging.getLogger(__name__)


class LevelSearch:
    """The search for one trained generator; what was found is kept in a folder, like the weights of a model.

    Args:
        identity: of the generator.
        sampling: its settings, with "auto" for what is sought.
        config: size of the probes and what they must not exceed.
        windows: the source windows of all probes, one per episode.
        probe: what the generator makes of them under other settings.
        dynamics: the judge; must be fitted before `fit`.
    """

    def __init__(
        self,
        identity: Mapping[str, Any],
        sampling: SamplingConfig,
        config: SearchConfig,
        *,
        windows: Callable[[], Episodes],
        probe: Callable[[SamplingConfig], Shard],
        dynamics: DynamicsModel,
    ) -> None:
        self._generator, self._sampling, self._config = identity, sampling, config
        self._windows, self._probe, self._dynamics = windows, probe, dynamics
        self._found: dict[str, Any] | None = None

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that determines the choice, for the cache key."""
        return {
            "model": "levels",
            "version": VERSION,
            "generator": self._generator,
            "dynamics": self._dynamics.identity,
            "sampling": self._sampling.data_fields(),
            "search": self._config.data_fields(),
        }

    @property
    def found(self) -> dict[str, Any]:
        """`alpha`, `mu`, `sampler_steps`, and what was measured: `probes`, and the `source`."""
        if self._found is None:
            raise RuntimeError("fit() must be called before the levels are known")
        return self._found

    @property
    def chosen(self) -> SamplingConfig:
        """The settings with the levels that were found."""
        return dataclasses.replace(
            self._sampling, **{name: self.found[name] for name in ("alpha", "mu", "sampler_steps")}
        )

    def is_fitted(self, folder: Path) -> bool:
        """Whether `fit` would only load; CacheError if that cannot be known."""
        return is_file(folder / FILE)

    def fit(self, folder: Path, *, progress: bool) -> str:  # noqa: ARG002 - a few seconds
        """Load the choice from `folder`, or make it and leave it there; returns it in short.

        Raises:
            CacheError: the folder holds something else.
        """
        path = folder / FILE
        found = load_choice(path)
        if found is None:
            chosen = self._search()
            found = load_choice(path)  # what somebody has chosen meanwhile stays: shards may have been made with it
            if found is None:
                text = json.dumps({"digest": _digest(chosen), **chosen}, indent=2)
                atomic_write(path, text.encode(), make_folder=True)
                found = chosen
        self._found = found
        return f"alpha {found['alpha']} mu {found['mu']} steps {found['sampler_steps']}"

    def _search(self) -> dict[str, Any]:
        sampling = self._sampling
        sought = (_sought(sampling.alpha, ALPHAS), _sought(sampling.mu, MUS))
        source = self._judged(self._windows())
        probes = [
            self._measure(dataclasses.replace(sampling, alpha=alpha, mu=mu))
            for mu, alpha in itertools.product(sought[1], sought[0])
        ]
        # A model of the dynamics is not perfect: some of the source's own windows are bad to it.
        limit = source["bad_share"] + self._config.auto_share
        sound = [found for found in probes if found["bad_share"] <= limit]
        # Where none is sound, the soundest.
        best = max(sound, key=lambda found: found["reward"]) if sound else min(probes, key=lambda f: f["bad_share"])
        best, more = self._refined(best, source["bad_share"])
        probes += more
        chosen = {name: best[name] for name in ("alpha", "mu", "sampler_steps")}
        logger.info(
            "%s; tried: %s; source: %s",
            ", ".join(f"{name}={value:g}" for name, value in chosen.items()),
            probes,
            source,
        )
        return {**chosen, "source": source, "probes": probes}

    def _refined(self, best: dict[str, Any], floor: float) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The setting with the steps it takes to get near the source's share, if more help; and what was tried."""
        tried: list[dict[str, Any]] = []
        limit = floor + self._config.auto_share
        while best["bad_share"] > limit and 2 * best["sampler_steps"] <= self._config.auto_steps:
            settings = {"alpha": best["alpha"], "mu": best["mu"], "sampler_steps": 2 * best["sampler_steps"]}
            tried.append(self._measure(dataclasses.replace(self._sampling, **settings)))
            if tried[-1]["bad_share"] - floor > max(self._config.auto_share, HELPS * (best["bad_share"] - floor)):
                break
            best = tried[-1]
        return best, tried

    def _measure(self, sampling: SamplingConfig) -> dict[str, Any]:
        setting = {"alpha": sampling.amplification, "mu": sampling.exploration, "sampler_steps": sampling.sampler_steps}
        probe = self._probe(sampling)
        return setting | self._judged(Episodes.from_arrays(probe), probe.get("recorded", False))

    def _judged(self, windows: Episodes, failed: NDArray[np.bool_] | bool = False) -> dict[str, float]:
        """Mean predicted reward of a step, and share of windows with a step the model would not have expected.

        Those that `failed` (B,) count as such whatever their steps are.
        """
        _, rewards = self._dynamics.predict(windows.observations[windows.transition_rows], windows.actions)
        worst = np.maximum.reduceat(self._dynamics.errors(windows), windows.offsets[:-1])
        bad = (worst > self._config.auto_error) | failed
        return {"reward": float(rewards.mean()), "bad_share": float(bad.mean())}


def load_choice(path: Path) -> dict[str, Any] | None:
    """What a search has left in a file, as `LevelSearch.found` has it; None if there is none.

    Raises:
        CacheError: the file is a link, holds something else, or is damaged.
    """
    try:
        stored = json.loads(read_bytes(path, limit=MOST_BYTES))
        found = {name: stored[name] for name in ("alpha", "mu", "sampler_steps", "source", "probes")}
        sound = stored["digest"] == _digest(found)
    except FileNotFoundError:
        return None
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise CacheError(f"{path} is not a choice of levels; remove it to choose again") from error
    if not sound:
        raise CacheError(f"{path} is damaged (its checksum does not match); remove it to choose again")
    return found


def _digest(found: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(found, sort_keys=True).encode(), digest_size=16).hexdigest()


def _sought(value: float | Literal["auto"], grid: tuple[float, ...]) -> tuple[float, ...]:
    """What to try: the whole grid, or what is given."""
    return grid if value == "auto" else (value,)
