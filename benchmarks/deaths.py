"""Notes of processes that died while they trained a unit, which would be begun again for ever: nobody wrote it down."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from gta_datasets.errors import WorkerError

__all__ = ["check_survives", "noted"]

MOST = 3
"""Processes in a row that a unit may cost without getting further."""


@contextmanager
def noted(checkpoints: Sequence[Path]) -> Iterator[None]:
    """Keep a note beside each checkpoint until this ends, which it does in any case but the death of the process."""
    notes = {_note_of(path): _deaths(path) + 1 for path in checkpoints}
    try:
        for note, number in notes.items():
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(str(number))
        yield
    finally:
        for note in notes:
            note.unlink(missing_ok=True)


def check_survives(checkpoint: Path) -> None:
    """Let what the checkpoint is of be tried again.

    Raises:
        WorkerError: too many processes have died of it since it was written. They are forgotten now.
    """
    if _deaths(checkpoint) >= MOST:
        _note_of(checkpoint).unlink()
        raise WorkerError(
            f"{MOST} processes in a row died while they trained this and had not come to its next checkpoint, for want "
            f"of memory or of time; fewer --workers or a smaller --stack need less, and --retry allows {MOST} more"
        )


def _deaths(checkpoint: Path) -> int:
    note = _note_of(checkpoint)
    try:
        got_further = checkpoint.exists() and checkpoint.stat().st_mtime_ns > note.stat().st_mtime_ns
        return 0 if got_further else int(note.read_text())
    except (FileNotFoundError, ValueError):  # or it died when it wrote the note
        return 0


def _note_of(checkpoint: Path) -> Path:
    return checkpoint.with_suffix(".begun")
