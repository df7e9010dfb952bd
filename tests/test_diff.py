"""Two warehouses side by side: a row for what only one of them has, and for each value that differs."""

from __future__ import annotations

import csv
import io
import json

import pytest

import layerhouse as lh
from layerhouse.errors import NotFoundError
from layerhouse.tests.running import layerhouse
from layerhouse.tests.study_files import ANALYSIS, FULL, HALF, ORIGINAL, RESULT, base, ingest, put_all, result, structure
from layerhouse.warehouse.admin.removals import rename_model
from layerhouse.warehouse.storage.store import create_store, write_commit

BIG = 2**53
COLUMNS = ("model_id", "subject", "item", "difference", "field", "first_value", "second_value")


@pytest.fixture(scope="module")
def warehouses(tmp_path_factory):
    """A study, and the same study in which A was cut in another way, B scores otherwise, C is gone and D is new."""
    folder = tmp_path_factory.mktemp("diff")
    same = {ANALYSIS: structure(FULL, HALF), ORIGINAL: base(FULL, FULL)}
    put_all(folder / "first/study/A", {ANALYSIS: structure(FULL, HALF, HALF), ORIGINAL: base(FULL, FULL, FULL)})
    put_all(folder / "second/study/A", {ANALYSIS: structure(FULL, FULL), ORIGINAL: base(FULL, FULL, FULL)})
    for side, ppl in (("first", 10.0), ("second", 10.25)):
        extra = {"avg_zeroshot_acc": 0.5} if side == "second" else {}
        put_all(folder / f"{side}/study/B", {**same, RESULT: result(ppl, **extra)})
        put_all(folder / f"{side}/study/same", {**same, RESULT: result(7.0)})
    put_all(folder / "first/study/C", same)
    put_all(folder / "second/study/D", {RESULT: result(9.0)})
    for side in ("first", "second"):
        ingest(folder / side / "study", into=folder / side / "w")
    return folder / "first/w", folder / "second/w"


@pytest.fixture(scope="module")
def differences(warehouses):
    with lh.open(warehouses[0]) as first, lh.open(warehouses[1]) as second:
        yield first.differences(second)


def of(differences, model, subject):
    return differences.filter(model_id=f"study/{model}", subject=subject).drop("model_id", "subject").rows()


def test_equal_models_have_no_row(differences):
    assert differences.columns == [*COLUMNS]
    assert sorted(set(differences["model_id"])) == ["study/A", "study/B", "study/C", "study/D"]


def test_a_model_of_one_side_is_one_row_with_its_content(warehouses, differences):
    with lh.open(warehouses[0]) as first:
        content = first.models().filter(model_id="study/C")["checkpoint_id"].item()
    assert of(differences, "C", "model") == [(None, "only in first", "checkpoint_id", content, None)]
    assert of(differences, "D", "model") == [(None, "only in second", "checkpoint_id", None, None)]
    assert differences.filter(differences["model_id"].is_in(["study/C", "study/D"])).height == 2


def test_a_structure_differs_by_its_columns(differences):
    found = {row[2]: row[3:] for row in of(differences, "A", "structure")}
    assert found.keys() == {"checkpoint_id", "params", "num_layers", "layer_params", "removed_layers"}
    assert (found["params"], found["num_layers"], found["layer_params"]) == (("7072", "7048"), ("3", "2"), ("2072", "2048"))
    assert found["removed_layers"] == ("[]", None)


def test_layers_differ_by_their_columns_or_are_of_one_side(differences):
    assert of(differences, "A", "layer") == [
        ("text 1", "differs", "params", "524", "1024"),
        ("text 1", "differs", "attention_params", "200", "400"),
        ("text 1", "differs", "mlp_params", "300", "600"),
        ("text 1", "differs", "intermediate_size", "3", "6"),
        ("text 2", "only in first", None, None, None),
    ]


def test_scores_differ_or_are_of_one_side(differences):
    assert of(differences, "B", "score") == [
        ("group zeroshot/avg_zeroshot_acc", "only in second", None, None, None),
        ("perplexity wikitext2@?", "differs", "value", "10.0", "10.25"),
    ]


def test_the_other_way_round_the_sides_are_changed(warehouses, differences):
    with lh.open(warehouses[0]) as first, lh.open(warehouses[1]) as second:
        turned = second.differences(first)
    swap = {"differs": "differs", "only in first": "only in second", "only in second": "only in first"}
    assert [(*row[:3], swap[row[3]], row[4], row[6], row[5]) for row in turned.rows()] == differences.rows()


def test_counts_are_compared_exactly(tmp_path):
    """As floats they are equal."""
    fixed = {"model_id": "m", "source_uri": "/x", "source_kind": "analysis", "status": "ok", "tool_version": "1"}
    for side, params in (("a", BIG), ("b", BIG + 1)):
        store = create_store(tmp_path / side)
        write_commit(store, {"checkpoints": [{**fixed, "checkpoint_id": "c" * 32, "params": params}]}, "ingest")
    with lh.open(tmp_path / "a") as first, lh.open(tmp_path / "b") as second:
        assert first.differences(second).select("field", "first_value", "second_value").rows() == [
            ("params", str(BIG), str(BIG + 1))
        ]


def test_a_renamed_model_is_found_by_its_content(tmp_path):
    put_all(tmp_path / "study/A", {ANALYSIS: structure(FULL)})
    for side in ("a", "b"):
        ingest(tmp_path / "study", into=tmp_path / side)
    rename_model(tmp_path / "b", "study/A", "B")
    with lh.open(tmp_path / "a") as first, lh.open(tmp_path / "b") as second:
        rows = first.differences(second).rows()
    assert [row[:5] for row in rows] == [
        ("B", "model", None, "only in second", "checkpoint_id"),
        ("study/A", "model", None, "only in first", "checkpoint_id"),
    ]
    assert rows[0][6] == rows[1][5] is not None


def test_the_command_writes_the_table_in_every_form_and_exits_with_0(warehouses, differences):
    shown = layerhouse("diff", *warehouses)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.splitlines()[0].split() == [
        "model",
        "subject",
        "item",
        "difference",
        "field",
        "first",
        "value",
        "second",
        "value",
    ]
    table = layerhouse("diff", *warehouses, "-f", "csv")
    assert next(csv.reader(io.StringIO(table.stdout))) == [*COLUMNS]
    assert len(table.stdout.splitlines()) == 1 + differences.height
    one = layerhouse("diff", *warehouses, "-m", "*/B", "-f", "json", "--where", "subject = 'score'", "--columns", "model,field")
    assert json.loads(one.stdout)[-1] == {"model_id": "study/B", "field": "value"}


def test_equal_warehouses_are_said_to_be_equal(warehouses):
    done = layerhouse("diff", warehouses[0], warehouses[0], "-f", "csv")
    assert (done.returncode, done.stdout) == (0, ",".join(COLUMNS) + "\n")
    assert done.stderr == f"no differences between {warehouses[0]} and {warehouses[0]}\n"


def test_a_missing_warehouse_and_an_unknown_model_are_errors(warehouses, tmp_path):
    missing = layerhouse("diff", warehouses[0], tmp_path / "none")
    assert (missing.returncode, missing.stdout) == (3, "")
    assert missing.stderr.startswith(f"layerhouse: {tmp_path}/none: no warehouse here")
    with lh.open(warehouses[0]) as first, lh.open(warehouses[1]) as second, pytest.raises(NotFoundError, match="no model 'x'"):
        first.differences(second, models=["x"])
