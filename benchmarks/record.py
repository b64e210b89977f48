"""One JSON file per measurement, with all that is needed to judge and repeat it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

__all__ = ["RESULTS", "append_line", "of_settings", "read_lines", "write_record"]

RESULTS = Path(__file__).parent / "results"
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
    """Add `measured` as a line of JSON to a ledger, beside the same circumstances."""
    ledger.parent.mkdir(parents=True, exist_ok=True)
    with ledger.open("a") as file:
        file.write(json.dumps(dict(measured) | _circumstances(module, packages)) + "\n")


def read_lines(ledger: Path) -> list[dict[str, Any]]:
    """The lines of a ledger; none where there is no file."""
    return [json.loads(line) for line in ledger.read_text().splitlines()] if ledger.exists() else []


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
    arguments = re.sub(r"--(cache-dir|checkpoints) \S+ ?", "", " ".join(sys.argv[1:]))
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


def _revision() -> str:
    git = ["git", "-C", str(Path(__file__).parent)]
    revision = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    changed = subprocess.run(
        [*git, "status", "--porcelain", "--", "../gta_datasets"], capture_output=True, text=True, check=False
    )
    return revision.stdout.strip() + ("+changes" if changed.stdout else "")


REVISION = _revision()
"""Taken when the measurement starts: what is committed meanwhile was not measured."""
