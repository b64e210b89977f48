"""GTA without a pipeline around it, for the tests of the method."""

from __future__ import annotations

from typing import Any

import torch

from gta_datasets.config import GTAConfig
from gta_datasets.data.episodes import Episodes
from gta_datasets.methods.gta import GTA
from gta_datasets.presets import PRESETS
from tests.builders import linear_source
from tests.smoke import TINY

SETTINGS = {name: value for name, value in TINY.items() if name not in ("preset", "device", "progress")}
CPU = torch.device("cpu")


def method(episodes: Episodes, *, seed: int = 0, **overrides: Any) -> GTA:
    """GTA on episodes in memory, with the smallest settings there are."""
    config = GTAConfig().replace(**PRESETS["smoke"]).replace(**{**SETTINGS, **overrides})
    return GTA(linear_source(episodes), config, seed=seed, device=CPU)
