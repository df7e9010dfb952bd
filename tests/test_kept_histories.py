"""Kept answers equal the computed ones whatever happens to a warehouse: histories of real small models, drawn by chance."""

from __future__ import annotations

import fnmatch
import os
import random
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import duckdb
import polars as pl
import pytest

import layerhouse as lh
from layerhouse import NotFoundError, UsageError, demo
from layerhouse.tests.running import CLEAN
from layerhouse.warehouse.admin import keeping
from layerhouse.warehouse.admin.health import check_warehouse
from layerhouse.warehouse.admin.keeping import keep_answers
from layerhouse.warehouse.admin.pack import pack_warehouse
from layerhouse.warehouse.admin.removals import drop_model, rename_model
from layerhouse.warehouse.answers import session
from layerhouse.warehouse.answers.kept import states
from layerhouse.warehouse.answers.kept.files import SECONDS_OF_AN_OLD_SESSION, remove_pins
from layerhouse.warehouse.answers.kept.increments import INCREMENTS
from layerhouse.warehouse.answers.kept.states import KEPT_VIEWS
from layerhouse.warehouse.answers.query import query_names
from layerhouse.warehouse.answers.session import Session, connect, init_script, read_snapshot
from layerhouse.warehouse.storage.own_files import KEPT
from layerhouse.warehouse.storage.store import write_commit

ASKED = (*KEPT_VIEWS, "run_measures", "layer_pruning", "layer_summary", "performance", "lineage", "history", "base_names")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("histories") / "study"
    demo.write_study(folder)
    return folder


@pytest.fixture(autouse=True)
def every_warehouse_is_large(monkeypatch):
    monkeypatch.setattr(states, "LEAST_CHECKPOINTS", 1)
    monkeypatch.setattr(keeping, "MOST_CHANGED", 2.0)
    monkeypatch.setattr(keeping, "LEAST_DIVIDED", 0)
    monkeypatch.setattr(keeping, "MOST_REPLACED", 5)


@pytest.fixture
def increments(monkeypatch):
    """The views that were written from an earlier answer."""
    written = []
    whole = keeping._Keeper._write_from_earlier

    def noted(*arguments):
        views = whole(*arguments)
        written.extend(views)
        return views

    monkeypatch.setattr(keeping._Keeper, "_write_from_earlier", noted)
    return written


def rows(connection, view):
    return connection.sql(f"SELECT * FROM {view} ORDER BY ALL").to_arrow_table()


def assert_as_computed(root, views=ASKED):
    """Every answer is kept, and has the types and values that the rows give."""
    asked = Session(read_snapshot(root))
    assert asked._kept.keys() == KEPT_VIEWS.keys()
    kept, (computed, _) = asked.make(" ".join(views)), connect(root, computes_all=True, asked=" ".join(views))
    with kept, computed:
        for view in views:
            assert rows(kept, view).equals(rows(computed, view)), view


class History:
    """A warehouse and a study to which things happen, one after the other."""

    def __init__(self, study, folder, seed):
        self.chance = random.Random(seed)
        self.study, self.root = folder / "study", folder / "warehouse"
        shutil.copytree(study, self.study)
        self.paths = sorted(path.parent for path in self.study.rglob("*") if path.name in WEIGHTS)
        self.ingest(*self.paths[:3])

    def ingest(self, *paths, base="auto"):
        report = lh.ingest(paths, warehouse=self.root, base=base)
        assert report.count("failed") == 0

    def names(self):
        with lh.open(self.root) as wh:
            return wh.models()["model_id"].to_list()

    def name_of(self, path):
        with lh.open(self.root) as wh:
            found = wh.sql(f"SELECT model_id FROM models WHERE source_uri = '{path}'")["model_id"].to_list()
        return found[0] if found else None

    def take_one(self):
        self.ingest(self.chance.choice(self.paths))

    def take_all(self):
        self.ingest(self.study)

    def change_weights(self):
        path, other = self.chance.sample([path for path in self.paths if (path / "model.safetensors").exists()], 2)
        shutil.copy(other / "model.safetensors", path / "model.safetensors")
        self.ingest(path)

    def measure_again(self):
        path = self.chance.choice(self.paths)
        scores = demo.Scores(*(self.chance.uniform(20, 90) for _ in range(2)), (self.chance.random(),) * 7, 100.0)
        document = demo.result_document(path.name, 1000, 8, scores) | {"timestamp": f"2026-02-{self.chance.randint(1, 28):02d}"}
        demo.write_json(path / f"evaluation/evaluation_results_{self.chance.randint(0, 2)}.json", document)
        self.ingest(path)

    def rename(self):
        rename_model(self.root, self.chance.choice(self.names()), f"renamed_{self.chance.random()}")

    def drop(self):
        if len(self.names()) > 2:
            drop_model(self.root, self.chance.choice(self.names()))

    def other_base(self):
        path, other = self.chance.sample(self.paths, 2)
        self.ingest(path, base=other)

    def no_base(self):
        self.ingest(self.chance.choice(self.paths), base=None)

    def write_a_fact_twice(self):
        """As two processes do that take one checkpoint at once."""
        connection, _ = connect(self.root, asked="layers")
        with connection:
            ids = connection.sql("SELECT DISTINCT checkpoint_id FROM layers ORDER BY 1").fetchall()
            (checkpoint_id,) = self.chance.choice(ids)
            found = {}
            for table in ("layers", "layer_matches", "tensor_matches"):
                sql = f"SELECT * EXCLUDE (commit_id, ingested_at) FROM {table} WHERE checkpoint_id = '{checkpoint_id}'"
                found[table] = connection.sql(sql).to_arrow_table()
        write_commit(self.root, found, "ingest")
        keep_answers(self.root)

    def pack(self):
        pack_warehouse(self.root, prune=timedelta(self.chance.choice((0, 7))))

    def lose_what_is_kept(self):
        shutil.rmtree(self.root / KEPT)
        keep_answers(self.root)


WEIGHTS = ("model.safetensors", "pytorch_model.bin")
STEPS = (
    *("take_one", "take_all", "change_weights", "measure_again", "rename", "drop", "other_base", "no_base"),
    *("write_a_fact_twice", "lose_what_is_kept", "pack"),
)


LONGER = [pytest.param(seed, 2, marks=pytest.mark.slow) for seed in range(1, 5)]


@pytest.mark.parametrize(("seed", "rounds"), [(0, 1), *LONGER])
def test_whatever_happens_kept_answers_are_what_the_rows_give(study, tmp_path, increments, seed, rounds):
    history = History(study, tmp_path, seed)
    assert_as_computed(history.root)
    steps = [*STEPS] * rounds
    history.chance.shuffle(steps)
    for step in steps:
        getattr(history, step)()
        assert_as_computed(history.root, KEPT_VIEWS)
    assert_as_computed(history.root)
    assert {*increments} == INCREMENTS.keys()
    assert check_warehouse(history.root) == []


@pytest.fixture(scope="module")
def made(study, tmp_path_factory):
    """A warehouse of the study, its answers kept."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(states, "LEAST_CHECKPOINTS", 1)
        root = tmp_path_factory.mktemp("made") / "warehouse"
        lh.ingest([study], warehouse=root)
    return root


@pytest.fixture
def root(made, tmp_path):
    return shutil.copytree(made, tmp_path / "warehouse")


def test_a_plain_duckdb_session_reads_the_same_answers(root):
    script = init_script(root)
    assert all(f"/{KEPT}/{view}-" in script for view in KEPT_VIEWS)
    with duckdb.connect() as plain:
        plain.execute(script)
        computed, _ = connect(root, computes_all=True)
        with computed:
            for view in ASKED:
                assert rows(plain, view).equals(rows(computed, view)), view


def test_an_earlier_time_is_not_answered_from_what_is_kept(root):
    with lh.open(root) as wh:
        before = wh.models()
        moment = datetime.now(UTC)
    drop_model(root, before["model_id"][0])
    with lh.open(root, as_of=moment) as wh:
        assert wh.models().equals(before)
    with lh.open(root) as wh:
        assert wh.models().height == before.height - 1


def test_a_session_that_is_set_to_an_earlier_time_is_not_answered_from_the_present(root):
    with duckdb.connect() as plain:
        plain.execute(init_script(root))
        plain.execute("SET VARIABLE as_of = TIMESTAMPTZ '2020-01-01'")
        assert plain.sql("SELECT count(*) FROM layers").fetchall() == [(0,)]
        with pytest.raises(duckdb.Error, match="what is kept is of the present"):
            plain.sql("SELECT * FROM models").fetchall()


def test_what_a_script_names_stays_until_its_pin_goes(root):
    script = init_script(root)
    named = {path.name for path in (root / KEPT).glob("*.parquet")}
    past = time.time() - SECONDS_OF_AN_OLD_SESSION - 60
    for path in (root / KEPT).iterdir():
        os.utime(path, (past, past))
    with lh.open(root) as wh:
        name = wh.models()["model_id"][0]
    drop_model(root, name)
    assert named <= {path.name for path in (root / KEPT).glob("*.parquet")}
    with duckdb.connect() as plain:
        plain.execute(script)
        assert (name,) in plain.sql("SELECT model_id FROM models").fetchall()
    remove_pins(root / KEPT, SECONDS_OF_AN_OLD_SESSION)
    rename_model(root, plain_name(root), "other")
    gone = named - {path.name for path in (root / KEPT).glob("*.parquet")}
    assert {name.partition("-")[0] for name in gone} >= {"models", "current_checkpoints", "result_links"}


def plain_name(root):
    with lh.open(root) as wh:
        return wh.models()["model_id"][-1]


def test_a_session_computes_what_is_kept_no_more(root):
    with lh.open(root) as wh:
        before = wh.query("performance"), wh.query("per_layer"), wh.sql("SELECT * FROM models ORDER BY model_id")
        shutil.rmtree(root / KEPT)
        after = wh.query("performance"), wh.query("per_layer"), wh.sql("SELECT * FROM models ORDER BY model_id")
    assert all(one.equals(other) for one, other in zip(before, after, strict=True))


def test_a_script_of_a_read_only_warehouse_names_no_kept_answer(root, monkeypatch):
    def refuse(*_):
        raise OSError("read-only file system")

    monkeypatch.setattr(session, "pin", refuse)
    script = init_script(root)
    assert f"/{KEPT}/" not in script
    with duckdb.connect() as plain:
        plain.execute(script)
        assert plain.sql("SELECT count(*) FROM models").fetchall() == [(6,)]


@pytest.mark.parametrize("tables", [("tensor_matches", "layers"), ("tensors", "layer_matches")])
def test_what_is_written_again_of_two_models_leaves_all_answers_right(study, root, tables, increments):
    """Of a model whose tensors alone are new the layers are not compared again, as those of its base are not read."""
    paths = sorted(path.parent for path in study.rglob("model.safetensors"))
    lh.ingest([paths[-1]], warehouse=root, base=paths[0])
    with lh.open(root) as wh:
        bases = wh.models().filter(pl.col("base_checkpoint_id") != pl.col("checkpoint_id"))
        own = bases.filter(pl.col("source_uri") == str(paths[-1]))["checkpoint_id"].item()
        other = bases.filter(pl.col("base_model").str.ends_with("Base"))["checkpoint_id"][-1]
    connection, _ = connect(root, asked=" ".join(tables))
    with connection:
        select = "SELECT * EXCLUDE (commit_id, ingested_at) FROM {} WHERE checkpoint_id = '{}'"
        written = {
            table: connection.sql(select.format(table, checkpoint_id)).to_arrow_table()
            for table, checkpoint_id in zip(tables, (own, other), strict=True)
        }
    assert all(rows.num_rows for rows in written.values())
    increments.clear()
    write_commit(root, written, "ingest")
    keep_answers(root)
    assert {"checkpoint_changes", "pair_layers"} <= {*increments}
    assert_as_computed(root, KEPT_VIEWS)


def test_a_checkpoint_is_its_own_base_as_soon_as_others_are_compared_with_it(study, tmp_path, increments):
    """Nothing is written of it itself; and of the others nothing where it is found in a second folder afterwards."""
    root, paths = tmp_path / "warehouse", sorted(path.parent for path in study.rglob("model.safetensors"))
    lh.ingest(paths[:3], warehouse=root, base=None)
    ids = "SELECT checkpoint_id, base_checkpoint_id FROM checkpoint_facts ORDER BY checkpoint_id"
    connection, _ = connect(root, asked=f"{ids} layers")
    with connection:
        (base, _), (compared, _), _ = connection.sql(ids).fetchall()
        matches = connection.sql(f"""
            SELECT
                checkpoint_id, '{base}' AS base_checkpoint_id, stack, 'exact' AS match,
                layer_index, layer_index AS base_layer_index
            FROM layers WHERE checkpoint_id = '{compared}'
        """).to_arrow_table()
        again = connection.sql(f"""
            SELECT * EXCLUDE (commit_id, ingested_at) REPLACE ('again' AS model_id) FROM checkpoints
            WHERE checkpoint_id = '{base}'
        """).to_arrow_table()
    for rows_of_table in ({"layer_matches": matches}, {"checkpoints": again}):
        increments.clear()
        write_commit(root, rows_of_table, "ingest")
        keep_answers(root)
        assert {"checkpoint_facts", "pair_layers"} <= {*increments}
        assert_as_computed(root, KEPT_VIEWS)
        with lh.open(root) as wh:
            assert [*wh.sql(ids)["base_checkpoint_id"]] == [base, base, None]


def test_an_ingest_tells_how_many_answers_are_kept(study, tmp_path):
    seen = []
    lh.ingest([study], warehouse=tmp_path / "warehouse", on_progress=seen.append)
    kept = [(progress.answers, progress.total_answers) for progress in seen if progress.total_answers]
    assert kept[0] == (0, len(KEPT_VIEWS))
    assert kept == sorted(kept)
    assert (seen[-1].answers, seen[-1].models) == (len(KEPT_VIEWS), seen[-1].total_models)


def test_an_error_of_the_caller_is_raised_while_answers_are_kept(study, tmp_path):
    def refuse(progress):
        if progress.answers > 2:
            raise FileNotFoundError("the caller's own file")

    with pytest.raises(FileNotFoundError, match="the caller's own file"):
        lh.ingest([study], warehouse=tmp_path / "warehouse", on_progress=refuse)
    keep_answers(tmp_path / "warehouse")
    assert_as_computed(tmp_path / "warehouse", ("models",))


KEEP = """
import sys
from pathlib import Path
from layerhouse.warehouse.answers.kept import states
from layerhouse.warehouse.admin.keeping import keep_answers
states.LEAST_CHECKPOINTS = 1
print("begins", flush=True)
keep_answers(Path(sys.argv[1]))
"""


def keeper(root):
    return subprocess.Popen([sys.executable, "-c", KEEP, str(root)], stdout=subprocess.PIPE, env={**os.environ, **CLEAN})


def test_kill_9_while_answers_are_kept_loses_nothing_and_doubles_nothing(root):
    shutil.rmtree(root / KEPT)
    for count in (1, 4, 7, 10, 13):
        process = keeper(root)
        assert process.stdout.readline() == b"begins\n"
        while process.poll() is None and len(os.listdir(root / KEPT) if (root / KEPT).exists() else ()) < count:
            time.sleep(0.001)
        process.kill()
        process.communicate()
        assert {finding.kind for finding in check_warehouse(root)} <= {"orphan"}
        with lh.open(root) as wh:
            assert wh.models().height == 6
    keep_answers(root)
    assert_as_computed(root, ("models", "pair_layers"))


def test_two_that_keep_at_once_lose_nothing(root):
    shutil.rmtree(root / KEPT)
    for process in [keeper(root) for _ in range(2)]:
        process.communicate()
        assert process.returncode == 0
    assert_as_computed(root, ("models", "pair_layers"))


def test_an_answer_of_some_models_is_that_part_of_the_whole_answer_in_its_order(root):
    with lh.open(root) as wh:
        names = wh.models()["model_id"].to_list()
        globs = [(names[2],), (names[0], names[4]), ("*Magnitude*",), ("HeadPrune_2000", names[1])]
        for query in query_names():
            whole = wh.query(query)
            if "model_id" not in whole.columns:
                with pytest.raises(UsageError, match="no model_id"):
                    wh.query(query, models=[names[0]])
                continue
            for chosen in globs:
                full = [name for name in names if any(name == glob or name.endswith(f"/{glob}") for glob in chosen)]
                full += [name for name in names if fnmatch.fnmatchcase(name, chosen[0])]
                part = wh.query(query, models=chosen)
                assert part.equals(whole.filter(whole["model_id"].is_in(full))), (query, chosen)
        for answer in (wh.layers, wh.tensors, wh.results):
            assert answer(names[3]).equals(answer().filter(pl.col("model_id") == names[3]))
        with pytest.raises(NotFoundError, match="no model 'absent'"):
            wh.query("summary", models=[names[0], "absent"])
