"""A cache of the views that are expensive in a large warehouse, as Parquet files: measures in long form and by model.

A cached answer is named after a digest of all that it depends on: the files with rows and the SQL. A file of the right name is
therefore valid, so nothing is ever invalidated; a session that finds none computes the views.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import stat
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
"""Warehouses with fewer results answer fast enough without a cache."""
VIEWS = {"measures": "model_id, kind, measure", "model_measures": "model_id"}
"""The views that are cached, each with its order. A view may be computed from those before it."""
SECONDS_OF_AN_OLD_SESSION = 7 * 24 * 3600
"""How long the answers of earlier commits stay, for sessions that opened the warehouse then."""
OWN_NAME = re.compile(r"\.?(?P<view>[a-z_]+)-(?P<digest>[0-9a-f]{32})\.parquet(\.[0-9a-f]{8}\.tmp)?")


def is_large(snapshot: Snapshot) -> bool:
    """True if a warehouse has so many results that its answers are cached."""
    return snapshot.rows("results") >= LEAST_RESULTS


def kept_files(snapshot: Snapshot, sql: str) -> dict[str, Path]:
    """The path of each cached view's answer, whether or not it exists. `sql` is what makes the views."""
    # The names of models depend on checkpoints only if some model was renamed or dropped.
    tables = ("results", "links", "removals", *(("checkpoints",) if snapshot.rows("removals") else ()))
    origins = [sql, *(Path(path).name for table in tables for path in (table, *snapshot.files(table)))]
    digest = hashlib.sha256("\n".join(origins).encode()).hexdigest()[:32]
    return {view: snapshot.root / KEPT / f"{view}-{digest}.parquet" for view in VIEWS}


def are_kept(files: dict[str, Path]) -> bool:
    """True if all of the answers exist and none is truncated."""
    return all(_is_whole(path) for path in files.values())


def kept_statements(files: dict[str, Path]) -> dict[str, str]:
    """For each cached view the statement that makes it read its file."""
    return {
        view: f"CREATE OR REPLACE VIEW {quote_identifier(view)} AS "
        f"SELECT * FROM read_parquet({quote_literal(str(path))}, hive_partitioning = false);"
        for view, path in files.items()
    }


def write_kept(connection: duckdb.DuckDBPyConnection, files: dict[str, Path]) -> None:
    """Write the answers of a session and delete those of commits long past. Failures cost only time, so they are ignored."""
    import duckdb

    with contextlib.suppress(OSError, duckdb.Error):
        for view, path in files.items():
            path.parent.mkdir(exist_ok=True)
            if path.parent.is_symlink():
                return
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
    """Cached answers, of these commits and of others, and temporary files of interrupted runs; each with its view.

    None if the folder is a link: what it leads to is not the warehouse's.
    """
    is_own = folder.is_dir() and not folder.is_symlink()
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name) if is_own else ():
        if match := OWN_NAME.fullmatch(entry.name):
            yield Path(entry.path), match["view"]


def _is_whole(path: Path) -> bool:
    """True for a regular file, reached by no link below the warehouse, that ends with the magic bytes of Parquet."""
    try:
        if path.parent.is_symlink() or not stat.S_ISREG(path.lstat().st_mode):
            return False
        with path.open("rb") as file:
            file.seek(-4, os.SEEK_END)
            return file.read() == b"PAR1"
    except OSError:
        return False
