"""Names of a package whose modules are imported when one of them is first asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping

__all__ = ["names_of"]


def names_of(package: str, modules: Mapping[str, str]) -> Callable[[str], object]:
    """A `__getattr__` for `package`.

    Args:
        package: full name of the package.
        modules: the module below the package that each name comes from, or that it is.
    """

    def find(name: str) -> object:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(f"{package}.{modules[name]}")
        return module if name == modules[name] else getattr(module, name)

    return find
