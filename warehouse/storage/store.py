"""Rows on disk: immutable Parquet files, which a commit makes visible: one JSON file, renamed into place last.

Readers ignore a file that no commit names, so a crash never shows part of a write. Files are named by the commit's id in hex:
no text of a user is part of a path.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import re
import secrets
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from layerhouse.errors import DamagedWarehouseError, MissingWarehouseError, WarehouseError
from layerhouse.version import __version__
from layerhouse.warehouse.storage.commit_file import FORMAT, Commit, DataFile, commit_json, data_path
from layerhouse.warehouse.storage.commits import CREATE, commit_files, list_commits, replaced_commits
from layerhouse.warehouse.storage.data_files import footer_of
from layerhouse.warehouse.storage.heads import read_heads, write_head
from layerhouse.warehouse.storage.own_files import (
    COMMITS,
    FOLDERS,
    MISSING_FILE,
    FaultyFileError,
    check_folders,
    read_own_file,
    write_durably,
)
from layerhouse.warehouse.storage.rows import Rows, arrow_table
from layerhouse.warehouse.storage.schema import TABLES, schema_digest
from layerhouse.warehouse.storage.sealing import sealed, unsealed

if TYPE_CHECKING:
    import pyarrow as pa

MARKER = "layerhouse.json"
LOCK = ".lock"
REPAIR = "repair"
"""The operation of a commit that names commits set aside."""
MAX_MARKER_BYTES = 1 << 16
LAST_TIME_NS = 1 << 63
EARLIER_MARKER = re.compile(rb'\{"format": 1, "made_by": "layerhouse [\w.+!-]+"\}')
"""The file that marks a warehouse, as earlier versions wrote it: without a digest."""
OWN_FILE = re.compile(r"\.?[0-9a-f]{32}\.(parquet|json)(\.[0-9a-f]{8}\.tmp)?")
"""Names of the files that layerhouse writes into the folders of a warehouse, temporary ones included."""


def open_store(root: Path) -> Path:
    """The absolute path of an existing warehouse. Raises WarehouseError if there is none that this version reads."""
    root = absolute_root(root)
    if what := marker_fault(root):
        if what == MISSING_FILE and not _has_rows(root):
            raise MissingWarehouseError(str(root))
        raise DamagedWarehouseError(str(root), [f"{MARKER}: {what}"])
    return root


def _has_rows(root: Path) -> bool:
    """Whether a folder that nothing marks as a warehouse is more than the beginning of one, which may be under way."""
    return (root / COMMITS).is_dir() and any(commit.operation != CREATE for commit in list_commits(root).commits)


def marker_fault(root: Path) -> str | None:
    """What is wrong with the file that marks a folder as a warehouse. Raises WarehouseError for another format."""
    try:
        raw = read_own_file(root / MARKER, MAX_MARKER_BYTES)
        document, is_sealed = unsealed(raw)
        version = document.get("format")
        if type(version) is not int or (version == FORMAT and not is_sealed and not EARLIER_MARKER.fullmatch(raw)):
            raise FaultyFileError("it does not mark a warehouse")
    except FaultyFileError as fault:
        return str(fault)
    if version != FORMAT:
        raise WarehouseError(f"{root}: warehouse format {version}; this version of layerhouse reads format {FORMAT}")
    return None


def write_marker(root: Path) -> None:
    """Mark a folder as a warehouse."""
    write_durably(root / MARKER, sealed({"format": FORMAT, "made_by": f"layerhouse {__version__}"}))


def create_store(root: Path) -> Path:
    """Open a warehouse for writing, and make it if there is none. A folder with other files in it is refused.

    Raises WarehouseError, of which DamagedWarehouseError for a warehouse of which not everything is whole.
    """
    root = absolute_root(root)
    try:
        if not (root / MARKER).exists():
            _refuse_foreign_folder(root)
            check_folders(root)
            for name in (COMMITS, *TABLES):
                (root / name).mkdir(parents=True, exist_ok=True)
            add_present_schema(root)
            write_marker(root)
        root = open_store(root)
        add_present_schema(root)
    except OSError as error:
        raise WarehouseError(f"{root}: cannot make a warehouse here: {error.strerror or error}") from None
    return root


def add_present_schema(root: Path) -> None:
    """Commit a file without rows for every table, unless a commit has such files with the present columns already."""
    if not list_commits(root).require_whole().has_present_schema():
        write_commit(root, {name: [] for name in TABLES}, CREATE)


def write_commit(root: Path, rows: Mapping[str, Rows | pa.Table], operation: str) -> str:
    """Write rows of several tables as one commit and return its id. commit_id and ingested_at are filled in here.

    Nothing is visible before the last rename. Raises WarehouseError if the disk refuses (full, read-only); every earlier commit
    stays as it is.
    """
    with _store_lock(root, exclusive=False):
        return _add_commit(root, rows, operation)


def write_repair(root: Path, set_aside: Collection[str]) -> str:
    """Commit that some commits are absent on purpose. The caller holds off writers; raises WarehouseError."""
    return _add_commit(root, {}, REPAIR, set_aside)


def _add_commit(root: Path, rows: Mapping[str, Rows | pa.Table], operation: str, set_aside: Collection[str] = ()) -> str:
    try:
        present, heads = commit_files(root), read_heads(root)
        commit_id, made_at = _new_commit_id(present), datetime.now(UTC)
        files = [_write_rows(root, table, table_rows, commit_id, made_at) for table, table_rows in rows.items()]
        seen = heads.named
        unseen = set(present) - seen
        replaced = replaced_commits(root) if unseen else frozenset[str]()  # head records do not name these
        parents = sorted((({head.commit_id for head in heads.records} & set(present)) | unseen) - replaced)
        commit = Commit(
            commit_id,
            made_at,
            __version__,
            operation,
            schema_digest(),
            (),
            tuple(files),
            tuple(parents),
            tuple(sorted(set_aside)),
        )
        write_durably(root / COMMITS / f"{commit_id}.json", commit_json(commit))
    except OSError as error:
        raise WarehouseError(f"{root}: cannot write: {error.strerror or error}; all earlier commits are in place") from None
    followed = {*parents, *set_aside} | {head.commit_id for head in heads.records if head.commit_id in replaced}
    write_head(root, commit_id, seen.union(parents) - set(set_aside) - replaced, followed)
    return commit_id


def _write_rows(root: Path, table: str, rows: Rows | pa.Table, commit_id: str, made_at: datetime) -> DataFile:
    buffer = io.BytesIO()
    written = arrow_table(table, rows, commit_id, made_at)
    _write_parquet(written, buffer)
    data = buffer.getvalue()
    footer, path = footer_of(data), root / data_path(table, commit_id)
    path.parent.mkdir(exist_ok=True)
    write_durably(path, data)
    return DataFile(
        table,
        data_path(table, commit_id),
        written.num_rows,
        len(data),
        hashlib.sha256(data).hexdigest(),
        len(footer),
        hashlib.sha256(footer).hexdigest(),
    )


@contextlib.contextmanager
def writers_locked_out(root: Path) -> Iterator[None]:
    """Hold off every writer, so that a file which no commit names is left over and not part of an unfinished commit."""
    with _store_lock(root, exclusive=True):
        yield


def absolute_root(root: Path) -> Path:
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
        if entry.name in FOLDERS and entry.is_dir(follow_symlinks=False):
            yield from (f"{entry.name}/{name}" for name in os.listdir(entry.path) if not OWN_FILE.fullmatch(name))
        elif entry.name != LOCK and not entry.name.startswith(f".{MARKER}"):
            yield entry.name


def _new_commit_id(present: Sequence[str]) -> str:
    """32 hex digits that sort after every existing commit, even if the clock was set back.

    A name that no clock gives, of a file that somebody else put there, is not followed: there would be none after it.
    """
    newest = max((moment for commit_id in present if (moment := int(commit_id[:16], 16)) < LAST_TIME_NS), default=0)
    now = max(time.time_ns(), newest + 1)
    return f"{now:016x}{secrets.token_hex(8)}"


def _write_parquet(table: pa.Table, buffer: io.BytesIO) -> None:
    import pyarrow.parquet as pq

    pq.write_table(table, buffer, compression="zstd")


@contextlib.contextmanager
def _store_lock(root: Path, *, exclusive: bool) -> Iterator[None]:
    """The lock that writers share while they commit and that repair holds alone. Readers never take it."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    try:
        lock = os.open(root / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise WarehouseError(f"{root / LOCK}: a symbolic link, which no command opens; remove it") from None
        raise WarehouseError(f"{root}: cannot write: {error.strerror or error}") from None
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        yield
    finally:
        os.close(lock)
