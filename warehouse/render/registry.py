"""The registry of output formats: names, file suffixes and writers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, BinaryIO

from layerhouse.errors import NotFoundError

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Layout:
    """How a table is presented to people; formats for programs ignore it, but for `is_raw`.

    `width` is the width of the terminal in cells; a wider table is split, and None never splits. `caption` stands above the
    table, and below it `notes`, each on what all values of some columns have in common. `language` is the language of the
    headings. `digits` replaces the number of decimals of each kind that has decimals. `marks_best` makes the best value of a
    column bold, separately in each run of rows that are equal in the columns of `group`. `is_raw` leaves texts in csv as they
    are, also where a spreadsheet would take them for formulas. `are_columns_chosen` says that the columns were asked for one
    by one, and `is_whole` that all were asked for: a terminal then leaves out none that it has no room for.
    """

    width: int | None = None
    caption: str | None = None
    notes: tuple[str, ...] = ()
    language: str = "en"
    digits: int | None = None
    marks_best: bool = False
    group: tuple[str, ...] = ()
    is_raw: bool = False
    are_columns_chosen: bool = False
    is_whole: bool = False


Writer = Callable[["pa.Table", BinaryIO, Layout], None]


@dataclass(frozen=True)
class Format:
    """One output format. `suffixes` include the dot; a binary format must not be written to a terminal. Formats for reading
    show numbers as text, caption and notes; all others are for programs."""

    name: str
    suffixes: tuple[str, ...]
    is_binary: bool
    write: Writer
    is_for_reading: bool = False


_formats: dict[str, Format] = {}
_names: dict[str, str] = {}

FORMATS: Mapping[str, Format] = MappingProxyType(_formats)


def register(output_format: Format) -> None:
    """Add a format.

    A suffix without its dot also names the format (`md` is markdown), so names and suffixes share one namespace. Raises
    ValueError for a name or suffix that is taken, repeated or malformed; nothing is added then.
    """
    names = list(dict.fromkeys((output_format.name, *(suffix[1:] for suffix in output_format.suffixes))))
    if len(set(output_format.suffixes)) != len(output_format.suffixes):
        raise ValueError(f"format {output_format.name!r} repeats a suffix: {' '.join(output_format.suffixes)}")
    if any(not suffix.startswith(".") for suffix in output_format.suffixes) or any(not n or n != n.lower() for n in names):
        raise ValueError(f"format {output_format.name!r}: names are lower case, suffixes are lower case and start with a dot")
    for name in names:
        if name in _names:
            raise ValueError(f"format {output_format.name!r}: {name!r} already names the format {_names[name]!r}")
    _formats[output_format.name] = output_format
    _names.update(dict.fromkeys(names, output_format.name))


def resolve_format(name: str) -> str:
    """The name of the format for a name or a suffix without its dot, case-insensitive.

    Raises NotFoundError, a UsageError that lists the formats, for an unknown name.
    """
    try:
        return _names[name.lower()]
    except KeyError:
        raise NotFoundError("format", name, tuple(_formats)) from None


def format_of(path: str | Path) -> str | None:
    """The name of the format for the suffix of a path, case-insensitive; None for an unknown suffix or without one."""
    suffix = Path(path).suffix.lower()
    return next((known.name for known in _formats.values() if suffix in known.suffixes), None)


def write_table(
    table: pa.Table,
    format_name: str,
    stream: BinaryIO,
    layout: Layout | None = None,
    *,
    width: int | None = None,
    caption: str | None = None,
    raw: bool = False,
) -> None:
    """Write a table to a binary stream, text formats as UTF-8 with `\\n` as the line end.

    `width`, `caption` and `raw` override those of the layout. Formats for programs ignore all three, except that csv puts an
    apostrophe before a text that a spreadsheet would take for a formula, unless `raw`. Raises NotFoundError for an unknown
    format before anything is written.
    """
    layout = layout or Layout()
    caption = layout.caption if caption is None else caption
    layout = replace(layout, width=width or layout.width, caption=caption, is_raw=raw or layout.is_raw)
    FORMATS[resolve_format(format_name)].write(table, stream, layout)
