"""Rows that wait for a commit: all of them come in one file a table, and none of what broke off."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from layerhouse.ingest import batch as batch_module
from layerhouse.ingest.batch import Batch, arrow_rows
from layerhouse.ingest.column_rows import ColumnRows
from layerhouse.warehouse.storage.commits import list_commits
from layerhouse.warehouse.storage.rows import rows_to_arrow
from layerhouse.warehouse.storage.schema import TABLES
from layerhouse.warehouse.storage.store import create_store


def tensors(names, **columns):
    common = {"module": "attention", "part": "weight", "dtype": "BF16", "shape": [2, 3], "is_parameter": True}
    made = {"checkpoint_id": "c", "canonical_name": "x", **common, "params": 6, "is_active": True, "logical_bytes": 12}
    return {"name": names, **{key: [value] * len(names) for key, value in (made | {"stored_bytes": 12} | columns).items()}}


def row(name, **columns):
    return dict(ColumnRows(tensors([name], **columns))[0])


def table(names):
    return pa.Table.from_batches([rows_to_arrow("tensors", tensors(names))])


@pytest.fixture
def batch(tmp_path):
    return Batch(create_store(tmp_path / "warehouse"))


def committed(batch):
    files = list_commits(batch.store_root).files("tensors")
    return [found for path in files for found in pq.read_table(path).select(["name", "zeros"]).to_pylist()]


def test_rows_by_column_are_rows():
    rows = ColumnRows({"name": ["a", "b"], "zeros": [1, None]})
    assert len(rows) == 2
    assert [*rows] == [{"name": "a", "zeros": 1}, {"name": "b", "zeros": None}]
    assert rows[1] == {"name": "b", "zeros": None}
    assert rows[:1] == [{"name": "a", "zeros": 1}]
    assert (len(ColumnRows({})), [*ColumnRows({})]) == (0, [])


def test_rows_columns_and_tables_are_one_file_of_a_commit(batch):
    batch.add({"tensors": [row("plain", zeros=3)]})
    batch.add({"tensors": ColumnRows(tensors(["header 1", "header 2"]))})
    batch.add({"tensors": ColumnRows(tensors(["measured"], zeros=5))})
    batch.add({"tensors": table(["arrow 1", "arrow 2"])})
    assert batch.holds("units", "tensors")
    batch.flush()
    found = {one["name"]: one["zeros"] for one in committed(batch)}
    assert found == {"header 1": None, "header 2": None, "measured": 5, "plain": 3, "arrow 1": None, "arrow 2": None}
    assert len([path for path in list_commits(batch.store_root).files("tensors") if pq.read_metadata(path).num_rows]) == 1
    assert not batch.holds(*TABLES)


def test_waiting_rows_of_a_checkpoint_are_the_rows_that_were_added(batch):
    assert batch.waiting("tensors", "c") == []
    batch.add({"tensors": [row("plain", zeros=3), row("other", checkpoint_id="d")]})
    batch.add({"tensors": ColumnRows(tensors(["column"], signature=[0.5, 0.25]))})
    batch.add({"tensors": table(["arrow"])})
    waiting = batch.waiting("tensors", "c")
    assert [found["name"] for found in waiting] == ["plain", "column", "arrow"]
    assert {**waiting[0], **row("plain", zeros=3)} == waiting[0]
    assert waiting[1] == row("column", signature=[0.5, 0.25])
    batch.flush()
    assert batch.waiting("tensors", "c") == []


def test_what_broke_off_is_dropped_however_it_was_added(batch):
    batch.add({"tensors": [row("whole row")]})
    batch.add({"tensors": ColumnRows(tensors(["whole column"]))})
    batch.seal()
    batch.add({"tensors": [row("half row")], "layers": []})
    batch.add({"tensors": ColumnRows(tensors(["half column"]))})
    batch.add({"tensors": table(["half table"])})
    batch.drop_unfinished()
    batch.flush()
    assert {one["name"] for one in committed(batch)} == {"whole row", "whole column"}


@pytest.mark.parametrize(
    "rows", [ColumnRows(tensors(["a"], zeros=1.5)), [row("a"), row("b", zeros=1.5)], [row("a", zeros=1.0)]]
)
def test_a_float_among_integers_is_a_fault_of_the_writer_and_commits_nothing(batch, rows):
    batch.add({"layers": [{"checkpoint_id": "c"}], "tensors": rows})
    with pytest.raises(ValueError, match="would lose its fraction"):
        batch.flush()
    assert committed(batch) == []


@pytest.mark.parametrize("rows", [ColumnRows({"odd": [1]}), [row("a"), {"odd": 1}]])
def test_a_key_that_is_no_column_is_a_fault_of_the_writer(batch, rows):
    batch.add({"tensors": rows})
    with pytest.raises(ValueError, match="table tensors has no column 'odd'"):
        batch.flush()
    assert committed(batch) == []


def test_rows_share_maps_and_may_hold_text_that_is_no_unicode():
    tags = {"tuned": "", "odd": "\ud800"}
    rows = [{"model_id": name, "checkpoint_id": "c", "source_uri": "\udcff", "tags": tags} for name in ("a", "b")]
    waiting = arrow_rows("checkpoints", [rows]).to_pylist()
    assert [(found["source_uri"], dict(found["tags"])) for found in waiting] == [
        ("\\udcff", {"tuned": "", "odd": "\\ud800"})
    ] * 2


def test_with_too_little_memory_for_all_rows_at_once_they_are_committed_in_parts(batch, monkeypatch):
    refused, dropped = [], []
    batch = Batch(batch.store_root, lambda owner, error: refused.append((owner, type(error))), dropped.extend)
    for number in range(7):
        with batch.owned_by(f"model {number}"):
            batch.add({"tensors": [row(f"tensor {number}", checkpoint_id=f"{number}")]})

    def fit_two(table, pieces):
        if len(pieces) > 2 or any(piece[0]["name"] == "tensor 5" for piece in pieces):
            raise MemoryError
        return arrow_rows(table, pieces)

    monkeypatch.setattr(batch_module, "arrow_rows", fit_two)
    batch.flush()
    assert sorted(one["name"] for one in committed(batch)) == [f"tensor {number}" for number in (0, 1, 2, 3, 4, 6)]
    assert refused == [("model 5", MemoryError)]
    assert [piece.owner for piece in dropped] == ["model 5"]
    batch.flush()
    assert len(committed(batch)) == 6


def test_an_input_whose_rows_do_not_fit_is_refused_with_those_that_refer_to_it(batch):
    refused, dropped = [], []
    batch = Batch(batch.store_root, lambda owner, error: refused.append((owner, str(error))), dropped.extend)
    for owner, rows in {
        "bad": [row("a", checkpoint_id="x"), row("b", checkpoint_id="x", zeros=1.5)],
        "twin": [row("c", checkpoint_id="x")],
        "good": [row("d", checkpoint_id="y")],
    }.items():
        with batch.owned_by(owner):
            batch.add({"tensors": rows})
    batch.flush()
    assert [one["name"] for one in committed(batch)] == ["d"]
    assert refused == [
        ("bad", "a float in a column of integers, which would lose its fraction"),
        ("twin", "it shares contents with bad, of which no row can be stored"),
    ]
    assert [piece.owner for piece in dropped] == ["bad", "twin"]


def test_what_was_added_since_a_mark_is_dropped_as_far_as_it_is_not_committed(batch):
    batch.add({"tensors": [row("before")]})
    mark = batch.mark()
    batch.add({"tensors": [row("since")]})
    batch.drop_since(mark)
    batch.flush()
    batch.add({"tensors": [row("after a commit")]})
    batch.drop_since(mark)
    batch.flush()
    assert [one["name"] for one in committed(batch)] == ["before"]
