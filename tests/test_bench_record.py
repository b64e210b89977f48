"""What is written beside every measurement."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from benchmarks import record


def git(folder: Path, *command: str) -> str:
    names = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org")
    ran = subprocess.run(["git", "-C", folder, *names, *command], capture_output=True, text=True, check=True)
    return ran.stdout.strip()


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of benchmarks that is in no repository."""
    path = tmp_path / "benchmarks" / "record.py"
    path.parent.mkdir()
    path.write_text("x = 1\n")
    monkeypatch.setattr(record, "__file__", str(path))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    return path


def test_the_revision_tells_changed_code(code: Path) -> None:
    folder = code.parent.parent
    git(folder, "init")
    git(folder, "add", ".")
    git(folder, "commit", "-m", "first")
    commit = git(folder, "rev-parse", "--short", "HEAD")
    assert record.revision() == commit
    (folder / "notes.txt").write_text("not code")
    assert record.revision() == commit
    code.write_text("x = 2\n")
    assert record.revision() == f"{commit}+changes"


def test_without_its_repository_the_code_is_what_the_environment_says(
    code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert record.revision() == "unknown"
    monkeypatch.setenv(record.REVISION_VARIABLE, "6bcf121")
    assert record.revision() == "6bcf121"
    monkeypatch.setenv("PATH", "")  # without git
    assert record.revision() == "6bcf121"
