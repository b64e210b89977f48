"""The front door: `augment` turns a Minari dataset into an augmented one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import minari
import platformdirs

from gta_datasets.config import GTAConfig, MethodConfig, StagedConfig
from gta_datasets.config.fields import truth, whole_number
from gta_datasets.data.reading import holds_generated
from gta_datasets.data.screen import screen_id
from gta_datasets.data.spaces import SpaceCodec
from gta_datasets.dataset import GTAAugmentedDataset
from gta_datasets.device import torch_device
from gta_datasets.errors import ConfigError, DatasetError, MissingExtraError
from gta_datasets.methods import METHODS
from gta_datasets.pipeline import Pipeline
from gta_datasets.presets import METHOD_PRESETS, PRESETS, TASKS
from gta_datasets.warn import warn

__all__ = [
    "augment",
    "cache_root",
    "configuration",
    "configured",
    "open_dataset",
]

CACHE_VARIABLE = "GTA_DATASETS_CACHE"

Config = TypeVar("Config", bound=StagedConfig)


def augment(
    dataset: minari.MinariDataset | str,
    method: str | MethodConfig = "gta",
    *,
    num_transitions: int | None = None,
    preset: str = "auto",
    task: str | None = None,
    seed: int = 0,
    device: str = "auto",
    cache_dir: str | Path | None = None,
    include_source: bool = True,
    progress: bool = True,
    **overrides: object,
) -> GTAAugmentedDataset:
    """Augment a dataset with generated trajectories.

    Returns at once. The model is trained and trajectories are generated when they are first read (or by `fit()` and
    `generate()`), and kept in the cache, where any later call with the same dataset, configuration and seed finds them.

    Args:
        dataset: a Minari dataset, never modified, or the id of one on this machine, which is screened before Minari
            opens it. Episodes that are added to it later are not augmented. A warning says so if some are generated.
        method: "gta", "s4rl" (recorded episodes with a little noise on the states), "synther" (single transitions made
            from noise), "diffstitch" (episodes of low return led over into ones of high return), or the configuration
            of a method, which then replaces preset, task and overrides: `GTAConfig().replace(alpha=1.2)` has the
            defaults of all other fields, `augment(dataset, preset="cpu").config.replace(alpha=1.2)` a preset's.
        num_transitions: how many transitions to generate at least; as many as the source has by default.
        preset: "paper" (the paper's network, 1 M steps, 128 sampler steps), "fast" (the default on a GPU), "cpu" (the
            default without one: minutes on 2 cores), "demo" (a smaller "cpu"), "smoke" (seconds; for tests), or "auto".
        task: settings the GTA paper uses for a kind of task: "locomotion", "maze2d", "antmaze", "adroit", "kitchen";
            with method "gta" only.
        seed: seed of training and generation.
        device: a torch device, or "auto" for a GPU if there is one.
        cache_dir: folder of the cache; by default the environment variable GTA_DATASETS_CACHE or the user's cache
            folder.
        include_source: put the source's episodes before the generated ones.
        progress: show progress bars on standard error.
        **overrides: any field of the configuration by its name, such as `alpha=1.2`. With any method, `qualify=0.05`
            keeps only trajectories that a learned model of the dynamics agrees with (largest squared error of a step,
            in the source's standard deviations), and draws others until there are enough.

    Returns:
        A `minari.MinariDataset`.

    Raises:
        ConfigError: an unknown method, preset, task or keyword, a task for another method than "gta", a value out of
            range, or a GPU that is not there.
        DatasetError: there is no such dataset, or Minari cannot open it.
        MissingExtraError: it is stored in a format whose library is not installed.
        UnsupportedSpaceError: a space that cannot be turned into vectors.
        UntrustedDatasetError: `dataset` is an id of a folder that Minari must not open.
    """
    config = configuration(method, preset, task, torch_device(device), overrides)
    if num_transitions is not None:
        num_transitions = whole_number("num_transitions", num_transitions, 1, 2**63 - 1)
    seed = whole_number("seed", seed, 0, 2**32 - 1)
    include_source, progress = truth("include_source", include_source), truth("progress", progress)
    source = open_dataset(dataset)
    if holds_generated(source):
        warn(
            f"generated data are augmented: there are some in dataset {source.id!r}, which this library made. What is "
            "made of them departs further from what was recorded; augment the dataset that they were made from, which "
            "is `augmented.source`"
        )
    SpaceCodec.of(source.observation_space, name="observation")
    SpaceCodec.of(source.action_space, name="action")
    pipeline = Pipeline(
        source,
        config,
        seed=seed,
        device=torch_device(device),
        num_transitions=num_transitions,
        cache_root=cache_root(cache_dir),
        progress=progress,
    )
    return GTAAugmentedDataset(pipeline, include_source=include_source)


def open_dataset(dataset: minari.MinariDataset | str, *, trust: bool = False) -> minari.MinariDataset:
    """A dataset, or the one of an id, which is screened before Minari opens it; raises the errors of `augment`.

    With `trust` the environments that it names are not.
    """
    if isinstance(dataset, minari.MinariDataset):
        return dataset
    if not isinstance(dataset, str):
        raise DatasetError(f"dataset is of type {type(dataset).__name__}; give a minari.MinariDataset or an id")
    if not screen_id(dataset, environments=not trust).exists():
        raise DatasetError(
            f"there is no dataset {dataset!r} on this machine; `minari list local` shows those there are, and "
            f"`minari download {dataset}` fetches it if it is a public one"
        )
    try:
        opened: minari.MinariDataset = minari.load_dataset(dataset)
    except ImportError as error:
        raise MissingExtraError(f"the format of dataset {dataset!r} needs a library: {error}") from error
    except (AssertionError, KeyError, OSError, TypeError, ValueError) as error:
        raise DatasetError(f"Minari cannot open dataset {dataset!r}: {type(error).__name__}: {error}") from error
    return opened


def cache_root(cache_dir: str | Path | None = None) -> Path:
    """Folder of the cache: `cache_dir`, or the environment variable GTA_DATASETS_CACHE, or the user's cache folder.

    Raises:
        ConfigError: `cache_dir` is no path.
    """
    if cache_dir is None:
        cache_dir = os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_dir("gta-datasets")
    if not isinstance(cache_dir, str | os.PathLike):
        raise ConfigError(
            f"cache_dir={cache_dir!r} is not allowed; give the path of a folder, or None for the usual one"
        )
    return Path(cache_dir).expanduser().absolute()


def configuration(
    method: str | MethodConfig, preset: str, task: str | None, device: str, overrides: dict[str, Any]
) -> MethodConfig:
    """All settings that arguments of `augment` stand for; raises its ConfigErrors."""
    if isinstance(method, MethodConfig):
        if preset != "auto" or task is not None or overrides:
            raise ConfigError("a configuration was given as method; change it with its replace() instead of by keyword")
        return method
    if method not in METHODS:
        raise ConfigError(f"method={method!r} is not known; choose {_choices(METHODS)} or give a configuration")
    if task is not None and task not in TASKS:
        raise ConfigError(f"task={task!r} is not known; choose one of {_choices(TASKS)}, or None")
    if task is not None and method != GTAConfig.method:
        raise ConfigError(f"task={task!r} is for method 'gta', whose paper has these settings; leave it out")
    return configured(METHODS[method](), preset, device, TASKS[task] if task else {}, overrides)


def configured(
    config: Config, preset: str, device: str, settings: Mapping[str, object], overrides: Mapping[str, object]
) -> Config:
    """`config` with what it knows of a preset and of further settings, and with every one of the overrides.

    Raises:
        ConfigError: an unknown preset or override, or a value out of range.
    """
    if preset == "auto":
        preset = "fast" if device.startswith("cuda") else "cpu"
    if preset not in PRESETS:
        raise ConfigError(f"preset={preset!r} is not known; choose one of {_choices(('auto', *PRESETS))}")
    # Of a preset, a method takes what it knows: a method without a network has no use for its width.
    named = {**PRESETS[preset], **METHOD_PRESETS.get(config.method, {}).get(preset, {}), **settings}
    known = {name: value for name, value in named.items() if name in config.keywords()}
    return config.replace(**known).replace(**overrides)


def _choices(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
