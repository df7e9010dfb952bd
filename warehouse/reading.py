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
    """The rows of some checkpoints, by checkpoint_id; of a fact that several commits hold, the rows of one (Table)."""
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
        raise _unreadable(error) from None
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        found.setdefault(row["checkpoint_id"], {}).setdefault(row["commit_id"], []).append(row)
    choose = max if TABLES[table].is_newest_shown else min
    return {checkpoint_id: commits[choose(commits)] for checkpoint_id, commits in found.items()}


def read_greatest(root: Path, table: str, column: str) -> dict[str, Any]:
    """The greatest value of a column for each checkpoint that has one, in the rows that readers see."""
    import pyarrow as pa
    import pyarrow.dataset as ds

    files = list_commits(root).files(table)
    if not files:
        return {}
    dataset = ds.dataset(files, schema=arrow_schema(table), format="parquet")
    try:
        rows = dataset.to_table(columns=["checkpoint_id", "commit_id", column])
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(error) from None
    found = rows.group_by(["checkpoint_id", "commit_id"]).aggregate([(column, "max")]).sort_by("commit_id").to_pylist()
    ordered = found if TABLES[table].is_newest_shown else found[::-1]
    chosen = {row["checkpoint_id"]: row[f"{column}_max"] for row in ordered}
    return {checkpoint_id: value for checkpoint_id, value in chosen.items() if value is not None}


def _unreadable(error: Exception) -> WarehouseError:
    reason = str(error).splitlines()[0]
    return WarehouseError(f"a file of the warehouse cannot be read ({reason}); it is named by: layerhouse check")
