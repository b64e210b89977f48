"""Augmentation of offline-RL datasets with generative models, for Minari.

dataset = minari.load_dataset("mujoco/hopper/medium-v0", download=True)
augmented = gta_datasets.augment(dataset)
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

from gta_datasets.augment import augment
from gta_datasets.comparison import compare
from gta_datasets.config import DiffStitchConfig, GTAConfig, S4RLConfig, SynthERConfig
from gta_datasets.data.screen import screen
from gta_datasets.dataset import GTAAugmentedDataset
from gta_datasets.errors import GTADatasetsError
from gta_datasets.lazy import names_of

if TYPE_CHECKING:
    from gta_datasets import adapters, online, policies

__all__ = [
    "DiffStitchConfig",
    "GTAAugmentedDataset",
    "GTAConfig",
    "GTADatasetsError",
    "S4RLConfig",
    "SynthERConfig",
    "__version__",
    "adapters",
    "augment",
    "compare",
    "online",
    "policies",
    "screen",
]

__version__ = version("gta-datasets")

__getattr__ = names_of(__name__, {name: name for name in ("adapters", "online", "policies")})


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
