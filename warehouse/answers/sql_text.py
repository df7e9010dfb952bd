"""Text that goes into SQL: quoting of literals and identifiers, and the SQL files of the package."""

from __future__ import annotations

from functools import cache
from importlib.resources import files


def quote_literal(text: str) -> str:
    """A text as an SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def quote_identifier(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


@cache
def sql_files(package: str) -> dict[str, str]:
    """The `.sql` files of a subpackage of layerhouse by stem, sorted by name."""
    folder = files(f"layerhouse.{package}")
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return {name.removesuffix(".sql"): (folder / name).read_text("utf-8") for name in names}
