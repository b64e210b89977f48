"""What every comparison with released code needs: its import, the clock, the judge, and our side."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, TypeVar
from unittest import mock

import minari
import numpy as np

import gta_datasets
from gta_datasets.data.episodes import Episodes
from gta_datasets.data.reading import read_episodes
from gta_datasets.methods.base import Shard
from gta_datasets.metrics import quality
from gta_datasets.pipeline import Pipeline
from gta_datasets.scores import Scores

Result = TypeVar("Result")

SCORES = (
    "reward",
    "oracle_reward",
    "dynamics_mse",
    "dynamics_median",
    "dynamics_p99",
    "bad_window_share",
    "unstable_share",
)
SHARD = {"synther": "transitions_per_shard", "diffstitch": "trajectories_per_shard", "gta": "windows_per_shard"}
"""The field that says how much one shard holds."""


@dataclass(frozen=True)
class Setting:
    """What both sides are given."""

    method: str
    checkout: Path  # with the released code
    dataset: str
    steps: int  # of training
    batch_size: int
    samples: int  # generated: transitions, bridges or windows
    seed: int
    width: int | None = None  # of the released network, instead of its own

    def source(self) -> Episodes:
        """The dataset's arrays."""
        return read_episodes(minari.load_dataset(self.dataset)).episodes


class _Silent(type):
    def __getattr__(cls, name: str) -> Callable[..., None]:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_, **__: None


class Nothing(metaclass=_Silent):
    """Whatever an absent package holds: a class with every method, none of which does anything."""

    def __init__(self, *_: Any, **__: Any) -> None: ...


class Absent(ModuleType):
    """An empty package under the name of one that is only imported."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__, self.__path__ = ModuleSpec(name, None), []

    def __getattr__(self, name: str) -> type[Nothing]:
        if name.startswith("__"):
            raise AttributeError(name)
        return Nothing


@contextmanager
def importable(checkout: Path, *absent: str, folders: tuple[str, ...] = (".",)) -> Iterator[None]:
    """Within it modules in `folders` of a checkout can be imported, where they import empty packages named `absent`."""
    path = [str((checkout / folder).resolve()) for folder in folders]
    with (
        mock.patch.dict(sys.modules, {name: Absent(name) for name in absent}),
        mock.patch.object(sys, "path", [*path, *sys.path]),
    ):
        before = set(sys.modules)
        yield
        made = {name: module for name, module in sys.modules.items() if name not in before}
    sys.modules.update(made)  # what was imported stays so


def timed(name: str, work: Callable[..., Result], **arguments: Any) -> tuple[Result, dict[str, float]]:
    """The result, and seconds by the clock and of the processor: other programs on the machine count in the first."""
    wall, processor = time.perf_counter(), time.process_time()
    result = work(**arguments)
    seconds = {f"{name}_wall": time.perf_counter() - wall, f"{name}_cpu": time.process_time() - processor}
    return result, {key: round(value, 2) for key, value in seconds.items()}


def judged(made: Episodes, source: Episodes, setting: Setting) -> dict[str, Any]:
    """Figures of generated trajectories and of as many windows of the source, by the simulator."""
    env_spec = minari.load_dataset(setting.dataset).spec.env_spec
    found = quality(made, source, env_spec=env_spec, sample=made.num_transitions, novelty_sample=1, seed=setting.seed)
    return {
        "trajectories": made.num_episodes,
        "transitions": made.num_transitions,
        **_figures(found.generated),
        "source": _figures(found.source),
    }


def _figures(scores: Scores) -> dict[str, Any]:
    return {name: getattr(scores, name) for name in SCORES}


def ours(setting: Setting, cache: str, **settings: Any) -> tuple[dict[str, Any], Shard, Pipeline]:
    """Train and sample with this library; models that lie in `cache` are not trained again.

    Returns:
        Settings and seconds; what was generated; what generated it.
    """
    augmented = gta_datasets.augment(
        setting.dataset,
        setting.method,
        num_transitions=1,  # the first shard is made whole
        seed=setting.seed,
        device="cpu",
        cache_dir=cache,
        progress=False,
        **{SHARD[setting.method]: setting.samples, "train_batch_size": setting.batch_size} | settings,
    )
    pipeline: Pipeline = augmented.storage.pipeline
    _, prepared = timed("prepare", lambda: pipeline.plan)
    _, trained = timed("train", augmented.fit)
    shard, sampled = timed("generate", pipeline.shard, number=0)
    config = augmented.config.to_dict()
    return {**settings, "network": config["network"], "seconds": prepared | trained | sampled}, shard, pipeline


def our_figures(setting: Setting, cache: str, source: Episodes, **settings: Any) -> dict[str, Any]:
    """As `ours`, and what the judge says of it."""
    measured, shard, _ = ours(setting, cache, **settings)
    return show("ours", measured | {"generated": judged(Episodes.from_arrays(shard), source, setting)})


def cpu_figures(setting: Setting, cache: str, source: Episodes, found: dict[str, Any]) -> dict[str, Any]:
    """Ours with the preset `cpu`: after as many steps and as many seconds as the released code took."""
    measured = our_figures(setting, cache, source, preset="cpu", **steps(setting.steps))
    longer = as_long(setting, found["released"]["seconds"]["train_cpu"], measured)
    return {
        "ours, cpu": measured,
        "ours, cpu, as many seconds": our_figures(setting, cache, source, preset="cpu", **longer),
    }


def as_long(setting: Setting, seconds: float, measured: dict[str, Any]) -> dict[str, int]:
    """How many steps take `seconds` of the processor, where `setting.steps` took those that were measured."""
    return steps(round(setting.steps * seconds / max(measured["seconds"]["train_cpu"], 0.01)))


def steps(number: int) -> dict[str, int]:
    """So many training steps, with a warm-up that is short enough for them."""
    return {"training_steps": max(number, 1), "warmup_steps": min(500, number // 10)}


def spaces(source: Episodes) -> SimpleNamespace:
    """As much of an environment as released code asks for."""
    return SimpleNamespace(
        observation_space=SimpleNamespace(shape=source.observations.shape[1:]),
        action_space=SimpleNamespace(shape=source.actions.shape[1:]),
    )


def both_weights(trainer: Any) -> dict[str, Any]:
    """The models that a released trainer ends with, by the names of their figures."""
    return {"released": trainer.ema.ema_model, "released, last weights": trainer.model}


def windows(observations: np.ndarray, actions: np.ndarray, rewards: np.ndarray) -> Episodes:
    """Trajectories of equal length: states (B, L + 1, S), actions (B, L, A), rewards (B, L)."""
    size, length = rewards.shape
    ends = np.tile(np.arange(length) == length - 1, size)
    return Episodes(
        observations=observations.reshape(-1, observations.shape[2]),
        actions=actions.reshape(-1, actions.shape[2]),
        rewards=rewards.reshape(-1),
        terminations=np.zeros_like(ends),
        truncations=ends,
        offsets=np.arange(size + 1) * length,
    )


def columns(source: Episodes) -> dict[str, np.ndarray]:
    """A dataset in D4RL's form."""
    return {
        "observations": source.observations[source.transition_rows].astype(np.float32),
        "actions": source.actions.astype(np.float32),
        "next_observations": source.next_observations.astype(np.float32),
        "rewards": source.rewards.astype(np.float32),
        "terminals": source.terminations,
        "timeouts": source.truncations & ~source.terminations,
    }


def show(name: str, measured: dict[str, Any]) -> dict[str, Any]:
    """Print what was measured at once, and return it."""
    print(name, json.dumps(measured), flush=True)
    return measured


def revision(folder: Path) -> str | None:
    """The git revision of a checkout."""
    git = ["git", "-C", str(folder), "rev-parse", "--short", "HEAD"]
    return subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or None
