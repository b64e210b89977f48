"""The page docs/settings.md, from the configurations; `python -m tests.settings_page` writes it."""

from __future__ import annotations

import ast
import inspect
import io
import json
import textwrap
import tokenize
from collections.abc import Iterator
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from gta_datasets.augment import configured
from gta_datasets.config import (
    ATraDiffConfig,
    DiffStitchConfig,
    GTAConfig,
    S4RLConfig,
    StagedConfig,
    SynthERConfig,
)
from gta_datasets.config.fields import Stage
from gta_datasets.presets import PRESETS, TASKS

__all__ = ["CONFIGS", "PAGE", "settings_page"]

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"

CONFIGS: dict[str, StagedConfig] = {
    "GTA": GTAConfig(),
    "SynthER": SynthERConfig(),
    "DiffStitch": DiffStitchConfig(),
    "S4RL": S4RLConfig(),
    "ATraDiff": ATraDiffConfig(),
}

INTRODUCTION = """\
# Settings

Every field of [GTA](#gta), [SynthER](#synther), [DiffStitch](#diffstitch), [S4RL](#s4rl) and [ATraDiff](#atradiff).

You give a field by its name: `gta_datasets.augment(dataset, alpha=1.2)`, in a shell `--set alpha=1.2`, for ATraDiff
`ATraDiffReplayBuffer.from_dataset(dataset, env, lengths=(15,))`. What you do not give comes from the preset, by default
`cpu` without a GPU and `fast` with one; what the preset does not set has the default below. The last table of a method
shows its presets, the last one of the page what `task=...` sets.

Noise levels are in standard deviations of the data. More on what the fields do is on the pages about the
[methods](methods.md) and about [learning online](online.md); which of them train anew when they change, and which only
generate anew, on that about the [cache](cache.md).

<!-- `python -m tests.settings_page` writes this page from the comments in gta_datasets/config: change it there. -->
"""


def settings_page() -> str:
    """The text of the page."""
    shown: dict[Stage, str] = {}
    methods = (line for name, config in CONFIGS.items() for line in _method(name, config, shown))
    return "\n".join([INTRODUCTION, *methods, *_tasks()])


def _method(name: str, config: StagedConfig, shown: dict[Stage, str]) -> Iterator[str]:
    yield f"## {name}\n"
    yield f"{inspect.getdoc(type(config))}\n"
    for stage in fields(config):
        settings = getattr(config, stage.name)
        yield f"### {name}: {stage.name}\n"
        if settings in shown:
            yield f"As of [{shown[settings]}](#{shown[settings].lower()}-{stage.name}).\n"
            continue
        shown[settings] = name
        yield f"{inspect.getdoc(type(settings))}\n"
        yield from _table(("field", "default", "meaning"), _rows(settings))
    yield f"### {name}: what presets set otherwise\n"
    yield from _table(("field", "default", *(f"`{preset}`" for preset in PRESETS)), _of_presets(config))


def _rows(settings: Stage) -> Iterator[tuple[str, ...]]:
    said, types = _meanings(type(settings)), get_type_hints(type(settings))
    for item in fields(settings):
        meaning = f"{said[item.name]} {_choices(types[item.name])} {_no_data(item)}"
        yield f"`{item.name}`", _value(getattr(settings, item.name)), " ".join(meaning.split())


def _of_presets(config: StagedConfig) -> Iterator[tuple[str, ...]]:
    default = _flat(config)
    presets = [_flat(configured(config, preset, "cpu", {}, {})) for preset in PRESETS]
    for name, value in default.items():
        cells = [_value(preset[name]) if preset[name] != value else "" for preset in presets]
        if any(cells):
            yield f"`{name}`", _value(value), *cells


def _tasks() -> Iterator[str]:
    names = list(dict.fromkeys(name for settings in TASKS.values() for name in settings))
    yield "## Tasks\n"
    yield "What `task=...` sets, after the preset and before your own fields, of those that the method has.\n"
    rows = ((f"`{task}`", *(_value(settings[name]) for name in names)) for task, settings in TASKS.items())
    yield from _table(("task", *(f"`{name}`" for name in names)), rows)


def _flat(config: StagedConfig) -> dict[str, Any]:
    return {name: value for stage in config.to_dict().values() for name, value in stage.items()}


def _meanings(stage: type) -> dict[str, str]:
    """The comment before or behind every field, as a sentence; of a field without one, that of the base class."""
    found: dict[str, str] = {}
    for kind in reversed(stage.__mro__):
        if issubclass(kind, Stage) and kind is not Stage:
            found |= _comments(kind)
    return found


def _comments(stage: type) -> dict[str, str]:
    source = textwrap.dedent(inspect.getsource(stage))
    lines = source.splitlines()
    comments = {
        token.start[0]: token.string.removeprefix("#").strip()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    (definition,) = ast.parse(source).body
    found = {}
    for node in ast.walk(definition):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            first = node.lineno
            while lines[first - 2].lstrip().startswith("#"):
                first -= 1
            said = " ".join(comments[line] for line in range(first, (node.end_lineno or first) + 1) if line in comments)
            if said:
                found[node.target.id] = said[0].upper() + said[1:].rstrip(".") + "."
    return found


def _choices(wanted: Any) -> str:
    """What else than a number, or which words, a field takes."""
    words = [get_args(part) for part in (wanted, *get_args(wanted)) if get_origin(part) is Literal]
    if not words:
        return ""
    listed = ", ".join(f"`{json.dumps(word)}`" for word in words[0])
    return f"One of {listed}." if get_origin(wanted) is Literal else f"A number or {listed}."


def _no_data(item: Field[Any]) -> str:
    return "" if item.metadata.get("affects_data", True) else "Does not change what is generated."


def _value(value: object) -> str:
    if isinstance(value, str):
        return f"`{json.dumps(value)}`"
    return f"`{value:_}`" if type(value) is int else f"`{value!r}`"


def _table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> Iterator[str]:
    yield _line(head)
    yield _line(("---",) * len(head))
    yield from map(_line, rows)
    yield ""


def _line(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    PAGE.write_text(settings_page())
