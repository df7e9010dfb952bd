"""Exported databases and the script of `sql --init` in the oldest DuckDB that they name, in a folder of its own."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from layerhouse import demo
from layerhouse.tests.running import CLEAN, layerhouse
from layerhouse.warehouse.answers.session import OLDEST_DUCKDB
from layerhouse.warehouse.answers.sql_text import sql_files
from layerhouse.warehouse.storage.schema import TABLES

VIEWS = [stem.partition("_")[2] for stem in sql_files("warehouse.views") if not stem.startswith("00_")]
NEXT_TO_OLDEST = "1.4.4"

ROWS = """
import json, sys
import duckdb
database, script, *queries = json.loads(sys.stdin.read())
connection = duckdb.connect(database, read_only=True) if database else duckdb.connect()
connection.execute("SET enable_progress_bar = false")
try:
    if script:
        connection.execute(script)
    answers = [sorted(map(list, connection.execute(sql).fetchall()), key=str) for sql in queries]
except duckdb.Error as error:
    answers = str(error)
print(json.dumps([duckdb.__version__, answers]))
"""
"""Answers of a database or a script, in a process that does not know layerhouse."""


def as_text(sql: str) -> str:
    """SQL with every value as text without quotes and backslashes.

    The client of an older version may lack what a type needs, and versions quote texts in lists and structs differently.
    """
    return f"SELECT translate(CAST(COLUMNS(*) AS VARCHAR), '''\"\\', '') FROM ({sql.rstrip().rstrip(';')})"


QUERIES = {name: as_text(f"SELECT * FROM {name}") for name in (*TABLES, *VIEWS)}
QUERIES |= {f"query {name}": as_text(sql) for name, sql in sql_files("queries").items() if name != "against_base"}
"""All views, and the queries but one, whose join DuckDB before 1.5 has not."""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A database and a script of a study of real weights with units, results and comparisons."""
    folder = tmp_path_factory.mktemp("study")
    demo.write_study(folder)
    ingested = layerhouse("ingest", "baselines", "results", "--base", f"{folder}/{demo.BASE}", "--units", cwd=folder)
    assert ingested.returncode == 0, ingested.stderr
    assert layerhouse("export", "--duckdb", "study.duckdb", cwd=folder).returncode == 0
    assert layerhouse("sql", "--init", "-o", "open.sql", cwd=folder).returncode == 0
    return folder


@pytest.fixture(scope="module")
def packages_of(tmp_path_factory):
    """Installs a version of DuckDB into a folder of its own and returns that; skips where that is not possible."""
    made: dict[str, Path] = {}

    def make(version: str) -> Path:
        if version not in made:
            folder = tmp_path_factory.mktemp("older") / version
            options = ["--quiet", "--no-deps", "--only-binary", ":all:", "--target", folder]
            command = [sys.executable, "-m", "pip", "install", *options, f"duckdb=={version}"]
            result = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
            if result.returncode:
                pytest.skip(f"duckdb {version} cannot be installed here: {(result.stderr.splitlines() or ['?'])[-1]}")
            made[version] = folder
        return made[version]

    return make


def answers(packages: Path | None, database: Path | None, script: str, queries: list[str]):
    """The version of DuckDB there, and its answers or its error."""
    request = json.dumps([None if database is None else str(database), script, *queries])
    environment = CLEAN if packages is None else {**CLEAN, "PYTHONPATH": str(packages)}
    command = [sys.executable, "-c", ROWS]
    result = subprocess.run(command, input=request, capture_output=True, encoding="utf-8", env=environment, check=True)
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def own(written):
    """The answers of this version of DuckDB by name."""
    _, rows = answers(None, written / "study.duckdb", "", list(QUERIES.values()))
    assert isinstance(rows, list), rows
    sizes = {name: len(found) for name, found in zip(QUERIES, rows, strict=True)}
    assert (sizes["models"], sizes["units"] > 0, sizes["kept_units"] > 0, sizes["query declared"]) == (6, True, True, 4)
    return dict(zip(QUERIES, rows, strict=True))


def assert_same_rows(own, version, names, found_version, found):
    assert found_version == version
    assert isinstance(found, list), found
    for name, rows in zip(names, found, strict=True):
        for row, expected in zip(rows, own[name], strict=True):
            assert [(name, *pair) for pair in zip(row, expected, strict=True) if not is_same(*pair)] == []


def is_same(found, expected):
    """Whether two values are equal; of means, which add up in any order, all but the last digits."""
    if found == expected:
        return True
    try:
        return math.isclose(float(found), float(expected), rel_tol=1e-12)
    except (TypeError, ValueError):
        return False


@pytest.mark.parametrize(("version", "names"), [(OLDEST_DUCKDB, tuple(QUERIES)), (NEXT_TO_OLDEST, ("tensors", "models"))])
def test_an_older_duckdb_opens_an_exported_database(written, packages_of, own, version, names):
    queries = [QUERIES[name] for name in names]
    assert_same_rows(own, version, names, *answers(packages_of(version), written / "study.duckdb", "", queries))


@pytest.mark.parametrize(("version", "names"), [(OLDEST_DUCKDB, (*TABLES, *VIEWS)), (NEXT_TO_OLDEST, ("tensors", "models"))])
def test_an_older_duckdb_runs_the_script(written, packages_of, own, version, names):
    queries, script = [QUERIES[name] for name in names], (written / "open.sql").read_text("utf-8")
    assert_same_rows(own, version, names, *answers(packages_of(version), None, script, queries))


def test_a_duckdb_that_is_too_old_says_which_one_is_needed(written):
    script = (written / "open.sql").read_text("utf-8")
    assert script.splitlines()[1] == f"-- Needs DuckDB {OLDEST_DUCKDB} or later."
    for version in ("v1.1.3", "v0.10.0"):
        _, error = answers(None, None, f"CREATE MACRO version() AS '{version}';\n{script}", ["SELECT 1"])
        assert error == f"Invalid Input Error: this script needs DuckDB {OLDEST_DUCKDB} or later, and this is {version}"
    for version in ("v1.2.0", "v1.10.1", "v2.0.0-dev12", "of tomorrow"):
        _, rows = answers(None, None, f"CREATE MACRO version() AS '{version}';\n{script}", ["SELECT count(*) FROM models"])
        assert rows == [[[6]]]
