"""Makes one commit of all, of one sorted file a table: a warehouse of thousands of commits opens and answers slowly."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb

from layerhouse.errors import WarehouseError
from layerhouse.version import __version__
from layerhouse.warehouse.admin.keeping import keep_answers
from layerhouse.warehouse.admin.pack_rows import later_version, write_sorted
from layerhouse.warehouse.admin.prune import Pruning, files_by_commit, prune_replaced
from layerhouse.warehouse.admin.set_aside import aside_folders
from layerhouse.warehouse.answers.kept.files import remove_pins
from layerhouse.warehouse.answers.reach import lock, new_connection
from layerhouse.warehouse.storage.commit_file import Commit, DataFile
from layerhouse.warehouse.storage.commits import CREATE, Snapshot, commit_files, list_commits
from layerhouse.warehouse.storage.heads import read_heads
from layerhouse.warehouse.storage.own_files import COMMITS, KEPT
from layerhouse.warehouse.storage.packs import PACK, is_worth_packing, pack_id, packable, write_pack
from layerhouse.warehouse.storage.schema import TABLES, schema_digest
from layerhouse.warehouse.storage.store import add_present_schema, open_store, writers_locked_out

SORT_MEMORY, SORT_THREADS = 1 << 30, 4
"""Bytes of memory in which rows are sorted, and by how many threads; what does not fit is in a temporary folder."""


@dataclass(frozen=True)
class PackReport:
    """What was done, or would be.

    `commits` are made one, 0 if there is nothing to pack; they have `rows` rows in `size` bytes, and the pack has
    `packed_size` bytes. `pruning` is None if none was asked for.
    """

    commits: int
    rows: int
    size: int
    packed_size: int
    pruning: Pruning | None
    is_dry_run: bool


def pack_warehouse(
    root: Path,
    *,
    prune: timedelta | None = None,
    dry_run: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> PackReport:
    """Make one commit of all commits of a warehouse, which give the same answers, at any time of `--as-of` too.

    Every row keeps its commit and its time. Nothing is deleted, as sessions may read the old files; with `prune` those are
    that a pack of at least that age replaced. Writers wait meanwhile; `on_progress` is called with the rows that are written
    and with all. Raises WarehouseError, of which DamagedWarehouseError for a warehouse of which not everything is whole.
    """
    root = open_store(root)
    snapshot = list_commits(root).require_whole()
    if dry_run:
        pruning = None if prune is None else prune_replaced(root, prune, dry_run=True)
        return _report(packable(snapshot) if is_worth_packing(snapshot) else (), (), pruning, is_dry_run=True)
    if is_worth_packing(snapshot):
        add_present_schema(root)
    with writers_locked_out(root):
        commits, files = _pack(root, on_progress)
        pruning = None if prune is None else prune_replaced(root, prune)
    if prune is not None:
        remove_pins(root / KEPT, prune.total_seconds())
    if commits:
        keep_answers(root)
    return _report(commits, files, pruning, is_dry_run=False)


def _report(commits: Sequence[Commit], packed: Sequence[DataFile], pruning: Pruning | None, *, is_dry_run: bool) -> PackReport:
    files = [file for commit in commits for file in commit.files]
    return PackReport(
        sum(commit.operation != CREATE for commit in commits),
        sum(file.rows for file in files),
        sum(file.size for file in files),
        sum(file.size for file in packed),
        pruning,
        is_dry_run,
    )


def _pack(root: Path, on_progress: Callable[[int, int], None]) -> tuple[tuple[Commit, ...], tuple[DataFile, ...]]:
    """The commits that were made one, and the files of that one; none if there is nothing to pack."""
    if not is_worth_packing(list_commits(root).require_whole()):
        return (), ()
    snapshot = list_commits(root, verify=True).require_whole()  # what a pack is made of must be what was committed
    commits = packable(snapshot)
    if unknown := [file.path for commit in commits for file in commit.files if file.table not in TABLES]:
        raise later_version(root, f"the table of {unknown[0]} is not known to this one")
    commit_id = pack_id(commits)
    with _cleared_up(root, commit_id):
        files, row_commits = _write_tables(root, commits, commit_id, on_progress)
        write_pack(root, _pack_commit(root, snapshot, commit_id, files, row_commits))
    return commits, files


def _write_tables(
    root: Path, commits: Sequence[Commit], commit_id: str, on_progress: Callable[[int, int], None]
) -> tuple[tuple[DataFile, ...], set[str]]:
    """Write the rows of commits; returns the file of each table that has rows, and the commits that rows are of."""
    rows = {table: sum(file.rows for commit in commits for file in commit.files if file.table == table) for table in TABLES}
    files, row_commits, done, total = [], set[str](), 0, sum(rows.values())

    def on_rows(count: int) -> None:
        nonlocal done
        done += count
        on_progress(done, total)

    with new_connection(memory=SORT_MEMORY) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET enable_progress_bar = false")
        connection.execute("SET threads = ?", [min(SORT_THREADS, os.cpu_count() or 1)])  # each takes memory of its own
        connection.execute("RESET max_temp_directory_size")  # as much as the disk has: the rows have to be sorted
        lock(connection, [root])
        for table in (table for table in TABLES if rows[table]):
            file, of_rows = write_sorted(connection, root, table, commits, commit_id, on_rows)
            files.append(file)
            row_commits |= of_rows
    return tuple(files), row_commits


def _pack_commit(root: Path, snapshot: Snapshot, commit_id: str, files: tuple[DataFile, ...], row_commits: set[str]) -> Commit:
    """The commit of a pack. It names all that is known: commits that stay, that it replaces, and that were set aside before.

    Of what was replaced before, it names what has rows or files, or is named elsewhere, so that it does not look lost.
    """
    commits = packable(snapshot)
    own = {commit.commit_id for commit in commits}
    stay = [commit for commit in snapshot.commits if commit.commit_id not in own]
    known = read_heads(root).named | row_commits | {*commit_files(root)} | files_by_commit(root).keys()
    known = known.union(*(commit.parents for commit in stay), (folder.name[:32] for folder in aside_folders(root)))
    replaces = own | (known & {name for commit in commits for name in commit.replaces})
    parents = {commit.commit_id for commit in stay}
    set_aside = {name for commit in commits for name in commit.set_aside} - replaces - parents
    return Commit(
        commit_id,
        max(datetime.now(UTC), *(commit.made_at for commit in commits)),
        __version__,
        PACK,
        schema_digest(),
        tuple(sorted(replaces)),
        files,
        tuple(sorted(parents)),
        tuple(sorted(set_aside)),
    )


@contextmanager
def _cleared_up(root: Path, commit_id: str) -> Iterator[None]:
    """Delete the files of a pack that came to no end, and raise WarehouseError where the disk, DuckDB or Arrow refused."""
    import pyarrow as pa

    try:
        yield
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise WarehouseError(f"{root}: cannot be packed: {reason}; all commits are as they were") from None
    finally:
        if not os.path.lexists(root / COMMITS / f"{commit_id}.json"):
            for table in TABLES:
                (root / table / f"{commit_id}.parquet").unlink(missing_ok=True)
