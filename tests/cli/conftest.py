"""A source, and the command line as a function."""

from __future__ import annotations

import sys

import minari
import pytest

from gta_datasets import cli
from tests.builders import linear_dataset
from tests.cli.helpers import ID, Run


@pytest.fixture(scope="session")
def dataset() -> minari.MinariDataset:
    return linear_dataset(ID, terminated=(1, 3))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Call the command line as the installed script does: exit code, standard output and standard error."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["gta-datasets", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return int(stopped.value.code or 0), *capfd.readouterr()

    return call
