"""Rows on disk: immutable Parquet files, which a commit makes visible: one JSON file, renamed into place last.

Readers ignore a file that no commit names, so a crash never shows part of a write. Files are named by the commit's id in hex:
no text of a user is part of a path.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from layerhouse.errors import MissingWarehouseError, WarehouseError
from layerhouse.version import __version__
from layerhouse.warehouse.storage.commits import (
    COMMIT_NAME,
    COMMITS,
    CREATE,
    FORMAT,
    Commit,
    DataFile,
    commit_json,
    list_commits,
)
from layerhouse.warehouse.storage.rows import Rows, arrow_table
from layerhouse.warehouse.storage.schema import TABLES, schema_digest

if TYPE_CHECKING:
    import pyarrow as pa

MARKER = "layerhouse.json"
LOCK = ".lock"
OWN_FILE = re.compile(r"\.?[0-9a-f]{32}\.(parquet|json)(\.[0-9a-f]{8}\.tmp)?")
"""Names of the files that layerhouse writes into the folders of a warehouse, temporary ones included."""


def open_store(root: Path) -> Path:
    """The absolute path of an existing warehouse. Raises WarehouseError if there is none that this version reads."""
    root = _absolute(root)
    try:
        marker = json.loads((root / MARKER).read_text("utf-8"))
        version = marker["format"]
    except (FileNotFoundError, NotADirectoryError):
        raise MissingWarehouseError(str(root)) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WarehouseError(f"{root / MARKER}: cannot be read as the mark of a warehouse: {error}") from None
    if version != FORMAT:
        raise WarehouseError(f"{root}: warehouse format {version}; this version of layerhouse reads format {FORMAT}")
    return root


def create_store(root: Path) -> Path:
    """Open a warehouse for writing, and make it if there is none. A folder with other files in it is refused."""
    root = _absolute(root)
    try:
        if not (root / MARKER).exists():
            _refuse_foreign_folder(root)
            for name in (COMMITS, *TABLES):
                (root / name).mkdir(parents=True, exist_ok=True)
            add_present_schema(root)
            _write_durably(root / MARKER, json.dumps({"format": FORMAT, "made_by": f"layerhouse {__version__}"}).encode())
        root = open_store(root)
        add_present_schema(root)
    except OSError as error:
        raise WarehouseError(f"{root}: cannot make a warehouse here: {error.strerror or error}") from None
    return root


def add_present_schema(root: Path) -> None:
    """Commit a file without rows for every table, unless a commit has such files with the present columns already."""
    if not list_commits(root).has_present_schema():
        for name in TABLES:
            (root / name).mkdir(exist_ok=True)
        write_commit(root, {name: [] for name in TABLES}, CREATE)


def write_commit(root: Path, rows: Mapping[str, Rows | pa.Table], operation: str) -> str:
    """Write rows of several tables as one commit and return its id. commit_id and ingested_at are filled in here.

    Nothing is visible before the last rename. Raises WarehouseError if the disk refuses (full, read-only); every earlier commit
    stays as it is.
    """
    with _store_lock(root, exclusive=False):
        try:
            commit_id, made_at = _new_commit_id(root), datetime.now(UTC)
            files = []
            for table, table_rows in rows.items():
                buffer = io.BytesIO()
                written = arrow_table(table, table_rows, commit_id, made_at)
                _write_parquet(written, buffer)
                data = buffer.getvalue()
                path = f"{table}/{commit_id}.parquet"
                _write_durably(root / path, data)
                files.append(DataFile(table, path, written.num_rows, len(data), hashlib.sha256(data).hexdigest()))
            commit = Commit(commit_id, made_at, __version__, operation, schema_digest(), (), tuple(files))
            _write_durably(root / COMMITS / f"{commit_id}.json", commit_json(commit))
        except OSError as error:
            raise WarehouseError(f"{root}: cannot write: {error.strerror or error}; all earlier commits are in place") from None
    return commit_id


@contextlib.contextmanager
def writers_locked_out(root: Path) -> Iterator[None]:
    """Hold off every writer, so that a file which no commit names is left over and not part of an unfinished commit."""
    with _store_lock(root, exclusive=True):
        yield


def _absolute(root: Path) -> Path:
    path = os.path.abspath(root)
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        raise WarehouseError(f"{os.fsencode(path)!r}: not UTF-8, and DuckDB opens no such path; name another folder") from None
    return Path(path)


def _refuse_foreign_folder(root: Path) -> None:
    if root.is_dir():
        foreign = sorted(_foreign_names(root))
        if foreign:
            raise WarehouseError(
                f"{root}: not a warehouse, and not empty (there is {foreign[0]!r}); name a new folder with --warehouse"
            )
    elif root.is_file():
        raise WarehouseError(f"{root}: a file; a warehouse is a folder")


def _foreign_names(root: Path) -> Iterator[str]:
    """Names that an interrupted creation cannot have left. A study may have a folder `results` of its own."""
    for entry in os.scandir(root):
        if entry.name in (COMMITS, *TABLES) and entry.is_dir():
            yield from (f"{entry.name}/{name}" for name in os.listdir(entry.path) if not OWN_FILE.fullmatch(name))
        elif entry.name != LOCK and not entry.name.startswith(f".{MARKER}"):
            yield entry.name


def _new_commit_id(root: Path) -> str:
    """32 hex digits that sort after every existing commit, even if the clock was set back."""
    now = time.time_ns()
    with contextlib.suppress(ValueError):
        newest = max(entry.name for entry in os.scandir(root / COMMITS) if COMMIT_NAME.fullmatch(entry.name))
        now = max(now, int(newest[:16], 16) + 1)
    return f"{now:016x}{secrets.token_hex(8)}"


def _write_parquet(table: pa.Table, buffer: io.BytesIO) -> None:
    import pyarrow.parquet as pq

    pq.write_table(table, buffer, compression="zstd")


def _write_durably(path: Path, data: bytes) -> None:
    """Write to a temporary file, flush it to the disk and rename it: the path has all of the bytes or does not exist."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if hasattr(os, "O_DIRECTORY"):
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextlib.contextmanager
def _store_lock(root: Path, *, exclusive: bool) -> Iterator[None]:
    """The lock that writers share while they commit and that repair holds alone. Readers never take it."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    try:
        lock = os.open(root / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise WarehouseError(f"{root}: cannot write: {error.strerror or error}") from None
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        yield
    finally:
        os.close(lock)
