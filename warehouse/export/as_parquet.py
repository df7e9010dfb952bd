"""Parquet: the table as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    import pyarrow as pa

    from layerhouse.warehouse.export.registry import Layout


def write(table: pa.Table, stream: BinaryIO, layout: Layout) -> None:
    """Write Parquet, zstd-compressed, types untouched."""
    import pyarrow.parquet as pq

    pq.write_table(table, stream, compression="zstd")
