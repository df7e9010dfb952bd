"""A cache of the views that are expensive in a large warehouse, as Parquet files: measures in long form and by model.

A cached answer is named after a digest of all that it depends on: the files with rows and the SQL. Answers of the right name
are therefore valid, so nothing is ever invalidated; a session that finds none computes the views. A record, written last, has
the sizes and hashes of the answers with one digest; a session uses them only if sizes and footers agree with it.
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
from typing import TYPE_CHECKING, Any

from layerhouse.errors import WarehouseError
from layerhouse.warehouse.answers.sql_text import quote_identifier, quote_literal
from layerhouse.warehouse.storage.commits import Snapshot
from layerhouse.warehouse.storage.data_files import OTHER_CONTENT, file_digest, footer_of
from layerhouse.warehouse.storage.own_files import (
    KEPT,
    FaultyFileError,
    open_own_file,
    read_own_file,
    read_range,
    write_durably,
)
from layerhouse.warehouse.storage.sealing import sealed, unsealed

if TYPE_CHECKING:
    import duckdb

LEAST_RESULTS = 100_000
"""Warehouses with fewer results answer fast enough without a cache."""
VIEWS = {
    "model_runs": "model_id, result_id, run_key",
    "run_measures": "model_id, variant, kind, measure",
    "model_measures": "model_id, variant",
}
"""The views that are cached, each with its order. A view may be computed from those before it."""
SECONDS_OF_AN_OLD_SESSION = 7 * 24 * 3600
"""How long the answers of earlier commits stay, for sessions that opened the warehouse then."""
RECORD = "record"
VIEW_NAME = re.compile("[a-z_]+")
OWN_NAME = re.compile(r"\.?(?P<view>[a-z_]+)-(?P<digest>[0-9a-f]{32})\.(parquet|json)(\.[0-9a-f]{8}\.tmp)?")
MAX_RECORD_BYTES = 1 << 16


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
    """True if all of the answers exist, and their sizes and footers are those of their record."""
    if not files:
        return True
    try:
        written = _read_record(_record_path(files))
        for view, path in files.items():
            with open_own_file(path) as (handle, status):
                footer = read_range(handle, status.st_size - written[view]["footer_bytes"], written[view]["footer_bytes"])
            if status.st_size != written[view]["bytes"] or _sha256(footer) != written[view]["footer_sha256"]:
                return False
    except (FaultyFileError, WarehouseError, OSError, KeyError, TypeError):
        return False
    return True


def damaged_answers(folder: Path) -> Iterator[tuple[Path, str]]:
    """Cached answers that are not as they were written, and records that are not; each with what is wrong."""
    for record, view in own_files(folder):
        if view != RECORD or record.name.startswith("."):
            continue
        try:
            written = _read_record(record)
        except FaultyFileError as fault:
            yield record, str(fault)
            continue
        for name, file in written.items():
            path = record.with_name(record.name.replace(RECORD, name)).with_suffix(".parquet")
            try:
                with open_own_file(path) as (handle, _):
                    if file_digest(handle) != file.get("sha256"):
                        yield path, OTHER_CONTENT
            except FaultyFileError as fault:
                yield path, str(fault)


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

    written: dict[str, dict[str, Any]] = {}
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
                written[view] = _description(temporary)
                temporary.replace(path)
                connection.execute(kept_statements({view: path})[view])
            finally:
                temporary.unlink(missing_ok=True)
        record = _record_path(files)
        write_durably(record, sealed(written))
        for path, _ in own_files(record.parent):
            if path not in (record, *files.values()) and time.time() - path.stat().st_mtime > SECONDS_OF_AN_OLD_SESSION:
                path.unlink()


def own_files(folder: Path) -> Iterator[tuple[Path, str]]:
    """Cached answers and records, of these commits and others, and temporary files of interrupted runs; each with its view."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name) if folder.is_dir() else ():
        if match := OWN_NAME.fullmatch(entry.name):
            yield Path(entry.path), match["view"]


def _record_path(files: dict[str, Path]) -> Path:
    view, path = next(iter(files.items()))
    return path.with_name(path.name.replace(view, RECORD)).with_suffix(".json")


def _read_record(path: Path) -> dict[str, Any]:
    """What a record says of each view's answer. Raises FaultyFileError for one that is not as it was written."""
    written, is_sealed = unsealed(read_own_file(path, MAX_RECORD_BYTES))
    if not is_sealed or not all(isinstance(file, dict) and VIEW_NAME.fullmatch(view) for view, file in written.items()):
        raise FaultyFileError("not a record of answers")
    return written


def _description(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    footer = footer_of(data)
    sizes = {"bytes": len(data), "footer_bytes": len(footer)}
    return {**sizes, "sha256": _sha256(data), "footer_sha256": _sha256(footer)}


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
