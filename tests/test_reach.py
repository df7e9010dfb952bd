"""What SQL may reach: `--safe` and all answers read the warehouse alone; `sql` without it does what DuckDB can."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import duckdb
import pytest

import layerhouse as lh
from layerhouse.errors import QueryError, UsageError, WarehouseError
from layerhouse.tests import study_builder
from layerhouse.tests.running import layerhouse
from layerhouse.warehouse.answers import reach
from layerhouse.warehouse.answers.selection import filter_rows
from layerhouse.warehouse.storage.commits import list_commits

READING = (
    ("SELECT count(*) AS n FROM models", [(5,)]),
    ("WITH m AS (SELECT model_id FROM models) SELECT count(*) AS n FROM m", [(5,)]),
    ("SELECT (SELECT max(num_layers) FROM models) AS n UNION ALL SELECT 1 ORDER BY 1", [(1,), (12,)]),
    ("WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 3) SELECT max(n) AS n FROM r", [(3,)]),
    ("VALUES (1), (2)", [(1,), (2,)]),
    ("FROM range(2)", [(0,), (1,)]),
    ("SELECT unnest([1, 2]) AS n", [(1,), (2,)]),
    ("SELECT column_name FROM (DESCRIBE history) LIMIT 1", [("model_id",)]),
    ("SELECT count(*) AS n FROM (SHOW TABLES) WHERE name = 'models'", [(1,)]),
    ("-- a remark; with a semicolon\nSELECT ';' AS text;", [(";",)]),
    ("SELECT layer_index, text FROM layers PIVOT (count(*) FOR stack IN ('text')) WHERE layer_index = 11 LIMIT 1", [(11, 1)]),
)
"""SQL that only reads, and its answer."""

REFUSED = (
    *("COPY (SELECT 1) TO '{data}'", "COPY (SELECT 1) TO '{outside}' (FORMAT csv)", "COPY layers TO '{inside}'"),
    *("COPY layers FROM '{other}'", "EXPORT DATABASE '{folder}'", "IMPORT DATABASE '{folder}'"),
    *("WITH c AS (COPY (SELECT 1) TO '{data}' (USE_TMP_FILE false)) SELECT * FROM c", "ATTACH '{database}'", "DETACH memory"),
    *("EXPLAIN ANALYZE COPY (SELECT 1) TO '{data}' (USE_TMP_FILE false)", "EXPLAIN COPY (SELECT 1) TO '{outside}'"),
    *("EXPLAIN ANALYZE WITH c AS (COPY (SELECT 1) TO '{outside}') SELECT 1", "ATTACH ':memory:' AS other", "USE memory"),
    *("WITH c AS (INSERT INTO name_changes VALUES (1) RETURNING 1) SELECT * FROM c", "DELETE FROM models", "DROP VIEW models"),
    *("WITH c AS (DELETE FROM models RETURNING 1) SELECT 1", "UPDATE models SET params = 1", "TRUNCATE models"),
    *("INSTALL httpfs", "LOAD httpfs", "SET memory_limit = '1GB'", "RESET memory_limit", "SET VARIABLE files = 1"),
    *("PRAGMA enable_profiling", "PRAGMA memory_limit = '1GB'", "CALL enable_logging()", "CHECKPOINT", "VACUUM", "BEGIN"),
    *("CREATE TABLE t AS SELECT 1", "CREATE TEMP VIEW v AS SELECT 1", "CREATE MACRO m() AS 1", "CREATE SECRET (TYPE s3)"),
    *("SELECT 1; SELECT 2", "SELECT 1; COPY (SELECT 1) TO '{outside}'", "", "-- nothing", ";", "PREPARE p AS SELECT 1"),
    *("SELECT * FROM read_text('{other}')", "SELECT * FROM read_csv('{other}')", "SELECT * FROM read_blob('{other}')"),
    *("FROM '{other}'", "FROM '{data}'", "FROM 'https://example.org/x.csv'", "SELECT * FROM glob('{folder}/*')"),
    *("FROM read_parquet('{parquet}')", "FROM parquet_scan('{parquet}')", "FROM parquet_metadata('{parquet}')"),
    *(
        "FROM sniff_csv('{other}')",
        "FROM read_json('{other}')",
        "FROM READ_TEXT('{other}')",
        "FROM system.main.read_text('{other}')",
    ),
    *("SELECT (SELECT content FROM read_text('{other}')) AS t", "SELECT 1 WHERE EXISTS (FROM read_text('{other}'))"),
    *("FROM query('SELECT content FROM read_text(''{other}'')')", "FROM query_table('{other}')", "DESCRIBE FROM '{other}'"),
    *("SUMMARIZE SELECT * FROM read_csv('{other}')", "SELECT getenv('HOME')", "SELECT write_log('x')", "SELECT sleep_ms(1)"),
    *("FROM enable_logging(storage = 'file', storage_path = '{folder}')", "FROM enable_profiling()", "FROM checkpoint()"),
    *("FROM json_execute_serialized_sql(json_serialize_sql('SELECT 1'))", "FROM duckdb_secrets()", "PIVOT layers ON stack"),
    *(
        "SELECT list_transform([1], LAMBDA x: nextval('s'))",
        "FROM read_duckdb('{database}')",
        "FROM models, read_text('{other}')",
    ),
    "SELECT 1 UNION SELECT content FROM read_text('{other}')",
)
"""SQL that does more than read the warehouse."""

VOLATILE_AND_HARMLESS = {
    *("random", "uuid", "uuidv4", "uuidv7", "gen_random_uuid", "error", "stats", "vector_type", "current_query", "currval"),
    *("current_query_id", "current_transaction_id", "current_connection_id"),
}
"""Functions that DuckDB says have side effects, and that change and reveal nothing."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A warehouse, and beside it files that no SQL of others may touch; tests only read it."""
    folder = tmp_path_factory.mktemp("reach")
    study_builder.write_study(folder)
    lh.ingest([folder / "baselines", folder / "results"], warehouse=folder / "w")
    (folder / "other.csv").write_text("a\nhidden words\n")
    duckdb.execute(f"COPY (SELECT 7 AS a) TO '{folder}/other.parquet'")
    duckdb.connect(folder / "other.duckdb").close()
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def places(folder: Path) -> dict[str, str]:
    data = max((folder / "w/layers").glob("*.parquet"), key=lambda path: path.stat().st_size)
    return {
        "data": str(data),
        "inside": str(folder / "w/layers/new.parquet"),
        "outside": str(folder / "new.csv"),
        "other": str(folder / "other.csv"),
        "parquet": str(folder / "other.parquet"),
        "database": str(folder / "other.duckdb"),
        "folder": str(folder),
    }


@pytest.mark.parametrize(("sql", "rows"), READING)
def test_safe_sql_reads(made, sql, rows):
    with lh.open(made / "w") as wh:
        assert wh.sql(sql, safe=True).rows() == rows


@pytest.mark.parametrize(
    "sql", ["DESCRIBE models", "SUMMARIZE models", "SHOW TABLES", "EXPLAIN SELECT 1", "explain analyze FROM models"]
)
def test_safe_sql_describes(made, sql):
    with lh.open(made / "w") as wh:
        assert wh.sql(sql, safe=True).height >= 1


def test_safe_sql_does_nothing_else(made):
    before = tree(made)
    with lh.open(made / "w") as wh:
        for text in REFUSED:
            sql = text.format(**places(made))
            with pytest.raises(QueryError) as caught:
                wh.sql(sql, safe=True)
            assert "hidden words" not in str(caught.value), sql
        assert wh.sql("SELECT count(*) AS n FROM models", safe=True).item() == 5
    assert tree(made) == before


def test_the_command_refuses_with_one_line_and_writes_nothing(made):
    before = tree(made)
    for text in ("COPY (SELECT 1) TO '{data}'", "WITH c AS (COPY (SELECT 1) TO '{data}' (USE_TMP_FILE false)) SELECT * FROM c"):
        result = layerhouse("sql", "--safe", text.format(**places(made)), cwd=made, LAYERHOUSE_WAREHOUSE="w")
        assert (result.returncode, result.stdout) == (2, "")
        assert result.stderr == f"layerhouse: COPY is refused: {reach.INSTEAD}\n"
    result = layerhouse("sql", "--safe", "-", "-f", "csv", cwd=made, LAYERHOUSE_WAREHOUSE="w", stdin="SELECT 1 AS n")
    assert (result.returncode, result.stdout) == (0, "n\n1\n")
    assert tree(made) == before


def test_without_safe_sql_does_what_duckdb_can(made, tmp_path):
    with lh.open(made / "w") as wh:
        wh.sql(f"COPY (SELECT model_id FROM models) TO '{tmp_path}/m.csv'")
        assert wh.sql(f"SELECT count(*) AS n FROM '{tmp_path}/m.csv'").item() == 5
        wh.sql("CREATE TABLE mine AS SELECT 3 AS a; SELECT 1 AS n")
        assert wh.sql("SELECT a FROM mine").item() == 3


def test_the_session_of_all_answers_is_locked_even_for_sql_that_was_not_tested(made):
    before = tree(made)
    locked = ("{other}", "{parquet}", "{database}", "{folder}/new/x")
    with lh.open(made / "w") as wh:
        connection = wh.connection_for()
        for place in locked:
            for sql in ("SELECT * FROM read_text('{}')", "COPY (SELECT 1) TO '{}'", "ATTACH '{}' AS x"):
                with pytest.raises(duckdb.Error):
                    connection.execute(sql.format(place.format(**places(made))))
        for sql in ("SET memory_limit = '1TB'", "SET enable_external_access = true", "SET allowed_directories = ['/']"):
            with pytest.raises(duckdb.Error):
                connection.execute(sql)
        ((temporary, memory),) = connection.execute(
            "SELECT current_setting('temp_directory'), current_setting('memory_limit')"
        ).fetchall()
        assert not Path(temporary).exists()
        assert memory.split()[1] in ("GiB", "MiB")
        assert wh.models().height == 5
    assert tree(made) == before


def test_every_function_with_side_effects_is_known():
    """A new version of DuckDB may bring new ones; say of each whether it is refused."""
    named = duckdb.execute("SELECT DISTINCT function_name FROM duckdb_functions() WHERE has_side_effects").fetchall()
    assert {name for (name,) in named} - VOLATILE_AND_HARMLESS <= reach.REFUSED_FUNCTIONS


@pytest.mark.parametrize(
    "condition",
    [
        "model_id IN (SELECT a FROM read_csv('{other}'))",
        "model_id IN (FROM '{other}')",
        "EXISTS (WITH c AS (COPY (SELECT 1) TO '{outside}') SELECT 1)",
        "true) UNION (SELECT content FROM read_text('{other}')",
        "1 = (SELECT count(*) FROM glob('{folder}/*'))",
    ],
)
def test_a_condition_reads_no_files(made, condition):
    before = tree(made)
    with lh.open(made / "w") as wh:
        table = wh.run("SELECT model_id FROM models")
    with pytest.raises(UsageError, match="the columns are model_id"):
        filter_rows(table, condition.format(**places(made)))
    assert tree(made) == before


def test_a_file_of_the_warehouse_that_leads_out_of_it_is_not_read(made, tmp_path):
    folder = tmp_path / "study"
    lh.ingest([made / "baselines"], warehouse=folder / "w")
    data = Path(places(folder)["data"])
    data.rename(tmp_path / "elsewhere.parquet")
    data.symlink_to(tmp_path / "elsewhere.parquet")
    with pytest.raises(WarehouseError), lh.open(folder / "w") as wh:
        wh.layers()
        assert wh.damages
        raise WarehouseError("the commit is left out, and named")


def test_a_file_that_claims_more_rows_than_its_bytes_can_be_is_refused(made):
    snapshot = list_commits(made / "w")
    reach.require_plausible_sizes(snapshot)
    commit = next(commit for commit in snapshot.commits if commit.files)
    size = commit.files[0].size
    for rows, is_refused in ((size * reach.MOST_ROWS_PER_BYTE, False), (size * reach.MOST_ROWS_PER_BYTE + 1, True)):
        bomb = replace(snapshot, commits=(replace(commit, files=(replace(commit.files[0], rows=rows),)),))
        if is_refused:
            with pytest.raises(WarehouseError, match=f"limit exceeded: {rows} rows in {size} bytes"):
                reach.require_plausible_sizes(bomb)
        else:
            reach.require_plausible_sizes(bomb)
