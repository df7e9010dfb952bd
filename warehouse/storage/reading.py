"""Stored rows read without SQL, for an ingest that compares checkpoints with one that is in the warehouse already."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerhouse.errors import WarehouseError
from layerhouse.warehouse.storage.commits import list_commits
from layerhouse.warehouse.storage.schema import TABLES, arrow_schema

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 1 << 15
"""Rows of a file that are decoded at once."""


def read_rows(
    root: Path, table: str, checkpoint_ids: Collection[str], columns: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """The rows of some checkpoints by checkpoint_id, as `stream_rows` gives them."""
    return {checkpoint_id: rows.to_pylist() for checkpoint_id, rows in stream_rows(root, table, checkpoint_ids, columns)}


def stream_rows(
    root: Path, table: str, checkpoint_ids: Collection[str], columns: Sequence[str]
) -> Iterator[tuple[str, pa.Table]]:
    """The rows of some checkpoints, one checkpoint after the other in the order of the files. Each file is read once.

    Of a fact that several commits hold, the rows of one commit are given (see Table). At any time a batch of rows is in memory,
    and the rows of checkpoints that are not complete yet. Raises WarehouseError.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    assert TABLES[table].fact_key == ("checkpoint_id",)
    missing = set(checkpoint_ids)
    names = [*dict.fromkeys((*columns, "checkpoint_id", "commit_id"))]
    schema = pa.schema([arrow_schema(table).field(name) for name in names])
    is_newest = TABLES[table].is_newest_shown
    snapshot = list_commits(root).require_whole()
    files = snapshot.files(table) if missing else []
    elsewhere: dict[str, set[str]] = {}
    if snapshot.has_mixed_times():
        with _damage_reported(root):
            elsewhere = _elsewhere(files, missing, is_newest=is_newest)
    for path in reversed(files) if is_newest else files:
        with _damage_reported(root), pq.ParquetFile(path) as file:
            wanted = missing - elsewhere.get(path, set())
            groups = _groups_with(file, wanted)
            counts = {value["values"]: value["counts"] for value in _count_values(file, groups) if value["values"] in wanted}
            missing -= counts.keys()
            incomplete: dict[str, list[pa.RecordBatch]] = {}
            present = [name for name in names if name in file.schema_arrow.names]
            for batch in file.iter_batches(BATCH_ROWS, groups, columns=present) if counts else ():
                ids = batch.column("checkpoint_id")
                for checkpoint_id in ids.unique().to_pylist():
                    if checkpoint_id not in counts:
                        continue
                    part = batch.filter(pc.equal(ids, checkpoint_id))
                    incomplete.setdefault(checkpoint_id, []).append(part)
                    counts[checkpoint_id] -= len(part)
                    if counts[checkpoint_id] == 0:
                        yield (
                            checkpoint_id,
                            _one_commit(pa.Table.from_batches(incomplete.pop(checkpoint_id)), schema, is_newest=is_newest),
                        )
        if not missing:
            return


@contextmanager
def _damage_reported(root: Path) -> Iterator[None]:
    """A context manager: a stored file that cannot be read raises WarehouseError."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(root, error) from None


def read_greatest(root: Path, table: str, column: str) -> dict[str, Any]:
    """The greatest value of a column by checkpoint, over the rows that readers see; null values are missing out."""
    import pyarrow as pa
    import pyarrow.dataset as ds

    files = list_commits(root).require_whole().files(table)
    if not files:
        return {}
    dataset = ds.dataset(files, schema=arrow_schema(table), format="parquet")
    try:
        rows = dataset.to_table(columns=["checkpoint_id", "commit_id", column])
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(root, error) from None
    maxima = rows.group_by(["checkpoint_id", "commit_id"]).aggregate([(column, "max")]).sort_by("commit_id").to_pylist()
    ordered = maxima if TABLES[table].is_newest_shown else maxima[::-1]
    chosen = {row["checkpoint_id"]: row[f"{column}_max"] for row in ordered}
    return {checkpoint_id: value for checkpoint_id, value in chosen.items() if value is not None}


def read_newest(root: Path, table: str, columns: Sequence[str]) -> list[dict[str, Any]]:
    """The newest row of each checkpoint. Raises WarehouseError."""
    import pyarrow as pa
    import pyarrow.dataset as ds

    files = list_commits(root).require_whole().files(table)
    if not files:
        return []
    names = [*dict.fromkeys((*columns, "checkpoint_id", "commit_id"))]
    dataset = ds.dataset(files, schema=arrow_schema(table), format="parquet")
    try:
        rows = dataset.to_table(columns=names).sort_by("commit_id")
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(root, error) from None
    last = {checkpoint_id: at for at, checkpoint_id in enumerate(rows.column("checkpoint_id").to_pylist())}
    newest: list[dict[str, Any]] = rows.take(pa.array(sorted(last.values()), pa.int64())).to_pylist()
    return newest


def _unreadable(root: Path, error: Exception) -> WarehouseError:
    """The error that a stored file cannot be read. Raises DamagedWarehouseError, which names it, if it is damaged."""
    list_commits(root, verify=True).require_whole()
    return WarehouseError(f"{root}: a file of the warehouse cannot be read: {str(error).splitlines()[0]}")


def _elsewhere(files: Sequence[str], checkpoint_ids: Collection[str], *, is_newest: bool) -> dict[str, set[str]]:
    """By file, the checkpoints whose rows are to be taken from another one, which has their oldest or newest commit."""
    import pyarrow.parquet as pq

    found: dict[str, dict[str, str]] = {}
    for path in files:
        with pq.ParquetFile(path) as file:
            rows = file.read_row_groups(_groups_with(file, checkpoint_ids), columns=["checkpoint_id", "commit_id"])
        commits = rows.group_by("checkpoint_id").aggregate([("commit_id", "max" if is_newest else "min")]).to_pylist()
        for row in commits:
            found.setdefault(row["checkpoint_id"], {})[path] = row["commit_id_max" if is_newest else "commit_id_min"]
    elsewhere: dict[str, set[str]] = {path: set() for path in files}
    for checkpoint_id, by_path in found.items():
        chosen = (max if is_newest else min)(by_path, key=by_path.__getitem__)
        for path in by_path.keys() - {chosen}:
            elsewhere[path].add(checkpoint_id)
    return elsewhere


def _groups_with(file: Any, checkpoint_ids: Collection[str]) -> list[int]:
    """The row groups that may have rows of some checkpoints: few of a pack, whose rows are sorted."""
    ordered, groups = sorted(checkpoint_ids), []
    position = next(place for place in range(len(file.schema)) if file.schema.column(place).path == "checkpoint_id")
    for number in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(number)
        statistics = group.column(position).statistics
        if statistics is not None and statistics.has_min_max:
            first = bisect_left(ordered, statistics.min)
            if first == len(ordered) or ordered[first] > statistics.max:
                continue
        groups.append(number)
    return groups


def _count_values(file: Any, groups: list[int]) -> list[dict[str, Any]]:
    """The number of rows by checkpoint, which takes reading one column of these row groups."""
    ids = file.read_row_groups(groups, columns=["checkpoint_id"]).column("checkpoint_id")
    return ids.combine_chunks().value_counts().to_pylist() if len(ids) else []


def _one_commit(rows: pa.Table, schema: pa.Schema, *, is_newest: bool) -> pa.Table:
    """The rows of the oldest or newest commit in the present schema; a column that the file lacks is null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    commits = rows.column("commit_id")
    rows = rows.filter(pc.equal(commits, pc.max(commits) if is_newest else pc.min(commits)))
    columns = [
        rows.column(field.name) if field.name in rows.column_names else pa.nulls(len(rows), field.type) for field in schema
    ]
    return pa.Table.from_arrays(columns, names=schema.names).cast(schema)
