"""What the rows of a pack say of themselves: of which commits they are, and when these were made."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from layerhouse.warehouse.storage.commit_file import MAX_COMMIT_BYTES, Commit, data_path, parse_commit
from layerhouse.warehouse.storage.own_files import COMMITS, FaultyFileError, file_status, read_own_file
from layerhouse.warehouse.storage.schema import TABLES

BATCH_ROWS = 1 << 17


def wrong_rows(path: Path, commit: Commit) -> str | None:
    """What is wrong with the rows of a pack: those of a commit that it does not replace, or of another time than its commit."""
    times: dict[str, datetime] = {}
    replaced = frozenset(commit.replaces)
    for commit_id, made_at in _row_commits(path):
        if commit_id not in replaced:
            return f"it has rows of {commit_id}, which it does not replace"
        if made_at > commit.made_at:
            return "its rows have a later ingested_at than the commit"
        if times.setdefault(commit_id, made_at) != made_at:
            return f"rows of {commit_id} have several ingested_at"
    return None


def replaced_by(root: Path, commit_id: str) -> set[str]:
    """The commits that a damaged one has replaced, as its file says, or where that is not readable its rows."""
    import pyarrow as pa

    try:
        return {*parse_commit(read_own_file(root / COMMITS / f"{commit_id}.json", MAX_COMMIT_BYTES)).replaces}
    except FaultyFileError:
        found = set[str]()
    for table in TABLES:
        path = root / data_path(table, commit_id)
        try:
            file_status(path)
            found |= {row_commit for row_commit, _ in _row_commits(path)}
        except (FaultyFileError, pa.ArrowException, OSError):
            continue
    return found - {commit_id}


def _row_commits(path: Path) -> Iterator[tuple[str, datetime]]:
    """The commits of the rows of a file, with their times; each may come several times."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = ["commit_id", "ingested_at"]
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(BATCH_ROWS, columns=columns):
            pairs = pa.Table.from_batches([batch]).group_by(columns).aggregate([])
            yield from ((row["commit_id"], row["ingested_at"]) for row in pairs.to_pylist())
