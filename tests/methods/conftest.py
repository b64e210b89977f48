"""What several modules of tests of the methods ask for."""

from __future__ import annotations

from pathlib import Path

import pytest

from gta_datasets.methods.gta import GTA
from tests.builders import linear_episodes
from tests.methods.gta import method


@pytest.fixture
def trained(tmp_path: Path) -> GTA:
    found = method(linear_episodes(terminated=(0, 5)))
    found.fit(tmp_path, progress=False)
    return found
