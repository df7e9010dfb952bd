"""Rows that wait for a commit, however they are held: all come, in one file a table, and nothing that broke off does."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest

from layerhouse.ingest.batch import Batch
from layerhouse.ingest.column_rows import ColumnRows
from layerhouse.warehouse.storage.store import create_store, list_commits


def tensors(names, **columns):
    common = {"module": "attention", "part": "weight", "dtype": "BF16", "shape": [2, 3], "is_parameter": True}
    made = {"checkpoint_id": "c", "canonical_name": "x", **common, "params": 6, "is_active": True, "logical_bytes": 12}
    return {"name": names, **{key: [value] * len(names) for key, value in (made | {"stored_bytes": 12} | columns).items()}}


def row(name, **columns):
    return dict(ColumnRows(tensors([name], **columns))[0])


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


def test_rows_held_in_every_way_are_one_file_of_a_commit(batch):
    batch.add({"tensors": [row("plain", zeros=3)]})
    batch.add({"tensors": ColumnRows(tensors(["header 1", "header 2"]))})
    batch.add({"tensors": ColumnRows(tensors(["measured"], zeros=5))})
    assert [found["name"] for found in batch.waiting("tensors")] == ["plain", "header 1", "header 2", "measured"]
    batch.flush()
    found = {one["name"]: one["zeros"] for one in committed(batch)}
    assert found == {"header 1": None, "header 2": None, "measured": 5, "plain": 3}
    assert len([path for path in list_commits(batch.store_root).files("tensors") if pq.read_metadata(path).num_rows]) == 1
    assert [*batch.waiting("tensors")] == []


def test_what_broke_off_is_dropped_however_it_is_held(batch):
    batch.add({"tensors": [row("whole row")]})
    batch.add({"tensors": ColumnRows(tensors(["whole column"]))})
    batch.seal()
    batch.add({"tensors": [row("half row")], "layers": []})
    batch.add({"tensors": ColumnRows(tensors(["half column"]))})
    batch.drop_unfinished()
    batch.flush()
    assert {one["name"] for one in committed(batch)} == {"whole row", "whole column"}


def test_a_value_that_a_column_cannot_hold_is_a_fault_of_the_writer(batch):
    batch.add({"tensors": ColumnRows(tensors(["a"], zeros=1.5))})
    with pytest.raises(ValueError, match="would lose its fraction"):
        batch.flush()
