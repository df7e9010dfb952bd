"""A session makes the views that are asked for, and those only until all are asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

import layerhouse as lh
from layerhouse.errors import WarehouseError
from layerhouse.warehouse.answers import session as database
from layerhouse.warehouse.answers.query import run_query
from layerhouse.warehouse.answers.session import HELD, Session, read_snapshot
from layerhouse.warehouse.answers.sql_text import sql_files
from layerhouse.warehouse.storage.schema import TABLES
from layerhouse.warehouse.storage.store import create_store, write_commit

VIEW_NAMES = [stem.partition("_")[2] for stem in sql_files("warehouse.views") if not stem.startswith("00_")]
QUESTIONS = {f"view {name}": f"SELECT * FROM {name}" for name in VIEW_NAMES}
QUESTIONS |= {f"query {name}": sql for name, sql in sql_files("queries").items()}


def views_of(connection):
    return sorted(name for (name,) in connection.sql("SELECT view_name FROM duckdb_views() WHERE NOT internal").fetchall())


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A warehouse of one model without a base."""
    made = create_store(tmp_path_factory.mktemp("session") / "warehouse")
    facts = {"checkpoint_id": "c", "model_id": "alone", "source_uri": "/models/alone", "source_kind": "weights", "status": "ok"}
    write_commit(made, {"checkpoints": [facts | {"tool_version": "1", "params": 7}]}, "ingest")
    return made


@pytest.fixture(scope="module")
def everything(root):
    with Session(read_snapshot(root)).make() as connection:
        yield connection


@pytest.mark.parametrize("what", QUESTIONS)
def test_what_is_asked_for_is_made_and_what_it_stands_on(root, everything, what):
    with Session(read_snapshot(root)).make(QUESTIONS[what]) as own:
        assert own.sql(QUESTIONS[what]).fetchall() == everything.sql(QUESTIONS[what]).fetchall()
        assert len(views_of(own)) < len(views_of(everything))


def test_the_rest_is_made_when_all_is_asked_for(root, everything):
    session = Session(read_snapshot(root))
    with session.make("models") as own:
        session.make()
        assert views_of(own) == views_of(everything) == sorted([*TABLES, *VIEW_NAMES])


def test_a_view_that_another_mentions_in_its_comment_alone_is_not_made(root):
    """The comment of `sightings` speaks of dropped models."""
    assert "models" in sql_files("warehouse.views")["11_sightings"].partition("CREATE")[0]
    with Session(read_snapshot(root)).make("SELECT * FROM sightings") as own:
        assert "models" not in {*views_of(own), *held_by(own)}


def test_a_session_of_which_nothing_is_asked_has_the_tables_and_macros(root):
    with Session(read_snapshot(root)).make("") as own:
        assert views_of(own) == sorted(TABLES)
        assert own.sql("SELECT reduction(4, 3)").fetchall() == [(0.25,)]


def test_a_view_that_cannot_be_made_leaves_the_rows_in_sight(root):
    session = Session(read_snapshot(root))
    session._unmade["history"] = "CREATE OR REPLACE VIEW history AS SELECT no_such_column FROM checkpoints;"
    with session.make("models") as own:
        for _ in range(2):
            with pytest.raises(WarehouseError, match="no_such_column"):
                session.make("history")
            assert own.sql("SELECT model_id, params FROM models").fetchall() == [("alone", 7)]


def held_by(connection):
    return sorted(name for (name,) in connection.sql("SELECT table_name FROM duckdb_tables() WHERE temporary").fetchall())


def test_what_many_views_stand_on_is_computed_once_for_a_question_and_not_for_all_of_them(root):
    session = Session(read_snapshot(root))
    with session.make("models") as own:
        assert held_by(own) == sorted({*HELD} - {"measure_keys", "run_values", "model_measures"})
        assert own.sql("SELECT checkpoint_id, params FROM temp.checkpoint_facts").fetchall() == [("c", 7)]
        assert own.sql("SELECT model_id, params FROM models").fetchall() == [("alone", 7)]
        session.make("performance")
        assert held_by(own) == sorted(HELD)
        session.make()
        assert held_by(own) == []
        assert own.sql("SELECT model_id, params FROM models").fetchall() == [("alone", 7)]


def test_a_warehouse_of_many_checkpoints_is_read_as_it_is_asked(root, monkeypatch):
    monkeypatch.setattr(database, "MOST_HELD", 0)
    with Session(read_snapshot(root)).make("models") as own:
        assert held_by(own) == []
        assert own.sql("SELECT model_id, params FROM models").fetchall() == [("alone", 7)]


def test_a_file_that_cannot_be_read_is_said_by_the_answer(tmp_path):
    made = create_store(tmp_path / "warehouse")
    facts = {"checkpoint_id": "c", "model_id": "alone", "source_uri": "/models/alone", "source_kind": "weights", "status": "ok"}
    write_commit(made, {"checkpoints": [facts | {"tool_version": "1", "params": 7}]}, "ingest")
    session = Session(read_snapshot(made))
    for path in {*session.snapshot.files("checkpoints")} - {*session.snapshot.empty_files().values()}:
        Path(path).write_bytes(b"PAR1" + bytes(Path(path).stat().st_size - 8) + b"PAR1")
    with session.make("models") as own, pytest.raises(WarehouseError, match="its footer differs from what was committed"):
        run_query(own, "summary")


def test_every_answer_of_a_warehouse_in_python_finds_its_views(root):
    with lh.open(root) as wh:
        assert wh.models()["params"].to_list() == [7]
    with lh.open(root) as wh:
        assert wh.query("summary", models=["al*"])["model_id"].to_list() == ["alone"]
    with lh.open(root) as wh:
        assert wh.layers("alone").height == wh.results().height == wh.tensors().height == 0
    with lh.open(root) as wh:
        assert wh.sql("SELECT count(*) AS n FROM duckdb_views() WHERE view_name = 'method_groups'")["n"].to_list() == [1]
        assert wh.connection.sql("SELECT count(*) FROM performance").fetchall() == [(1,)]


def test_sql_of_a_user_finds_its_views_however_it_names_them(root):
    """A view that others stand on is a temporary table for SELECTs alone, which no schema but `temp` has."""
    for sql in (
        "SELECT count(*) FROM models",
        "SELECT count(*) FROM main.models",
        "SELECT count(*) FROM memory.main.MODELS",
        'SELECT count(*) FROM "Models"',
        "FROM models SELECT count(*) -- nothing",
        "SELECT count(*) FROM query('SELECT * FROM mod' || 'els')",
    ):
        with lh.open(root) as wh:
            assert wh.sql(sql).rows() == [(1,)], sql
    with lh.open(root) as wh:
        assert wh.sql("SELECT '--' AS dashes, params FROM models").rows() == [("--", 7)]
        wh.sql("CREATE OR REPLACE VIEW models AS SELECT 8 AS params; SELECT 1 AS one")
        assert wh.sql("SELECT params FROM models").rows() == [(8,)]
