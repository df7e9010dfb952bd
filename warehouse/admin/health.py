"""Checks that all committed files are present and intact and that the rows keep their invariants; repairs what it can."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb

from layerhouse.errors import DamagedWarehouseError
from layerhouse.vocabulary import FindingKind
from layerhouse.warehouse.admin.pack_contents import replaced_by, wrong_rows
from layerhouse.warehouse.admin.set_aside import aside_folders, restore_folder, set_commit_aside, set_files_aside
from layerhouse.warehouse.answers.kept.files import Kept, damaged_answers, own_files, remove_answer
from layerhouse.warehouse.answers.session import connect, kept_answers
from layerhouse.warehouse.answers.sql_text import quote_identifier, sql_files
from layerhouse.warehouse.answers.view_texts import view_statements
from layerhouse.warehouse.storage.commit_file import Commit, DataFile, data_path
from layerhouse.warehouse.storage.commits import CREATE, Damage, Snapshot, list_commits
from layerhouse.warehouse.storage.own_files import COMMITS, DAMAGED, HEADS, KEPT, FaultyFileError
from layerhouse.warehouse.storage.schema import TABLES, arrow_schema, schema_digest
from layerhouse.warehouse.storage.store import (
    MARKER,
    OWN_FILE,
    absolute_root,
    add_present_schema,
    open_store,
    write_marker,
    write_repair,
    writers_locked_out,
)

AGAIN = "ingest its models again"


@dataclass(frozen=True)
class Finding:
    """One fault, or a commit that was set aside before; `repaired` describes the repair, if there was one."""

    kind: FindingKind
    where: str
    what: str
    repaired: str | None = None


def check_warehouse(root: Path, *, repair: bool = False, restore: bool = False) -> list[Finding]:
    """Every fault of a warehouse. Reads each file completely, to compare its SHA-256 with that in its commit.

    With `repair`, damaged commits and files that no commit names are moved to `damaged/`, so that the next ingest takes their
    models again, and a warehouse of an older version gets the current columns. Only temporary files are deleted. With
    `restore`, commits in `damaged/` that are whole are put back first. Raises WarehouseError where the system refuses a file,
    which is no damage and changes nothing.
    """
    findings = []
    root, marker = _open(root)
    if repair or restore:
        with writers_locked_out(root):
            findings += _restored(root) if restore else []
            if marker is not None and repair:
                marker = _repaired_marker(root, marker)
            snapshot = list_commits(root, verify=True)
            damages = [*snapshot.damages, *_wrong_contents(root, snapshot)]
            orphans = [*_orphans(root, snapshot, repair=repair)]
            repaired = _set_aside_all(root, damages) if repair else {}
    else:
        snapshot = list_commits(root, verify=True)
        damages, repaired = [*snapshot.damages, *_wrong_contents(root, snapshot)], {}
        orphans = [*_orphans(root, snapshot, repair=False)]
    findings += [] if marker is None else [marker]
    findings += [Finding(FindingKind.DAMAGED, damage.path, damage.what, repaired.get(damage.path)) for damage in damages]
    findings += orphans
    if not any(_is_broken(finding) for finding in findings):
        findings += _schema_findings(root, repair=repair)
    if not any(_is_broken(finding) for finding in findings):
        findings += [*_broken_promises(root), *_wrong_answers(root, repair=repair)]
    return findings


def count_set_aside(root: Path) -> int:
    """The number of commits in `damaged/`."""
    return len(aside_folders(absolute_root(root)))


def _is_broken(finding: Finding) -> bool:
    return finding.kind == FindingKind.DAMAGED and not finding.repaired


def _open(root: Path) -> tuple[Path, Finding | None]:
    """The warehouse, and what is wrong with the file that marks it as one."""
    try:
        return open_store(root), None
    except DamagedWarehouseError as error:
        where, _, what = error.faults[0].partition(": ")
        return absolute_root(root), Finding(FindingKind.DAMAGED, where, what)


def _repaired_marker(root: Path, finding: Finding) -> Finding:
    if os.path.lexists(root / MARKER):
        (root / DAMAGED).mkdir(exist_ok=True)
        names = (f"{DAMAGED}/{MARKER}.{number}" for number in range(1 << 20))
        (root / MARKER).rename(root / next(name for name in names if not os.path.lexists(root / name)))
    write_marker(root)
    return Finding(finding.kind, finding.where, finding.what, "written again")


def _restored(root: Path) -> list[Finding]:
    findings = []
    for folder in aside_folders(root):
        where = f"{DAMAGED}/{folder.name}"
        try:
            restore_folder(root, folder)
        except FaultyFileError as fault:
            findings.append(Finding(FindingKind.ASIDE, where, f"cannot be put back: {fault}"))
        else:
            findings.append(Finding(FindingKind.ASIDE, where, "whole", "put back"))
    if any(finding.repaired for finding in findings):
        write_repair(root, ())  # so that what is back is noticed if it is lost again
    return findings


def _set_aside_all(root: Path, damages: list[Damage]) -> dict[str, str]:
    """Set aside all that is damaged, which is added to, as commits that a damaged one replaced may be damaged, too.

    Returns what was done by path.
    """
    done: dict[str, str] = {}
    further = damages
    while further:
        done |= _set_aside(root, further)
        snapshot = list_commits(root, verify=True)
        found = [*snapshot.damages, *_wrong_contents(root, snapshot)]
        further = [damage for damage in found if damage.path not in done]
        damages += [damage for damage in further if damage not in damages]
    return done


def _set_aside(root: Path, damages: list[Damage]) -> dict[str, str]:
    """Set aside what is damaged; returns what was done by path. Readers know it of a commit before it is gone."""
    records = {damage.path: damage for damage in damages if damage.path.startswith(f"{HEADS}/")}
    commits = {damage.commit_id for damage in damages if damage.path not in records}
    replaced = {commit_id: replaced_by(root, commit_id) for commit_id in commits}
    write_repair(root, commits)
    folders = {commit_id: set_commit_aside(root, commit_id) for commit_id in sorted(commits)}
    there = list_commits(root)
    counted = there.replaced.union(commit.commit_id for commit in there.commits)
    done = {
        damage.path: f"moved to {folders[damage.commit_id]}; {_outcome(replaced[damage.commit_id], counted)}"
        for damage in damages
        if damage.path not in records
    }
    for path, damage in records.items():
        done[path] = f"moved to {set_files_aside(root, damage.commit_id, [path])}; it is written anew"
    return done


def _outcome(replaced: set[str], counted: frozenset[str]) -> str:
    """What becomes of the rows of a commit that was set aside: the commits that a pack replaced may still be there."""
    back = len(replaced & counted)
    if not replaced:
        return AGAIN
    text = f"{back:,} of the {len(replaced):,} commits that it replaced count again"
    return text if back == len(replaced) else f"{text}; for the others, {AGAIN}"


def _wrong_contents(root: Path, snapshot: Snapshot) -> Iterator[Damage]:
    for commit in snapshot.commits:
        for file in commit.files:
            if file.table in TABLES and (what := _wrong_content(root, commit, file)):
                yield Damage(commit.commit_id, file.path, what)


def _wrong_content(root: Path, commit: Commit, file: DataFile) -> str | None:
    """What a file that is as it was committed holds that it must not: other columns, or rows of another commit."""
    import pyarrow.parquet as pq

    metadata = pq.read_metadata(root / file.path)
    if metadata.num_rows != file.rows:
        return f"expected {file.rows} rows, found {metadata.num_rows}"
    if commit.schema == schema_digest() and not metadata.schema.to_arrow_schema().equals(arrow_schema(file.table)):
        return "its columns differ from those of the table"
    if commit.replaces:
        return wrong_rows(root / file.path, commit)
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    columns = [group.column(position) for group in groups for position in range(group.num_columns)]
    expected = {"commit_id": commit.commit_id, "ingested_at": commit.made_at}
    for column in columns:
        value, statistics = expected.get(column.path_in_schema), column.statistics
        if value is None or statistics is None or not statistics.has_min_max:
            continue
        if (statistics.min, statistics.max) != (value, value):
            return f"its rows have another {column.path_in_schema} than the commit"
    return None


def _orphans(root: Path, snapshot: Snapshot, *, repair: bool) -> Iterator[Finding]:
    """Files in the folders of the warehouse without a commit: left by an interrupted run, or written by another program."""
    known_paths = {file.path for commit in snapshot.commits for file in commit.files}
    known = snapshot.replaced.union(damage.commit_id for damage in snapshot.damages)
    known_paths |= {data_path(table, commit_id) for commit_id in known for table in TABLES}
    for folder in (COMMITS, HEADS, *TABLES):
        if not (root / folder).is_dir():
            continue
        for entry in sorted(os.scandir(root / folder), key=lambda entry: entry.name):
            path = f"{folder}/{entry.name}"
            is_temporary = entry.name.endswith(".tmp")
            is_json = folder in (COMMITS, HEADS) and not is_temporary
            if path in known_paths or (is_json and OWN_FILE.fullmatch(entry.name)):
                continue
            if not OWN_FILE.fullmatch(entry.name):
                yield Finding(FindingKind.FOREIGN, path, "not written by layerhouse; nothing reads it")
                continue
            repaired = None
            if repair and is_temporary:
                Path(entry.path).unlink()
                repaired = "removed"
            elif repair:
                repaired = f"moved to {set_files_aside(root, entry.name[:32], [path])}"
            yield Finding(FindingKind.ORPHAN, path, "left by a run that was cut off; nothing reads it", repaired)


def _schema_findings(root: Path, *, repair: bool) -> Iterator[Finding]:
    snapshot = list_commits(root)
    if snapshot.has_present_schema():
        return
    written = {file.table for commit in snapshot.commits for file in commit.files}
    is_readable = any(commit.operation == CREATE for commit in snapshot.commits) or written >= TABLES.keys()
    if repair:
        add_present_schema(root)
    what = "made by a version with other columns, which read as null" if is_readable else "a table has no file at all"
    yield Finding(
        FindingKind.SCHEMA if is_readable else FindingKind.DAMAGED, COMMITS, what, "brought up to date" if repair else None
    )


def _broken_promises(root: Path) -> Iterator[Finding]:
    promises = sql_files("warehouse.checks")
    connection, _ = connect(root, asked="\n".join(promises.values()))
    with connection:
        for name, sql in promises.items():
            relation = connection.sql(sql)
            rows = relation.limit(3).fetchall()
            if rows:
                promise = sql.splitlines()[0].removeprefix("--").strip()
                examples = "; ".join(
                    ", ".join(f"{column}={value}" for column, value in zip(relation.columns, row, strict=True)) for row in rows
                )
                yield Finding(FindingKind.PROMISE, name, f"does not hold: {promise} ({examples})")


def _wrong_answers(root: Path, *, repair: bool) -> Iterator[Finding]:
    """Cached answers that are not as written or not what the rows give, and temporary files that an interrupted run left."""
    kept, faults = [*own_files(root / KEPT)], dict(damaged_answers(root / KEPT))
    if not kept:
        return
    connection, snapshot = connect(root, computes_all=True, asked=" ".join(view for _, view in kept))
    answers = kept_answers(snapshot, view_statements(snapshot)).values()
    whole = {answer.paths[-1]: answer for answer in answers if faults.keys().isdisjoint(answer.paths)}
    with connection:
        for path, _ in kept:
            wrong = [path]
            if path.name.startswith("."):
                kind, what = FindingKind.ORPHAN, "left by a run that was cut off; nothing reads it"
            elif path in faults:
                kind, what = FindingKind.DAMAGED, faults[path]
            elif path in whole and not _is_answer(connection, whole[path]):
                kind, what, wrong = FindingKind.DAMAGED, "a kept answer that is not what the rows give", whole[path].paths
            else:
                continue
            for file in wrong if repair else ():
                remove_answer(file)
            yield Finding(kind, f"{KEPT}/{path.name}", what, "removed; the rows give it again" if repair else None)


def _is_answer(connection: duckdb.DuckDBPyConnection, kept: Kept) -> bool:
    """True if a kept answer has exactly the rows of the view."""
    computed = f"SELECT * FROM {quote_identifier(kept.view)}"
    cached = f"SELECT * FROM ({kept.select})"
    try:
        differing = connection.execute(
            f"SELECT count(*) FROM (({computed} EXCEPT ALL {cached}) UNION ALL ({cached} EXCEPT ALL {computed}))"
        ).fetchall()
    except duckdb.Error:
        return False
    return differing == [(0,)]
