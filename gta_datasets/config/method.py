"""A whole configuration: a field per stage, JSON both ways."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from gta_datasets.config.fields import require_choice
from gta_datasets.config.models import DynamicsConfig, QualificationConfig
from gta_datasets.config.stages import ReadingConfig
from gta_datasets.errors import ConfigError

__all__ = ["MethodConfig", "StagedConfig"]


@dataclass(frozen=True)
class StagedConfig:
    """A field per stage, each stage a dataclass. Names of fields are unique."""

    method: ClassVar[str]

    @classmethod
    def stages(cls) -> dict[str, type[Any]]:
        """The class of every stage by its name."""
        return {item.name: type(item.default) for item in dataclasses.fields(cls)}

    @classmethod
    def keywords(cls) -> tuple[str, ...]:
        """Names of all fields of all stages."""
        return tuple(item.name for stage in cls.stages().values() for item in dataclasses.fields(stage))

    def replace(self, **overrides: object) -> Self:
        """A copy with some fields changed, each by its own name whatever stage it belongs to.

        Raises:
            ConfigError: an unknown keyword, a value of the wrong type or out of range.
        """
        unknown = sorted(set(overrides) - set(self.keywords()))
        if unknown:
            raise ConfigError(
                f"unknown keyword {', '.join(map(repr, unknown))}; known: {', '.join(sorted(self.keywords()))}"
            )
        stages: dict[str, Any] = {}
        for stage in dataclasses.fields(self):
            current = getattr(self, stage.name)
            chosen = {f.name: overrides[f.name] for f in dataclasses.fields(current) if f.name in overrides}
            stages[stage.name] = dataclasses.replace(current, **chosen)
        return dataclasses.replace(self, **stages)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """A JSON-compatible form."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, form: Mapping[str, Mapping[str, object]]) -> Self:
        """The inverse of `to_dict`; missing fields take their defaults, unknown ones are an error."""
        known = cls.stages()
        stages: dict[str, Any] = {}
        for name, values in form.items():
            require_choice("stage", name, tuple(sorted(known)))
            fields = tuple(sorted(item.name for item in dataclasses.fields(known[name])))
            for key in values:
                require_choice(f"a field of {name}", key, fields)
            stages[name] = known[name](**values)
        return cls(**stages)

    def data_fields(self, *stages: str) -> dict[str, dict[str, Any]]:
        """The fields that affect what is generated, of some stages (default: all), JSON-compatible."""
        chosen = stages or tuple(f.name for f in dataclasses.fields(self))
        return {stage: getattr(self, stage).data_fields() for stage in chosen}


@dataclass(frozen=True)
class MethodConfig(StagedConfig):
    """Everything one method of augmentation can be told."""

    qualification: QualificationConfig = QualificationConfig()
    dynamics: DynamicsConfig = DynamicsConfig()
    data: ReadingConfig = ReadingConfig()
