"""What is said at once of a result file that was read: values of doubtful scale, and measures with several values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Any

from layerhouse.ingest.results.parsed import Row
from layerhouse.ingest.results.rows import shortened
from layerhouse.warehouse.storage.schema import MEASURE_COLUMNS

IDENTITY = ("declared_model", "variant", "loaded_as", "run_at", *MEASURE_COLUMNS)
"""What makes two values of one file values of one measure, run and time."""


identity_of = itemgetter(*IDENTITY)


def remarks(rows: Sequence[Row]) -> Iterator[str]:
    """Lines on rows that the warehouse takes but shows in no column: one for all doubtful values, one for
    all conflicts."""
    doubtful = [row for row in rows if row["doubt"] is not None]
    if doubtful:
        first = doubtful[0]
        count = f"{len(doubtful)} values are" if len(doubtful) > 1 else "a value is"
        yield shortened(f"{count} {first['doubt']}, such as {_name(first)} {first['value']:g}; see: layerhouse query doubtful")
    values: dict[tuple[Any, ...], Row] = {}
    conflicts: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        key = identity_of(row)
        earlier = values.setdefault(key, row)
        if (earlier["value"], earlier["status"]) != (row["value"], row["status"]):
            conflicts.setdefault(key, earlier)
    if conflicts:
        first = next(iter(conflicts.values()))
        count = f"{len(conflicts)} measures have" if len(conflicts) > 1 else "a measure has"
        yield shortened(f"{count} several values, so none is shown, such as {_name(first)}; see: layerhouse query conflicts")


def _name(row: Row) -> str:
    return "/".join(row[name] for name in ("task", "metric") if row[name] is not None)
