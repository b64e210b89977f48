"""Bigger and better offline-RL datasets: generative trajectory augmentation for Minari.

dataset = minari.load_dataset("mujoco/hopper/medium-v0")
augmented = gta_datasets.augment(dataset)
"""

from gta_datasets import online
from gta_datasets.augment import augment
from gta_datasets.comparison import compare
from gta_datasets.config import GTAConfig, S4RLConfig
from gta_datasets.data.screen import screen
from gta_datasets.dataset import GTAAugmentedDataset
from gta_datasets.errors import GTADatasetsError

__all__ = [
    "GTAAugmentedDataset",
    "GTAConfig",
    "GTADatasetsError",
    "S4RLConfig",
    "augment",
    "compare",
    "online",
    "screen",
]
