"""Parquet: the table unchanged."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, BinaryIO

from layerhouse.errors import UsageError
from layerhouse.warehouse.render.cells import unmark_groups
from layerhouse.warehouse.render.values import refuse_repeated_names

if TYPE_CHECKING:
    import pyarrow as pa

    from layerhouse.warehouse.render.registry import Layout


def write(table: pa.Table, stream: BinaryIO, layout: Layout) -> None:
    """Write Parquet compressed with zstd; types are unchanged. Raises UsageError if two columns have one name, or one has a
    type that Parquet lacks, as intervals and unions."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    refuse_repeated_names(table.column_names, "what reads Parquet")
    for field in table.schema:
        try:
            pq.ParquetWriter(io.BytesIO(), pa.schema([field])).close()
        except pa.ArrowNotImplementedError:
            what = f"parquet: column {field.name!r} has a type that it lacks, {field.type}"
            raise UsageError(f"{what}; cast it to text in the query, or use csv or json") from None
    pq.write_table(unmark_groups(table), stream, compression="zstd")
