"""A page of numbers and pictures in one HTML file; nothing is loaded from elsewhere."""

from __future__ import annotations

import base64
import io
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, NamedTuple

from gta_datasets.atomic import atomic_write
from gta_datasets.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Line", "Picture", "Sheet", "check_page", "write_page"]

WIDE = 4
"""Columns of numbers from which on a table is wider than text should be."""


class Line(NamedTuple):
    """A row of a table of numbers."""

    label: str
    meaning: str  # below the label
    cells: Sequence[str]  # each of one line or more


class Sheet(NamedTuple):
    """A table of numbers under its headline."""

    headline: str
    rows: str  # what a row is
    columns: Sequence[str]
    lines: Iterable[Line]


class Picture(NamedTuple):
    """A picture under its headline."""

    headline: str
    figure: Figure
    caption: str


def check_page(path: str | Path) -> Path:
    """The file that a page is to be written to, before the work that it shows; its folder is made.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        page = Path(path)
        page.parent.mkdir(parents=True, exist_ok=True)
        with page.open("ab") if page.exists() else tempfile.TemporaryFile(dir=page.parent):
            pass
    except (OSError, TypeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"cannot write the page {path}: {reason}; give a file in a folder that you may write to"
        ) from error
    return page


def write_page(
    path: Path,
    *,
    title: str,
    summary: str,
    size: str,
    sheets: Sequence[Sheet],
    notes: Iterable[str],
    method: str,
    pictures: Iterable[Picture],
    settings: Mapping[str, object],
) -> Path:
    """Write the page to `path` and return it.

    Args:
        path: the HTML file; its folder is made.
        title: headline.
        summary: what the numbers say.
        size: what was measured, and how much of it.
        sheets: the tables; the rows of one have as many cells as it has columns.
        notes: what could not be measured, and why.
        method: how it was measured.
        pictures: in their order.
        settings: what to list under "Settings"; nested mappings are flattened.

    Raises:
        CacheError: it cannot be written; what was there before still is.
    """
    template = Template((resources.files("gta_datasets") / "assets" / "report.html").read_text("utf-8"))
    page = template.substitute(
        title=escape(title),
        summary=escape(summary),
        size=escape(size),
        extent="wide" if any(len(sheet.columns) >= WIDE for sheet in sheets) else "narrow",
        tables="\n".join(map(_sheet_html, sheets)),
        notes="\n".join(f"<p class=note>{escape(note)}</p>" for note in notes),
        method=escape(method),
        figures="\n".join(map(_picture_html, pictures)),
        settings="\n".join(_setting_rows(settings)),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path.resolve(), page.encode())
    return path


def _sheet_html(sheet: Sheet) -> str:
    columns = "".join(f'<th scope="col" class="number">{escape(name)}</th>' for name in sheet.columns)
    lines = "\n".join(map(_line_html, sheet.lines))
    return (
        f'<h2>{escape(sheet.headline)}</h2>\n<div class="sheet">\n<table>\n<thead><tr><th scope="col">'
        f"{escape(sheet.rows)}</th>{columns}</tr></thead>\n<tbody>\n{lines}\n</tbody>\n</table>\n</div>"
    )


def _line_html(line: Line) -> str:
    cells = ("<br>".join(map(escape, cell.split("\n"))) for cell in line.cells)
    numbers = "".join(f"<td class=number>{cell}</td>" for cell in cells)
    meaning = f"<span class=meaning>{escape(line.meaning)}</span>" if line.meaning else ""
    return f"<tr><th scope=row>{escape(line.label)}{meaning}</th>{numbers}</tr>"


def _setting_rows(config: Mapping[str, object], prefix: str = "") -> Iterator[str]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _setting_rows(value, f"{prefix}{name}.")
        else:
            yield f"<tr><th scope=row>{escape(prefix + str(name))}</th><td>{escape(str(value))}</td></tr>"


def _picture_html(picture: Picture) -> str:
    buffer = io.BytesIO()
    picture.figure.savefig(buffer, format="png", dpi=150)
    data, caption = base64.b64encode(buffer.getvalue()).decode("ascii"), escape(picture.caption)
    return (
        f'<h2>{escape(picture.headline)}</h2>\n<figure><img alt="{caption}" src="data:image/png;base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )
