"""A test of SQL is a folder, `tests/sql/<query, view, table or check>/<case>/`, found by its two files; no Python to write.

`given.json` has the stored rows by table, or a list of such objects, one a commit. Only the columns that matter are named:
what a row must have besides comes from DEFAULTS. `expected.json` has the rows that come out: in their order for queries and
checks, in any order for views. Columns of the answer that it does not name are not looked at; numbers are compared exactly,
and 1 is not 1.0.

Rows are a list of objects or, for many alike, `{"columns": [...], "rows": [[...], ...]}`. Beside `rows`, expected.json may have
`"all_columns": true` (the answer has these columns and no others, in this order) and `"significant_digits": 12` (floats are
compared to so many digits).
"""

from __future__ import annotations

import json
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from layerhouse.ingest.results.parsed import measure_id, run_id
from layerhouse.version import RESULT_RULES_VERSION, RULES_VERSION
from layerhouse.warehouse.answers.query import query_names, run_query, run_sql
from layerhouse.warehouse.answers.session import Session, read_snapshot
from layerhouse.warehouse.answers.sql_text import quote_identifier, sql_files
from layerhouse.warehouse.storage.commits import list_commits
from layerhouse.warehouse.storage.schema import TABLES
from layerhouse.warehouse.storage.store import create_store, write_commit

FOLDER = Path(__file__).parent / "sql"
CASES = sorted(path.relative_to(FOLDER) for path in FOLDER.glob("*/*") if path.is_dir())
CHECKS = sql_files("warehouse.checks")
VIEWS = {stem.partition("_")[2] for stem in sql_files("warehouse.views")} - {"macros"}
OPTIONS = {"columns", "rows", "all_columns", "significant_digits"}

DEFAULTS: dict[str, dict[str, Any]] = {
    "checkpoints": {
        "checkpoint_id": "{model_id}",
        "source_uri": "/models/{checkpoint_id}",
        "source_kind": "weights",
        "status": "ok",
        "tool_version": "1",
        "rules_version": RULES_VERSION,
    },
    "tensors": {},
    "layers": {"stack": "text"},
    "units": {"stack": "text"},
    "layer_matches": {"stack": "text", "match": "exact"},
    "unit_matches": {"stack": "text"},
    "tensor_matches": {},
    "descents": {},
    "base_choices": {"base_rule": "found"},
    "results": {"harness": "native", "status": "ok", "is_group": False, "source_uri": "/results/{result_id}.json"}
    | {"rules_version": RESULT_RULES_VERSION},
    "links": {"rule": "folder", "source_uri": "/results/{result_id}.json", "linked_at": datetime(2026, 1, 31, tzinfo=UTC)},
    "removals": {},
}
"""Values of columns that a given row does not name; `{column}` stands for another column of the row."""


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    return create_store(tmp_path_factory.mktemp("sql") / "empty")


@pytest.fixture(scope="session")
def connection(empty_store):
    """One session for all cases: the views stand over file lists, which `show` sets to a case's files."""
    with Session(read_snapshot(empty_store), is_open=True).make() as opened:
        yield opened


def is_ordered(name):
    return name in query_names() or name in CHECKS


RUNS = [pytest.param(case, False, id=f"{case}-as_given") for case in CASES]
RUNS += [pytest.param(case, True, id=f"{case}-reversed") for case in CASES if not is_ordered(case.parts[0])]


@pytest.mark.parametrize(("case", "is_reversed"), RUNS)
def test_case(case, is_reversed, empty_store, connection, tmp_path, monkeypatch):
    """Every case of a view or table runs twice: the order of rows within a commit must change nothing. Queries and checks stand
    on these.
    """
    monkeypatch.setattr(os, "fsync", lambda file: None)  # these rows need not survive a power cut, and disks are slow
    name, expected = case.parts[0], read_expected(FOLDER / case / "expected.json")
    shutil.copytree(empty_store, tmp_path / "store")
    for commit in read_commits(FOLDER / case / "given.json"):
        rows = {table: stored_rows(table, given)[:: -1 if is_reversed else 1] for table, given in commit.items()}
        write_commit(tmp_path / "store", rows, "ingest")
    show(connection, tmp_path / "store")
    answer = run(connection, name)
    if expected["all_columns"]:
        assert answer.column_names == expected["columns"]
    found = as_lines(answer_rows(answer, expected), expected["significant_digits"])
    wanted = as_lines(expected["rows"], expected["significant_digits"])
    if not is_ordered(name):
        found, wanted = sorted(found), sorted(wanted)
    assert "\n".join(found) == "\n".join(wanted)


def test_every_query_view_and_check_has_a_case_and_every_case_is_whole():
    assert {case.parts[0] for case in CASES} - TABLES.keys() == {*query_names(), *VIEWS, *CHECKS}
    files = {path.relative_to(FOLDER) for path in FOLDER.rglob("*") if path.is_file()}
    assert files == {case / name for case in CASES for name in ("given.json", "expected.json")}
    assert set(DEFAULTS) == set(TABLES)


def run(connection, name):
    if name in query_names():
        return run_query(connection, name)
    return run_sql(connection, CHECKS.get(name) or f"SELECT * FROM {quote_identifier(name)}")


def show(connection, root):
    snapshot = list_commits(root)
    assert not snapshot.damages
    connection.execute("SET VARIABLE files = ?", [{table: snapshot.files(table) for table in TABLES}])


def read_commits(path):
    """The commits of a given.json, each the rows of its tables."""
    commits = json.loads(path.read_text("utf-8"))
    return [
        {table: as_objects(rows) for table, rows in commit.items()}
        for commit in (commits if isinstance(commits, list) else [commits])
    ]


def read_expected(path):
    expected = json.loads(path.read_text("utf-8"))
    if isinstance(expected, list):
        expected = {"rows": expected}
    assert expected.keys() <= OPTIONS, f"{path}: not an option: {sorted(expected.keys() - OPTIONS)}"
    rows = as_objects(expected)
    columns = expected.get("columns") or list(rows[0] if rows else ())
    assert all(list(row) == columns for row in rows), f"{path}: every row names the same columns in the same order"
    return {"all_columns": False, "significant_digits": None} | expected | {"rows": rows, "columns": columns}


def as_objects(rows):
    """Rows in either form as objects."""
    if isinstance(rows, dict) and "columns" in rows:
        return [dict(zip(rows["columns"], values, strict=True)) for values in rows["rows"]]
    return rows["rows"] if isinstance(rows, dict) else rows


def stored_rows(table, given):
    rows = []
    for given_row in given:
        row = dict(given_row)
        for column, default in DEFAULTS[table].items():
            if column not in row:
                row[column] = default.format_map(row) if isinstance(default, str) else default
        for column in TABLES[table].columns:
            if column.type == "TIMESTAMPTZ" and isinstance(row.get(column.name), str):
                row[column.name] = datetime.fromisoformat(row[column.name])
        if table == "results":
            row.setdefault("measure_id", measure_id(row))
            row.setdefault("run_id", run_id(row))
        rows.append(row)
    return rows


def answer_rows(answer, expected):
    """The columns of an answer that a case names, maps as objects."""
    missing = set(expected["columns"]) - set(answer.column_names)
    assert not missing, f"the answer has no column {sorted(missing)}"
    answer = answer.select(expected["columns"])
    maps = {field.name for field in answer.schema if pa.types.is_map(field.type)}
    return [
        {name: dict(value) if name in maps and value is not None else value for name, value in row.items()}
        for row in answer.to_pylist()
    ]


def as_lines(rows, digits):
    """A line a row: lines differ where a value or its type does. Floats are rounded to `digits` unless it is null."""
    if digits is not None:
        rows = [
            {name: float(f"{value:.{digits}g}") if isinstance(value, float) else value for name, value in row.items()}
            for row in rows
        ]
    return [json.dumps(row, ensure_ascii=False, default=datetime.isoformat) for row in rows]
