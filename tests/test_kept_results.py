"""Kept answers about results equal the computed ones whatever happens to result files and names, drawn by chance."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import duckdb
import pytest

from layerhouse import NotFoundError, UsageError
from layerhouse.warehouse.admin import keeping
from layerhouse.warehouse.admin.health import check_warehouse
from layerhouse.warehouse.admin.keeping import keep_answers
from layerhouse.warehouse.admin.link_results import LinkRequest, link_results
from layerhouse.warehouse.admin.pack import pack_warehouse
from layerhouse.warehouse.admin.removals import drop_model, rename_model
from layerhouse.warehouse.answers.kept import states
from layerhouse.warehouse.answers.kept.states import KEPT_VIEWS
from layerhouse.warehouse.answers.session import Session, connect, init_script, read_snapshot
from layerhouse.warehouse.answers.sql_text import sql_files
from layerhouse.warehouse.answers.view_texts import reading_kept
from layerhouse.warehouse.storage.store import create_store, write_commit

NAMES = ("a'b", "名前/模型", "two\nlines", "plain", "org/model", "late", *(f"model_{number}" for number in range(6)))
ASKED = (*KEPT_VIEWS, "run_measures", "performance", "column_conditions")
STEPS = (*("take",) * 5, "read_again", "relink", "take_unlinked", "rename", "drop", "link", "pack")
MEASURE = ("suite", "task", "dataset", "metric", "unit", "seq_len", "batch_size", "hardware", "n_shot", "harness")
FIRST = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def small_limits(monkeypatch):
    monkeypatch.setattr(states, "LEAST_RESULTS", 1)
    monkeypatch.setattr(keeping, "MOST_CHANGED", 2.0)
    monkeypatch.setattr(keeping, "LEAST_DIVIDED", 0)
    monkeypatch.setattr(keeping, "MOST_REPLACED", 6)


class Results:
    """A warehouse of results: two harnesses and datasets, runs of several times, files of one path, names that need quotes."""

    def __init__(self, root, seed):
        self.root, self.chance, self.files = root, random.Random(seed), []

    def measure(self):
        pick, kind = self.chance.choice, self.chance.random()
        if kind < 0.15:
            known = {"suite": "perplexity", "dataset": pick(("wikitext2", "ptb")), "metric": "perplexity", "unit": "per_token"}
            known["seq_len"] = pick((None, 2048))
        elif kind < 0.3:
            known = {"suite": "speed", "metric": "throughput_tokens_per_sec", "batch_size": pick((1, 4))}
            known["hardware"] = pick((None, "A100", "H200"))
        else:
            known = {
                "suite": "zeroshot",
                "task": pick(("boolq", "piqa", "rte")),
                "metric": pick(("acc", "acc_norm", "accuracy")),
            }
            known |= {"n_shot": pick((0, None, 5)), "dataset": pick((None, "org/one", "org/two"))}
        measure = dict.fromkeys(MEASURE) | known | {"harness": pick(("lm_eval", "lighteval"))}
        return measure | {"measure_id": repr(measure)}

    def rows(self, result_id, path):
        pick = self.chance.choice
        run = pick((None, None, "load_in_4bit", "dtype=bfloat16"))
        file = {"result_id": result_id, "source_uri": path, "variant": run, "run_id": run}
        file |= {
            "run_at": pick((None, *(FIRST + timedelta(days=day) for day in range(3)))),
            "rules_version": pick((None, 1000)),
        }
        values = [pick((self.chance.random(), self.chance.random() * 100, None)) for _ in range(self.chance.randint(1, 6))]
        return [
            file
            | self.measure()
            | {"value": value, "status": "nan" if value is None else "ok", "doubt": pick((None, None, "a reason"))}
            | {"higher_is_better": pick((True, None)), "is_group": False}
            for value in values
        ]

    def link_to(self, result_id, path):
        link = {"result_id": result_id, "model_id": self.chance.choice(NAMES), "rule": "folder", "source_uri": path}
        return link | {"linked_at": FIRST, "tags": {}}

    def commit(self, **tables):
        write_commit(self.root, tables, "ingest")
        keep_answers(self.root)

    def take(self):
        file = (f"file_{len(self.files)}", f"/runs/{self.chance.randint(0, 8)}.json")
        self.files.append(file)
        self.commit(results=self.rows(*file), links=[self.link_to(*file)])

    def take_unlinked(self):
        self.files.append((f"file_{len(self.files)}", "/runs/of_nobody.json"))
        self.commit(results=self.rows(*self.files[-1]))

    def read_again(self):
        self.commit(results=self.rows(*self.chance.choice(self.files)))

    def relink(self):
        self.commit(links=[self.link_to(*self.chance.choice(self.files))])

    def rename(self):
        rename_model(self.root, *self.chance.sample(NAMES, 2))

    def drop(self):
        drop_model(self.root, self.chance.choice(NAMES))

    def link(self):
        link_results(self.root, [LinkRequest(self.chance.choice(self.files)[1], self.chance.choice(NAMES))])

    def pack(self):
        pack_warehouse(self.root)

    def step(self):
        try:
            getattr(self, self.chance.choice(STEPS))()
        except (NotFoundError, UsageError):
            """A name that no model has, or that another one has."""


def rows(connection, view):
    return connection.sql(f"SELECT * FROM {view} ORDER BY ALL").to_arrow_table()


@pytest.mark.parametrize(
    ("seed", "steps"), [(0, 10), *(pytest.param(seed, 60, marks=pytest.mark.slow) for seed in range(1, 4))]
)
def test_whatever_happens_to_results_kept_answers_are_what_the_rows_give(tmp_path, seed, steps):
    history = Results(create_store(tmp_path / "warehouse"), seed)
    history.take()
    for _ in range(steps):
        history.step()
        asked = Session(read_snapshot(history.root))
        assert asked._kept.keys() == KEPT_VIEWS.keys()
        with (
            asked.make(" ".join(ASKED)) as kept,
            connect(history.root, computes_all=True, asked=" ".join(ASKED))[0] as computed,
        ):
            for view in ASKED:
                assert rows(kept, view).equals(rows(computed, view)), view
    assert check_warehouse(history.root) == []
    with duckdb.connect() as plain, connect(history.root, computes_all=True)[0] as computed:
        plain.execute(init_script(history.root))
        for view in ("run_measures", "model_measures", "models"):
            assert rows(plain, view).equals(rows(computed, view)), view


@pytest.mark.parametrize(("view", "cte"), [("48_run_measures", "measure_scales"), ("55_model_measures", "common_hardware")])
def test_a_view_has_a_cte_in_place_of_a_kept_view_where_that_is_not_kept(view, cte):
    text = sql_files("warehouse.views")[view]
    assert f"{cte} AS (" in text
    assert reading_kept(text, KEPT_VIEWS.keys() - {cte}) == text
    without = reading_kept(text, [cte])
    assert f"{cte} AS (" not in without
    assert f"JOIN {cte}\n" in without.replace(f"{cte} ON TRUE", cte)
    assert len(duckdb.extract_statements(without)) == 1
