"""Warnings that point at a line of whoever uses the library."""

from __future__ import annotations

import sys
import warnings

__all__ = ["warn"]

BETWEEN = ("gta_datasets", "minari", "stable_baselines3", "functools", "contextlib", "typer", "click")
"""Packages and modules whose lines tell a user nothing: this library's, and those that call it for him."""


def warn(message: str) -> None:
    """Give a UserWarning for the innermost line outside of the library; Python has that itself from 3.12 on."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in BETWEEN:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)
