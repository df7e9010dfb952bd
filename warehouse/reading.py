"""Stored rows without SQL, for an ingest that compares a checkpoint with one that was measured before."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from layerhouse.warehouse.errors import WarehouseError
from layerhouse.warehouse.schema import TABLES, arrow_schema
from layerhouse.warehouse.store import list_commits


def read_rows(
    root: Path, table: str, checkpoint_ids: Collection[str], columns: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """The rows of some checkpoints, by checkpoint_id; of a fact that two commits hold, the first commit's rows."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.dataset as ds

    assert TABLES[table].fact_key == ("checkpoint_id",)
    files = list_commits(root).files(table)
    if not checkpoint_ids or not files:
        return {}
    dataset = ds.dataset(files, schema=arrow_schema(table), format="parquet")
    wanted = pc.field("checkpoint_id").isin(sorted(checkpoint_ids))
    try:
        rows = dataset.to_table(columns=[*{*columns, "checkpoint_id", "commit_id"}], filter=wanted).to_pylist()
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise WarehouseError(f"a file of the warehouse cannot be read ({reason}); it is named by: layerhouse check") from None
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        found.setdefault(row["checkpoint_id"], {}).setdefault(row["commit_id"], []).append(row)
    return {checkpoint_id: commits[min(commits)] for checkpoint_id, commits in found.items()}
