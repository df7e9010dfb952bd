"""A table as text for people, shared by all human-readable formats: columns, cells, the best values, where groups start."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from layerhouse.warehouse.render.columns import describe_field
from layerhouse.warehouse.render.kinds import Column
from layerhouse.warehouse.render.values import human_text, iter_rows

if TYPE_CHECKING:
    import pyarrow as pa

    from layerhouse.warehouse.render.registry import Layout

ERROR_SUFFIX = "_stderr"
"""A number column with this suffix, directly after the column it names, holds standard errors; people see `value ± error`."""

MIN_SUFFIX, MAX_SUFFIX = "_min", "_max"
"""Two number columns with these suffixes, directly after the column they name, hold its bounds. A null with known bounds reads
`varies 803-14336`."""

GROUP_STARTS = b"layerhouse.group_starts"
"""The key of a table's metadata that has the first row of every group."""

_MAX_DIGITS = 12


@dataclass(frozen=True)
class Cell:
    """One value as text, not yet escaped for a format, and the value itself."""

    text: str
    is_null: bool
    is_best: bool = False
    value: Any = None


@dataclass(frozen=True)
class RenderedTable:
    """Columns, by their names in the table, and rows as text. `group_starts` has the first row of every group but the first."""

    names: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    group_starts: frozenset[int]


def render_cells(table: pa.Table, layout: Layout) -> RenderedTable:
    """Render the cells of a table. A column with standard errors gets enough digits to show its smallest error."""
    rows = list(iter_rows(table))
    names = table.column_names
    columns = [with_digits(describe_field(field, layout.language), layout.digits) for field in table.schema]
    errors = _error_columns(names, columns)
    for index, error in errors.items():
        columns[index] = _with_digits_for_errors(columns[index], [row[error] for row in rows])
    bounds = _bound_columns(names, columns)
    groups = _marked_groups(table)
    if groups is None:
        groups = list(_groups(rows, [names.index(name) for name in layout.group if name in names]))
    best = _best_cells(rows, columns, groups) if layout.marks_best else set()
    merged = {*errors.values(), *(index + step for index in bounds for step in (1, 2))}
    own_columns = [index for index in range(len(names)) if index not in merged]
    return RenderedTable(
        tuple(names[index] for index in own_columns),
        tuple(columns[index] for index in own_columns),
        tuple(
            tuple(
                _range_cell(row, index, columns[index])
                if index in bounds and row[index] is None and row[index + 1] is not None
                else Cell(
                    _cell_text(row, index, columns[index], errors), row[index] is None, (number, index) in best, row[index]
                )
                for index in own_columns
            )
            for number, row in enumerate(rows)
        ),
        frozenset(start for start, _ in groups if start),
    )


def with_digits(column: Column, digits: int | None) -> Column:
    """The column with this number of decimals, unless its kind has none."""
    if digits is None or not column.value_kind.digits:
        return column
    kind = replace(column.value_kind, digits=digits)
    return replace(column, item=kind) if column.value_kind is column.item else replace(column, kind=kind)


def _cell_text(row: Sequence[Any], index: int, column: Column, errors: dict[int, int]) -> str:
    text = human_text(row[index], column)
    if row[index] is None:
        return text
    if column.total is not None:
        return f"{text}/{column.total}"
    error = row[errors[index]] if index in errors else None
    if error is None:
        return text
    return f"{text} ± {human_text(error, replace(column, kind=replace(column.kind, is_signed=False)))}"


def _range_cell(row: Sequence[Any], index: int, column: Column) -> Cell:
    return Cell(f"varies {human_text(row[index + 1], column)}-{human_text(row[index + 2], column)}", False)


def _bound_columns(names: Sequence[str], columns: Sequence[Column]) -> set[int]:
    """Positions of the number columns that are followed by their minimum and maximum."""
    return {
        index
        for index in range(len(names) - 2)
        if names[index + 1 : index + 3] == [names[index] + MIN_SUFFIX, names[index] + MAX_SUFFIX] and columns[index].is_number
    }


def _error_columns(names: Sequence[str], columns: Sequence[Column]) -> dict[int, int]:
    """Position of a number column -> position of its standard errors."""
    return {
        index: index + 1
        for index in range(len(names) - 1)
        if names[index + 1] == names[index] + ERROR_SUFFIX and columns[index].is_number and columns[index + 1].is_number
    }


def _with_digits_for_errors(column: Column, errors: Sequence[Any]) -> Column:
    """The column with enough decimals for its smallest error, so that values further apart than that never look equal."""
    known = [float(error) for error in errors if error is not None and math.isfinite(error) and error > 0]
    if not known:
        return column
    scale = 100 if column.kind.name == "ratio" else 1
    needed = min(_MAX_DIGITS, math.ceil(-math.log10(min(known) * scale)))
    return replace(column, kind=replace(column.kind, digits=max(column.kind.digits, needed)))


def _groups(rows: Sequence[Sequence[Any]], keys: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Runs of rows that are equal in the key columns, as (start, end) with end exclusive."""
    start = 0
    for number in range(1, len(rows) + 1):
        if number == len(rows) or any(rows[number][key] != rows[start][key] for key in keys):
            yield start, number
            start = number


def mark_groups(table: pa.Table, names: Sequence[str]) -> pa.Table:
    """The table with the first row of every group in its metadata: a run of rows that are equal in these columns.

    So the groups are known where the columns are not shown.
    """
    rows = list(iter_rows(table.select([*names])))
    starts = ",".join(str(start) for start, _ in _groups(rows, range(len(names))))
    return table.replace_schema_metadata({**(table.schema.metadata or {}), GROUP_STARTS: starts})


def unmark_groups(table: pa.Table) -> pa.Table:
    """The table without what mark_groups added."""
    metadata = {key: value for key, value in (table.schema.metadata or {}).items() if key != GROUP_STARTS}
    return table.replace_schema_metadata(metadata or None)


def _marked_groups(table: pa.Table) -> list[tuple[int, int]] | None:
    """The groups that mark_groups found, as _groups gives them; None if it marked none."""
    marked = (table.schema.metadata or {}).get(GROUP_STARTS)
    if marked is None:
        return None
    starts = [int(start) for start in marked.decode().split(",") if start]
    return [*zip(starts, [*starts[1:], table.num_rows], strict=True)]


def _best_cells(
    rows: Sequence[Sequence[Any]], columns: Sequence[Column], groups: Sequence[tuple[int, int]]
) -> set[tuple[int, int]]:
    """(row, column) of the best values of each group, ties included; a group needs at least two finite numbers."""
    best: set[tuple[int, int]] = set()
    for index, column in enumerate(columns):
        if column.better is None or not column.is_number:
            continue
        for start, end in groups:
            values = {number: rows[number][index] for number in range(start, end) if _is_finite(rows[number][index])}
            if len(values) > 1:
                best_value = max(values.values()) if column.better == "higher" else min(values.values())
                best |= {(number, index) for number, value in values.items() if value == best_value}
    return best


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float | Decimal) and math.isfinite(value)
