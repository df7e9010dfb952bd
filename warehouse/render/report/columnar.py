"""Tables as JSON for the page of a report: one list of values a column, coded to be short, with every number exact.

The values of a column are coded in the shortest of these forms, which data.js of the page reads:

- a list: the values themselves
- `runs`: pairs of a value and how often it is repeated
- `ranges`: pairs of an integer and how many integers follow each other from it
- `words` and `codes`: the different values, and a letter of CODE_LETTERS or a number for the one of each row
- `names`: the positions of the values in the list of all names of models, coded as any other values
- `same`: the name of an earlier column that has the same values
- `quotient`, `reduction`: two columns of the table that give the values as first / second, or (first - second) / first
- `sum` and `rest`: two columns, and what is to be added to the sum of both, coded as any other values
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from itertools import groupby
from typing import TYPE_CHECKING, Any

from layerhouse.warehouse.render.columns import describe_field
from layerhouse.warehouse.render.values import human_text, iter_rows

if TYPE_CHECKING:
    import pyarrow as pa

    from layerhouse.warehouse.render.kinds import Column

Formulas = Mapping[str, tuple[str, str, str]]
"""For a column the form `quotient`, `reduction` or `sum`, and its two columns."""

EXACT_LIMIT = 2**53
"""JavaScript's numbers are doubles: an integer beyond this is written as text."""

CODE_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def table_document(
    table: pa.Table, names: Sequence[str], language: str = "en", formulas: Formulas | None = None
) -> dict[str, Any]:
    """A table as a JSON document: the count of its `rows`, and its `columns` with headings, kinds and coded values.

    Columns in which all is null are left out. A column with a formula is written as that if it gives each value exactly.
    `names` are all names of models in the tables of a page. Lists, maps, times and booleans are the texts that people read.
    """
    rows = list(iter_rows(table))
    values = {name: [row[position] for row in rows] for position, name in enumerate(table.column_names)}
    known = [name for name, column in values.items() if any(value is not None for value in column)]
    positions = {name: position for position, name in enumerate(names)}
    columns: dict[str, dict[str, Any]] = {}
    earlier: dict[str, str] = {}
    for name in known:
        column = describe_field(table.schema.field(name), language)
        written = [None if value is None else _written(value, column) for value in values[name]]
        text = json.dumps(written)
        coded = {"same": earlier[text]} if text in earlier else _by_formula(values, name, formulas or {})
        earlier.setdefault(text, name)
        if coded is None and column.kind.name == "id" and all(value is None or value in positions for value in written):
            coded = {"names": shortest_form([None if value is None else positions[value] for value in written])}
        columns[name] = {**_presentation(column), "values": shortest_form(written) if coded is None else coded}
    return {"rows": len(rows), "columns": columns}


def shortest_form(values: Sequence[Any]) -> Any:
    """Values of JSON in the shortest of the forms that need no other column."""
    forms = [values, _runs(values), _words(values), *([] if (ranges := _ranges(values)) is None else [ranges])]
    return min(forms, key=lambda form: len(json.dumps(form, separators=(",", ":"))))


def script_json(document: Any) -> str:
    """JSON for the body of a script element: ASCII, and without the characters that markup begins with."""
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _presentation(column: Column) -> dict[str, Any]:
    kind = column.kind if column.is_number else column.value_kind
    shown = {"heading": column.heading if column.is_number else column.title, "kind": column.kind.name}
    if not column.is_number:
        return shown
    rest = {"digits": kind.digits, "signed": kind.is_signed, "total": column.total, "better": column.better}
    return {**shown, "number": True, **{key: value for key, value in rest.items() if value}}


def _by_formula(values: Mapping[str, list[Any]], name: str, formulas: Formulas) -> dict[str, Any] | None:
    """A column as its formula over two columns of integers, or None if that does not give each of its values."""
    if name not in formulas or not all(other in values for other in formulas[name][1:]):
        return None
    form, first, second = formulas[name]
    triples = list(zip(values[name], values[first], values[second], strict=True))
    if form == "sum":
        if not all(_are_exact(*triple) for triple in triples):
            return None
        return {"sum": [first, second], "rest": shortest_form([own - a - b for own, a, b in triples])}
    results = [_share(form, a, b) for _, a, b in triples]
    is_exact = all(
        (own is None) == (result is None) and own == result for (own, _, _), result in zip(triples, results, strict=True)
    )
    return {form: [first, second]} if is_exact else None


def _share(form: str, first: Any, second: Any) -> float | None:
    if not _are_exact(first, second):
        return None
    if form == "quotient":
        return first / second if second else None
    return (first - second) / first if first else None


def _are_exact(*values: Any) -> bool:
    """True for integers whose sums and differences are exact in doubles."""
    return all(isinstance(value, int) and abs(value) < EXACT_LIMIT // 4 for value in values)


def _written(value: Any, column: Column) -> Any:
    """A value as JSON has it: integers that a double cannot hold, decimals and numbers without an end as text."""
    if not column.is_number:
        return value if isinstance(value, str) else human_text(value, column)
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if abs(value) <= EXACT_LIMIT else str(value)


def _runs(values: Sequence[Any]) -> dict[str, Any]:
    # Compared as JSON, in which 1 and true differ.
    return {"runs": [[json.loads(text), len(list(group))] for text, group in groupby(map(json.dumps, values))]}


def _ranges(values: Sequence[Any]) -> dict[str, Any] | None:
    if not all(type(value) is int for value in values):
        return None
    ranges: list[list[int]] = []
    for value in values:
        if ranges and value == sum(ranges[-1]):
            ranges[-1][1] += 1
        else:
            ranges.append([value, 1])
    return {"ranges": ranges}


def _words(values: Sequence[Any]) -> dict[str, Any]:
    numbers: dict[str, int] = {}
    codes = [numbers.setdefault(text, len(numbers)) for text in map(json.dumps, values)]
    is_short = len(numbers) <= len(CODE_LETTERS)
    written = "".join(CODE_LETTERS[code] for code in codes) if is_short else codes
    return {"words": [json.loads(text) for text in numbers], "codes": written}
