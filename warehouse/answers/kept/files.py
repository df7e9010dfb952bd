"""The files of kept answers: each a Parquet file and a record, written last, of its size, hashes and state.

A session reads an answer only if its size and footer are those of the record. What an SQL script for other sessions names is
pinned: a file lists it, and nothing deletes it while that file is there.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerhouse.errors import WarehouseError
from layerhouse.warehouse.answers.kept.states import KEPT_VIEWS, Answer, State
from layerhouse.warehouse.answers.sql_text import quote_literal, spelled_literal
from layerhouse.warehouse.storage.data_files import OTHER_CONTENT, file_digest
from layerhouse.warehouse.storage.own_files import (
    MISSING_FILE,
    FaultyFileError,
    open_own_file,
    read_own_file,
    read_range,
    write_durably,
)
from layerhouse.warehouse.storage.sealing import sealed, unsealed

if TYPE_CHECKING:
    import duckdb

SECONDS_OF_AN_OLD_SESSION = 24 * 3600
"""How long the answers of earlier commits stay, for queries that read them; a session computes what is gone."""
ROWS_OF_A_GROUP = 32_768
"""Rows of a Parquet row group. Smaller ones make files larger and reading slower, larger ones make a model's rows cost more."""
OF_NOW = "what is kept is of the present: open the warehouse with --as-of to see an earlier time"
PIN = "pin"
EARLIER_RECORD = "record"
"""The name of a record of several answers, as earlier versions wrote it."""
OWN_NAME = re.compile(r"\.?(?P<view>[a-z_]+)-(?P<digest>[0-9a-f]{32})\.(parquet|json)(\.[0-9a-f]{8}\.tmp)?")
MAX_RECORD_BYTES = 1 << 20


def is_kept(answer: Answer) -> bool:
    """True if an answer is there, and its size and footer are those of its record."""
    try:
        written = _read_record(answer.record)
        with open_own_file(answer.path) as (handle, status):
            footer = read_range(handle, status.st_size - written["footer_bytes"], written["footer_bytes"])
        return bool(status.st_size == written["bytes"] and _sha256(footer) == written["footer_sha256"])
    except (FaultyFileError, WarehouseError, OSError):
        return False


def kept_statement(view: str, path: Path) -> str:
    """The SQL that makes a view of an answer. It is an error where a session was set to an earlier time since."""
    return (
        f"CREATE OR REPLACE VIEW {view} AS\nSELECT * FROM "
        f"read_parquet({spelled_literal(str(path))}, hive_partitioning = false)\n"
        f"WHERE CASE WHEN getvariable('as_of') IS NULL THEN TRUE ELSE error({quote_literal(OF_NOW)}) END;"
    )


def write_answer(connection: duckdb.DuckDBPyConnection, answer: Answer, select: str, *, is_ordered: bool = False) -> None:
    """Write the rows of a SELECT as an answer, in the order of KEPT_VIEWS unless they are in it already, all but a few.

    Raises OSError and DuckDB's errors; what is there is whole all the same.
    """
    answer.folder.mkdir(exist_ok=True)
    if answer.folder.is_symlink():
        raise OSError(f"{answer.folder}: a symbolic link")
    temporary = answer.path.with_name(f".{answer.path.name}.{secrets.token_hex(4)}.tmp")
    order = "" if is_ordered else f" ORDER BY {KEPT_VIEWS[answer.view]}"
    try:
        connection.execute(
            f"COPY (SELECT * FROM ({select}){order}) TO {quote_literal(str(temporary))} "
            f"(FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {ROWS_OF_A_GROUP})"
        )
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        description = _description(temporary)
        temporary.replace(answer.path)
    finally:
        temporary.unlink(missing_ok=True)
    covered = {table: [len(files), _names_digest(files)] for table, files in answer.state.files.items()}
    write_durably(answer.record, sealed({**description, "sql": answer.state.sql, "covers": covered}))


def earlier_answer(answer: Answer) -> tuple[Path, dict[str, list[str]]] | None:
    """The newest answer of the same SQL over the first of the same files, and the files that came later by table; or None."""
    found: list[tuple[int, Path, dict[str, list[str]]]] = []
    for path, view in own_files(answer.folder):
        if view != answer.view or path.suffix != ".json" or path.name.startswith(".") or path == answer.record:
            continue
        with contextlib.suppress(FaultyFileError, WarehouseError, OSError, ValueError, TypeError):
            written = _read_record(path)
            later = _later_files(answer.state, written["sql"], written["covers"])
            if later is not None:
                found.append((sum(map(len, later.values())), path, later))
    for _, path, later in sorted(found):
        if _wrong_answer(path) is None:
            return path.with_suffix(".parquet"), later
    return None


def _later_files(state: State, sql: str, covered: Mapping[str, Any]) -> dict[str, list[str]] | None:
    """The files that an answer over `covered` lacks; None if it is one of other SQL, or of files that are not the first."""
    if sql != state.sql or not covered.keys() <= state.files.keys():
        return None
    later = {}
    for table, files in state.files.items():
        count, digest = covered.get(table, (0, _names_digest(())))
        if _names_digest(files[:count]) != digest:
            return None
        later[table] = [*files[count:]]
    return later


def pin(folder: Path, paths: Collection[Path]) -> None:
    """Note that somebody's script names some answers, so that they stay. Raises OSError."""
    text = "\n".join(sorted(path.name for path in paths))
    target = folder / f"{PIN}-{_sha256(text.encode())[:32]}.json"
    write_durably(target, sealed({"names": text.split("\n")}))


def remove_pins(folder: Path, seconds: float) -> None:
    """Let go of what scripts name that are older than so many seconds."""
    for path, view in own_files(folder):
        if view == PIN and time.time() - path.stat().st_mtime > seconds:
            path.unlink(missing_ok=True)


def remove_old(folder: Path, present: Collection[Path]) -> None:
    """Delete the answers of commits long past, and what interrupted runs left, unless a pin names them."""
    pinned: set[str] = set()
    others = []
    for path, view in own_files(folder):
        if view == PIN and not path.name.startswith("."):
            with contextlib.suppress(FaultyFileError):
                pinned |= {*_read_sealed(path).get("names", ())}
        elif path not in present:
            others.append(path)
    for path in others:
        is_pinned = path.with_suffix(".parquet").name in pinned
        if not is_pinned and time.time() - path.stat().st_mtime > SECONDS_OF_AN_OLD_SESSION:
            path.unlink(missing_ok=True)


def damaged_answers(folder: Path) -> Iterator[tuple[Path, str]]:
    """Kept answers that are not as they were written, and records that are not; each with what is wrong."""
    for record, view in own_files(folder):
        if record.suffix != ".json" or view in (PIN, EARLIER_RECORD) or record.name.startswith("."):
            continue
        fault = _wrong_answer(record)
        if fault is not None and fault[1] != MISSING_FILE:  # an answer that is gone is computed
            yield fault


def _wrong_answer(record: Path) -> tuple[Path, str] | None:
    """What is wrong with an answer or its record, and with which of the two; reads all of it."""
    path = record
    try:
        written = _read_record(record)
        path = record.with_suffix(".parquet")
        with open_own_file(path) as (handle, _):
            return (path, OTHER_CONTENT) if file_digest(handle) != written["sha256"] else None
    except FaultyFileError as fault:
        return path, str(fault)


def own_files(folder: Path) -> Iterator[tuple[Path, str]]:
    """Answers, records and pins, of these commits and others, and temporary files of interrupted runs; each with its view."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name) if folder.is_dir() else ():
        if match := OWN_NAME.fullmatch(entry.name):
            yield Path(entry.path), match["view"]


def _read_record(path: Path) -> dict[str, Any]:
    """What a record says of its answer. Raises FaultyFileError for one that is not as it was written."""
    written = _read_sealed(path)
    kinds = {"bytes": int, "footer_bytes": int, "sha256": str, "footer_sha256": str, "sql": str, "covers": dict}
    if any(type(written.get(key)) is not kind for key, kind in kinds.items()):
        raise FaultyFileError("not a record of an answer")
    return written


def _read_sealed(path: Path) -> dict[str, Any]:
    document, is_sealed = unsealed(read_own_file(path, MAX_RECORD_BYTES))
    if not is_sealed:
        raise FaultyFileError("it has no digest")
    return document


def _description(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        sha256 = file_digest(file.fileno())
        size = path.stat().st_size
        tail = read_range(file.fileno(), size - 8, 8)
        footer_bytes = int.from_bytes(tail[:4], "little") + 8
        footer = read_range(file.fileno(), size - footer_bytes, footer_bytes)
    return {"bytes": size, "footer_bytes": footer_bytes, "sha256": sha256, "footer_sha256": _sha256(footer)}


def _names_digest(names: Collection[str]) -> str:
    return _sha256("\n".join(names).encode())[:32]


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
