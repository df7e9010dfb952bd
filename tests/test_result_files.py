"""Result files are read and parsed once an ingest, whoever asks first, and never mixed with what they were before."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import replace

import pytest

import layerhouse as lh
from layerhouse.errors import InputError
from layerhouse.ingest import result_files
from layerhouse.ingest.result_files import ResultFiles
from layerhouse.tests.study_files import ANALYSIS, FULL, RESULT, ingest, lines, plan, put, put_all, result, rows, structure
from layerhouse.tests.weight_files import entry, safetensors_bytes
from layerhouse.warehouse.storage.inventory import Inventory

HARNESS = "results_2026-01-01T00-00-00.000000.json"
TABLE = "model,task,metric,value\nresults/a,boolq,acc,0.5\nresults/base,boolq,acc,0.25\n"
LM_EVAL = {"results": {"boolq": {"acc,none": 0.75}}, "versions": {"boolq": 2.0}, "config": {"model_args": "pretrained=a"}}
WEIGHTS = safetensors_bytes({"w": entry("F32", [2, 3], 0, 24)}, bytes(24))


@pytest.fixture
def counts(monkeypatch):
    """How often each file was read, parsed as a document, recognised, and parsed as a result."""
    counted = {name: Counter() for name in ("read", "document", "recognise", "result")}

    def count(name, function, path_at):
        def counting(*arguments):
            counted[name][arguments[path_at].name] += 1
            return function(*arguments)

        return counting

    def recognise(document, path, function=result_files.recognise):
        counted["recognise"][path.name] += 1
        found = function(document, path)
        return found and replace(found, parse=count("result", found.parse, 1))

    monkeypatch.setattr(result_files, "read_document_bytes", count("read", result_files.read_document_bytes, 0))
    monkeypatch.setattr(result_files, "parse_document", count("document", result_files.parse_document, 1))
    monkeypatch.setattr(result_files, "recognise", recognise)
    return counted


@pytest.fixture
def study(tmp_path):
    """A base with weights and results, a model with two results and a file that is none, and a table of both."""
    folder = tmp_path / "results"
    put_all(folder / "base", {"model.safetensors": WEIGHTS, RESULT: result(5.0)})
    put_all(folder / "a", {"model.safetensors": WEIGHTS, "ppl_128.json": result(10.0), HARNESS: LM_EVAL})
    put(folder / "a/notes.json", {"a": 1})
    put(folder / "tables/scores.csv", TABLE)
    return folder


ONCE = dict.fromkeys(("evaluation_results.json", "ppl_128.json", HARNESS, "scores.csv"), 1)


def test_each_file_is_read_and_parsed_once_an_ingest(study, tmp_path, counts):
    report = lh.ingest(study, warehouse=tmp_path / "w", base=study / "base", stats="none")
    assert report.count("taken") == 3
    once = ONCE | {"notes.json": 1}
    assert counts == {"read": once, "document": once, "recognise": once, "result": ONCE}


def test_of_what_the_warehouse_has_the_bytes_are_read_once_and_nothing_is_parsed(study, tmp_path, counts):
    lh.ingest(study, warehouse=tmp_path / "w", base=study / "base", stats="none")
    for counter in counts.values():
        counter.clear()
    report = lh.ingest(study, warehouse=tmp_path / "w", base=study / "base", stats="none")
    assert [(event.kind, event.where) for event in report.events if event.kind != "passed"] == [
        ("unchanged", "results/base"),
        ("unchanged", "results/a"),
        ("unchanged", "results/tables"),
    ]
    # A table of two models has an id for each, which its rows tell.
    assert counts["read"] == ONCE | {"notes.json": 1}
    assert counts["document"] == counts["recognise"] == {"notes.json": 1, "scores.csv": 1}
    assert counts["result"] == {"scores.csv": 1}


def test_without_room_files_are_read_again_and_the_rows_are_the_same(study, tmp_path, counts, monkeypatch):
    lh.ingest(study, warehouse=tmp_path / "w", stats="none")
    monkeypatch.setattr(result_files, "MAX_KEPT_BYTES", 0)
    counts["read"].clear()
    lh.ingest(study, warehouse=tmp_path / "small", stats="none")
    assert counts["read"] == {name: 1 if name == HARNESS else 2 for name in ONCE} | {"notes.json": 1}
    stored = "SELECT result_id, task, metric, value, rule, model_id FROM results JOIN links USING (result_id) ORDER BY ALL"
    assert rows(tmp_path / "w", stored) == rows(tmp_path / "small", stored)
    assert len(rows(tmp_path / "w", stored)) == 5


def test_documents_are_kept_up_to_a_number_of_bytes_and_given_back_when_taken(tmp_path, counts, monkeypatch):
    paths = [put(tmp_path / f"{number}/{RESULT}", result(number)) for number in range(3)]
    monkeypatch.setattr(result_files, "MAX_KEPT_BYTES", 2 * paths[0].stat().st_size)
    files = ResultFiles(Inventory())
    assert all(files.is_result(path) for path in paths)
    assert [files.take(path, "x")[1].rows[0]["value"] for path in paths] == [0, 1, 2]
    assert counts["read"] == {"evaluation_results.json": 4}
    put(paths[0], result(7.5))
    assert files.is_result(paths[0])
    files.take(paths[0], "x")
    assert counts["read"] == {"evaluation_results.json": 5}


# A file that changes between the walk and the taking


def rewrite(path, text):
    path.write_text(text)


def replace_at_the_same_time(path, text):
    """Another file of the same size and time."""
    status = path.stat()
    other = path.with_name("other")
    other.write_text(text)
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)


@pytest.mark.parametrize("change", [rewrite, replace_at_the_same_time])
def test_a_file_that_changed_is_read_again_with_its_new_id(tmp_path, change):
    path = put(tmp_path / RESULT, result(10.0))
    unchanged_id, _ = ResultFiles(Inventory()).take(path, "x")
    files = ResultFiles(Inventory())
    assert files.is_result(path)
    change(path, json.dumps(result(20.0)))
    file_id, parsed = files.take(path, "x")
    assert [row["value"] for row in parsed.rows] == [20.0]
    assert file_id == ResultFiles(Inventory()).take(path, "x")[0] != unchanged_id


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (None, "no such file"),
        ('{"metrics": {"ppl', "cut off: Unterminated string at line 1, column 14"),
        ('{"x": 1}', result_files.NO_RESULT),
        (
            '{"metrics": {"ppl": {"wikitext2": "low"}}}',
            "no result in it: metrics.ppl.wikitext2: must be a number, not 'low'",
        ),
    ],
)
def test_a_file_that_is_no_result_any_more_is_an_error(tmp_path, text, what):
    path = put(tmp_path / RESULT, result())
    files = ResultFiles(Inventory())
    assert files.is_result(path)
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError) as caught:
        files.take(path, "shown")
    assert (caught.value.where, caught.value.what) == ("shown", what)


def test_a_file_that_the_warehouse_had_when_the_walk_saw_it_and_changed_since_is_taken(tmp_path):
    path = put(tmp_path / RESULT, result(10.0))
    known = Inventory()
    known.models_by_result[ResultFiles(known).take(path, "x")[0]] = "m"
    files = ResultFiles(known)
    assert files.is_result(path)
    assert files.take(path, "x")[1] is None
    put(path, result(20.0))
    assert files.take(path, "x")[1].rows[0]["value"] == 20.0


def test_results_that_stand_alone_are_parsed_to_find_their_model(tmp_path):
    put(tmp_path / "scores/table.csv", "model,task,metric,value\norg/late,boolq,acc,0.5\n")
    assert lines(ingest(tmp_path / "scores", into=tmp_path / "w")) == [f"taken {tmp_path.name}/scores: 1 result file"]
    put(tmp_path / "models/late" / ANALYSIS, structure(FULL))
    report = ingest(tmp_path / "models", tmp_path / "scores", into=tmp_path / "w")
    assert lines(report)[-1] == f"taken {tmp_path.name}/scores: 1 result file"
    assert rows(tmp_path / "w", "SELECT DISTINCT model_id FROM model_results") == [("models/late",)]


def test_a_dry_run_reads_once_as_well(study, counts):
    assert plan(study).count("planned") == 3
    assert counts["read"] == ONCE | {"notes.json": 1}
