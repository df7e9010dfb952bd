"""What SQL names and compares, by its parsed form, and the hint for a fraction that is taken for a percentage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from layerhouse.warehouse.answers.naming.columns import find_column
from layerhouse.warehouse.answers.reach import parse_select
from layerhouse.warehouse.render.columns import describe_field
from layerhouse.warehouse.render.kinds import RATIO

if TYPE_CHECKING:
    import pyarrow as pa

PERCENT = 100


@dataclass(frozen=True)
class Condition:
    """The columns that a condition names, and the numbers that it compares them with directly, without arithmetic."""

    columns: tuple[str, ...] = ()
    comparisons: tuple[tuple[str, Decimal], ...] = ()


def as_where(condition: str) -> str:
    """A SELECT with a condition."""
    return f"SELECT 1 WHERE (\n{condition}\n)"


@lru_cache(maxsize=16)
def parse_condition(condition: str) -> Condition:
    """What a condition names and compares; nothing for a text that is no condition, which DuckDB refuses when it runs."""
    nodes = [*_nodes(parse_select(as_where(condition)))]
    columns = dict.fromkeys(name for node in nodes if (name := _column(node)) is not None)
    return Condition(tuple(columns), tuple(dict.fromkeys(pair for node in nodes for pair in _comparisons(node))))


def select_columns(select: str) -> list[str]:
    """The names of the columns that a SELECT gives, without running it; those of a star are not among them."""
    parsed = parse_select(select.rstrip().removesuffix(";")) or {}
    node = parsed["statements"][0]["node"] if parsed.get("statements") else {}
    named = [(item.get("alias"), item.get("column_names")) for item in node.get("select_list", ())]
    return [alias or names[-1] for alias, names in named if alias or names]


def fraction_hints(table: pa.Table, condition: str, language: str = "en") -> list[str]:
    """A hint for every fraction that a condition compares with a number over 1, where no value of the column is over 1."""
    hints = []
    for name, number in parse_condition(condition).comparisons:
        column = find_column(table.schema, name, language)
        if column is None or abs(number) <= 1 or describe_field(table.schema.field(column)).kind.name != RATIO.name:
            continue
        if not _exceeds_one(table[column]):
            meant = f"; did you mean {number / PERCENT:f}?" if abs(number) <= PERCENT else ", at most 1"
            hints.append(f"{name} is a fraction{meant}")
    return hints


def aliases(schema: pa.Schema, condition: str, language: str = "en") -> dict[str, str]:
    """The column of each name in a condition that is not the name of one, but its heading or short name."""
    known = {name.casefold() for name in schema.names}
    unknown = [name for name in parse_condition(condition).columns if name.casefold() not in known]
    found = {name: find_column(schema, name, language) for name in unknown}
    return {name: column for name, column in found.items() if column is not None}


def _exceeds_one(values: pa.ChunkedArray) -> bool:
    import pyarrow.compute as pc

    bounds = pc.min_max(values).as_py()
    return any(bound is not None and abs(bound) > 1 for bound in bounds.values())


def _nodes(parsed: Any) -> Iterator[dict[str, Any]]:
    """All objects of a parsed statement, in the order of the text."""
    waiting = [parsed]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            yield node
        if isinstance(node, dict | list):
            waiting += reversed([*(node.values() if isinstance(node, dict) else node)])


def _column(node: Any) -> str | None:
    """The column that a reference names; of `a.b` the name a, which is a column with fields."""
    is_reference = isinstance(node, dict) and node.get("class") == "COLUMN_REF" and bool(node.get("column_names"))
    return str(node["column_names"][0]) if is_reference else None


def _comparisons(node: dict[str, Any]) -> Iterator[tuple[str, Decimal]]:
    """The pairs of a column and a number in a comparison, BETWEEN or IN."""
    sides: Sequence[Any] = ()
    if node.get("class") == "COMPARISON":
        sides = (node.get("left"), node.get("right"))
    elif node.get("class") == "BETWEEN":
        sides = (node.get("input"), node.get("lower"), node.get("upper"))
    elif node.get("type") in ("COMPARE_IN", "COMPARE_NOT_IN"):
        sides = node.get("children") or ()
    columns = [column for side in sides if (column := _column(side)) is not None]
    numbers = [number for side in sides if (number := _number(side)) is not None]
    if len(columns) == 1:
        yield from ((columns[0], number) for number in numbers)


def _number(node: Any) -> Decimal | None:
    literal = node.get("literal") if isinstance(node, dict) and node.get("class") == "CONSTANT" else None
    if not isinstance(literal, dict) or literal.get("kind") not in ("INTEGER", "NUMERIC"):
        return None
    try:
        return Decimal(str(literal.get("text")).replace("_", ""))
    except InvalidOperation:
        return None
