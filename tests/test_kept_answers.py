"""Answers that a large warehouse keeps: they are what the rows give, of every state its own, and nothing depends on them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from dataclasses import asdict
from datetime import UTC, datetime

import duckdb
import pyarrow as pa
import pytest

import layerhouse as lh
from layerhouse import DamagedWarehouseError, WarehouseError
from layerhouse.warehouse.admin import keeping
from layerhouse.warehouse.admin.health import check_warehouse
from layerhouse.warehouse.admin.keeping import keep_answers
from layerhouse.warehouse.admin.link_results import LinkRequest, link_results
from layerhouse.warehouse.admin.removals import drop_model, rename_model
from layerhouse.warehouse.answers.kept import files, states
from layerhouse.warehouse.answers.kept.files import SECONDS_OF_AN_OLD_SESSION
from layerhouse.warehouse.answers.kept.places import PLACES, Places
from layerhouse.warehouse.answers.kept.states import KEPT_VIEWS
from layerhouse.warehouse.answers.session import Session, connect, read_snapshot
from layerhouse.warehouse.storage.data_files import footer_of
from layerhouse.warehouse.storage.own_files import KEPT
from layerhouse.warehouse.storage.sealing import sealed, unsealed
from layerhouse.warehouse.storage.store import create_store, write_commit

MODELS = 100
TASKS = 20
LARGE = MODELS * TASKS
"""Results of a warehouse that is large here: the number that makes one large is set to it, as real ones take minutes."""
FREE_OF_NAMES = ("checkpoint_facts", "checkpoint_changes", "pair_layers", "pair_summary")
"""Kept views in which no model has a name."""
QUESTIONS = ("SELECT * FROM measures ORDER BY model_id, kind, measure", "SELECT * FROM performance ORDER BY model_id")


def results(model, value, tasks=TASKS):
    """Rows of one result file: zero-shot tasks, of which boolq is one of the seven, and a perplexity."""
    names = ["boolq", *(f"task_{number}" for number in range(tasks - 2))]
    common = {"result_id": f"file-{model}-{value}", "harness": "lm_eval", "source_uri": f"/runs/{model}.json", "status": "ok"}
    common |= dict.fromkeys(("dataset", "seq_len"))
    rows = [
        common | {"measure_id": name, "suite": "zeroshot", "task": name, "metric": "acc", "value": value, "unit": "fraction"}
        for name in names
    ]
    perplexity = {"measure_id": "ppl", "suite": "perplexity", "dataset": "wikitext2", "metric": "perplexity", "value": 7.5}
    return [*rows, common | perplexity | {"unit": "per_token", "seq_len": 2048}]


def link(model, value):
    row = {"result_id": f"file-{model}-{value}", "model_id": model, "rule": "folder", "source_uri": f"/runs/{model}.json"}
    return row | {"linked_at": datetime.now(UTC), "tags": {}}


@pytest.fixture(scope="module", autouse=True)
def a_small_limit():
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(states, "LEAST_RESULTS", LARGE)
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A warehouse with as many results as make one large, its answers kept."""
    root = create_store(tmp_path_factory.mktemp("kept") / "warehouse")
    models = [f"model_{number:03d}" for number in range(MODELS)]
    rows = pa.Table.from_pylist([row for model in models for row in results(model, 0.5)])
    write_commit(root, {"results": rows, "links": [link(model, 0.5) for model in models]}, "ingest")
    keep_answers(root)
    return root


@pytest.fixture
def large(made, tmp_path):
    return shutil.copytree(made, tmp_path / "warehouse")


def kept(root):
    return sorted(path.name for path in (root / KEPT).iterdir() if path.name != PLACES)


@pytest.fixture
def divided(monkeypatch):
    """Rows that changed are written into a second file, as they are where the first one is large."""
    monkeypatch.setattr(keeping, "LEAST_DIVIDED", 0)


def parts(root, view="run_values"):
    """The files of the present answer of a view."""
    return Session(read_snapshot(root))._kept[view].paths


def file_digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def rows_of(path):
    return duckdb.sql(f"FROM read_parquet('{path}')").fetchall()


def answers(root, **options):
    """All measures, and all of performance."""
    connection, _ = connect(root, **options)
    with connection:
        return [connection.sql(question).fetchall() for question in QUESTIONS]


def reads_kept(root):
    return Session(read_snapshot(root))._kept.keys() == KEPT_VIEWS.keys()


def test_kept_answers_are_what_the_rows_give(large):
    assert {name.partition("-")[0] for name in kept(large)} == KEPT_VIEWS.keys()
    assert len(kept(large)) == 2 * len(KEPT_VIEWS)
    assert reads_kept(large)
    found = answers(large)
    assert found == answers(large, computes_all=True)
    assert len(found[0]) == LARGE
    with lh.open(large) as wh:
        row = wh.sql("SELECT boolq, n_tasks, ppl_wikitext2 FROM performance WHERE model_id = 'model_007'").to_dicts()
    assert row == [{"boolq": 0.5, "n_tasks": 1, "ppl_wikitext2": 7.5}]


def test_an_ingest_keeps_the_answers_of_what_it_made(large, tmp_path):
    first = kept(large)
    file = tmp_path / "models" / "model_new" / "results_2026-01-01T00-00-00.json"
    file.parent.mkdir(parents=True)
    document = {"results": {"boolq": {"alias": "boolq", "acc,none": 0.75}}, "versions": {"boolq": 2.0}, "n-shot": {"boolq": 0}}
    file.write_text(json.dumps(document | {"config": {"model": "hf", "model_args": "pretrained=model_new"}}))
    report = lh.ingest([tmp_path / "models"], warehouse=large)
    assert report.count("failed") == 0
    assert set(first) < set(kept(large))
    assert reads_kept(large)
    with lh.open(large) as wh:
        [(name, _)] = wh.sql("SELECT model_id, boolq FROM performance WHERE boolq = 0.75").rows()
    assert name.endswith("model_new")
    assert answers(large) == answers(large, computes_all=True)


@pytest.mark.parametrize("change", ["drop", "rename", "link"])
def test_what_is_changed_by_hand_is_in_the_kept_answers(large, change):
    if change == "drop":
        drop_model(large, "model_003")
    elif change == "rename":
        rename_model(large, "model_003", "model_x")
    else:
        link_results(large, [LinkRequest("/runs/model_003.json", "model_004")])
    assert reads_kept(large)
    found = answers(large)
    assert found == answers(large, computes_all=True)
    names = {row[0] for row in found[0]}
    assert "model_003" not in names
    assert ("model_x" in names) == (change == "rename")


def test_rows_that_nobody_kept_answers_of_are_computed(large):
    write_commit(large, {"results": results("model_000", 0.25, 3), "links": [link("model_000", 0.25)]}, "ingest")
    assert not reads_kept(large)
    with lh.open(large) as wh:
        assert wh.sql("SELECT boolq FROM performance WHERE model_id = 'model_000'").item() == 0.25


def test_an_earlier_time_is_computed_from_its_rows(large):
    with lh.open(large, as_of=datetime(2020, 1, 1, tzinfo=UTC)) as wh:
        assert wh.sql("SELECT count(*) FROM measures").item() == 0


def test_a_warehouse_that_is_not_large_keeps_nothing(tmp_path):
    root = create_store(tmp_path / "warehouse")
    write_commit(root, {"results": results("model", 0.5, 10), "links": [link("model", 0.5)]}, "ingest")
    keep_answers(root)
    assert not (root / KEPT).exists()


def test_answers_that_cannot_be_kept_are_computed(large):
    shutil.rmtree(large / KEPT)
    (large / KEPT).write_text("in the way")
    drop_model(large, "model_003")
    assert not reads_kept(large)
    assert len(answers(large)[1]) == MODELS - 1


@pytest.mark.parametrize(("view", "is_record"), [("checkpoint_changes", True), ("models", False)])
def test_an_answer_or_record_that_was_changed_is_not_read(large, view, is_record):
    """Cut short; or another footer of the same size."""
    for change in (lambda data: data[:-100], lambda data: data[:-20] + bytes(12) + data[-8:]):
        (path,) = parts(large, view)
        path = path.with_name(f"{path.name.partition('.')[0]}.json") if is_record else path
        path.write_bytes(change(path.read_bytes()))
        assert not reads_kept(large)
        assert [(finding.kind, finding.where) for finding in check_warehouse(large)] == [("damaged", f"{KEPT}/{path.name}")]
        check_warehouse(large, repair=True)
        keep_answers(large)
        assert reads_kept(large)


def test_changed_values_of_an_answer_are_not_given_where_files_are_verified(large):
    path = next((large / KEPT).glob("model_measures-*.parquet"))
    data = path.read_bytes()
    path.write_bytes(data[:100] + bytes(byte ^ 0xFF for byte in data[100:108]) + data[108:])
    connection, _ = connect(large, verify=True)
    with connection:
        found = [connection.sql(question).fetchall() for question in QUESTIONS]
    assert found == answers(large, computes_all=True)
    assert [finding.where for finding in check_warehouse(large)] == [f"{KEPT}/{path.name}"]


def test_answers_of_states_long_past_go(large):
    first = kept(large)
    drop_model(large, "model_001")
    assert set(first) < set(kept(large))
    past = time.time() - SECONDS_OF_AN_OLD_SESSION - 60
    for name in first:
        os.utime(large / KEPT / name, (past, past))
    drop_model(large, "model_002")
    still = {name for name in first if name.partition("-")[0] in FREE_OF_NAMES}
    assert set(first) & set(kept(large)) == still
    assert len(kept(large)) == 4 * len(KEPT_VIEWS) - len(still)


def test_check_compares_kept_answers_with_the_rows(large):
    assert check_warehouse(large) == []
    name = next(name for name in kept(large) if name.startswith("run_values-") and name.endswith(".parquet"))
    connection, _ = connect(large)
    with connection:
        other = large / "other.parquet"
        connection.execute(f"COPY (SELECT * REPLACE (value / 2 AS value) FROM run_values) TO '{other}' (FORMAT parquet)")
    other.replace(large / KEPT / name)
    (large / KEPT / f".{name}.0123abcd.tmp").write_bytes(b"")
    found = check_warehouse(large)
    assert [(finding.kind, finding.where) for finding in found] == [
        ("orphan", f"{KEPT}/.{name}.0123abcd.tmp"),
        ("damaged", f"{KEPT}/{name}"),
    ]
    assert all(finding.repaired for finding in check_warehouse(large, repair=True))
    assert check_warehouse(large) == []
    assert answers(large) == answers(large, computes_all=True)


def test_kept_answers_that_are_links_are_not_opened(large, tmp_path):
    found = answers(large)
    names = kept(large)
    (large / KEPT).rename(tmp_path / "elsewhere")
    (large / KEPT).symlink_to(tmp_path / "elsewhere")
    for call in (reads_kept, keep_answers, lambda root: check_warehouse(root, repair=True)):
        with pytest.raises(WarehouseError, match="kept: a symbolic link"):
            call(large)
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == sorted([*names, PLACES])
    (large / KEPT).unlink()
    (large / KEPT).mkdir()
    (large / KEPT / names[0]).symlink_to(tmp_path / "elsewhere" / names[0])
    os.mkfifo(large / KEPT / names[1])
    assert not reads_kept(large)
    assert answers(large) == found


def test_a_folder_named_like_a_partition_adds_no_column_to_kept_answers(large, tmp_path):
    found = answers(large)
    large.rename(tmp_path / "value=7")
    assert reads_kept(tmp_path / "value=7")
    assert answers(tmp_path / "value=7") == found


def test_an_answer_whose_pages_are_damaged_is_named_where_it_cannot_be_read(large):
    path = next((large / KEPT).glob("run_values-*.parquet"))
    data = path.read_bytes()
    size = len(data) - len(footer_of(data))
    path.write_bytes(data[:4] + bytes(byte ^ 0xFF for byte in data[4:size]) + data[size:])
    with lh.open(large) as wh, pytest.raises(DamagedWarehouseError, match=f"damaged: {KEPT}/{path.name}: its content differs"):
        wh.sql("SELECT * FROM measures")


def add(root, model, value, tasks=TASKS):
    write_commit(root, {"results": results(model, value, tasks), "links": [link(model, value)]}, "ingest")
    keep_answers(root)


def test_few_rows_that_changed_are_written_beside_the_others(large, divided):
    (whole,) = parts(large)
    written = whole.stat().st_ino, file_digest(whole)
    for number in range(3):
        add(large, f"model_{number:03d}", 0.25 + number / 10)
        first, second = parts(large)
        assert (first, first.stat().st_ino, file_digest(first)) == (whole, *written)
        assert {row[0] for row in rows_of(second)} == {f"model_{at:03d}" for at in range(number + 1)}
    assert answers(large) == answers(large, computes_all=True)
    drop_model(large, "model_001")
    assert {row[0] for row in rows_of(parts(large)[-1])} == {"model_000", "model_002"}
    assert answers(large) == answers(large, computes_all=True)
    assert check_warehouse(large) == []


def test_results_of_no_model_change_no_rows(large, divided):
    found = answers(large)
    write_commit(large, {"results": results("nobody", 0.25)}, "ingest")
    keep_answers(large)
    first, second = parts(large)
    assert rows_of(second) == []
    assert "NOT IN" not in Session(read_snapshot(large))._kept["run_values"].select
    assert answers(large) == answers(large, computes_all=True) == found
    add(large, "model_000", 0.25)
    assert parts(large)[0] == first
    assert answers(large) == answers(large, computes_all=True)


def test_many_rows_that_changed_make_a_file_of_all_again(large, divided, monkeypatch):
    monkeypatch.setattr(keeping, "MOST_REPLACED", 2)
    assert [len(parts(large)) for number in range(4) if not add(large, f"model_{number:03d}", 0.25)] == [2, 2, 1, 2]
    assert answers(large) == answers(large, computes_all=True)


def test_long_names_of_what_changed_make_a_file_of_all_again(large, divided):
    """A record of more than MAX_RECORD_BYTES could not be read."""
    names = ["\N{SNOWMAN}" * 30_000, "\N{SNOWMAN}" * 40_000]
    assert [len(parts(large)) for name in names if not add(large, name, 0.25, 2)] == [2, 1]
    assert answers(large) == answers(large, computes_all=True)


def test_a_file_that_a_later_answer_reads_stays(large, divided):
    add(large, "model_000", 0.25)
    first, second = parts(large)
    past = time.time() - SECONDS_OF_AN_OLD_SESSION - 60
    for path in (large / KEPT).iterdir():
        os.utime(path, (past, past))
    add(large, "model_001", 0.25)
    assert parts(large)[0] == first
    assert not second.exists()
    assert reads_kept(large)
    assert check_warehouse(large) == []


@pytest.mark.parametrize("part", [0, 1])
def test_damage_in_either_file_of_an_answer_is_found_and_mended(large, divided, part):
    add(large, "model_000", 0.25)
    path = parts(large)[part]
    data = path.read_bytes()
    path.write_bytes(data[:100] + bytes(byte ^ 0xFF for byte in data[100:108]) + data[108:])
    assert [(finding.kind, finding.where) for finding in check_warehouse(large)] == [("damaged", f"{KEPT}/{path.name}")]
    check_warehouse(large, repair=True)
    assert not path.exists()
    assert answers(large) == answers(large, computes_all=True)
    assert check_warehouse(large) == []
    keep_answers(large)
    assert reads_kept(large)
    assert check_warehouse(large) == []


@pytest.mark.parametrize("part", [0, 1])
def test_an_answer_whose_hashes_are_right_and_whose_rows_are_not_is_found(large, divided, part):
    """Nothing is written from it afterwards, whichever of its files the rows are in."""
    add(large, "model_000", 0.25)
    path, own = parts(large)[part], parts(large)[1].name
    duckdb.sql(f"COPY (SELECT * REPLACE (value / 2 AS value) FROM read_parquet('{path}')) TO '{large}/other.parquet'")
    (large / "other.parquet").replace(path)
    for record in (large / KEPT).glob("run_values-*.json"):
        document, _ = unsealed(record.read_bytes())
        for described in (document, document.get("beside", {})):
            if described.get("name") == path.name:
                described.update(asdict(files._description(path, path.name)))
        record.write_bytes(sealed(document))
    assert [(finding.where, finding.what) for finding in check_warehouse(large)] == [
        (f"{KEPT}/{own}", "a kept answer that is not what the rows give")
    ]
    check_warehouse(large, repair=True)
    assert not path.exists()
    add(large, "model_001", 0.25)
    assert answers(large) == answers(large, computes_all=True)
    assert check_warehouse(large) == []


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "../results/stolen.parquet"},
        {"name": "/etc/passwd"},
        {"bytes": "1"},
        {"beside": []},
        {"beside": {"name": "x"}},
        {"stands_on": {"measure_keys": "../../elsewhere"}},
    ],
)
def test_a_record_that_is_not_one_is_not_read(large, changed):
    record = next((large / KEPT).glob("run_values-*.json"))
    document, _ = unsealed(record.read_bytes())
    record.write_bytes(sealed(document | changed))
    assert not reads_kept(large)
    assert [(finding.where, finding.what) for finding in check_warehouse(large)] == [
        (f"{KEPT}/{record.name}", "not a record of an answer")
    ]
    assert answers(large) == answers(large, computes_all=True)


def test_a_record_of_the_first_version_is_read(large):
    for record in (large / KEPT).glob("*-*.json"):
        document, _ = unsealed(record.read_bytes())
        (large / KEPT / document["name"]).rename(record.with_suffix(".parquet"))
        record.write_bytes(sealed({key: value for key, value in document.items() if key not in ("name", "stands_on")}))
    assert reads_kept(large)
    assert check_warehouse(large) == []
    add(large, "model_000", 0.25)
    assert reads_kept(large)
    assert answers(large) == answers(large, computes_all=True)


def test_runs_are_compared_anew_where_measures_are_told_apart_otherwise(large, divided):
    """A second dataset of one task is part of the text of both, also in the rows of models that did not change."""
    found = answers(large)[0]
    rows = [row | {"measure_id": "other dataset", "dataset": "org/other"} for row in results("model_000", 0.25, 2)[:1]]
    first = [row | {"measure_id": "first dataset", "dataset": "org/first"} for row in results("model_000", 0.3, 2)[:1]]
    for number, added in enumerate((first, rows)):
        links = [link("model_000", 0.3 if added is first else 0.25)]
        write_commit(large, {"results": added, "links": links}, "ingest")
        keep_answers(large)
        assert answers(large) == answers(large, computes_all=True), number
    assert len(parts(large)) == 1
    assert answers(large)[0] != found


def test_values_of_other_models_are_doubtful_where_a_scale_becomes_another_one(large, divided):
    """task_1 is 0.5 of all models; so many values of 50 come that shares are the fewer."""
    for number in range(2):
        rows = [row for at in range(60) for row in results(f"more_{number}_{at}", 50.0, 3)]
        links = [link(f"more_{number}_{at}", 50.0) for at in range(60)]
        write_commit(large, {"results": rows, "links": links}, "ingest")
        keep_answers(large)
        with lh.open(large) as wh:
            doubtful = wh.sql(
                "SELECT DISTINCT value FROM run_measures WHERE measure = 'task_0/acc' AND is_doubtful"
            ).to_series()
        assert [*doubtful] == [50.0 if number == 0 else 0.5]
        assert answers(large) == answers(large, computes_all=True)


def test_only_files_with_rows_of_what_changed_are_opened(large):
    add(large, "model_new", 0.25)
    snapshot = read_snapshot(large)
    newest, first = snapshot.files_to_read()["results"][::-1]
    places = Places(snapshot, ["results", "links"])
    assert places.files("results", ["file-model_new-0.25"]) == [newest]
    assert places.files("results", ["file-model_007-0.5"]) == [first]
    assert places.files("results", ["file-model_007-0.5", "file-model_new-0.25"]) == [first, newest]
    assert places.files("results", ["of nothing"]) == []
    assert places.files("layers", ["of no table that was asked for"]) is None


@pytest.mark.parametrize("damage", [b"not JSON", sealed({"results/x": 1}), None])
def test_what_is_noted_of_files_is_read_again_if_it_is_not_as_it_was_written(large, damage):
    noted = large / KEPT / PLACES
    before = noted.read_bytes()
    noted.unlink() if damage is None else noted.write_bytes(damage)
    add(large, "model_000", 0.25)
    assert len(noted.read_bytes()) > len(before)
    assert answers(large) == answers(large, computes_all=True)


def add_of_dataset(root, model, dataset):
    """Results of one task: its text has the dataset where there are several, which the rows of one model do not tell."""
    rows = [row | {"measure_id": dataset, "dataset": dataset} for row in results(model, 0.25, 2)[:1]]
    write_commit(root, {"results": rows, "links": [link(model, 0.25)]}, "ingest")


@pytest.fixture
def told_apart(large, divided):
    """A warehouse with a task of two datasets, and results of one more model of which no answers are kept yet."""
    for model, dataset in (("model_000", "org/first"), ("model_001", "org/other")):
        add_of_dataset(large, model, dataset)
        keep_answers(large)
    add_of_dataset(large, "model_002", "org/other")
    return large


def test_runs_are_not_computed_from_the_measures_of_some_models(told_apart, monkeypatch):
    real = keeping.find_kept
    monkeypatch.setattr(keeping, "find_kept", lambda answer: None if answer.view == "measure_keys" else real(answer))
    keep_answers(told_apart)
    monkeypatch.undo()
    assert answers(told_apart) == answers(told_apart, computes_all=True)


def test_nothing_is_written_from_answers_that_are_deleted_meanwhile(told_apart, monkeypatch):
    shown = keeping.ChangedRows.replaced

    def delete_first(self, *arguments):
        for path in (told_apart / KEPT).glob("measure_keys-*.parquet"):
            path.unlink()
        return shown(self, *arguments)

    monkeypatch.setattr(keeping.ChangedRows, "replaced", delete_first)
    keep_answers(told_apart)
    monkeypatch.undo()
    assert not reads_kept(told_apart)
    for _ in range(2):
        assert answers(told_apart) == answers(told_apart, computes_all=True)
        keep_answers(told_apart)
    assert reads_kept(told_apart)
