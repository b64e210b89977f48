"""What needs a GPU, on an imitation of one: the code that only runs there is not first run by a user."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(torch.version.cuda is not None, reason="the imitation takes the place that CUDA has in this torch")
@pytest.mark.skipif(sys.platform != "linux" or shutil.which("g++") is None, reason="the imitation needs Linux and g++")
@pytest.mark.parametrize("module", ["integration/test_gpu.py", "test_vectorised.py", "test_seeding.py"])
def test_tests_that_need_a_gpu_pass_on_an_imitated_one(module: str) -> None:
    options = ["-m", "gpu", "-q", "-p", "no:cacheprovider", "-p", "tests.imitation.gpu"]
    command = [sys.executable, "-m", "pytest", *options, f"tests/{module}"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    assert " passed" in found.stdout
    skipped = [line for line in found.stdout.splitlines() if line.startswith("SKIPPED")]
    assert all("compiles nothing" in line for line in skipped)
