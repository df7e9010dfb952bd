"""Text that goes into SQL: quoting of literals and identifiers, and the SQL files of the package."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from layerhouse.escapes import HIDDEN


def quote_literal(text: str) -> str:
    """A text as an SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def spelled_literal(text: str) -> str:
    """A text as an SQL expression in which nothing is hidden: `'new' || chr(10) || 'line'`. It is the text all the same."""
    hidden = [f"chr({ord(char)})" for char in HIDDEN.findall(text)]
    shown = [quote_literal(part) for part in HIDDEN.split(text)]
    return " || ".join(part for pair in zip(shown, [*hidden, ""], strict=True) for part in pair if part)


def quote_identifier(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


@cache
def sql_files(package: str) -> dict[str, str]:
    """The `.sql` files of a subpackage of layerhouse by stem, sorted by name."""
    folder = files(f"layerhouse.{package}")
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return {name.removesuffix(".sql"): (folder / name).read_text("utf-8") for name in names}
