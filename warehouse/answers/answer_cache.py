"""Answers that are dear to compute, kept as Parquet files of a large warehouse: what its measures are, model by model.

A kept answer is named by a digest of everything that it follows from: the rows' files and the SQL. One whose name is right is
the answer, so nothing has to be kept in step, and a session that finds none computes as ever.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from layerhouse.warehouse.answers.sql_text import quote_identifier, quote_literal
from layerhouse.warehouse.storage.commits import Snapshot

if TYPE_CHECKING:
    import duckdb

KEPT = "kept"
LEAST_RESULTS = 100_000
"""A warehouse with fewer results answers at once without."""
VIEWS = {"measures": "model_id, kind, measure", "model_measures": "model_id"}
"""The views that are kept, each with its order."""
SECONDS_OF_AN_OLD_SESSION = 7 * 24 * 3600
"""How long the answers of an earlier state stay, for sessions that opened the warehouse then."""
OWN_NAME = re.compile(r"\.?(?P<view>[a-z_]+)-(?P<digest>[0-9a-f]{32})\.parquet(\.[0-9a-f]{8}\.tmp)?")


def is_large(snapshot: Snapshot) -> bool:
    """Whether a warehouse holds so many results that its answers are kept."""
    return snapshot.rows("results") >= LEAST_RESULTS


def kept_files(snapshot: Snapshot, sql: str) -> dict[str, Path]:
    """Where the answer of each kept view is, or would be. `sql` makes the views."""
    # Checkpoints have a say in what a model is called only where some name was changed.
    tables = ("results", "links", "removals", *(("checkpoints",) if snapshot.rows("removals") else ()))
    origins = [sql, *(Path(path).name for table in tables for path in (table, *snapshot.files(table)))]
    digest = hashlib.sha256("\n".join(origins).encode()).hexdigest()[:32]
    return {view: snapshot.root / KEPT / f"{view}-{digest}.parquet" for view in VIEWS}


def are_kept(files: dict[str, Path]) -> bool:
    """Whether all of the answers are there, and none was cut short."""
    return all(_is_whole(path) for path in files.values())


def kept_statements(files: dict[str, Path]) -> dict[str, str]:
    """For each kept view the statement that lets it answer from its file."""
    return {
        view: f"CREATE OR REPLACE VIEW {quote_identifier(view)} AS SELECT * FROM read_parquet({quote_literal(str(path))});"
        for view, path in files.items()
    }


def write_kept(connection: duckdb.DuckDBPyConnection, files: dict[str, Path]) -> None:
    """Keep the answers of a session, and drop those of states long past. What cannot be written is computed as before.

    Each is made from those before it, so the order of VIEWS counts.
    """
    import duckdb

    with contextlib.suppress(OSError, duckdb.Error):
        for view, path in files.items():
            path.parent.mkdir(exist_ok=True)
            temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
            try:
                connection.execute(
                    f"COPY (SELECT * FROM {quote_identifier(view)} ORDER BY {VIEWS[view]}) "
                    f"TO {quote_literal(str(temporary))} (FORMAT parquet, COMPRESSION zstd)"
                )
                with temporary.open("rb+") as file:
                    os.fsync(file.fileno())
                temporary.replace(path)
                connection.execute(kept_statements({view: path})[view])
            finally:
                temporary.unlink(missing_ok=True)
        for path, _ in own_files(next(iter(files.values())).parent):
            if path not in files.values() and time.time() - path.stat().st_mtime > SECONDS_OF_AN_OLD_SESSION:
                path.unlink()


def own_files(folder: Path) -> Iterator[tuple[Path, str]]:
    """Kept answers, of this state and of others, and what a run that was cut off left of one; each with its view."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name) if folder.is_dir() else ():
        if matched := OWN_NAME.fullmatch(entry.name):
            yield Path(entry.path), matched["view"]


def _is_whole(path: Path) -> bool:
    """A Parquet file ends with the four bytes that it starts with."""
    try:
        with path.open("rb") as file:
            file.seek(-4, os.SEEK_END)
            return file.read() == b"PAR1"
    except OSError:
        return False
