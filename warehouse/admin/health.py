"""Checks that all committed files are present and intact and that the rows keep their invariants; repairs what it can."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb

from layerhouse.vocabulary import FindingKind
from layerhouse.warehouse.answers.answer_cache import KEPT, own_files
from layerhouse.warehouse.answers.session import answer_files, connect
from layerhouse.warehouse.answers.sql_text import quote_identifier, quote_literal, sql_files
from layerhouse.warehouse.storage.commits import COMMITS, Commit, Snapshot, list_commits
from layerhouse.warehouse.storage.schema import TABLES, arrow_schema, schema_digest
from layerhouse.warehouse.storage.store import OWN_FILE, add_present_schema, open_store, writers_locked_out

DAMAGED = "damaged"


@dataclass(frozen=True)
class Finding:
    """One fault. `kind` is damaged, orphan, foreign, schema or promise; `repaired` describes the repair, if there was one."""

    kind: FindingKind
    where: str
    what: str
    repaired: str | None = None


def check_warehouse(root: Path, *, repair: bool = False) -> list[Finding]:
    """Every fault of a warehouse. Reads each file completely, to compare its SHA-256 with that in its commit.

    With `repair`, leftover files that no commit names are deleted, damaged commits are moved to `damaged/` so that the next
    ingest takes their models again, and a warehouse of an older version gets the current columns. No readable row is deleted.
    """
    root = open_store(root)
    if repair:
        with writers_locked_out(root):
            snapshot = list_commits(root)
            findings = [*_damaged(root, snapshot, repair=True), *_orphans(root, snapshot, repair=True)]
    else:
        snapshot = list_commits(root)
        findings = [*_damaged(root, snapshot, repair=False), *_orphans(root, snapshot, repair=False)]
    findings += _schema_findings(root, repair=repair)
    if not any(finding.kind == FindingKind.DAMAGED and not finding.repaired for finding in findings):
        findings += [*_broken_promises(root), *_wrong_answers(root, repair=repair)]
    return findings


def _damaged(root: Path, snapshot: Snapshot, *, repair: bool) -> Iterator[Finding]:
    faults_by_commit: dict[str, list[tuple[str, str]]] = {}
    for damage in snapshot.damages:
        faults_by_commit.setdefault(damage.commit_id, []).append((damage.path, damage.what))
    for commit in snapshot.commits:
        for path, what in _differing_files(root, commit):
            faults_by_commit.setdefault(commit.commit_id, []).append((path, what))
    for commit_id, faults in faults_by_commit.items():
        repaired = _set_aside(root, commit_id) if repair else None
        for path, what in faults:
            yield Finding(FindingKind.DAMAGED, path, what, repaired)


def _differing_files(root: Path, commit: Commit) -> Iterator[tuple[str, str]]:
    import pyarrow.parquet as pq

    for file in commit.files:
        try:
            data = (root / file.path).read_bytes()
        except OSError as error:
            yield file.path, error.strerror or str(error)
            continue
        if hashlib.sha256(data).hexdigest() != file.sha256:
            yield file.path, "its content differs from what was committed (SHA-256 mismatch)"
        elif commit.schema == schema_digest() and not pq.read_schema(io.BytesIO(data)).equals(arrow_schema(file.table)):
            yield file.path, "its columns differ from those of the table"


def _set_aside(root: Path, commit_id: str) -> str:
    """Move a commit to `damaged/`: its JSON file first, so that readers never see a commit without its files."""
    target = root / DAMAGED / commit_id
    target.mkdir(parents=True, exist_ok=True)
    paths = [root / COMMITS / f"{commit_id}.json", *(root / table / f"{commit_id}.parquet" for table in TABLES)]
    for path in paths:
        if path.exists():
            path.replace(target / f"{path.parent.name}-{path.name}")
    return f"moved to {DAMAGED}/{commit_id}; ingest its models again"


def _orphans(root: Path, snapshot: Snapshot, *, repair: bool) -> Iterator[Finding]:
    """Files in the folders of the warehouse without a commit: left by an interrupted run, or written by another program."""
    known_paths = {file.path for commit in snapshot.commits for file in commit.files}
    known_paths |= {f"{table}/{damage.commit_id}.parquet" for damage in snapshot.damages for table in TABLES}
    for folder in (COMMITS, *TABLES):
        if not (root / folder).is_dir():
            continue
        for entry in sorted(os.scandir(root / folder), key=lambda entry: entry.name):
            path = f"{folder}/{entry.name}"
            is_commit = folder == COMMITS and not entry.name.endswith(".tmp")
            if path in known_paths or (is_commit and OWN_FILE.fullmatch(entry.name)):
                continue
            if not OWN_FILE.fullmatch(entry.name):
                yield Finding(FindingKind.FOREIGN, path, "not written by layerhouse; nothing reads it")
            elif repair:
                Path(entry.path).unlink()
                yield Finding(FindingKind.ORPHAN, path, "left by a run that was cut off", "removed")
            else:
                yield Finding(FindingKind.ORPHAN, path, "left by a run that was cut off; nothing reads it")


def _schema_findings(root: Path, *, repair: bool) -> Iterator[Finding]:
    snapshot = list_commits(root)
    if snapshot.has_present_schema():
        return
    is_readable = all(any(file.table == name for commit in snapshot.commits for file in commit.files) for name in TABLES)
    if repair:
        add_present_schema(root)
    what = "made by a version with other columns, which read as null" if is_readable else "a table has no file at all"
    yield Finding(
        FindingKind.SCHEMA if is_readable else FindingKind.DAMAGED, COMMITS, what, "brought up to date" if repair else None
    )


def _broken_promises(root: Path) -> Iterator[Finding]:
    connection, _ = connect(root)
    with connection:
        for name, sql in sql_files("warehouse.checks").items():
            relation = connection.sql(sql)
            rows = relation.limit(3).fetchall()
            if rows:
                promise = sql.splitlines()[0].removeprefix("--").strip()
                examples = "; ".join(
                    ", ".join(f"{column}={value}" for column, value in zip(relation.columns, row, strict=True)) for row in rows
                )
                yield Finding(FindingKind.PROMISE, name, f"does not hold: {promise} ({examples})")


def _wrong_answers(root: Path, *, repair: bool) -> Iterator[Finding]:
    """Cached answers that differ from what the rows give, and temporary files of one that an interrupted run left."""
    connection, snapshot = connect(root, computes_all=True)
    answers = {path: view for view, path in answer_files(snapshot).items()}
    with connection:
        for path, view in own_files(root / KEPT):
            if path.name.startswith("."):
                kind, what = FindingKind.ORPHAN, "left by a run that was cut off; nothing reads it"
            elif path in answers and not _is_answer(connection, view, path):
                kind, what = FindingKind.DAMAGED, "a kept answer that is not what the rows give"
            else:
                continue
            if repair:
                path.unlink()
            yield Finding(kind, f"{KEPT}/{path.name}", what, "removed; the rows give it again" if repair else None)


def _is_answer(connection: duckdb.DuckDBPyConnection, view: str, path: Path) -> bool:
    """True if the cached file has exactly the rows of the view."""
    computed = f"SELECT * FROM {quote_identifier(view)}"
    cached = f"SELECT * FROM read_parquet({quote_literal(str(path))})"
    try:
        differing = connection.execute(
            f"SELECT count(*) FROM (({computed} EXCEPT ALL {cached}) UNION ALL ({cached} EXCEPT ALL {computed}))"
        ).fetchall()
    except duckdb.Error:
        return False
    return differing == [(0,)]
