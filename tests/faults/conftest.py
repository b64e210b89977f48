"""A folder of datasets, and one dataset in it that tests damage; a folder for everybody."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builders import linear_dataset


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "root"))
    return tmp_path / "root"


@pytest.fixture
def folder(root):
    return linear_dataset("evil/set-v0", lengths=(20, 20)).storage.data_path


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can reach (those of pytest are private)."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)
    shutil.rmtree(folder)
