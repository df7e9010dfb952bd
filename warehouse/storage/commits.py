"""Commits: what each wrote, as its JSON in `commits/` says, and the list of those that are whole."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from layerhouse.errors import WarehouseError
from layerhouse.warehouse.storage.schema import TABLES, schema_digest

FORMAT = 1
COMMITS = "commits"
CREATE = "create"
"""The operation of a commit of one file without rows for every table."""
COMMIT_NAME = re.compile(r"[0-9a-f]{32}\.json")
_DATA_PATH = re.compile(r"[a-z_]+/[0-9a-f]{32}\.parquet")


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
    """One commit. `replaces` names the commits whose rows this one contains again."""

    commit_id: str
    made_at: datetime
    tool_version: str
    operation: str
    schema: str
    replaces: tuple[str, ...]
    files: tuple[DataFile, ...]


@dataclass(frozen=True)
class Damage:
    """A file that is not as its commit says; readers leave the whole commit out. `path` is relative to the warehouse."""

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
        """The newest file without rows of every table. Raises WarehouseError if a table has none."""
        files = {file.table: str(self.root / file.path) for file in self._created_files()}
        if missing := [name for name in TABLES if name not in files]:
            cause = "".join(f"{damage.path}: {damage.what}; " for damage in self.damages[:1])
            raise WarehouseError(
                f"{self.root}: {cause}there is no file for the table {missing[0]}; mend it with: "
                f"layerhouse check --repair --warehouse {self.root}"
            )
        return files

    def has_present_schema(self) -> bool:
        """True if some commit has a file with this version's columns for every table."""
        return any(commit.operation == CREATE and commit.schema == schema_digest() for commit in self.commits)

    def absent_columns(self, table: str) -> frozenset[str]:
        """Columns of this version that no file of a table has, as all were written by earlier versions."""
        if self.has_present_schema():
            return frozenset()
        import pyarrow.parquet as pq

        created = [file for file in self._created_files() if file.table == table]
        written = {name for file in created for name in pq.read_schema(self.root / file.path).names}
        return frozenset(TABLES[table].column_names) - written

    def _created_files(self) -> list[DataFile]:
        return [file for commit in self.commits if commit.operation == CREATE for file in commit.files]


def list_commits(root: Path) -> Snapshot:
    """Read `commits/`. Commits that another one replaces are left out, and so are damaged ones, each with a Damage."""
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


def commit_json(commit: Commit) -> bytes:
    """The commit as its JSON file."""
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
        if not _DATA_PATH.fullmatch(file.path):
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


def _size_damage(root: Path, commit_id: str, file: DataFile) -> Damage | None:
    try:
        size = (root / file.path).stat().st_size
    except OSError as error:
        return Damage(commit_id, file.path, error.strerror or str(error))
    if size != file.size:
        return Damage(commit_id, file.path, f"expected {file.size} bytes, found {size}")
    return None
