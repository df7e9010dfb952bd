"""A commit as its JSON file in `commits/`: what it wrote, which commits it followed, and a digest of the file itself.

Nothing in such a file is taken on trust: members, types, names and paths are checked, and every file that it names is called
after the commit and lies in the folder of its table. Members and tables that a later version may have added are passed over, as
the digest shows that the file is as it was written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from layerhouse.warehouse.storage.own_files import FaultyFileError
from layerhouse.warehouse.storage.schema import TABLES
from layerhouse.warehouse.storage.sealing import sealed, unsealed

FORMAT = 1
COMMIT_ID = re.compile(r"[0-9a-f]{32}")
MAX_COMMIT_BYTES = 1 << 24
"""Far more than any commit takes; it bounds what a warehouse of somebody else can make a reader load."""

_HASH = re.compile(r"[0-9a-f]{64}")
_SCHEMA = re.compile(r"[0-9a-f]{16}")
_EARLIER_KEYS = ("format", "commit", "made_at", "tool_version", "operation", "schema", "replaces", "files")
_KEYS = (*_EARLIER_KEYS[:-1], "parents", "set_aside", "files")
_TABLE = re.compile(r"[a-z_]{1,64}")
_EARLIER_FILE_KEYS = ("table", "path", "rows", "bytes", "sha256")
_FILE_KEYS = (*_EARLIER_FILE_KEYS, "footer_bytes", "footer_sha256")


@dataclass(frozen=True)
class DataFile:
    """One Parquet file of a commit. `path` is relative to the warehouse; sizes in bytes.

    The footer is Parquet's own: schema, counts and statistics. Its hash, which commits of earlier versions lack, is checked
    whenever the warehouse is opened, that of the whole file only on demand.
    """

    table: str
    path: str
    rows: int
    size: int
    sha256: str
    footer_bytes: int | None = None
    footer_sha256: str | None = None


@dataclass(frozen=True)
class Commit:
    """One commit.

    `replaces` names the commits whose rows this one contains again, all of them older; also those that these had replaced, and
    whose files may be gone. `parents` are the commits that it saw and that no other
    commit had followed: through them it names all that it saw. `set_aside` names commits that are known to be absent.
    """

    commit_id: str
    made_at: datetime
    tool_version: str
    operation: str
    schema: str
    replaces: tuple[str, ...]
    files: tuple[DataFile, ...]
    parents: tuple[str, ...] = ()
    set_aside: tuple[str, ...] = ()


def data_path(table: str, commit_id: str) -> str:
    """Where a commit has its rows of a table, relative to the warehouse."""
    return f"{table}/{commit_id}.parquet"


def commit_json(commit: Commit) -> bytes:
    """The commit as its JSON file."""
    return sealed(
        {
            "format": FORMAT,
            "commit": commit.commit_id,
            "made_at": commit.made_at.isoformat(),
            "tool_version": commit.tool_version,
            "operation": commit.operation,
            "schema": commit.schema,
            "replaces": list(commit.replaces),
            "parents": list(commit.parents),
            "set_aside": list(commit.set_aside),
            "files": [
                dict(
                    zip(
                        _FILE_KEYS,
                        (file.table, file.path, file.rows, file.size, file.sha256, file.footer_bytes, file.footer_sha256),
                        strict=True,
                    )
                )
                for file in commit.files
            ],
        }
    )


def parse_commit(raw: bytes) -> Commit:
    """The commit that a JSON file holds. Raises FaultyFileError for anything that no version of layerhouse has written."""
    document, is_sealed = unsealed(raw)
    _require_members(document, _KEYS if is_sealed else _EARLIER_KEYS, "the commit", is_sealed=is_sealed)
    if not is_sealed and document["replaces"]:
        raise FaultyFileError("it replaces commits, and it has no digest")
    if type(document["format"]) is not int or document["format"] != FORMAT:
        raise FaultyFileError(f"format {document['format']!r:.40}; this version of layerhouse reads format {FORMAT}")
    commit_id = _text(document, "commit", COMMIT_ID)
    files = document["files"]
    if not isinstance(files, list):
        raise FaultyFileError("files: not a list")
    data_files = tuple(_data_file(file, commit_id, is_sealed=is_sealed) for file in files)
    if len({file.table for file in data_files}) < len(data_files):
        raise FaultyFileError("files: a table twice")
    replaces = commit_ids(document, "replaces")
    if any(replaced >= commit_id for replaced in replaces):  # else two could replace each other, and neither be there
        raise FaultyFileError("it replaces a commit that is not older")
    return Commit(
        commit_id,
        _moment(document),
        _text(document, "tool_version"),
        _text(document, "operation"),
        _text(document, "schema", _SCHEMA),
        replaces,
        data_files,
        commit_ids(document, "parents"),
        commit_ids(document, "set_aside"),
    )


def commit_ids(document: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """A list of ids of commits. Raises FaultyFileError if it is none."""
    values = document.get(key, [])
    if not isinstance(values, list) or not all(isinstance(value, str) and COMMIT_ID.fullmatch(value) for value in values):
        raise FaultyFileError(f"{key}: not a list of commits")
    return tuple(values)


def _data_file(entry: Any, commit_id: str, *, is_sealed: bool) -> DataFile:
    if not isinstance(entry, dict):
        raise FaultyFileError("files: an entry that is not an object")
    _require_members(entry, _FILE_KEYS if is_sealed else _EARLIER_FILE_KEYS, "an entry of files", is_sealed=is_sealed)
    table = _text(entry, "table", _TABLE)
    if table not in TABLES and not is_sealed:
        raise FaultyFileError(f"files: a table {table!r:.40}, which there is not")
    if entry["path"] != data_path(table, commit_id):
        raise FaultyFileError(f"files: path {entry['path']!r:.80} for the table {table}")
    is_footed = is_sealed and entry["footer_bytes"] is not None
    return DataFile(
        table,
        entry["path"],
        _count(entry, "rows"),
        _count(entry, "bytes"),
        _text(entry, "sha256", _HASH),
        _count(entry, "footer_bytes") if is_footed else None,
        _text(entry, "footer_sha256", _HASH) if is_footed else None,
    )


def _require_members(entry: Mapping[str, Any], keys: tuple[str, ...], what: str, *, is_sealed: bool) -> None:
    missing = [key for key in keys if key not in entry]
    strange = [] if is_sealed else [key for key in entry if key not in keys]
    if missing or strange:
        raise FaultyFileError(f"{what} has no {missing[0]!r}" if missing else f"{what} has a member {strange[0]!r:.40}")


def _text(entry: Mapping[str, Any], key: str, pattern: re.Pattern[str] | None = None) -> str:
    value = entry[key]
    if not isinstance(value, str) or (pattern is not None and not pattern.fullmatch(value)):
        raise FaultyFileError(f"{key}: {value!r:.80}")
    return value


def _count(entry: Mapping[str, Any], key: str) -> int:
    value = entry[key]
    if type(value) is not int or value < 0:
        raise FaultyFileError(f"{key}: {value!r:.40}, not a count")
    return value


def _moment(entry: Mapping[str, Any]) -> datetime:
    try:
        moment = datetime.fromisoformat(_text(entry, "made_at"))
    except ValueError:
        raise FaultyFileError(f"made_at: {entry['made_at']!r:.40}") from None
    if moment.tzinfo is None:
        raise FaultyFileError(f"made_at: {entry['made_at']!r:.40}, without a time zone")
    return moment
