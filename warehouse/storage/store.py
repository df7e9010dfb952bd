"""Rows on disk: immutable Parquet files, made visible by a commit, which is one JSON file renamed in last.

A file that no commit names is not there, so a crash shows nothing half done. Files are named by the commit's id, in hex:
no text of a user is ever part of a path.
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
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerhouse.errors import MissingWarehouseError, WarehouseError
from layerhouse.version import __version__
from layerhouse.warehouse.storage.rows import Rows, arrow_table
from layerhouse.warehouse.storage.schema import TABLES, schema_digest

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 1
MARKER = "layerhouse.json"
COMMITS = "commits"
LOCK = ".lock"
COMMIT_NAME = re.compile(r"[0-9a-f]{32}\.json")
OWN_FILE = re.compile(r"\.?[0-9a-f]{32}\.(parquet|json)(\.[0-9a-f]{8}\.tmp)?")

Row = dict[str, Any]


@dataclass(frozen=True)
class DataFile:
    """One Parquet file of a commit. `path` is relative to the warehouse; `size` in bytes."""

    table: str
    path: str
    rows: int
    size: int
    sha256: str


@dataclass(frozen=True)
class Commit:
    """One commit as its JSON says. `replaces` names the commits whose rows this one holds again."""

    commit_id: str
    made_at: datetime
    tool_version: str
    operation: str
    schema: str
    replaces: tuple[str, ...]
    files: tuple[DataFile, ...]


@dataclass(frozen=True)
class Damage:
    """Something committed that is not as its commit says; readers leave the whole commit out. `path` is relative."""

    commit_id: str
    path: str
    what: str


@dataclass(frozen=True)
class Snapshot:
    """The commits that were there when the warehouse was listed."""

    root: Path
    commits: tuple[Commit, ...]
    damages: tuple[Damage, ...]

    def files(self, table: str) -> list[str]:
        """Absolute paths of a table's files, oldest first."""
        return [str(self.root / file.path) for commit in self.commits for file in commit.files if file.table == table]

    def rows(self, table: str) -> int:
        return sum(file.rows for commit in self.commits for file in commit.files if file.table == table)

    def empty_files(self) -> dict[str, str]:
        """For every table its newest file without rows; raises WarehouseError where a table has none."""
        files = {
            file.table: str(self.root / file.path)
            for commit in self.commits
            if commit.operation == "create"
            for file in commit.files
        }
        if missing := [name for name in TABLES if name not in files]:
            cause = "".join(f"{damage.path}: {damage.what}; " for damage in self.damages[:1])
            raise WarehouseError(
                f"{self.root}: {cause}there is no file for the table {missing[0]}; mend it with: "
                f"layerhouse check --repair --warehouse {self.root}"
            )
        return files

    def has_present_schema(self) -> bool:
        """Whether a commit has a file with this version's columns for every table."""
        return any(commit.operation == "create" and commit.schema == schema_digest() for commit in self.commits)

    def absent_columns(self, table: str) -> frozenset[str]:
        """Columns of this version that no file of a table has, since an earlier version wrote them all."""
        if self.has_present_schema():
            return frozenset()
        import pyarrow.parquet as pq

        created = [
            file for commit in self.commits if commit.operation == "create" for file in commit.files if file.table == table
        ]
        written = {name for file in created for name in pq.read_schema(self.root / file.path).names}
        return frozenset(TABLES[table].column_names) - written


def open_store(root: Path) -> Path:
    """The absolute path of an existing warehouse; raises WarehouseError where there is none that this version reads."""
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
    """Open a warehouse for writing; make it where there is none. A folder with other things in it is refused."""
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
    """Commit a file without rows for every table, unless one with the present columns is there already."""
    if not list_commits(root).has_present_schema():
        for name in TABLES:
            (root / name).mkdir(exist_ok=True)
        write_commit(root, {name: [] for name in TABLES}, "create")


def write_commit(root: Path, rows: Mapping[str, Rows | pa.Table], operation: str) -> str:
    """Write rows of several tables, each as dictionaries, lists by column or an Arrow table, as one commit; return its id.

    commit_id and ingested_at are filled in here. Nothing is visible before the last rename; raises WarehouseError where the
    disk refuses (full, read-only), with everything that was committed before still there.
    """
    with _locked(root, exclusive=False):
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
            _write_durably(root / COMMITS / f"{commit_id}.json", _commit_json(commit))
        except OSError as error:
            raise WarehouseError(f"{root}: cannot write: {error.strerror or error}; all earlier commits are in place") from None
    return commit_id


def list_commits(root: Path) -> Snapshot:
    """Read `commits/`. Commits that another replaces are left out, and so are damaged ones, each with a Damage."""
    commits: list[Commit] = []
    damages: list[Damage] = []
    try:
        names = sorted(entry.name for entry in os.scandir(root / COMMITS) if COMMIT_NAME.fullmatch(entry.name))
    except OSError as error:
        raise WarehouseError(f"{root / COMMITS}: cannot be listed: {error.strerror or error}") from None
    for name in names:
        commit_id = name.removesuffix(".json")
        try:
            commit = _parse_commit((root / COMMITS / name).read_bytes())
            if commit.commit_id != commit_id:
                raise ValueError(f"a copy of {commit.commit_id}")
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError) as error:
            damages.append(Damage(commit_id, f"{COMMITS}/{name}", f"not readable as a commit: {error}"))
            continue
        wrong = [damage for file in commit.files if (damage := _size_damage(root, commit_id, file))]
        damages.extend(wrong)
        if not wrong:
            commits.append(commit)
    replaced = {commit_id for commit in commits for commit_id in commit.replaces}
    return Snapshot(
        root,
        tuple(commit for commit in commits if commit.commit_id not in replaced),
        tuple(damage for damage in damages if damage.commit_id not in replaced),
    )


def _absolute(root: Path) -> Path:
    path = os.path.abspath(root)
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        raise WarehouseError(f"{os.fsencode(path)!r}: not UTF-8, and DuckDB opens no such path; name another folder") from None
    return Path(path)


def _size_damage(root: Path, commit_id: str, file: DataFile) -> Damage | None:
    try:
        size = (root / file.path).stat().st_size
    except OSError as error:
        return Damage(commit_id, file.path, error.strerror or str(error))
    if size != file.size:
        return Damage(commit_id, file.path, f"expected {file.size} bytes, found {size}")
    return None


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
    """What no creation that was cut off leaves; a study may well have a folder `results` of its own."""
    for entry in os.scandir(root):
        if entry.name in (COMMITS, *TABLES) and entry.is_dir():
            yield from (f"{entry.name}/{name}" for name in os.listdir(entry.path) if not OWN_FILE.fullmatch(name))
        elif entry.name != LOCK and not entry.name.startswith(f".{MARKER}"):
            yield entry.name


def _new_commit_id(root: Path) -> str:
    """32 hex digits that sort after every commit there is, whatever the clock says."""
    now = time.time_ns()
    with contextlib.suppress(ValueError):
        newest = max(entry.name for entry in os.scandir(root / COMMITS) if COMMIT_NAME.fullmatch(entry.name))
        now = max(now, int(newest[:16], 16) + 1)
    return f"{now:016x}{secrets.token_hex(8)}"


@contextlib.contextmanager
def writers_locked_out(root: Path) -> Iterator[None]:
    """Hold off every writer, to tell files of a commit under way from files that a run left behind."""
    with _locked(root, exclusive=True):
        yield


def _write_parquet(table: Any, buffer: io.BytesIO) -> None:
    import pyarrow.parquet as pq

    pq.write_table(table, buffer, compression="zstd")


def _write_durably(path: Path, data: bytes) -> None:
    """Write to a temporary name, flush to the disk, rename: the name shows all of the bytes or none."""
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
def _locked(root: Path, *, exclusive: bool) -> Iterator[None]:
    """Writers share the lock for the moment of a commit; repair holds it alone. Readers never take it."""
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


def _commit_json(commit: Commit) -> bytes:
    return json.dumps(
        {
            "format": FORMAT,
            "commit": commit.commit_id,
            "made_at": commit.made_at.isoformat(),
            "tool_version": commit.tool_version,
            "operation": commit.operation,
            "schema": commit.schema,
            "replaces": list(commit.replaces),
            "files": [
                {"table": file.table, "path": file.path, "rows": file.rows, "bytes": file.size, "sha256": file.sha256}
                for file in commit.files
            ],
        },
        indent=1,
    ).encode()


def _parse_commit(data: bytes) -> Commit:
    document = json.loads(data)
    files = tuple(
        DataFile(file["table"], file["path"], file["rows"], file["bytes"], file["sha256"]) for file in document["files"]
    )
    for file in files:
        if not re.fullmatch(r"[a-z_]+/[0-9a-f]{32}\.parquet", file.path):
            raise ValueError(f"file path {file.path!r}")
    return Commit(
        document["commit"],
        datetime.fromisoformat(document["made_at"]),
        document["tool_version"],
        document["operation"],
        document["schema"],
        tuple(document["replaces"]),
        files,
    )
