"""How SQL files are written, and that each answers on a warehouse without rows with columns of the documented types."""

from __future__ import annotations

import re

import duckdb
import pytest

from layerhouse.warehouse.answers.session import connect
from layerhouse.warehouse.answers.sql_text import quote_identifier, sql_files
from layerhouse.warehouse.storage.schema import TABLES
from layerhouse.warehouse.storage.store import create_store

QUERIES, VIEWS, CHECKS = (sql_files(package) for package in ("queries", "warehouse.views", "warehouse.checks"))
FILES = {
    f"{folder}/{stem}.sql": sql
    for folder, files in (("queries", QUERIES), ("views", VIEWS), ("checks", CHECKS))
    for stem, sql in files.items()
}
VIEW_NAMES = [stem.partition("_")[2] for stem in VIEWS if not stem.startswith("00_")]
ANSWERS = {
    **{f"view {name}": f"SELECT * FROM {name}" for name in VIEW_NAMES},
    **{f"query {name}": QUERIES[name] for name in QUERIES},
}

NEVER_NAMES = {"by", "exclude", "macro", "materialized", "nulls", "over", "partition", "recursive", "replace", "view"}
"""Keywords that SQL would allow as names, and that none of our names is."""
COUNT = re.compile(r"(n|num)_\w+|(\w+_)?(params|zeros|bytes)|(zero|heavy|medium|light|untouched)_layers|\w+_per_token")
LAYER_LIST = re.compile(r"removed_layers|base_layers|(attention|mlp)_gone_layers|layers_below_\w+")


@pytest.fixture(scope="module")
def connection(tmp_path_factory):
    opened, _ = connect(create_store(tmp_path_factory.mktemp("style") / "empty"))
    with opened:
        yield opened


@pytest.fixture(scope="module")
def documented(connection):
    """The types that the schema gives a column's name, in DuckDB's spelling; a name has mostly one in all tables."""
    types = {}
    for table in TABLES.values():
        for column in table.columns:
            types.setdefault(column.name, set()).add(spelled(connection, column.type))
    return types


def code(sql):
    """The SQL without comments and without what stands in quotes."""
    return re.sub(r"'(?:[^']|'')*'", "''", re.sub(r"--[^\n]*", "", sql))


@pytest.fixture(scope="module")
def keywords():
    rows = duckdb.sql("SELECT keyword_name FROM duckdb_keywords() WHERE keyword_category IN ('reserved', 'type_function')")
    return {name for (name,) in rows.fetchall()} | NEVER_NAMES


@pytest.mark.parametrize("name", FILES)
def test_a_file_starts_with_a_comment_that_says_what_it_makes(name):
    comment = re.match(r"(?:--[^\n]*\n)+", FILES[name])
    assert comment, "the first line is a comment"
    assert re.match(r"-- [A-Z].*\.$", comment[0].strip(), re.DOTALL)
    assert not re.search(r"\b(SELECT|CREATE)\b", comment[0]), "lists of queries and views take what stands before that word"


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_laid_out_as_the_others(name):
    sql = FILES[name]
    assert sql.endswith(";\n")
    assert "\t" not in sql
    assert [line for line in sql.splitlines() if line != line.rstrip() or len(line) > 128] == []


@pytest.mark.parametrize("name", FILES)
def test_keywords_are_upper_case(name, keywords):
    words = re.findall(r"(?<![.\w\"])[A-Za-z_]+\b(?!\")", code(FILES[name]))
    assert [word for word in words if word.lower() in keywords and not word.isupper()] == []


@pytest.mark.parametrize("name", FILES)
def test_a_file_parses_without_parameters(name):
    statements = duckdb.extract_statements(FILES[name])
    assert all(not statement.named_parameters for statement in statements)
    created = re.findall(r"^CREATE OR REPLACE (VIEW|MACRO) (\w+)", FILES[name], re.MULTILINE)
    if not name.startswith("views/"):
        assert len(statements) == 1
    elif name == "views/00_macros.sql":
        assert len(created) == len(statements)
        assert {kind for kind, _ in created} == {"MACRO"}
    else:
        assert created == [("VIEW", name.removesuffix(".sql").partition("_")[2])]
        assert len(statements) == 1


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_names_its_columns_one_a_line_and_ends_with_its_order(name):
    text = code(QUERIES[name])
    assert not re.search(r"getvariable|[?$]|\bSELECT\s+(DISTINCT\s+)?\*|\.\*", text)
    assert not re.search(r"^ +\w+, *\w+", text, re.MULTILINE)
    clauses = re.findall(r"^[A-Z]+(?: BY)?", text, re.MULTILINE)
    assert clauses[-1] == "ORDER BY"


@pytest.mark.parametrize("name", CHECKS)
def test_a_check_finds_nothing_in_a_warehouse_without_rows(name, connection):
    assert "ORDER BY" in CHECKS[name]
    assert connection.sql(CHECKS[name]).fetchall() == []


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_warehouse_without_rows_has_empty_answers_of_the_documented_types(answer, connection, documented):
    relation = connection.sql(ANSWERS[answer])
    types = dict(zip(relation.columns, map(str, relation.types), strict=True))
    assert len(types) == len(relation.columns), "two columns of one name"
    assert [name for name, kind in types.items() if re.search("HUGEINT|DECIMAL|FLOAT|NULL", kind)] == []
    assert {name: kind for name, kind in types.items() if kind not in documented.get(name, {kind})} == {}
    assert {name: kind for name, kind in types.items() if COUNT.fullmatch(name) and kind not in ("BIGINT", "INTEGER")} == {}
    assert {name: kind for name, kind in types.items() if LAYER_LIST.fullmatch(name) and kind != "INTEGER[]"} == {}
    assert relation.fetchall() == []


@pytest.mark.parametrize("name", TABLES)
def test_a_stored_table_shows_every_column_with_its_type(name, connection):
    relation = connection.sql(f"SELECT * FROM {quote_identifier(name)}")
    assert relation.columns == [column.name for column in TABLES[name].columns]
    wanted = [spelled(connection, column.type) for column in TABLES[name].columns]
    assert [str(kind) for kind in relation.types] == wanted


def spelled(connection, sql_type):
    return str(connection.sql(f"SELECT CAST(NULL AS {sql_type}) AS it").types[0])
