"""Rows made by rules of an earlier version are stale until the next ingest reads the model again, as far as it was read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import layerhouse as lh
from layerhouse.ingest import checkpoint_rows
from layerhouse.tests.test_layouts import CONFIG, SHAPES, plain, write
from layerhouse.version import RULES_VERSION

STALE = "stale: read by rules of an earlier version, ingest it again"


@pytest.fixture
def zoo(tmp_path) -> Path:
    write(tmp_path / "zoo/base", plain(SHAPES))
    write(tmp_path / "zoo/child", plain({name: shape for name, shape in SHAPES.items() if ".layers.1." not in name}))
    return tmp_path / "zoo"


@pytest.fixture
def old(zoo, tmp_path, monkeypatch) -> Path:
    """A warehouse as the first rules made it: with spectra, units, a base, and without the numbers that were added."""
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint_rows, "RULES_VERSION", None)
        patched.setattr(checkpoint_rows, "_add_values", without_new_numbers(checkpoint_rows._add_values))
        lh.ingest([zoo], warehouse=tmp_path / "w", base=zoo / "base", stats="spectral", units=True, near_zero=0.5)
    return tmp_path / "w"


def without_new_numbers(add_values: Any) -> Any:
    def add(tensors: Any, rows: Any, measurements: Any, near_zero: Any) -> None:
        add_values(tensors, rows, measurements, near_zero)
        for column in ("ladder_first", "ladder_counts", "sketch"):
            rows.columns[column] = [None] * len(tensors)

    return add


def asked(warehouse: Path, sql: str) -> list[Any]:
    with lh.open(warehouse) as wh:
        return wh.sql(sql).rows()


def test_the_macro_of_the_views_is_the_version_of_the_rules(old):
    assert asked(old, "SELECT current_rules()") == [(RULES_VERSION,)]


def test_a_stale_model_has_a_note_and_is_read_again_once(zoo, old):
    assert {note for (note,) in asked(old, "SELECT status_note LIKE '%stale%' FROM models")} == {True}
    assert asked(old, "SELECT count(*) FROM tensors WHERE ladder_counts IS NOT NULL") == [(0,)]
    counts = "SELECT count(*), count(spectral_norm), max(near_zero_threshold) FROM tensors"
    (before,) = asked(old, counts)
    answers = "SELECT model_id, params, reduction_ratio, removed_layers, strategy, checkpoint_id FROM models ORDER BY 1"
    models, layers, units = (asked(old, sql) for sql in (answers, "SELECT count(*) FROM layers", "SELECT count(*) FROM units"))
    again = lh.ingest([zoo], warehouse=old)
    assert again.count("taken") == 2
    assert not any("stale" in note for (note,) in asked(old, "SELECT status_note FROM models"))
    assert asked(old, answers) == models  # the same content: base, units and matches stay
    assert (asked(old, "SELECT count(*) FROM layers"), asked(old, "SELECT count(*) FROM units")) == (layers, units)
    assert asked(old, counts) == [before]
    assert before[1] > 0
    assert before[2] == 0.5
    known = "SELECT count(*), count(ladder_counts), count(sketch) FROM tensors WHERE is_parameter"
    ((count, ladders, sketches),) = asked(old, known)
    assert count == ladders
    assert sketches > 0
    assert asked(old, "SELECT DISTINCT stats_level, rules_version FROM current_checkpoints") == [("spectral", RULES_VERSION)]
    assert lh.ingest([zoo], warehouse=old).count("taken") == 0


def test_headers_alone_do_not_replace_what_was_measured(zoo, old):
    assert lh.ingest([zoo], warehouse=old, stats="none").count("taken") == 0
    assert asked(old, "SELECT DISTINCT stats_level FROM current_checkpoints") == [("spectral",)]


def test_headers_of_earlier_rules_are_read_again(zoo, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint_rows, "RULES_VERSION", None)
        lh.ingest([zoo], warehouse=tmp_path / "w", stats="none")
    assert lh.ingest([zoo], warehouse=tmp_path / "w", stats="none").count("taken") == 2
    assert asked(tmp_path / "w", "SELECT count(*), count(rules_version) FROM current_checkpoints") == [(2, 2)]
    assert lh.ingest([zoo], warehouse=tmp_path / "w", stats="none").count("taken") == 0


def test_other_numbers_of_the_same_content_are_those_of_the_newest_rules(zoo, tmp_path, monkeypatch):
    """A buffer that earlier rules counted: layers, tensors and totals are all of one version."""
    entries = {**plain(SHAPES), "model.layers.0.self_attn.rotary_emb.inv_freq": ("F32", (8,), None)}
    write(tmp_path / "one", entries, CONFIG)
    rows = checkpoint_rows.layer_rows
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint_rows, "RULES_VERSION", None)

        def more_layers(*arguments: Any) -> Any:
            layers, notes = rows(*arguments)
            return [{**row, "params": row["params"] + 8} for row in layers], notes

        patched.setattr(checkpoint_rows, "layer_rows", more_layers)
        lh.ingest([tmp_path / "one"], warehouse=tmp_path / "w")
    (before,) = asked(tmp_path / "w", "SELECT sum(params) FROM layers")
    lh.ingest([tmp_path / "one"], warehouse=tmp_path / "w")
    (after,) = asked(tmp_path / "w", "SELECT sum(params) FROM layers")
    assert before[0] - after[0] == 16
