"""Whether the rows of another package's format fit the results table: one row that does not would cost the whole commit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from layerhouse.ingest.results.parsed import EMPTY_ROW, ParsedResults, Row
from layerhouse.vocabulary import ResultStatus
from layerhouse.warehouse.storage.schema import RESULTS, arrow_schema

REQUIRED = tuple(column.name for column in RESULTS.columns if column.required and column.name in EMPTY_ROW)
STATUSES = tuple(map(str, ResultStatus))


def complete_results(results: Any) -> ParsedResults:
    """The results with every column in every row, null where the format gives none. Raises ValueError, in one line, for
    results of another type and for a row that the table cannot hold."""
    if not isinstance(results, ParsedResults):
        raise ValueError(f"gives a {type(results).__name__}, not ParsedResults")
    rows = [EMPTY_ROW | {"notes": []} | row for row in results.rows]
    for row in rows:
        _check_row(row)
    _check_types(rows)
    return ParsedResults(tuple(rows), tuple(map(str, results.left_out)))


def _check_row(row: Row) -> None:
    unknown = next((name for name in row if name not in EMPTY_ROW), None)
    if unknown is not None:
        raise ValueError(f"gives a row with the column {unknown!r}, which a format cannot fill")
    missing = next((name for name in REQUIRED if row[name] is None), None)
    if missing is not None:
        raise ValueError(f"gives a row without {missing}")
    if row["status"] not in STATUSES:
        raise ValueError(f"gives the status {row['status']!r}, not one of {', '.join(STATUSES)}")
    if (row["value"] is None) == (row["status"] == ResultStatus.OK):
        raise ValueError(f"gives the value {row['value']!r} with the status {str(row['status'])!r}")


def _check_types(rows: Sequence[Row]) -> None:
    import pyarrow as pa

    types = arrow_schema(RESULTS.name)
    for name in EMPTY_ROW:
        try:
            pa.array([row[name] for row in rows], types.field(name).type)
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise ValueError(" ".join(f"gives a wrong {name}: {error}".split())) from None
