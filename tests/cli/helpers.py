"""What the tests of the command line call it with."""

from __future__ import annotations

from collections.abc import Callable

from tests.smoke import TINY

__all__ = ["ARGUMENTS", "ID", "SETTINGS", "Run"]

ID = "cli/linear-v0"
SETTINGS = {name: value for name, value in TINY.items() if name not in ("preset", "device", "progress")}
ARGUMENTS = ["--preset", "smoke", "--device", "cpu", *(f"--set={name}={value}" for name, value in SETTINGS.items())]

Run = Callable[..., tuple[int, str, str]]
