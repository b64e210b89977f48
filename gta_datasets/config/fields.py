"""What every stage of a configuration does: check its fields."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gta_datasets.errors import ConfigError

__all__ = ["AUTO", "Stage", "auto_field", "io_field", "require", "require_choice", "truth", "whole_number"]

AUTO = "auto"
"""The value of a field that is found from the data."""


def io_field(default: Any) -> Any:
    """A field that cannot change the data."""
    return field(default=default, metadata={"affects_data": False})


def auto_field(default: Any) -> Any:
    """A field that may be found from the data, with the value "auto"."""
    return field(default=default, metadata={"auto": True})


def require(condition: bool, name: str, value: object, allowed: str) -> None:
    """Raise ConfigError unless the condition holds."""
    if not condition:
        raise ConfigError(f"{name}={value!r} is not allowed; choose {allowed}")


def require_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    """Raise ConfigError unless `value` is one of the choices."""
    require(value in choices, name, value, "one of " + ", ".join(repr(choice) for choice in choices))


def whole_number(name: str, value: object, least: int, most: int | None = None) -> int:
    """`value` as an int; ConfigError unless it is a whole number in the range, Python's or numpy's."""
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        number = int(value)
        if number >= least and (most is None or number <= most):
            return number
    allowed = f"of at least {least}" if most is None else f"from {least} to {most}"
    raise ConfigError(f"{name}={value!r} is not allowed; choose a whole number {allowed}")


def truth(name: str, value: object) -> bool:
    """`value` as a bool; ConfigError unless it is one, Python's or numpy's: any word, "no" too, would count as true."""
    require(isinstance(value, bool | np.bool_), name, value, "True or False")
    return bool(value)


@dataclass(frozen=True)
class Stage:
    """Checks the type of every field against its default; whole numbers serve as floats, numpy's as Python's."""

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value, wanted = getattr(self, item.name), type(item.default)
            if item.metadata.get("auto", False) and value == AUTO:
                continue
            value = value.item() if isinstance(value, np.generic) else value
            if wanted is float and type(value) is int:
                value = float(value)
            require(type(value) is wanted, item.name, value, _allowed(item, value))
            require(not isinstance(value, float) or math.isfinite(value), item.name, value, "a finite number")
            require(not isinstance(value, int) or value < 2**31, item.name, value, f"a number below {2**31:,}")
            object.__setattr__(self, item.name, value)
        self._check()

    def _check(self) -> None:
        """Check ranges."""

    def data_fields(self) -> dict[str, Any]:
        """The fields that affect what is generated."""
        return {
            item.name: getattr(self, item.name)
            for item in dataclasses.fields(self)
            if item.metadata.get("affects_data", True)
        }


def _allowed(item: dataclasses.Field[Any], value: object) -> str:
    """What a field takes in the place of a value of another type."""
    allowed = f"a value of type {type(item.default).__name__}"
    if isinstance(item.default, tuple):
        example = (value,) if type(value) is type(item.default[0]) else item.default
        return f"{allowed}, such as {example!r}"
    return f"{allowed}, or {AUTO!r}" if item.metadata.get("auto", False) else allowed
