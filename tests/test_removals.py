"""Dropped and renamed models and `as_of`: what each name shows now and at an earlier time, and after the next ingest."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

import layerhouse as lh
from layerhouse import NotFoundError, UsageError
from layerhouse.ingest.run import Options, Report, ingest_roots
from layerhouse.tests.running import layerhouse
from layerhouse.tests.study_builder import (
    Scores,
    Width,
    analysis_document,
    result_document,
    write_json,
)
from layerhouse.warehouse.admin.health import check_warehouse
from layerhouse.warehouse.admin.removals import drop_model, rename_model
from layerhouse.warehouse.answers.load_inventory import load_inventory
from layerhouse.warehouse.answers.session import parse_as_of
from layerhouse.warehouse.storage.store import create_store

NAMES = ("it's; DROP TABLE x", "a|b", "=x", "123", "null")


def write_model(folder: Path, num_layers: int = 2, wikitext2: float = 10.0) -> None:
    document = analysis_document("m", (Width(8, 4, 704),) * num_layers)
    write_json(folder / "analysis/pruned_model_analysis.json", document)
    write_json(
        folder / "evaluation/evaluation_results.json", result_document(document, Scores(wikitext2, 20.0, (0.5,) * 7, 100.0))
    )


def ingest(root: Path, *roots: Path, **options) -> Report:
    return ingest_roots(roots, create_store(root), load_inventory(root), Options(**options))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A study of `m/a` (2 layers, perplexity 10) and `m/b` (3 layers, perplexity 11) and its warehouse, at a fixed path."""
    folder = tmp_path_factory.mktemp("made") / "study"
    write_model(folder / "m/a", 2, 10.0)
    write_model(folder / "m/b", 3, 11.0)
    ingest(folder / "warehouse", folder / "m")
    return folder


@pytest.fixture
def study(made, tmp_path):
    """The study for one test to change. It stays at its path, which the rows name; a copy replaces it afterwards."""
    untouched = tmp_path / "untouched"
    shutil.copytree(made, untouched)
    yield made
    shutil.rmtree(made)
    untouched.rename(made)


@pytest.fixture
def root(study):
    return study / "warehouse"


def models_of(root: Path, as_of: datetime | str | None = None) -> dict:
    """Model -> (number of layers, perplexity); None for a missing structure or missing results."""
    with lh.open(root, as_of=as_of) as wh:
        rows = wh.sql(
            """
            SELECT model_id, num_layers, value
            FROM current_checkpoints
            FULL JOIN (SELECT model_id, value FROM model_results WHERE dataset = 'wikitext2') USING (model_id)
            """
        ).rows()
        return {name: (num_layers, perplexity) for name, num_layers, perplexity in rows}


BOTH = {"m/a": (2, 10.0), "m/b": (3, 11.0)}


def test_drop_hides_a_model_and_its_results_until_it_is_ingested_again(root, study):
    before = datetime.now(UTC)
    drop_model(root, "m/a")
    assert models_of(root) == {"m/b": (3, 11.0)}
    with lh.open(root) as wh:
        for view in ("history", "layer_pruning", "model_results", "measures", "performance"):
            assert wh.sql(f"SELECT DISTINCT model_id FROM {view}")["model_id"].to_list() == ["m/b"]
    assert models_of(root, before) == BOTH

    report = ingest(root, study / "m")
    assert [(event.kind, event.where) for event in report.events] == [("taken", "m/a"), ("unchanged", "m/b")]
    assert models_of(root) == BOTH
    assert lh.open(root).sql("SELECT count(*) AS n FROM model_results WHERE model_id = 'm/a'")["n"].to_list() == [25]
    assert check_warehouse(root) == []


def test_rename_keeps_history_and_later_ingests_of_the_folder_keep_the_name(root, study):
    before = datetime.now(UTC)
    rename_model(root, "m/a", "best")
    assert models_of(root) == {"best": (2, 10.0), "m/b": (3, 11.0)}
    assert models_of(root, before) == BOTH
    assert ingest(root, study / "m").count("unchanged") == 2

    write_model(study / "m/a", 4, 12.0)
    report = ingest(root, study / "m")
    assert [(event.kind, event.where) for event in report.events] == [("taken", "best"), ("unchanged", "m/b")]
    assert models_of(root) == {"best": (4, 12.0), "m/b": (3, 11.0)}
    history = lh.open(root).sql("SELECT model_id, num_layers FROM history ORDER BY commit_id, model_id").rows()
    assert history == [("best", 2), ("m/b", 3), ("best", 4)]


def test_renames_follow_each_other(root, study):
    rename_model(root, "m/a", "new")
    rename_model(root, "new", "newer")
    write_model(study / "m/a", 4, 12.0)
    ingest(root, study / "m")
    assert models_of(root) == {"newer": (4, 12.0), "m/b": (3, 11.0)}
    rename_model(root, "newer", "m/a")
    assert models_of(root) == {"m/a": (4, 12.0), "m/b": (3, 11.0)}
    rename_model(root, "m/b", "new")
    assert models_of(root) == {"m/a": (4, 12.0), "new": (3, 11.0)}


def test_models_swap_their_names(root):
    for old, new in (("m/a", "aside"), ("m/b", "m/a"), ("aside", "m/b")):
        rename_model(root, old, new)
    assert models_of(root) == {"m/a": (3, 11.0), "m/b": (2, 10.0)}


def test_drop_after_rename_and_back_again(root, study):
    rename_model(root, "m/a", "new")
    drop_model(root, "new")
    assert models_of(root) == {"m/b": (3, 11.0)}
    ingest(root, study / "m")
    assert models_of(root) == BOTH


def test_another_folder_may_use_an_old_name(root, tmp_path):
    write_model(tmp_path / "m/a", 5, 15.0)
    (event,) = ingest(root, tmp_path / "m").events
    assert (event.kind, event.where) == ("failed", str(tmp_path / "m/a"))
    assert models_of(root) == BOTH
    rename_model(root, "m/a", "new")
    assert ingest(root, tmp_path / "m").count("taken") == 1
    assert models_of(root) == {"new": (2, 10.0), "m/a": (5, 15.0), "m/b": (3, 11.0)}
    drop_model(root, "m/a")
    assert models_of(root) == {"new": (2, 10.0), "m/b": (3, 11.0)}


def test_dropped_rows_stay_dropped_under_any_later_name(root, study):
    drop_model(root, "m/a")
    write_model(study / "m/a", 4, 12.0)
    ingest(root, study / "m")
    rename_model(root, "m/a", "new")
    rename_model(root, "m/b", "m/a")
    assert models_of(root) == {"new": (4, 12.0), "m/a": (3, 11.0)}
    history = lh.open(root).sql("SELECT model_id, num_layers FROM history ORDER BY model_id").rows()
    assert history == [("m/a", 3), ("new", 4)]
    drop_model(root, "new")
    drop_model(root, "m/a")
    assert models_of(root) == {}


def test_a_name_in_use_an_empty_one_and_an_unknown_model_are_refused(root):
    for new in ("m/b", "m/a"):
        with pytest.raises(UsageError, match=f"there is a model '{new}' already"):
            rename_model(root, "m/a", new)
    with pytest.raises(UsageError, match="the new name is empty"):
        rename_model(root, "m/a", "  ")
    for call in (lambda: drop_model(root, "m/c"), lambda: rename_model(root, "m/c", "x")):
        with pytest.raises(NotFoundError) as caught:
            call()
        assert str(caught.value) == "no model 'm/c'; there is m/a, m/b"
    drop_model(root, "m/b")
    with pytest.raises(NotFoundError):
        drop_model(root, "m/b")
    rename_model(root, "m/a", "m/b")
    assert models_of(root) == {"m/b": (2, 10.0)}


def test_the_commands_report_the_change_or_list_the_models(root):
    result = layerhouse("rename", "m/a", "=x", "--warehouse", root)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "renamed m/a to =x\n")
    result = layerhouse("drop", "m/a", "--warehouse", root)
    assert (result.returncode, result.stdout, result.stderr) == (2, "", "layerhouse: no model 'm/a'; there is =x, m/b\n")
    result = layerhouse("drop", "=x", "--warehouse", root)
    assert (result.returncode, result.stderr) == (0, "dropped =x\n")
    assert models_of(root) == {"m/b": (3, 11.0)}


def test_names_are_text_whatever_they_look_like(root, study):
    old = "m/a"
    for name in NAMES:
        rename_model(root, old, name)
        old = name
    assert models_of(root) == {NAMES[-1]: (2, 10.0), "m/b": (3, 11.0)}
    drop_model(root, NAMES[-1])
    assert models_of(root) == {"m/b": (3, 11.0)}
    assert ingest(root, study / "m").count("taken") == 1
    assert models_of(root) == BOTH


# History and `as_of`


def test_models_has_the_newest_content_and_history_all_of_it(root, study):
    first = datetime.now(UTC)
    write_model(study / "m/a", 4, 12.0)
    ingest(root, study / "m")
    second = datetime.now(UTC)
    drop_model(root, "m/b")
    assert models_of(root) == {"m/a": (4, 12.0)}
    assert models_of(root, second) == {"m/a": (4, 12.0), "m/b": (3, 11.0)}
    assert models_of(root, first) == BOTH
    assert models_of(root, first.astimezone(timezone(timedelta(hours=9))).isoformat()) == BOTH
    assert models_of(root, first - timedelta(days=1)) == {}
    assert models_of(root, "2999-12-31") == {"m/a": (4, 12.0)}
    wh = lh.open(root, as_of=second)
    assert wh.sql("SELECT model_id, num_layers FROM history ORDER BY ALL").rows() == [("m/a", 2), ("m/a", 4), ("m/b", 3)]
    for table, num_rows in (("checkpoints", 3), ("layers", 9), ("results", 75), ("links", 3), ("removals", 0)):
        assert wh.scan(table).collect().height == wh.sql(f"SELECT * FROM {table}").height == num_rows
    result = layerhouse("sql", "SELECT model_id FROM models ORDER BY 1", "--as-of", first.isoformat(), "-f", "csv", "-w", root)
    assert (result.returncode, result.stdout) == (0, "model_id\nm/a\nm/b\n")


def test_content_that_comes_back_is_a_new_row_of_history(root, study):
    for num_layers in (4, 2):
        write_model(study / "m/a", num_layers)
        ingest(root, study / "m")
    assert models_of(root) == BOTH
    history = lh.open(root).sql("SELECT num_layers FROM history WHERE model_id = 'm/a' ORDER BY commit_id")
    assert history["num_layers"].to_list() == [2, 4, 2]


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-31", "2026-01-31T23:59:59.999999+00:00"),
        ("20260131", "2026-01-31T23:59:59.999999+00:00"),
        ("2026-01-31T12", "2026-01-31T12:00:00+00:00"),
        ("2026-01-31T12:30", "2026-01-31T12:30:00+00:00"),
        ("2026-01-31 12:30:15.25", "2026-01-31T12:30:15.250000+00:00"),
        ("2026-01-31T12:30Z", "2026-01-31T12:30:00+00:00"),
        ("2026-01-31T12:30+08:00", "2026-01-31T04:30:00+00:00"),
        ("0001-01-01", "0001-01-01T23:59:59.999999+00:00"),
        ("9999-12-31", "9999-12-31T23:59:59.999999+00:00"),
    ],
)
def test_a_day_means_its_end_and_a_time_without_a_zone_is_utc(text, moment):
    assert parse_as_of(text).isoformat() == moment


@pytest.mark.parametrize("text", ["", "yesterday", "2026-02-30", "2026-1-31", "12:00", "1769860800", "0001-01-01T00:00+01:00"])
def test_text_that_is_not_a_time_is_refused(text):
    with pytest.raises(UsageError) as caught:
        parse_as_of(text)
    assert str(caught.value) == f"--as-of {text!r}: not a time; write 2026-01-31 or 2026-01-31T12:00:00"


def test_a_moment_needs_a_zone(root):
    with pytest.raises(UsageError, match="without a zone"):
        lh.open(root, as_of=datetime(2026, 1, 31))
