"""A bar that cannot be written ends no work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gta_datasets.progress import progress_bar

LOOP = """
from gta_datasets.progress import progress_bar
for _ in range(2):
    with progress_bar(3, "counting", "step", shown=True) as bar:
        for _ in range(3):
            bar.update()
            bar.set_postfix(loss=1)
            bar.refresh()
print("done")
"""


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_the_work_goes_on(redirection: str) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    command = f'"{sys.executable}" -c "$0" {redirection}'
    done = subprocess.run(["sh", "-c", command, LOOP], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "done\n")


def test_a_bar_says_what_is_done(capfd: pytest.CaptureFixture[str]) -> None:
    with progress_bar(3, "counting", "step", done=1, shown=True) as bar:
        bar.update()
    assert "counting" in capfd.readouterr().err
    assert bar.n == 2


@pytest.mark.parametrize(
    ("shown", "variables", "says"), [(True, {}, True), (False, {}, False), (True, {"TQDM_DISABLE": "1"}, False)]
)
def test_a_hidden_bar_says_nothing(
    shown: bool, variables: dict[str, str], says: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    command = f"from gta_datasets.progress import progress_bar; progress_bar(3, 'counting', 'step', {shown=}).close()"
    subprocess.run([sys.executable, "-c", command], env=variables, check=True)
    assert ("counting" in capfd.readouterr().err) == says
