"""From folders to answers: what is new is taken once, what is broken is named, and nothing else is lost for it."""

from __future__ import annotations

import json
import shutil

import pytest

import layerhouse as lh
from layerhouse.ingest.run import Options, ingest_roots
from layerhouse.tests.running import layerhouse
from layerhouse.tests.study_files import (
    ANALYSIS,
    COMPARISON,
    FULL,
    HALF,
    ORIGINAL,
    REMOVAL,
    RESULT,
    answers,
    base,
    comparison,
    ingest,
    lines,
    plan,
    put,
    put_all,
    removal,
    result,
    rows,
    structure,
)
from layerhouse.warehouse.admin.removals import drop_model, rename_model
from layerhouse.warehouse.answers.handle import Warehouse
from layerhouse.warehouse.answers.load_inventory import load_inventory
from layerhouse.warehouse.storage.store import create_store

HISTORY = "SELECT params FROM history ORDER BY model_id, commit_id"
PPL = "SELECT model_id, ppl_wikitext2 FROM performance ORDER BY model_id"
HALVED = {ANALYSIS: structure(HALF, HALF), ORIGINAL: base(FULL, FULL)}
CUT = '{"metrics": {"ppl'
CUT_OFF = "cut off: Unterminated string at line 1, column 14"


def commits(warehouse):
    return sorted(path.name for path in (warehouse / "commits").iterdir())


@pytest.fixture
def warehouse(tmp_path):
    return tmp_path / "w"


# Once


def test_a_second_run_finds_everything_unchanged_and_commits_nothing(tmp_path, warehouse):
    put_all(tmp_path / "results/A", {**HALVED, RESULT: result(), "evaluation/ppl_128.json": result()})
    put_all(tmp_path / "results/B", {COMPARISON: comparison(base(FULL, FULL), structure(FULL)), REMOVAL: removal(1, of=2)})
    put_all(tmp_path / "results/C", {RESULT: result()})
    assert lines(ingest(tmp_path / "results", into=warehouse)) == [
        "taken results/A: 2 analysis files, 2 result files",
        "taken results/B: 2 analysis files",
        "taken results/C: 1 result file",
    ]
    before = commits(warehouse)
    assert lines(ingest(tmp_path / "results", into=warehouse)) == [
        f"unchanged results/{name}: nothing new" for name in ("A", "B", "C")
    ]
    assert commits(warehouse) == before


def test_equal_contents_are_stored_once_whoever_shows_them(tmp_path, warehouse):
    for name in ("A", "B"):
        put_all(tmp_path / "results" / name, {**HALVED, RESULT: result()})
    ingest(tmp_path / "results", into=warehouse)
    put_all(tmp_path / "results/C", HALVED)
    ingest(tmp_path / "results", into=warehouse)
    counts = "SELECT (SELECT count(*) FROM layers), (SELECT count(*) FROM layer_matches), (SELECT count(*) FROM checkpoints)"
    shown = "SELECT count(DISTINCT checkpoint_id), min(reduction_ratio) FROM models"
    assert answers(warehouse, counts, shown, PPL) == [
        [(2 + 2, 2, 3 + 1)],
        [(1, 1000 / 7048)],
        [("results/A", 10.0), ("results/B", 10.0), ("results/C", None)],
    ]


def test_more_models_than_a_commit_holds_are_all_in(tmp_path, warehouse):
    for number in range(300):
        put(tmp_path / f"results/{number:03}" / RESULT, result(number))
    assert ingest(tmp_path / "results", into=warehouse).count("taken") == 300
    assert len(commits(warehouse)) >= 3
    assert rows(warehouse, "SELECT count(*), sum(ppl_wikitext2) FROM performance") == [(300, sum(range(300)))]


def test_what_was_finished_before_an_interrupt_stays(tmp_path, warehouse):
    for name in ("A", "B", "C"):
        put(tmp_path / "results" / name / RESULT, result())
    store = create_store(warehouse)

    def interrupt(event):
        if event.where == "results/B":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest_roots([tmp_path / "results"], store, load_inventory(store), Options(), on_event=interrupt)
    assert [name for name, _ in rows(warehouse, PPL)] == ["results/A", "results/B"]
    assert [event.kind for event in ingest(tmp_path / "results", into=warehouse).events] == ["unchanged", "unchanged", "taken"]


def test_of_a_model_that_an_interrupt_broke_off_nothing_is_committed(tmp_path, warehouse):
    """Its structure was taken when its results, with a key that is passed over, were not yet."""
    for name in ("A", "B"):
        put_all(tmp_path / "results" / name, HALVED)
        put(tmp_path / "results" / name / RESULT, result() | {"odd": 1})
    store = create_store(warehouse)

    def interrupt(event):
        if event.kind == "passed" and "results/B" in event.where:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest_roots([tmp_path / "results"], store, load_inventory(store), Options(), on_event=interrupt)
    assert rows(warehouse, "SELECT model_id FROM models") == [("results/A",)]
    assert rows(warehouse, "SELECT count(DISTINCT model_id) FROM links") == [(1,)]
    assert ingest(tmp_path / "results", into=warehouse).count("taken") == 1


# Changes


def test_a_changed_analysis_is_a_new_checkpoint_and_an_old_one_may_come_back(tmp_path, warehouse):
    for sizes in ((HALF, HALF), (FULL, HALF), (HALF, HALF)):
        put_all(tmp_path / "results/A", {ANALYSIS: structure(*sizes), ORIGINAL: base(FULL, FULL)})
        assert lines(ingest(tmp_path / "results", into=warehouse)) == ["taken results/A: 2 analysis files"]
    ids = "SELECT count(DISTINCT checkpoint_id) FROM sightings"
    shown = "SELECT params, reduction_ratio FROM models"
    assert answers(warehouse, HISTORY, ids, shown, "SELECT count(*) FROM layer_pruning") == [
        [(6048,), (6548,), (6048,)],
        [(2,)],
        [(6048, 1000 / 7048)],
        [(2,)],
    ]


def test_a_file_written_anew_with_the_same_contents_is_no_history(tmp_path, warehouse):
    for _ in range(2):
        put_all(tmp_path / "results/A", HALVED)
        ingest(tmp_path / "results", into=warehouse)
    assert rows(warehouse, HISTORY) == [(6048,)]


def test_of_a_result_file_its_newest_contents_count_and_all_are_kept(tmp_path, warehouse):
    for ppl in (10.0, 20.0, 10.0):
        put(tmp_path / "results/A" / RESULT, result(ppl))
        assert lines(ingest(tmp_path / "results", into=warehouse)) == ["taken results/A: 1 result file"]
        stored, shown = answers(warehouse, "SELECT value FROM results ORDER BY value", PPL)
        assert shown == [("results/A", ppl)]
    assert stored == [(10.0,), (20.0,)]


def test_a_moved_study_keeps_its_names_and_history(tmp_path, warehouse):
    put_all(tmp_path / "old/results/A", {**HALVED, RESULT: result()})
    ingest(tmp_path / "old/results", into=warehouse)
    (tmp_path / "old").rename(tmp_path / "new")
    assert lines(ingest(tmp_path / "new/results", into=warehouse)) == ["taken results/A: 2 analysis files, 1 result file"]
    assert answers(warehouse, PPL, HISTORY, "SELECT source_uri FROM models") == [
        [("results/A", 10.0)],
        [(6048,)],
        [(f"{tmp_path}/new/results/A",)],
    ]


def test_a_link_to_a_known_model_is_the_known_model(tmp_path, warehouse):
    put_all(tmp_path / "results/A", {**HALVED, RESULT: result()})
    ingest(tmp_path / "results", into=warehouse)
    (tmp_path / "latest").symlink_to("results/A")
    assert lines(ingest(tmp_path / "latest", into=warehouse)) == ["unchanged results/A: nothing new"]


def test_files_of_a_model_named_as_roots_are_one_analysis(tmp_path, warehouse):
    put_all(tmp_path / "results/A", HALVED)
    roots = [tmp_path / "results/A" / name for name in HALVED]
    assert lines(ingest(*roots, into=warehouse)) == ["taken results/A: 2 analysis files"]
    assert rows(warehouse, "SELECT reduction_ratio FROM models") == [(1000 / 7048,)]


# Names


def test_a_renamed_model_keeps_its_new_name(tmp_path, warehouse):
    put(tmp_path / "results/A" / RESULT, result(10.0))
    ingest(tmp_path / "results", into=warehouse)
    rename_model(warehouse, "results/A", "best")
    put(tmp_path / "results/A" / RESULT, result(20.0))
    assert lines(ingest(tmp_path / "results", into=warehouse)) == ["taken best: 1 result file"]
    assert lines(ingest(tmp_path / "results/A", into=warehouse, name="other")) == [
        "failed results/A: in the warehouse as best; rename it with: layerhouse rename best other"
    ]
    assert rows(warehouse, PPL) == [("best", 20.0)]


def test_a_dropped_model_comes_back_when_it_is_ingested_again(tmp_path, warehouse):
    put_all(tmp_path / "results/A", {**HALVED, RESULT: result()})
    ingest(tmp_path / "results", into=warehouse)
    drop_model(warehouse, "results/A")
    assert rows(warehouse, PPL) == []
    assert lines(ingest(tmp_path / "results", into=warehouse)) == ["taken results/A: 2 analysis files, 1 result file"]
    assert rows(warehouse, PPL) == [("results/A", 10.0)]


def test_a_name_in_the_warehouse_belongs_to_its_folder_while_that_is_there(tmp_path, warehouse):
    put(tmp_path / "x/results/A" / RESULT, result(10.0))
    put(tmp_path / "y/results/A" / RESULT, result(20.0))
    ingest(tmp_path / "x/results", into=warehouse)
    assert lines(ingest(tmp_path / "y/results", into=warehouse)) == [
        f"failed y/results/A: its name results/A is that of {tmp_path}/x/results/A in the warehouse; "
        "give it another with --name NAME, or continue that model with --name results/A"
    ]
    assert lines(ingest(tmp_path / "y/results", into=warehouse, name="y/A")) == ["taken y/A: 1 result file"]
    assert lines(ingest(tmp_path / "y/results", into=warehouse)) == ["unchanged y/A: nothing new"]
    shutil.rmtree(tmp_path / "x")
    (tmp_path / "y").rename(tmp_path / "z")
    assert lines(ingest(tmp_path / "z/results", into=warehouse)) == ["taken results/A: 1 result file"]


def test_what_a_name_declares_is_kept_of_analyses_and_of_results(tmp_path, warehouse):
    put_all(tmp_path / "models--org--HGSP_2000_tuned/snapshots/abc", HALVED)
    put(tmp_path / "models--org--HGSP_2000_tuned/snapshots/abc/checkpoint-7" / RESULT, result())
    ingest(tmp_path, into=warehouse)
    tags = {"tuned": "", "revision": "abc"}
    columns = "SELECT model_id, method, declared_ratio, map_keys(tags), map_values(tags) FROM models ORDER BY model_id"
    assert [(*row[:3], dict(zip(*row[3:], strict=True))) for row in rows(warehouse, columns)] == [
        ("org/HGSP_2000_tuned", "HGSP", 0.2, tags),
        ("org/HGSP_2000_tuned/checkpoint-7", "HGSP", 0.2, {**tags, "checkpoint": "7"}),
    ]


# What is broken


def test_every_broken_file_of_a_model_has_a_line_and_its_good_results_are_in(tmp_path, warehouse):
    broken = {ANALYSIS: CUT, COMPARISON: {"layers": []}, "evaluation/ppl_128.json": CUT}
    put_all(tmp_path / "results/A", {**broken, ORIGINAL: base(), RESULT: result(), "evaluation/foo.json": {}})
    put_all(tmp_path / "results/B", HALVED)
    report = ingest(tmp_path / "results", into=warehouse)
    assert sorted(lines(report)) == [
        f"failed results/A/{COMPARISON}: total_params: missing",
        f"failed results/A/{ANALYSIS}: {CUT_OFF}",
        "failed results/A/evaluation/foo.json: not a result of a known form, nor an analysis by its name; a table with model, "
        "task, metric and value is one",
        f"failed results/A/evaluation/ppl_128.json: {CUT_OFF}",
        "taken results/A: 1 result file",
        "taken results/B: 2 analysis files",
    ]
    assert rows(warehouse, PPL) == [("results/A", 10.0), ("results/B", None)]


def test_a_file_that_is_mended_is_taken_the_next_time(tmp_path, warehouse):
    put_all(tmp_path / "results/A", {**HALVED, ANALYSIS: CUT})
    for _ in range(2):
        assert lines(ingest(tmp_path / "results", into=warehouse)) == [f"failed results/A/{ANALYSIS}: {CUT_OFF}"]
    put_all(tmp_path / "results/A", HALVED)
    assert lines(ingest(tmp_path / "results", into=warehouse)) == ["taken results/A: 2 analysis files"]


def test_keys_that_no_row_takes_are_named(tmp_path):
    put(tmp_path / "results/A" / RESULT, result(zeroshot={"boolq": {"accuracy": "high"}}, luck=7))
    assert lines(plan(tmp_path / "results")) == [
        f"passed results/A/{RESULT}: metrics.zeroshot.boolq.accuracy: must be a number, not 'high'",
        f"passed results/A/{RESULT}: metrics.luck: not known",
        "planned results/A: 1 result file",
    ]


def test_a_result_without_one_number_is_a_failure(tmp_path):
    put(tmp_path / "results/A" / RESULT, {"metrics": {"ppl": {"wikitext2": "low"}}})
    assert lines(plan(tmp_path / "results")) == [
        f"failed results/A/{RESULT}: no result in it: metrics.ppl.wikitext2: must be a number, not 'low'"
    ]


def test_broken_weights_cost_neither_the_results_nor_the_analysis_beside_them(tmp_path, warehouse):
    put(tmp_path / "results/A/model.safetensors", b"")
    put_all(tmp_path / "results/B", {"model.safetensors": b"", RESULT: result(), **HALVED})
    empty = "an empty file of 0 bytes where a safetensors file was expected; fetch it again"
    assert lines(ingest(tmp_path / "results", into=warehouse)) == [
        f"failed results/A/model.safetensors: {empty}",
        f"failed results/B/model.safetensors: {empty}",
        "taken results/B: 2 analysis files, 1 result file",
    ]
    assert rows(warehouse, PPL) == [("results/B", 10.0)]


def test_the_command_names_failures_and_takes_the_others(tmp_path, warehouse):
    put(tmp_path / "results/A" / RESULT, result())
    put(tmp_path / "results/B" / RESULT, CUT)
    (tmp_path / "results/C").mkdir()
    put(tmp_path / "results/D/foo.json", {"a": 1})
    done = layerhouse("ingest", "results", "gone", "-w", warehouse, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"FAILED      results/B/{RESULT}: {CUT_OFF}",
        "FAILED      results/D/foo.json: not a result of a known form, nor an analysis by its name; a table with model, "
        "task, metric and value is one",
        "FAILED      results/C: empty folder: no weights, no analysis, no results",
        "FAILED      gone: no such file or folder",
        "taken       results/A: 1 result file",
        f"1 taken, 4 failed; warehouse {warehouse}",
    ]
    assert rows(warehouse, PPL) == [("results/A", 10.0)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--name", "x"], "--name names one model; found 2: results/A, results/B"),
        (["--exclude", ""], "--exclude '': an empty glob"),
    ],
)
def test_options_that_cannot_hold_are_a_usage_error(tmp_path, options, said):
    for name in ("A", "B"):
        put(tmp_path / "results" / name / RESULT, result())
    done = layerhouse("ingest", "results", *options, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, f"layerhouse: {said}\n")


# Dry run


def test_a_dry_run_says_what_would_be_taken_and_makes_no_warehouse(tmp_path):
    put_all(tmp_path / "results/A", {**HALVED, RESULT: result()})
    put_all(tmp_path / "results/B", {ANALYSIS: {"layers": []}, RESULT: {"metrics": {"ppl": {"wikitext2": "low"}}}})
    done = layerhouse("ingest", "results", "--dry-run", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        "would take  results/A: 2 analysis files, 1 result file",
        f"FAILED      results/B/{ANALYSIS}: total_params: missing",
        f"FAILED      results/B/{RESULT}: no result in it: metrics.ppl.wikitext2: must be a number, not 'low'",
        "1 would be taken, 2 failed (dry run)",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def test_a_dry_run_on_a_warehouse_says_what_is_new_and_commits_nothing(tmp_path, warehouse):
    put_all(tmp_path / "results/A", {**HALVED, RESULT: result()})
    ingest(tmp_path / "results", into=warehouse)
    put(tmp_path / "results/A/evaluation/ppl_128.json", result())
    put(tmp_path / "results/B" / RESULT, result())
    before = commits(warehouse)
    assert lines(ingest(tmp_path / "results", into=warehouse, dry_run=True)) == [
        "planned results/A: 1 result file",
        "planned results/B: 1 result file",
    ]
    assert commits(warehouse) == before


def test_a_dry_run_and_a_run_say_the_same(tmp_path, warehouse):
    put_all(tmp_path / "results/A", {**HALVED, RESULT: result(luck=7), REMOVAL: removal(7, of=2)})
    put_all(tmp_path / "results/B", {COMPARISON: comparison(base(), structure(FULL)), "evaluation/foo.json": CUT})
    planned = lines(plan(tmp_path / "results"))
    assert [line.replace("planned", "taken") for line in planned] == lines(ingest(tmp_path / "results", into=warehouse))


# Answers


def test_a_model_with_results_alone_has_what_they_report(tmp_path, warehouse):
    info = {"total_params": 9096, "num_layers": 4, "model_size_gb": 0.5, "module_params": {"embedding": 2000, "lm_head": 1000}}
    put(tmp_path / "results/SliceGPT_2500" / RESULT, result(model_info=info))
    ingest(tmp_path / "results", into=warehouse)
    columns = (
        "params, params_source, num_layers, embedding_params, lm_head_params, size_gb, reduction_ratio, method, declared_ratio"
    )
    assert rows(warehouse, f"SELECT {columns} FROM models") == [(9096, "results", 4, 2000, 1000, 0.5, None, "SliceGPT", 0.25)]


def test_what_the_analysis_counts_stands_before_what_results_report(tmp_path, warehouse):
    put_all(tmp_path / "results/A", {**HALVED, RESULT: result(model_info={"total_params": 1, "num_layers": 1})})
    ingest(tmp_path / "results", into=warehouse)
    assert rows(warehouse, "SELECT params, params_source, num_layers FROM models") == [(6048, "analysis", 2)]


def test_a_perplexity_is_known_by_its_context(tmp_path, warehouse):
    put_all(
        tmp_path / "results/A",
        {
            RESULT: result(10.0),
            "evaluation/ppl_2048_512.json": result(20.0),
            "evaluation/again.json": result(30.0, ppl_128={"wikitext2 (wikitext-2-raw-v1)": 30.0}),
            "evaluation/other.json": {"metrics": {"ppl_64": {"wikitext2": 40.0, "c4 (en)": 50.0}}},
        },
    )
    ingest(tmp_path / "results", into=warehouse)
    with Warehouse(warehouse) as opened:
        (row,) = opened.query("performance").to_dicts()
    assert row["ppl_wikitext2"] == 10.0
    assert row["perplexities"] == {
        "wikitext2@2048/512": 20.0,
        "wikitext2@128": 30.0,
        "wikitext2@64": 40.0,
        "c4 (en)@64": 50.0,
    }


def test_python_and_the_command_give_the_same_rows(tmp_path, warehouse):
    put_all(tmp_path / "results/A", {**HALVED, RESULT: result(ppl_128={"wikitext2": 0.1 + 0.2})})
    put_all(tmp_path / "results/B", {COMPARISON: comparison(base(), structure(FULL, HALF)), REMOVAL: removal(0, 2, of=4)})
    ingest(tmp_path / "results", into=warehouse)
    with Warehouse(warehouse) as opened:
        frame = opened.query("performance")
    shown = json.loads(layerhouse("query", "performance", "-w", warehouse, "-f", "json").stdout)
    assert frame["model_id"].to_list() == ["results/A", "results/B"]
    assert frame.to_dicts() == shown


LM_EVAL = {
    "results": {"boolq": {"alias": "boolq", "acc,none": 0.75}},
    "versions": {"boolq": 2.0},
    "config": {"model": "hf", "model_args": "pretrained=good"},
}


def test_a_file_of_a_harness_name_that_is_no_result_fails_and_the_rest_goes_on(tmp_path):
    names = {"cut": '{"results": {"boolq": {"acc,none"', "other": '{"x": 1}', "good": json.dumps(LM_EVAL)}
    for name, text in names.items():
        path = tmp_path / "models" / name / "results_2026-01-01T00-00-00.000000.json"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    report = lh.ingest(tmp_path / "models", warehouse=tmp_path / "warehouse")
    said = {event.where.split("/")[-2]: event.what for event in report.events if event.kind == "failed"}
    assert said["cut"].startswith("cut off: ")
    assert said["other"].startswith("not a result of a known form")
    assert [event.kind for event in report.events].count("taken") == 1
    with lh.open(tmp_path / "warehouse") as wh:
        assert wh.sql("SELECT measure, value FROM measures").rows() == [("boolq", 0.75)]
