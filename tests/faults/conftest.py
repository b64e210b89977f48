"""A folder of datasets, and one dataset in it that tests damage."""

import pytest

from tests.builders import linear_dataset


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "root"))
    return tmp_path / "root"


@pytest.fixture
def folder(root):
    return linear_dataset("evil/set-v0", lengths=(20, 20)).storage.data_path
