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

from gta_datasets.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Line", "Picture", "check_page", "write_page"]


class Line(NamedTuple):
    """A row of the table of numbers."""

    label: str
    meaning: str
    cells: Sequence[str]


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
    columns: Sequence[str],
    lines: Iterable[Line],
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
        columns: names of the columns of numbers.
        lines: the rows of the table, as many cells each.
        notes: what could not be measured, and why.
        method: how it was measured.
        pictures: in their order.
        settings: what to list under "Settings"; nested mappings are flattened.
    """
    template = Template((resources.files("gta_datasets") / "assets" / "report.html").read_text("utf-8"))
    page = template.substitute(
        title=escape(title),
        summary=escape(summary),
        size=escape(size),
        columns="".join(f'<th scope="col" class="number">{escape(name)}</th>' for name in columns),
        table="\n".join(map(_line_html, lines)),
        notes="\n".join(f"<p class=note>{escape(note)}</p>" for note in notes),
        method=escape(method),
        figures="\n".join(map(_picture_html, pictures)),
        settings="\n".join(_setting_rows(settings)),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path


def _line_html(line: Line) -> str:
    numbers = "".join(f"<td class=number>{escape(cell)}</td>" for cell in line.cells)
    name = f"{escape(line.label)}<span class=meaning>{escape(line.meaning)}</span>"
    return f"<tr><th scope=row>{name}</th>{numbers}</tr>"


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
