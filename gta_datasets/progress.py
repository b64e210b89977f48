"""Progress bars that never end the work that they show."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any

from tqdm.auto import tqdm

__all__ = ["Bar", "progress_bar"]


class Bar(tqdm):  # type: ignore[misc]
    """A bar of tqdm's that is content not to be seen."""

    def display(self, *arguments: Any, **options: Any) -> bool:
        """Write the bar, if standard error takes it; whether it did."""
        with suppress(OSError, ValueError):
            return bool(super().display(*arguments, **options))
        return False

    def close(self) -> None:
        """End the bar."""
        with suppress(OSError, ValueError):
            super().close()


def progress_bar(total: int, what: str, unit: str, *, done: int = 0, shown: bool) -> Bar:
    """A bar on standard error; hidden if it is not to be `shown`, TQDM_DISABLE is not empty, or that cannot be written.

    Args:
        total: of how many units.
        what: is being done.
        unit: of what is counted.
        done: units that were there before.
        shown: False for none.
    """
    settings = {"total": total, "initial": done, "desc": what, "unit": unit}
    # tqdm reads the variable itself, but not in a notebook.
    if shown and sys.stderr is not None and not os.environ.get("TQDM_DISABLE"):
        with suppress(OSError, ValueError):
            return Bar(**settings)
    return Bar(**settings, disable=True)
