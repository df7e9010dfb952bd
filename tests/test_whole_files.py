"""A file that changes while it is read is a failure of its input: no mixture of two contents is ever stored."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import save, save_file

import layerhouse as lh
from layerhouse.errors import ChangedError
from layerhouse.file_door import identity_of
from layerhouse.ingest import result_files, take_analysis
from layerhouse.ingest.checkpoint.json_files import read_json
from layerhouse.ingest.checkpoint.regular_file import open_regular_file
from layerhouse.tests.study_files import ANALYSIS, COMPARISON, RESULT, base, comparison, put, result, structure

CHANGED = "changed while it was read; ingest it again when it is complete"


def state(seed, layers=3):
    generator = torch.Generator().manual_seed(seed)
    return {f"model.layers.{layer}.mlp.up_proj.weight": torch.randn(16, 16, generator=generator) for layer in range(layers)}


def put_model(folder, seed):
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state(seed), folder / "model.safetensors")
    return folder / "model.safetensors"


def rewrite(path, seed):
    """Write other values of the same size into the file itself."""
    before = identity_of(path)
    data = save(state(seed))
    assert len(data) == before.size
    with path.open("r+b") as file:
        file.write(data)
    os.utime(path, ns=(before.mtime_ns, before.mtime_ns + 1))


def replace(path, seed):
    """Put another file of the same size and time in the place of the file."""
    before = identity_of(path)
    other = path.with_name("incoming.tmp")
    other.write_bytes(save(state(seed)))
    os.utime(other, ns=(before.mtime_ns, before.mtime_ns))
    other.replace(path)


def rewrite_in_secret(path, seed):
    """As `rewrite`, with the time of before."""
    before = identity_of(path)
    rewrite(path, seed)
    os.utime(path, ns=(before.mtime_ns, before.mtime_ns))


def swap_and_swap_back(path, seed):
    """Put another file in the place of the file, and then the file back."""
    other, kept = path.with_name("incoming.tmp"), path.with_name("kept.tmp")
    other.write_bytes(save(state(seed)))
    path.rename(kept)
    other.rename(path)
    path.unlink()
    kept.rename(path)


def cut(path, seed):
    path.write_bytes(path.read_bytes()[:-10])


def add_config(path, seed):
    put(path.parent / "config.json", {"model_type": "llama", "num_hidden_layers": 3})


def remove(path, seed):
    path.unlink()


def failures(report):
    return [f"{event.where}: {event.what}" for event in report.events if event.kind == "failed"]


def rows(warehouse, sql):
    with lh.open(warehouse) as wh:
        return wh.sql(sql).rows()


@pytest.mark.parametrize("change", [rewrite, rewrite_in_secret, replace, swap_and_swap_back, cut, add_config, remove])
@pytest.mark.parametrize("workers", [1, 2])
def test_weights_that_change_while_they_are_read_are_a_failure(tmp_path, change, workers):
    path = put_model(tmp_path / "zoo/A", 1)
    put_model(tmp_path / "zoo/B", 2)
    todo = [change]

    def on_progress(progress):
        if progress.bytes and todo:
            todo.pop()(path, 9)

    report = lh.ingest(tmp_path / "zoo", warehouse=tmp_path / "w", on_progress=on_progress, workers=workers)
    changed = path.with_name("config.json") if change is add_config else path
    assert todo == []
    assert failures(report) == [f"{changed}: {CHANGED}"]
    assert rows(tmp_path / "w", "SELECT model_id FROM sightings") == [("zoo/B",)]
    assert rows(tmp_path / "w", "SELECT count(*) FROM tensors") == [(3,)]


def test_a_model_that_changed_is_taken_when_it_is_complete(tmp_path):
    path = put_model(tmp_path / "zoo/A", 1)
    todo = [1]

    def on_progress(progress):
        if progress.bytes and todo:
            rewrite(path, todo.pop() + 1)

    assert len(failures(lh.ingest(tmp_path / "zoo", warehouse=tmp_path / "w", on_progress=on_progress))) == 1
    assert lh.ingest(tmp_path / "zoo", warehouse=tmp_path / "w").count("taken") == 1
    expected = save_hashes(tmp_path, state(2))
    assert rows(tmp_path / "w", "SELECT content_hash FROM tensors ORDER BY name") == expected


def save_hashes(tmp_path, tensors):
    (tmp_path / "other/A").mkdir(parents=True)
    save_file(tensors, tmp_path / "other/A/model.safetensors")
    lh.ingest(tmp_path / "other", warehouse=tmp_path / "v")
    return rows(tmp_path / "v", "SELECT content_hash FROM tensors ORDER BY name")


def test_a_model_that_was_replaced_before_its_turn_is_taken_with_the_fingerprint_of_what_was_read(tmp_path):
    put_model(tmp_path / "zoo/A", 1)
    later = put_model(tmp_path / "zoo/B", 2)

    def on_event(event):
        if event.where == "zoo/A":
            rewrite(later, 3)

    report = lh.ingest(tmp_path / "zoo", warehouse=tmp_path / "w", on_event=on_event)
    assert (report.count("taken"), failures(report)) == (2, [])
    again = lh.ingest(tmp_path / "zoo", warehouse=tmp_path / "w")
    assert [event.kind for event in again.events] == ["unchanged", "unchanged"]
    sql = "SELECT content_hash FROM tensors JOIN sightings USING (checkpoint_id) WHERE model_id = 'zoo/B' ORDER BY name"
    assert rows(tmp_path / "w", sql) == save_hashes(tmp_path, state(3))


@pytest.mark.parametrize("side", ["base", "child"])
@pytest.mark.parametrize("change", [rewrite, replace])
def test_a_comparison_reads_the_files_that_were_measured_or_is_a_failure(tmp_path, side, change):
    """The values of both sides are read once more; by then one file holds something else."""
    put_model(tmp_path / "zoo/A", 1)
    put_model(tmp_path / "zoo/B", 2)
    paths = {"base": tmp_path / "zoo/A/model.safetensors", "child": tmp_path / "zoo/B/model.safetensors"}

    def on_event(event):
        if (event.kind, event.where) == ("taken", "zoo/B"):
            change(paths[side], 3)

    report = lh.ingest(tmp_path / "zoo", warehouse=tmp_path / "w", base=tmp_path / "zoo/A", on_event=on_event)
    assert failures(report) == [f"{paths[side]}: {CHANGED}"]
    assert report.count("taken") == 2
    pairs = "SELECT count(*) FROM tensor_matches WHERE checkpoint_id <> base_checkpoint_id"
    assert rows(tmp_path / "w", pairs) == [(0,)]


def test_a_comparison_of_unchanged_files_has_values(tmp_path):
    put_model(tmp_path / "zoo/A", 1)
    tensors = state(1)
    tensors["model.layers.0.mlp.up_proj.weight"][0] = 0
    (tmp_path / "zoo/B").mkdir()
    save_file(tensors, tmp_path / "zoo/B/model.safetensors")
    report = lh.ingest(tmp_path / "zoo", warehouse=tmp_path / "w", base=tmp_path / "zoo/A")
    assert failures(report) == []
    sql = "SELECT relation, changed FROM tensor_matches WHERE changed IS NOT NULL"
    assert rows(tmp_path / "w", sql) == [("masked", 16)]


def test_an_analysis_that_changes_while_it_is_read_is_a_failure(tmp_path, monkeypatch):
    folder = tmp_path / "zoo/A"
    put(folder / ANALYSIS, structure((400, 600), (200, 300)))
    put(folder / COMPARISON, comparison(base((400, 600), (400, 600)), structure((400, 600), (200, 300))))
    read = take_analysis.read_file
    monkeypatch.setattr(take_analysis, "MOST_READ_AHEAD", 0)
    reads = []

    def change(path, display_path):
        parsed = read(path, display_path)
        reads.append(path)
        if reads.count(folder / COMPARISON) == 2:  # the first time is that of gathering bases
            put(folder / ANALYSIS, structure((400, 600), (100, 200)))
        return parsed

    monkeypatch.setattr(take_analysis, "read_file", change)
    report = lh.ingest(tmp_path / "zoo", warehouse=tmp_path / "w")
    assert failures(report) == [f"{folder / ANALYSIS}: {CHANGED}"]
    assert rows(tmp_path / "w", "SELECT count(*) FROM checkpoints") == [(0,)]
    monkeypatch.undo()
    assert lh.ingest(tmp_path / "zoo", warehouse=tmp_path / "w").count("taken") == 1


def test_a_result_that_changes_while_it_is_read_is_a_failure(tmp_path, monkeypatch):
    path = put(tmp_path / "zoo/A" / RESULT, result(10.0))
    put(tmp_path / "zoo/B" / RESULT, result(11.0))
    read = result_files.read_document_bytes

    def change(read_path, display_path):
        raw = read(read_path, display_path)
        if read_path == path:
            put(path, result(12.0))
        return raw

    monkeypatch.setattr(result_files, "read_document_bytes", change)
    report = lh.ingest(tmp_path / "zoo", warehouse=tmp_path / "w")
    assert failures(report) == [f"{path}: {CHANGED}"]
    assert rows(tmp_path / "w", "SELECT model_id, value FROM model_results") == [("zoo/B", 11.0)]


@pytest.mark.parametrize("change", ["append", "rename", "unlink"])
def test_the_door_notices_a_change_whatever_the_reader_made_of_it(tmp_path, change):
    path = put(tmp_path / "a.json", {"a": 1})
    with pytest.raises(ChangedError, match=f"shown: {CHANGED}"), open_regular_file(path, "shown") as (file, size):
        assert len(file.read()) == size
        if change == "append":
            with path.open("ab") as other:
                other.write(b" ")
        elif change == "rename":
            shutil.copy(path, tmp_path / "b.json")
            (tmp_path / "b.json").replace(path)
        else:
            path.unlink()
    put(path, {"a": 2})
    assert read_json(path, "shown")[1] == {"a": 2}
    assert json.loads(path.read_text()) == {"a": 2}
