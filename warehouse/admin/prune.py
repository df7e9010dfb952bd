"""Deletes the files of commits that packs have replaced: they stay for sessions that were opened before, until they are old."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from layerhouse.errors import UsageError, WarehouseError
from layerhouse.warehouse.storage.commit_file import MAX_COMMIT_BYTES, parse_commit
from layerhouse.warehouse.storage.commits import Snapshot, list_commits
from layerhouse.warehouse.storage.heads import read_heads, write_head
from layerhouse.warehouse.storage.own_files import COMMITS, FaultyFileError, read_own_file, sync_folder
from layerhouse.warehouse.storage.schema import TABLES

AGE = re.compile(r"(?P<number>[0-9]{1,5})(?P<unit>[dh])", re.ASCII)
DATA_NAME = re.compile(r"(?P<commit>[0-9a-f]{32})\.parquet", re.ASCII)


@dataclass(frozen=True)
class Pruning:
    """What was deleted, or would be: the number of files and their bytes."""

    files: int
    size: int


def parse_age(text: str) -> timedelta:
    """A duration such as `7d`, `12h` or `0d`. Raises UsageError."""
    match = AGE.fullmatch(text)
    if match is None:
        raise UsageError(f"--prune {text!r}: not an age; write days or hours, such as 7d, 12h or 0d")
    number = int(match["number"])
    return timedelta(days=number) if match["unit"] == "d" else timedelta(hours=number)


def prune_replaced(root: Path, age: timedelta, *, dry_run: bool = False) -> Pruning:
    """Delete the files of commits that a pack of at least this age replaced. The caller holds off writers.

    All files that answers come from are read and compared with their hashes before anything is deleted. Data files go first
    and commits last, so that what an interrupted run leaves is deleted by the next. Raises WarehouseError.
    """
    snapshot = list_commits(root).require_whole()
    paths = [*_files_of(root, _replaced_before(root, snapshot, age))]
    size = sum(os.lstat(path).st_size for path in paths)
    if paths and not dry_run:
        list_commits(root, verify=True).require_whole()
        _name_packs(root, snapshot)
        for is_commit in (False, True):
            for path in paths:
                if (path.parent.name == COMMITS) == is_commit:
                    _remove(path)
            for folder in sorted({path.parent for path in paths}):
                sync_folder(folder)
    return Pruning(len(paths), size)


def files_by_commit(root: Path) -> dict[str, list[Path]]:
    """The data files in the folders of the tables, by the commits in their names, whether or not there are such commits."""
    files: dict[str, list[Path]] = {}
    for table in TABLES:
        if (root / table).is_dir():
            for entry in os.scandir(root / table):
                if (match := DATA_NAME.fullmatch(entry.name)) and entry.is_file(follow_symlinks=False):
                    files.setdefault(match["commit"], []).append(Path(entry.path))
    return files


def _files_of(root: Path, commit_ids: set[str]) -> Iterator[Path]:
    """The data files of commits, then their JSON files, as far as they are there."""
    data = files_by_commit(root) if commit_ids else {}
    for commit_id in sorted(commit_ids):
        yield from sorted(data.get(commit_id, ()))
        if (path := root / COMMITS / f"{commit_id}.json").is_file() and not path.is_symlink():
            yield path


def _replaced_before(root: Path, snapshot: Snapshot, age: timedelta) -> set[str]:
    """The commits that a pack of at least this age replaced, also one that a later pack replaced since."""
    if not age:
        return {*snapshot.replaced}
    limit = datetime.now(UTC) - age
    found = {name for commit in snapshot.commits if commit.made_at <= limit for name in commit.replaces}
    for commit_id in snapshot.replaced - found:
        try:
            commit = parse_commit(read_own_file(root / COMMITS / f"{commit_id}.json", MAX_COMMIT_BYTES))
        except FaultyFileError:
            continue
        if commit.commit_id == commit_id and commit.made_at <= limit:
            found.update(commit.replaces)
    return found & snapshot.replaced


def _name_packs(root: Path, snapshot: Snapshot) -> None:
    """Record packs that nothing names, as of a run that ended before it did: their loss would not be noticed."""
    heads = read_heads(root)
    named = heads.named.union(*(commit.parents for commit in snapshot.commits))
    for commit in snapshot.commits:
        if commit.replaces and commit.commit_id not in named:
            followed = [head.commit_id for head in heads.records if head.commit_id in commit.replaces]
            write_head(root, commit.commit_id, commit.parents, followed)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise WarehouseError(f"{path}: cannot be deleted: {error.strerror or error}; run it again") from None
