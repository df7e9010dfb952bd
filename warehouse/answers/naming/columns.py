"""Columns by what users call them: the name, a short name, or the heading that they have in tables for reading."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from layerhouse.errors import UsageError, did_you_mean, nearest_names
from layerhouse.warehouse.render.columns import describe_field

if TYPE_CHECKING:
    import pyarrow as pa

SHORT_NAMES = {"ratio": "declared_ratio", "model": "model_id"}


def find_column(schema: pa.Schema, name: str, language: str = "en") -> str | None:
    """The column of this name, else of this short name, else with this heading, in English or the language; None for none.

    Upper and lower case are one, and a heading may lack its unit. Raises UsageError for a heading of several columns.
    """
    named = find_name(schema, name)
    if named is not None:
        return named
    wanted = _folded(name)
    found: list[str] = [field.name for field in schema if wanted in {_folded(text) for text in headings(field, language)}]
    if len(found) > 1:
        raise UsageError(f"{name!r} is the heading of {len(found)} columns: name one of {', '.join(found)}")
    return found[0] if found else None


def find_name(schema: pa.Schema, name: str) -> str | None:
    """The column of this name or short name; None for none. Headings do not count, and upper and lower case are one."""
    if name in schema.names:
        return name
    for called in (name, SHORT_NAMES.get(name.casefold(), name)):
        for column in schema.names:
            if column.casefold() == called.casefold():
                return str(column)
    return None


def headings(field: pa.Field, language: str) -> set[str]:
    """The headings of a column, with and without unit, in English and in a language."""
    described = [describe_field(field, spoken) for spoken in {"en", language}]
    return {text for column in described for text in (column.title, column.heading)}


def resolve_columns(
    schema: pa.Schema, option: str, names: Sequence[str], language: str = "en", also: Sequence[str] = ()
) -> tuple[str, ...]:
    """The columns that the values of an option name, each once. Raises UsageError with the nearest names and the columns.

    `also` are names that are known, too, of columns that are not there.
    """
    found = []
    for name in names:
        column = find_column(schema, name, language)
        if column is None:
            near = question(schema, name, language, also)
            raise UsageError(f"{option}: no column {name!r}; {near}the columns are {', '.join(schema.names)}")
        found.append(column)
    return tuple(dict.fromkeys(found))


def question(schema: pa.Schema, name: str, language: str = "en", also: Sequence[str] = ()) -> str:
    """Which columns an unknown name may mean, by their names or else by their headings; empty if none is like it."""
    names = [*dict.fromkeys([*schema.names, *also])]
    if nearest_names(name, names):
        return did_you_mean(name, names)
    return did_you_mean(name, sorted({text for field in schema for text in headings(field, language)}))


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold()
