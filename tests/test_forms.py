"""The table of forms says what is read: every layout is in it, and every checkpoint that it names is read as it says."""

from __future__ import annotations

import json

import pytest

import layerhouse as lh
from layerhouse.ingest.checkpoint.containers.registry import BUILT_IN as CONTAINERS
from layerhouse.ingest.checkpoint.forms import FORMS, PACKINGS, Form, Zeros
from layerhouse.ingest.checkpoint.layouts.registry import BUILT_IN
from layerhouse.tests.running import layerhouse
from layerhouse.tests.test_packed_values import FORMATS

IS_COUNTED = (Zeros.COUNTED, Zeros.SOME)


def test_every_layout_and_container_is_in_the_table():
    readers = {form.reader for form in FORMS}
    assert {layout.name for layout in BUILT_IN} == {form.reader for form in PACKINGS}
    assert {container.name for container in CONTAINERS} - {"torch legacy"} <= readers
    assert len({form.name for form in FORMS}) == len(FORMS)


def test_the_command_prints_them():
    done = layerhouse("formats", "--format", "json")
    rows = json.loads(done.stdout)
    assert [row["form"] for row in rows] == [form.name for form in FORMS]
    assert {row["zeros"] for row in rows} == {*map(str, Zeros)}
    assert next(row["tested_with"] for row in rows if row["form"] == "EETQ") == "eetq-int8"


@pytest.mark.skipif(not FORMATS.is_dir(), reason=f"no checkpoints in {FORMATS}, which is not part of the project")
@pytest.mark.parametrize("form", [form for form in FORMS if form.checked], ids=lambda form: form.name)
def test_the_checkpoints_of_a_form_are_read_as_the_table_says(tmp_path, form: Form):
    report = lh.ingest([FORMATS / name for name in form.checked], warehouse=tmp_path / "w")
    if form.zeros is Zeros.NOT_READ:
        assert report.count("taken") == 0
        assert report.count("failed") == len(form.checked)
        return
    with lh.open(tmp_path / "w") as wh:
        models = wh.sql("SELECT model_id, container, zeros, params, notes FROM current_checkpoints").to_dicts()
    assert len(models) == len(form.checked)
    for model in models:
        assert model["params"] is not None
        assert (model["zeros"] is not None) == (form.zeros in IS_COUNTED)
        texts = "; ".join(note["text"] for note in model["notes"] if note["code"] in ("quantised", "layout"))
        is_packed = form in PACKINGS
        assert is_packed == bool(texts) or form.reader == "gguf"
        assert is_packed or form.reader in model["container"]


@pytest.mark.skipif(not FORMATS.is_dir(), reason=f"no checkpoints in {FORMATS}, which is not part of the project")
def test_every_checkpoint_is_in_the_table_once():
    named = [name for form in FORMS for name in form.checked]
    assert sorted(named) == sorted(folder.name for folder in FORMATS.iterdir())
