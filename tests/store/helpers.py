"""What the tests of the store share: sample shards, and Python processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import gta_datasets

PROJECT = Path(__file__).parents[2]
KEY = "0123456789abcdef" * 2
OTHER_KEY = "f" * 32


def sample(index: int, rows: int = 4) -> dict[str, NDArray[Any]]:
    """The arrays of shard `index`: two episodes of `rows` transitions together."""
    rng = np.random.default_rng(index)
    return {
        "observations": rng.normal(size=(rows + 2, 3)).astype(np.float32),
        "actions": rng.normal(size=(rows, 2)),
        "terminations": rng.random(rows) < 0.5,
        "offsets": np.array([0, 1, rows]),
        "source_episode": np.array([index, index + 1]),
    }


def same(first: Mapping[str, NDArray[Any]] | None, second: Mapping[str, NDArray[Any]]) -> bool:
    """Whether two shards have the same names, dtypes, shapes and bytes."""
    return (
        first is not None
        and first.keys() == second.keys()
        and all(
            first[name].dtype == second[name].dtype
            and first[name].shape == second[name].shape
            and first[name].tobytes() == second[name].tobytes()
            for name in first
        )
    )


def shard_files(folder: Path) -> list[Path]:
    """The committed shards in a key's folder."""
    return sorted(folder.glob("shard-*.safetensors"))


# Stands in for the package's own `__init__`, which imports torch: the store needs none of it, and without it a process
# starts ten times faster and has no threads that a fork could disturb.
BARE_PACKAGE = """
import sys, types
sys.modules["gta_datasets"] = types.ModuleType("gta_datasets")
sys.modules["gta_datasets"].__path__ = [sys.argv.pop(1)]
"""


def python(script: str, *arguments: object) -> subprocess.Popen[str]:
    """A Python process that runs `script`, with the tests and the bare store importable."""
    return subprocess.Popen(
        [sys.executable, "-c", BARE_PACKAGE + script, str(Path(gta_datasets.__file__).parent), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"},
    )


@contextmanager
def running(script: str, *arguments: object, ready: str) -> Iterator[subprocess.Popen[str]]:
    """A process that runs `script` and has printed the line `ready`; killed in the end."""
    process = python(script, *arguments)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{ready}\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def run(script: str, *arguments: object, timeout: float = 60) -> str:
    """What `script` prints within some seconds; fails with its error output if it fails."""
    with python(script, *arguments) as process:
        try:
            output, errors = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    assert process.returncode == 0, errors
    return output
