"""Moves damaged commits out of the way into `damaged/`, and back again. Nothing is deleted."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from layerhouse.warehouse.storage.commit_file import MAX_COMMIT_BYTES, Commit, DataFile, data_path, parse_commit
from layerhouse.warehouse.storage.commits import list_commits
from layerhouse.warehouse.storage.data_files import OTHER_CONTENT, file_digest
from layerhouse.warehouse.storage.own_files import (
    COMMITS,
    DAMAGED,
    FaultyFileError,
    open_own_file,
    read_own_file,
    sync_folder,
)
from layerhouse.warehouse.storage.schema import TABLES

ASIDE_NAME = re.compile(r"(?P<commit>[0-9a-f]{32})(\.\d+)?")
"""The name of a folder in `damaged/`: a commit, and a number where it was set aside before."""


def set_commit_aside(root: Path, commit_id: str) -> str:
    """Move a commit and its data files to `damaged/`; returns where. The JSON file goes first: no reader sees a part of it."""
    return set_files_aside(root, commit_id, [f"{COMMITS}/{commit_id}.json", *(data_path(table, commit_id) for table in TABLES)])


def set_files_aside(root: Path, commit_id: str, paths: list[str]) -> str:
    """Move files of a commit to `damaged/`, as far as they are there; returns the folder, relative to the warehouse."""
    names = {path: path.replace("/", "-") for path in paths if os.path.lexists(root / path)}
    folder = next(
        folder for folder in _folders_of(commit_id) if not any(os.path.lexists(root / folder / name) for name in names.values())
    )
    for path, name in names.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / path).rename(root / folder / name)
        sync_folder((root / path).parent)
    return folder


def aside_folders(root: Path) -> list[Path]:
    """The folders of commits that are set aside, in the order of their names."""
    try:
        entries = sorted(os.scandir(root / DAMAGED), key=lambda entry: entry.name)
    except OSError:
        return []
    return [Path(entry.path) for entry in entries if ASIDE_NAME.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)]


def restore_folder(root: Path, folder: Path) -> None:
    """Move a commit that was set aside back into its place, data files first.

    Raises FaultyFileError, which says why, unless the commit and all of its files are whole, and no other has its rows since.
    """
    commit_id = folder.name[:32]
    aside, place = folder / f"{COMMITS}-{commit_id}.json", root / COMMITS / f"{commit_id}.json"
    commit = _read_commit(place if os.path.lexists(place) else aside, commit_id)
    _require_apart(root, commit)
    moves = [_move_of(root, folder, commit, file) for file in commit.files if file.table in TABLES]
    for source, target in (*moves, (aside, place)):
        if os.path.lexists(source) and not os.path.lexists(target):
            target.parent.mkdir(exist_ok=True)
            source.rename(target)
            sync_folder(target.parent)
    if not any(os.scandir(folder)):
        folder.rmdir()


def _folders_of(commit_id: str) -> Iterator[str]:
    """Where a commit may be set aside: another folder where an earlier one has files of the same names."""
    yield f"{DAMAGED}/{commit_id}"
    number = 2
    while True:
        yield f"{DAMAGED}/{commit_id}.{number}"
        number += 1


def _read_commit(path: Path, commit_id: str) -> Commit:
    try:
        commit = parse_commit(read_own_file(path, MAX_COMMIT_BYTES))
    except FaultyFileError as fault:
        raise FaultyFileError(f"its commit is not readable: {fault}") from None
    if commit.commit_id != commit_id:
        raise FaultyFileError(f"its commit is a copy of {commit.commit_id}")
    return commit


def _require_apart(root: Path, commit: Commit) -> None:
    """Raise FaultyFileError for a pack that would bring rows back which another pack has by now."""
    for other in list_commits(root).commits if commit.replaces else ():
        is_either = other.commit_id in commit.replaces or commit.commit_id in {other.commit_id, *other.replaces}
        if not is_either and not set(other.replaces).isdisjoint(commit.replaces):
            raise FaultyFileError(f"commit {other.commit_id} has its rows by now")


def _move_of(root: Path, folder: Path, commit: Commit, file: DataFile) -> tuple[Path, Path]:
    """From where to where a data file is moved; it may be in its place already."""
    aside, place = folder / file.path.replace("/", "-"), root / file.path
    path = place if os.path.lexists(place) else aside
    try:
        with open_own_file(path) as (handle, status):
            if status.st_size != file.size or file_digest(handle) != file.sha256:
                raise FaultyFileError(OTHER_CONTENT)
    except FaultyFileError as fault:
        raise FaultyFileError(f"{file.path}: {fault}") from None
    return aside, place
