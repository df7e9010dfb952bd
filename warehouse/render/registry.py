"""The output formats: what each is called, which suffixes name it and who writes it."""

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
    """How a table meets its reader; formats made for programs ignore it.

    `width` is the terminal's, in cells; without one nothing is split. `caption` stands above the table. `language` is that of
    headings. `digits` are the decimals of numbers that are not whole, instead of each kind's own. `marks_best` sets the best
    value of a column in bold, in each run of rows that are equal in the columns of `group`.
    """

    width: int | None = None
    caption: str | None = None
    language: str = "en"
    digits: int | None = None
    marks_best: bool = False
    group: tuple[str, ...] = ()


Writer = Callable[["pa.Table", BinaryIO, Layout], None]


@dataclass(frozen=True)
class Format:
    """One output format. `suffixes` carry their dot; a binary format does not belong on a terminal."""

    name: str
    suffixes: tuple[str, ...]
    is_binary: bool
    write: Writer


_formats: dict[str, Format] = {}
_names: dict[str, str] = {}

FORMATS: Mapping[str, Format] = MappingProxyType(_formats)


def register(new: Format) -> None:
    """Add a format.

    A suffix without its dot names the format too (`md` is markdown), so names and suffixes share one space. A name or
    suffix that is taken, repeated or malformed raises ValueError, and nothing is added.
    """
    names = list(dict.fromkeys((new.name, *(suffix[1:] for suffix in new.suffixes))))
    if len(set(new.suffixes)) != len(new.suffixes):
        raise ValueError(f"format {new.name!r} repeats a suffix: {' '.join(new.suffixes)}")
    if any(not suffix.startswith(".") for suffix in new.suffixes) or any(not n or n != n.lower() for n in names):
        raise ValueError(f"format {new.name!r}: names are lower case, suffixes are lower case and start with a dot")
    for name in names:
        if name in _names:
            raise ValueError(f"format {new.name!r}: {name!r} already names the format {_names[name]!r}")
    _formats[new.name] = new
    _names.update(dict.fromkeys(names, new.name))


def resolve_format(name: str) -> str:
    """The format that a name or a suffix without its dot means, in any case.

    An unknown one raises NotFoundError, a UsageError that lists the formats.
    """
    try:
        return _names[name.lower()]
    except KeyError:
        raise NotFoundError("format", name, tuple(_formats)) from None


def format_of(path: str | Path) -> str | None:
    """The format that a path's suffix names, in any case; None for an unknown suffix or none."""
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
) -> None:
    """Write a table to a binary stream, text formats as UTF-8 with `\\n` line ends.

    The layout shapes the formats made for people, `width` and `caption` over it; the others ignore them. An unknown format
    raises NotFoundError before anything is written.
    """
    chosen = layout or Layout()
    shaped = replace(chosen, width=width or chosen.width, caption=chosen.caption if caption is None else caption)
    FORMATS[resolve_format(format_name)].write(table, stream, shaped)
