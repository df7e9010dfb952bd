"""A table as people see it, for all formats made for them: columns, cells, which are best, where a group begins."""

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
"""A number column of this name after another's holds its standard errors; people see both in one cell."""

LEAST_SUFFIX, MOST_SUFFIX = "_min", "_max"
"""Number columns of these names after another's hold its bounds; people see `varies 803-14336` where it is null for that."""

_MOST_DIGITS = 12


@dataclass(frozen=True)
class Cell:
    """One rendered value: not escaped for any format yet."""

    text: str
    is_null: bool
    is_best: bool = False


@dataclass(frozen=True)
class Presented:
    """Columns and rows as people see them; `breaks` are the rows that begin a group, the first row never among them."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    breaks: frozenset[int]


def present(table: pa.Table, layout: Layout) -> Presented:
    """Render a table. A value with a standard error is `value ± error`, with digits enough to show what it tells apart."""
    rows = list(iter_rows(table))
    names = table.column_names
    columns = [shown_column(describe_field(field, layout.language), layout.digits) for field in table.schema]
    errors = _error_columns(names, columns)
    for index, error in errors.items():
        columns[index] = _with_digits_for_errors(columns[index], [row[error] for row in rows])
    bounds = _bound_columns(names, columns)
    groups = list(_groups(rows, [names.index(name) for name in layout.group if name in names]))
    best = _best_cells(rows, columns, groups) if layout.marks_best else set()
    beside = {*errors.values(), *(index + step for index in bounds for step in (1, 2))}
    kept = [index for index in range(len(names)) if index not in beside]
    return Presented(
        tuple(columns[index] for index in kept),
        tuple(
            tuple(
                _varying_cell(row, index, columns[index])
                if index in bounds and row[index] is None and row[index + 1] is not None
                else Cell(_cell_text(row, index, columns[index], errors), row[index] is None, (number, index) in best)
                for index in kept
            )
            for number, row in enumerate(rows)
        ),
        frozenset(start for start, _ in groups if start),
    )


def shown_column(column: Column, digits: int | None) -> Column:
    """The column with these decimals, if its numbers have any."""
    if digits is None or not column.shown.digits:
        return column
    shown = replace(column.shown, digits=digits)
    return replace(column, item=shown) if column.shown is column.item else replace(column, kind=shown)


def _cell_text(row: Sequence[Any], index: int, column: Column, errors: dict[int, int]) -> str:
    text = human_text(row[index], column)
    if row[index] is None:
        return text
    if column.total is not None:
        return f"{text}/{column.total}"
    error = row[errors[index]] if index in errors else None
    return text if error is None else f"{text} ± {human_text(error, column)}"


def _varying_cell(row: Sequence[Any], index: int, column: Column) -> Cell:
    return Cell(f"varies {human_text(row[index + 1], column)}-{human_text(row[index + 2], column)}", False)


def _bound_columns(names: Sequence[str], columns: Sequence[Column]) -> set[int]:
    """Positions of the numbers whose least and greatest stand in the two columns after them."""
    return {
        index
        for index in range(len(names) - 2)
        if names[index + 1 : index + 3] == [names[index] + LEAST_SUFFIX, names[index] + MOST_SUFFIX]
        and columns[index].is_number
    }


def _error_columns(names: Sequence[str], columns: Sequence[Column]) -> dict[int, int]:
    """The position of the standard errors by that of the values."""
    return {
        index: index + 1
        for index in range(len(names) - 1)
        if names[index + 1] == names[index] + ERROR_SUFFIX and columns[index].is_number and columns[index + 1].is_number
    }


def _with_digits_for_errors(column: Column, errors: Sequence[Any]) -> Column:
    """Decimals fine enough for the least error: values that differ by more than it never look equal."""
    known = [float(error) for error in errors if error is not None and math.isfinite(error) and error > 0]
    if not known:
        return column
    scale = 100 if column.kind.name == "ratio" else 1
    needed = min(_MOST_DIGITS, math.ceil(-math.log10(min(known) * scale)))
    return replace(column, kind=replace(column.kind, digits=max(column.kind.digits, needed)))


def _groups(rows: Sequence[Sequence[Any]], keys: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Runs of rows, equal in the key columns: from, until."""
    start = 0
    for number in range(1, len(rows) + 1):
        if number == len(rows) or any(rows[number][key] != rows[start][key] for key in keys):
            yield start, number
            start = number


def _best_cells(
    rows: Sequence[Sequence[Any]], columns: Sequence[Column], groups: Sequence[tuple[int, int]]
) -> set[tuple[int, int]]:
    """Row and column of the best values: all that are equally best, where two or more rows of the group have a number."""
    best: set[tuple[int, int]] = set()
    for index, column in enumerate(columns):
        if column.better is None or not column.is_number:
            continue
        for start, end in groups:
            values = {number: rows[number][index] for number in range(start, end) if _is_finite(rows[number][index])}
            if len(values) > 1:
                wanted = max(values.values()) if column.better == "higher" else min(values.values())
                best |= {(number, index) for number, value in values.items() if value == wanted}
    return best


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float | Decimal) and math.isfinite(value)
