"""Kept answers equal the computed ones whatever happens to a warehouse: histories of real small models, drawn by chance."""

from __future__ import annotations

import random
import shutil

import pytest

import layerhouse as lh
from layerhouse import demo
from layerhouse.warehouse.admin import keeping
from layerhouse.warehouse.admin.health import check_warehouse
from layerhouse.warehouse.admin.keeping import keep_answers
from layerhouse.warehouse.admin.removals import drop_model, rename_model
from layerhouse.warehouse.answers.kept import states
from layerhouse.warehouse.answers.kept.states import KEPT_VIEWS
from layerhouse.warehouse.answers.session import Session, connect, read_snapshot
from layerhouse.warehouse.storage.own_files import KEPT
from layerhouse.warehouse.storage.store import write_commit

ASKED = (*KEPT_VIEWS, "layer_pruning", "layer_summary", "performance", "lineage", "history", "base_names")
MODELS = ("Magnitude_5000", "Magnitude_2of4", "ShortGPT_remove_2", "HGSP_2500", "LLM-Pruner_2000")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("histories") / "study"
    demo.write_study(folder)
    return folder


@pytest.fixture(autouse=True)
def every_warehouse_is_large(monkeypatch):
    monkeypatch.setattr(states, "LEAST_CHECKPOINTS", 1)
    monkeypatch.setattr(keeping, "MOST_CHANGED", 2.0)


@pytest.fixture
def increments(monkeypatch):
    """The views that were written from an earlier answer."""
    written = []
    whole = keeping._write_from_earlier

    def noted(snapshot, session, answer):
        is_written = whole(snapshot, session, answer)
        written.extend([answer.view] * is_written)
        return is_written

    monkeypatch.setattr(keeping, "_write_from_earlier", noted)
    return written


def rows(connection, view):
    return connection.sql(f"SELECT * FROM {view} ORDER BY ALL").to_arrow_table()


def assert_as_computed(root, views=ASKED):
    """Every answer is kept, and has the types and values that the rows give."""
    session = Session(read_snapshot(root))
    assert session._kept.keys() == KEPT_VIEWS.keys()
    kept, (computed, _) = session.make(), connect(root, computes_all=True)
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

    def lose_what_is_kept(self):
        shutil.rmtree(self.root / KEPT)
        keep_answers(self.root)


WEIGHTS = ("model.safetensors", "pytorch_model.bin")
STEPS = (
    *("take_one", "take_all", "change_weights", "measure_again", "rename", "drop", "other_base", "no_base"),
    *("write_a_fact_twice", "lose_what_is_kept"),
)


@pytest.mark.parametrize("seed", range(2))
def test_whatever_happens_kept_answers_are_what_the_rows_give(study, tmp_path, increments, seed):
    history = History(study, tmp_path, seed)
    assert_as_computed(history.root)
    steps = [*STEPS, *STEPS]
    history.chance.shuffle(steps)
    for step in steps:
        getattr(history, step)()
        assert_as_computed(history.root)
    assert {*increments} == keeping.INCREMENTS.keys()
    assert check_warehouse(history.root) == []
