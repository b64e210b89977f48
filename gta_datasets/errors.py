"""Exceptions raised by `gta_datasets`.

Every message says what was wrong, what was given, what is allowed, and what to do. Each class also derives from the
built-in exception that fits, so `except ValueError` and `except OSError` keep working.
"""

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = [
    "CacheError",
    "ConfigError",
    "DatasetError",
    "DivergenceError",
    "GTADatasetsError",
    "MissingExtraError",
    "QualificationError",
    "UnsupportedSpaceError",
    "UntrustedDatasetError",
    "WorkerError",
    "requires_extra",
]


class GTADatasetsError(Exception):
    """Base class of all errors of this library."""


class DatasetError(GTADatasetsError, ValueError):
    """The source dataset breaks Minari's contract or cannot serve the request."""


class UnsupportedSpaceError(DatasetError):
    """An observation or action space that cannot be turned into float vectors (images, text, graphs)."""


class UntrustedDatasetError(DatasetError):
    """A dataset folder that Minari must not open: it could run code or reach outside its root."""


class ConfigError(GTADatasetsError, ValueError):
    """A configuration value or keyword that is not allowed."""


class CacheError(GTADatasetsError, OSError):
    """The cache cannot be read or written as asked."""


class DivergenceError(GTADatasetsError, RuntimeError):
    """Training produced a loss that is not finite; no checkpoint of the diverged weights exists."""


class QualificationError(GTADatasetsError, RuntimeError):
    """Too few generated trajectories agree with the learned dynamics."""


class WorkerError(GTADatasetsError, RuntimeError):
    """Processes that make shards died again and again; what they made before is kept."""


class MissingExtraError(GTADatasetsError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""


@contextmanager
def requires_extra(extra: str, library: str, purpose: str) -> Iterator[None]:
    """Around imports of an optional `library`: if it is missing, the error says what needs it and how to get it.

    Raises:
        MissingExtraError: the library cannot be imported.
    """
    try:
        yield
    except ImportError as error:
        raise MissingExtraError(
            f"{purpose} {library}, which is not installed: pip install 'gta-datasets[{extra}]'"
        ) from error
