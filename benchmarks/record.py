"""A JSON file per measurement, or a line in a ledger of many, with all that is needed to judge and repeat it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

__all__ = [
    "RESULTS",
    "REVISION_VARIABLE",
    "Line",
    "append_line",
    "digest_of",
    "lock_of",
    "of_settings",
    "read",
    "read_lines",
    "ready",
    "revision",
    "write_record",
]

RESULTS = Path(__file__).parent / "results"
Line = dict[str, Any]
REVISION_VARIABLE = "GTA_BENCHMARKS_REVISION"
"""Environment variable that says it where the code was copied without its repository."""
PACKAGES = ("gta-datasets", "torch", "numpy", "minari", "gymnasium", "mujoco")


def write_record(name: str, module: str, measured: Mapping[str, Any], *, packages: Sequence[str] = ()) -> Path:
    """Write `measured` to `results/<name>.json` beside command, machine, git revision and versions.

    `packages` are those whose versions matter besides the usual ones.
    """
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_circumstances(module, packages) | dict(measured), indent=2) + "\n")
    return path


def append_line(ledger: Path, module: str, measured: Mapping[str, Any], *, packages: Sequence[str] = ()) -> None:
    """Add `measured` as a line of JSON to a ledger, beside the same circumstances; any number of processes may.

    A line that another process left unfinished stays a line of its own.
    """
    text = json.dumps(dict(measured) | _circumstances(module, packages)) + "\n"
    with ready(ledger), ledger.open("a") as file:
        file.write(text)


def read_lines(ledger: Path) -> list[Line]:
    """The sound lines of a ledger; none where there is no file. What is wrong with others is printed."""
    lines, problems = read(ledger)
    for problem in problems:
        print(problem, file=sys.stderr)
    return lines


def read(ledger: Path, check: Callable[[Line], object] = lambda _: None) -> tuple[list[Line], list[str]]:
    """The sound lines, and a sentence about every other, those among them that `check` fails at."""
    lines, problems = [], []
    for number, text in enumerate(ledger.read_bytes().splitlines() if ledger.exists() else [], start=1):
        try:
            line = json.loads(text)
            unit = line["unit"]
            if not isinstance(unit["dataset"], str) or type(unit["seed"]) is not int:
                raise TypeError("unit")
            check(line)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            problems.append(f"{ledger}, line {number} is no result ({type(error).__name__}: {error}); it is left out")
        else:
            lines.append(line)
    return lines, problems


@contextmanager
def ready(ledger: Path) -> Iterator[None]:
    """Nobody else writes, and the last line is at its end."""
    ledger.parent.mkdir(parents=True, exist_ok=True)
    with lock_of(ledger, "append"):
        if ledger.exists() and not ledger.read_bytes().endswith(b"\n") and ledger.stat().st_size:
            with ledger.open("a") as file:
                file.write("\n")
        yield


def lock_of(ledger: Path, name: str) -> FileLock:
    """A lock that all processes of this machine share which write to the ledger's folder."""
    locks = Path(tempfile.gettempdir()) / f"gta-benchmarks-{digest_of(ledger.parent)}"
    locks.mkdir(exist_ok=True)
    return FileLock(locks / f"{name}.lock")


def digest_of(results: Path) -> str:
    """A name for what belongs to a folder of ledgers and lies elsewhere."""
    return hashlib.blake2b(str(results.resolve()).encode(), digest_size=8).hexdigest()


def of_settings(lines: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The lines whose units have these settings, whatever their seed."""
    return [
        line
        for line in lines
        if {name: value for name, value in line["unit"].items() if name != "seed"} == dict(settings)
    ]


def _circumstances(module: str, packages: Sequence[str]) -> dict[str, Any]:
    """Command, machine, versions and git revision."""
    # Where files lay is nobody else's concern.
    arguments = re.sub(r"--cache-dir \S+ ?", "", " ".join(sys.argv[1:]))
    return {
        "command": f"python -m {module} {arguments}".strip(),
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "load_at_end": round(os.getloadavg()[0], 2),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "versions": {"python": platform.python_version()}
        | {package: importlib.metadata.version(package) for package in (*PACKAGES, *packages)},
        "revision": REVISION,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def revision() -> str:
    """The commit, "+changes" if the code is no longer it; "unknown" where git or the repository is not there."""
    code = ("../gta_datasets", "../adapters", ":(glob)**/*.py")
    try:
        commit, changes = _git("rev-parse", "--short", "HEAD"), _git("status", "--porcelain", "--", *code)
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get(REVISION_VARIABLE, "unknown")
    return commit.strip() + ("+changes" if changes else "")


def _git(*command: str) -> str:
    git = ("git", "-C", str(Path(__file__).parent))
    return subprocess.run([*git, *command], capture_output=True, text=True, check=True).stdout


REVISION = revision()
"""Taken when the measurement starts: what is committed meanwhile was not measured."""
