"""The commits of a warehouse: which are there, which are damaged, and which are lost."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from layerhouse.errors import DamagedWarehouseError, WarehouseError
from layerhouse.warehouse.storage.commit_file import COMMIT_ID, MAX_COMMIT_BYTES, Commit, DataFile, parse_commit
from layerhouse.warehouse.storage.data_files import check_data_file
from layerhouse.warehouse.storage.file_memory import FileMemory
from layerhouse.warehouse.storage.heads import Heads, read_heads
from layerhouse.warehouse.storage.own_files import (
    COMMITS,
    HEADS,
    FaultyFileError,
    check_folders,
    file_status,
    read_own_file,
)
from layerhouse.warehouse.storage.schema import TABLES, arrow_schema, schema_digest

CREATE = "create"
"""The operation of a commit of one file without rows for every table."""
MISSING = "missing, though other commits name it"
_LISTINGS = 3
"""How often the commits are listed before what is missing is lost: others may add, pack and prune commits meanwhile."""
_commits_read = FileMemory[Commit](16_384)


@dataclass(frozen=True)
class Damage:
    """A file that is not as it was committed. `path` is relative to the warehouse."""

    commit_id: str
    path: str
    what: str


@dataclass(frozen=True)
class Snapshot:
    """The commits that were there when the warehouse was listed: the whole ones, and why others are left out."""

    root: Path
    commits: tuple[Commit, ...]
    damages: tuple[Damage, ...]
    replaced: frozenset[str] = frozenset()
    """Commits whose rows a later one contains again. Their files may be there, for sessions that were opened before."""

    def require_whole(self) -> Snapshot:
        """The snapshot itself. Raises DamagedWarehouseError, which names the damaged files, if anything is left out."""
        if self.damages:
            raise DamagedWarehouseError(str(self.root), [f"{damage.path}: {damage.what}" for damage in self.damages])
        return self

    def files(self, table: str) -> list[str]:
        """Absolute paths of a table's files, oldest first."""
        return [f"{self.root}/{file.path}" for commit in self.commits for file in commit.files if file.table == table]

    def files_to_read(self) -> dict[str, list[str]]:
        """By table, the files with rows, the largest first, as DuckDB estimates the others from the first; all if none has any.

        Of tables whose files differ in their columns all are read, as some column may be in a file without rows alone.
        """
        files: dict[str, list[DataFile]] = {table: [] for table in TABLES.keys() - self.tables_of_other_columns()}
        for file in (file for commit in self.commits for file in commit.files):
            if file.rows and file.table in files:
                files[file.table].append(file)
        ordered = {table: sorted(own, key=lambda file: -file.rows) for table, own in files.items()}
        paths = {table: [f"{self.root}/{file.path}" for file in own] for table, own in ordered.items()}
        return {table: paths.get(table) or self.files(table) for table in TABLES}

    def rows(self, table: str) -> int:
        return sum(file.rows for commit in self.commits for file in commit.files if file.table == table)

    def empty_files(self) -> dict[str, str]:
        """The newest file without rows of every table that the version which made the warehouse has; of one that it has not the
        first file, if there is any. Raises WarehouseError if there is none of any table.
        """
        files = {file.table: str(self.root / file.path) for file in self._created_files()}
        files |= {name: own[0] for name in TABLES if name not in files and files and (own := self.files(name))}
        if missing := [name for name in TABLES if not files]:
            cause = "".join(f"{damage.path}: {damage.what}; " for damage in self.damages[:1])
            raise WarehouseError(
                f"{self.root}: {cause}there is no file for the table {missing[0]}; mend it with: "
                f"layerhouse check --repair --warehouse {self.root}"
            )
        return files

    def has_present_schema(self) -> bool:
        """True if some commit has a file with this version's columns for every table."""
        return any(commit.operation == CREATE and commit.schema == schema_digest() for commit in self.commits)

    def tables_of_other_columns(self) -> frozenset[str]:
        """The tables of which some file has other columns than this version's, or in another order.

        Files of commits with one digest of the schema have the same columns, so one file of each is looked at.
        """
        earlier = {
            (commit.schema, file.table): file.path
            for commit in self.commits
            if commit.schema != schema_digest()
            for file in commit.files
            if file.table in TABLES
        }
        if not earlier:
            return frozenset()
        import pyarrow.parquet as pq

        return frozenset(
            table for (_, table), path in earlier.items() if not pq.read_schema(self.root / path).equals(arrow_schema(table))
        )

    def has_mixed_times(self) -> bool:
        """True if a commit has rows of before and after another one, as of one that was put back after packing."""
        spans = [(min(commit.replaces), commit.commit_id) for commit in self.commits if commit.replaces]
        return any(
            first < commit.commit_id < last for first, last in spans for commit in self.commits if commit.operation != CREATE
        )

    def absent_columns(self, table: str) -> frozenset[str]:
        """Columns of this version that no file of a table has, as all were written by earlier versions."""
        if self.has_present_schema():
            return frozenset()
        import pyarrow.parquet as pq

        created = [file for file in self._created_files() if file.table == table]
        created = created or [file for commit in self.commits for file in commit.files if file.table == table]
        written = {name for file in created for name in pq.read_schema(self.root / file.path).names}
        return frozenset(TABLES[table].column_names) - written

    def _created_files(self) -> list[DataFile]:
        return [file for commit in self.commits if commit.operation == CREATE for file in commit.files]


@dataclass(frozen=True)
class _Listing:
    """The readable commits that no other one replaces, oldest first, and why others are not readable.

    `names` are those of all files that may be a commit. With `has_gaps` one of them was gone before it was read. `replaced` has
    the commits that another one replaces, with that one.
    """

    names: tuple[str, ...]
    commits: tuple[Commit, ...]
    faults: dict[str, str]
    replaced: dict[str, str]
    has_gaps: bool

    def lost(self, heads: Heads) -> list[str]:
        """Commits that are named, by head records or commits, and neither there nor replaced nor set aside since.

        A commit that is replaced is not asked whom it names: the one that replaces it names all that it saw.
        """
        absent = heads.named.union(*(commit.parents for commit in self.commits))
        absent -= {commit.commit_id for commit in self.commits} | self.faults.keys() | self.replaced.keys()
        if not absent:
            return []
        set_aside_by = {commit_id: commit.commit_id for commit in self.commits for commit_id in commit.set_aside}
        naming = [(head.commit_id, {head.commit_id, *head.seen}) for head in heads.records]
        naming += [(commit.commit_id, {*commit.parents}) for commit in self.commits]
        return sorted({name for by, names in naming for name in absent & names if by > set_aside_by.get(name, "")})


def list_commits(root: Path, *, verify: bool = False) -> Snapshot:
    """The commits of a warehouse, without those that another one replaces. For each that is damaged or lost there is a Damage.

    The size and footer of every data file are compared with its commit, with `verify` its whole content (see data_files).
    Raises WarehouseError where the system refuses a file, which is no damage.
    """
    check_folders(root)
    for _ in range(_LISTINGS):
        snapshot, is_settled = _list_once(root, verify=verify)
        if is_settled:
            break
    return snapshot


def _list_once(root: Path, *, verify: bool) -> tuple[Snapshot, bool]:
    """The commits, and whether what is missing among them is so for good: it is not if others changed the commits meanwhile."""
    heads = read_heads(root)  # before the commits: then every commit that they name was there when the commits are listed
    listing = _list_commit_files(root)
    lost = listing.lost(heads)
    damages = [Damage(commit_id, f"{COMMITS}/{commit_id}.json", what) for commit_id, what in sorted(listing.faults.items())]
    damages += [Damage(commit_id, f"{COMMITS}/{commit_id}.json", MISSING) for commit_id in lost]
    damages += [
        Damage(commit_id, f"{HEADS}/{commit_id}.json", what)
        for commit_id, what in heads.faults.items()
        if commit_id not in listing.replaced
    ]
    wrong = {commit.commit_id: list(_data_damages(root, commit, verify=verify)) for commit in listing.commits}
    damages += [damage for of_commit in wrong.values() for damage in of_commit]
    whole = tuple(commit for commit in listing.commits if not wrong[commit.commit_id])
    is_settled = not lost and not listing.has_gaps
    if len(whole) < len(listing.commits):
        is_settled = is_settled and tuple(commit_files(root)) == listing.names
    return Snapshot(root, whole, tuple(damages), frozenset(listing.replaced)), is_settled


def replaced_commits(root: Path) -> frozenset[str]:
    """The commits that another one replaces. No data file is looked at. Raises WarehouseError."""
    return frozenset(_list_commit_files(root).replaced)


def count_commits(root: Path) -> int:
    """The number of commits that no other one replaces, without those that made the tables. No data file is looked at.

    Raises WarehouseError.
    """
    return sum(commit.operation != CREATE for commit in _list_commit_files(root).commits)


def commit_files(root: Path) -> list[str]:
    """The ids of all files in `commits/` that may be a commit, oldest first. Raises WarehouseError."""
    try:
        names = sorted(entry.name for entry in os.scandir(root / COMMITS))
    except OSError as error:
        raise WarehouseError(f"{root / COMMITS}: cannot be listed: {error.strerror or error}") from None
    return [name[:32] for name in names if len(name) == 37 and name.endswith(".json") and COMMIT_ID.fullmatch(name[:32])]


def _list_commit_files(root: Path) -> _Listing:
    """The commits as their files say, read from the newest to the oldest: those that a newer one replaces are not read."""
    names, commits, faults, replaced, has_gaps = commit_files(root), [], {}, dict[str, str](), False
    for commit_id in reversed(names):
        if commit_id in replaced:
            continue
        path = root / COMMITS / f"{commit_id}.json"
        try:
            commit = _read_commit(path)
        except FaultyFileError as fault:
            if os.path.lexists(path):
                faults[commit_id] = f"not readable as a commit: {fault}"
            else:  # it was set aside or pruned meanwhile
                has_gaps = True
            continue
        if twice := replaced.keys() & commit.replaces:
            faults[commit_id] = f"commit {replaced[min(twice)]} has its rows, too"
            continue
        replaced |= dict.fromkeys(commit.replaces, commit_id)
        commits.append(commit)
    return _Listing(tuple(names), tuple(reversed(commits)), faults, replaced, has_gaps)


def _read_commit(path: Path) -> Commit:
    """A commit, read once a process as long as its file stays the same. Raises FaultyFileError."""
    status = file_status(path)
    commit = _commits_read.recall(path, status)
    if commit is None:
        commit = parse_commit(read_own_file(path, MAX_COMMIT_BYTES))
        if commit.commit_id != path.stem:
            raise FaultyFileError(f"a copy of {commit.commit_id}")
        _commits_read.remember(path, status, commit)
    return commit


def _data_damages(root: Path, commit: Commit, *, verify: bool) -> Iterable[Damage]:
    for file in commit.files:
        try:
            check_data_file(root, commit, file, verify=verify)
        except FaultyFileError as fault:
            yield Damage(commit.commit_id, file.path, str(fault))
