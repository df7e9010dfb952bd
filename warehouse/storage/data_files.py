"""The Parquet files that commits name, compared with what the commits say of them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from layerhouse.warehouse.storage.commit_file import Commit, DataFile
from layerhouse.warehouse.storage.file_memory import FileMemory
from layerhouse.warehouse.storage.own_files import FaultyFileError, file_status, open_own_file, read_range
from layerhouse.warehouse.storage.schema import TABLES, arrow_schema, schema_digest

MAGIC = b"PAR1"
OTHER_CONTENT = "its content differs from what was committed (SHA-256 mismatch)"
_CHUNK = 1 << 20
_footers_checked = FileMemory[bool](100_000)
_contents_checked = FileMemory[bool](100_000)


def check_data_file(root: Path, commit: Commit, file: DataFile, *, verify: bool) -> None:
    """Raise FaultyFileError where a file is not as its commit says, WarehouseError where it cannot be read at present.

    Always compared are the size and the footer: its hash, or for commits of earlier versions, which have none, the number of
    rows and the schema. With `verify` the SHA-256 of the whole file is compared as well. A file that was compared in this
    process and has the same path, inode, size and time is not read again.
    """
    if file.table not in TABLES:  # of a later version; nothing here reads it
        return
    path = root / file.path
    status = file_status(path)
    _require_size(status, file)
    checked = _contents_checked if verify else _footers_checked
    if checked.recall(path, status):
        return
    with open_own_file(path) as (handle, opened):
        _require_size(opened, file)
        _check_footer(handle, commit, file)
        if verify and file_digest(handle) != file.sha256:
            raise FaultyFileError(OTHER_CONTENT)
        checked.remember(path, opened, True)


def footer_of(data: bytes) -> bytes:
    """The footer of a Parquet file: its metadata, their length and the closing magic number; empty if there is none."""
    if data[-4:] != MAGIC:
        return b""
    size = int.from_bytes(data[-8:-4], "little") + 8
    return data[-size:] if size <= len(data) else b""


def describe_file(handle: int, table: str, path: str, rows: int) -> DataFile:
    """What a commit says of a Parquet file that is open: its size and hashes are taken from the file, a part at a time."""
    size = os.fstat(handle).st_size
    footer_bytes = int.from_bytes(read_range(handle, size - 8, 4), "little") + 8
    footer = read_range(handle, size - footer_bytes, footer_bytes)
    return DataFile(table, path, rows, size, file_digest(handle), footer_bytes, hashlib.sha256(footer).hexdigest())


def file_digest(handle: int) -> str:
    """The SHA-256 of all bytes of an open file."""
    digest = hashlib.sha256()
    os.lseek(handle, 0, os.SEEK_SET)
    while part := os.read(handle, _CHUNK):
        digest.update(part)
    return digest.hexdigest()


def _require_size(status: os.stat_result, file: DataFile) -> None:
    if status.st_size != file.size:
        raise FaultyFileError(f"expected {file.size} bytes, found {status.st_size}")


def _check_footer(handle: int, commit: Commit, file: DataFile) -> None:
    if file.footer_bytes is None:
        _check_parsed_footer(handle, commit, file)
        return
    if file.footer_bytes > file.size:
        raise FaultyFileError(f"a footer of {file.footer_bytes} bytes in {file.size} bytes")
    footer = read_range(handle, file.size - file.footer_bytes, file.footer_bytes)
    if hashlib.sha256(footer).hexdigest() != file.footer_sha256:
        raise FaultyFileError("its footer differs from what was committed (SHA-256 mismatch)")


def _check_parsed_footer(handle: int, commit: Commit, file: DataFile) -> None:
    """The rows and columns that a footer itself declares, for commits that have no hash of it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with os.fdopen(os.dup(handle), "rb") as opened:
            metadata = pq.read_metadata(opened)
            schema = metadata.schema.to_arrow_schema()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise FaultyFileError(f"not readable as Parquet: {str(error).splitlines()[0]}") from None
    if metadata.num_rows != file.rows:
        raise FaultyFileError(f"expected {file.rows} rows, found {metadata.num_rows}")
    expected = arrow_schema(file.table)
    if commit.schema == schema_digest() and not schema.equals(expected):
        raise FaultyFileError("its columns differ from those of the table")
    for field in schema:
        if field.name in expected.names and field.type != expected.field(field.name).type:
            raise FaultyFileError(f"its column {field.name} has another type than that of the table")
