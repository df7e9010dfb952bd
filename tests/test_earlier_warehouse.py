"""A warehouse that an earlier version wrote gives the same answers: every table, view, query and command.

`earlier/warehouse-VERSION` is such a warehouse, with what `layerhouse VERSION` answered in `answers-VERSION.zip`. It holds
weights with spectra and units, analyses without weights, results, hand-made links, a rename, a drop, and a model whose content
changed. Columns that were added since are not compared, and neither are the notes that its rows are stale. Scores of a task
beside its usual one were in no table then; they are among the others now. `correlation` has further structural numbers. The
study's summary was a paragraph a model, and is the study's table now, with the same numbers.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import layerhouse as lh
from layerhouse.tests.running import layerhouse
from layerhouse.vocabulary import Level
from layerhouse.warehouse.answers.query import query_names, query_text, run_sql
from layerhouse.warehouse.render import write_table

EARLIER = Path(__file__).parent / "earlier"
VERSIONS = sorted(path.name.removeprefix("warehouse-") for path in EARLIER.glob("warehouse-*"))
STALE = "stale: read by rules of an earlier version, ingest it again"
STALE_RESULTS = "stale results: read by rules of an earlier version, ingest their files again"
TIME = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00")
COMMANDS = {
    "summarize.txt": ("summarize",),
    "layers.txt": ("layers",),
    "performance.txt": ("performance",),
    "compare_flap.txt": ("compare", "results/FLAP_2000", "--by", "params"),
    "compare_shortgpt.txt": ("compare", "baselines/ShortGPT_remove_1", "--by", "params"),
}


def recorded(version: str) -> dict[str, str]:
    with zipfile.ZipFile(EARLIER / f"answers-{version}.zip") as answers:
        return {name: answers.read(name).decode() for name in answers.namelist()}


def cases(suffix: str) -> list[Any]:
    return [
        pytest.param(version, name, id=f"{version}-{name.removesuffix(suffix)}")
        for version in VERSIONS
        for name in recorded(version)
        if name.endswith(suffix)
    ]


@pytest.fixture(scope="module")
def warehouses(tmp_path_factory) -> Path:
    """Copies, so that no test can change what is kept."""
    return Path(shutil.copytree(EARLIER, tmp_path_factory.mktemp("earlier"), dirs_exist_ok=True))


@pytest.fixture(scope="module")
def opened(warehouses) -> Iterator[dict[str, Any]]:
    """A session a version, in which all views are made once."""
    with contextlib.ExitStack() as stack:
        yield {version: stack.enter_context(lh.open(warehouses / f"warehouse-{version}")) for version in VERSIONS}


def rows_of(lines: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines.splitlines()]


def without_stale(row: dict[str, Any]) -> dict[str, Any]:
    """A row without the note that it was read by earlier rules, which it has to have if it is a model with weights."""
    note = row.get("status_note")
    if row.get("source_kind") == "weights" and "status_note" in row:
        assert STALE in note
    texts = [text for text in (note or "").split("; ") if text and text not in (STALE, STALE_RESULTS)]
    return {**row, "status_note": "; ".join(texts) or None} if "status_note" in row else row


def cells_of(text: str, end: str | None = None) -> list[dict[str, str]]:
    """The rows of a table in text by heading, without what is said above and below it; of the columns before `end`, if any."""
    lines = text.splitlines()
    while not lines[0].startswith("model "):
        del lines[0]
    headings = re.split(r" {2,}", lines[0])
    rows = [re.split(r" {2,}", line) for line in lines[2:]]
    shown = headings if end is None else headings[: headings.index(end)]
    return [dict(zip(shown, cells, strict=False)) for cells in rows if len(cells) >= len(shown) > 1]


def picture_of(text: str) -> list[list[str]]:
    """The cells of a picture, without the stack, the measure and the verdict, and without what layers and lines say besides."""
    head, table, below = text.replace("kept by params: ", "").split("\n\n")
    rows = [re.split(r" {2,}", re.sub("^(stack|text) +", "", line)) for line in table.splitlines()]
    levels = [line for line in below.splitlines() if line.partition(":")[0] in [*Level] and not line.startswith("untouched")]
    lines = [[line.replace("text ", "")] for line in (*head.splitlines()[:2], *levels)]
    return [*lines, *(row[: row.index("level") + 1 if "level" in row else 12] for row in rows)]


def known_then(rows: list[dict[str, Any]], before: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without the scores beside the usual one of a task, and without structural numbers that are new."""
    structures = {row["structure"] for row in before if "structure" in row}
    rows = [row for row in rows if "structure" not in row or row["structure"] in structures]
    known = {(row.get("kind"), row.get("measure")) for row in before}
    scores = {measure for row in before if "other_scores" in row for measure in row["other_scores"] or ()}
    kept = [row for row in rows if row.get("kind") != "score" or (row["kind"], row["measure"]) in known]
    for row in kept:
        if "other_scores" in row:
            row["other_scores"] = {name: value for name, value in (row["other_scores"] or {}).items() if name in scores} or None
    return kept


def in_order(rows: list[dict[str, Any]]) -> list[str]:
    return sorted(json.dumps(row, sort_keys=True) for row in rows)


CHANGED = ("verdict", "dominated_by")
"""Columns that have other values now: verdicts have other words, and dominated_by names models on the front alone."""


@pytest.mark.parametrize(("version", "name"), cases(".ndjson"))
def test_tables_views_and_queries_answer_as_before(opened, version, name):
    stem = name.removesuffix(".ndjson")
    is_query = stem.startswith("query_")
    statement = query_text(stem.removeprefix("query_")) if is_query else f"SELECT * FROM {stem}"
    lines = io.BytesIO()
    write_table(run_sql(opened[version].connection, statement), "ndjson", lines)
    before, now = rows_of(recorded(version)[name]), rows_of(lines.getvalue().decode())
    columns = [column for column in (before[0] if before else ()) if column not in CHANGED]
    before = [{column: row[column] for column in columns} for row in before]
    now = [without_stale({column: row[column] for column in columns}) for row in now]
    now = known_then(now, before)
    assert now == before if is_query else in_order(now) == in_order(before)


@pytest.mark.parametrize(("version", "name"), cases(".txt"))
def test_commands_print_as_before(warehouses, tmp_path, version, name):
    warehouse = warehouses / f"warehouse-{version}"
    if name == "study.txt":
        done = layerhouse("summarize", "--output", tmp_path / "study", "--warehouse", warehouse)
        written = (tmp_path / "study.json").read_text("utf-8")
        assert TIME.sub("TIME", written) == TIME.sub("TIME", recorded(version)["study.json"])
        table = re.findall(
            r"^(\S+) +([\d,]+) +(\S+%|N/A) +\S+ +\S+$", (tmp_path / "study.txt").read_text("utf-8"), re.MULTILINE
        )
        before = re.findall(r"^(\S+)\n  parameters +([\d,]+) (?:.*\n  .*)*?", recorded(version)["study.txt"], re.MULTILINE)
        assert [row[:2] for row in table] == before != []
    else:
        done = layerhouse(*COMMANDS[name], "--warehouse", warehouse)
        end = {"summarize.txt": "note", "performance.txt": "other scores"}.get(name)
        if name.startswith("compare_"):
            assert picture_of(done.stdout) == picture_of(recorded(version)[name])
        else:
            before, now = cells_of(recorded(version)[name], end), cells_of(done.stdout, end)
            assert before
            assert [{heading: row.get(heading) for heading in before[0]} for row in now] == before
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("version", VERSIONS)
def test_every_query_of_then_is_still_there_and_the_warehouse_is_healthy(warehouses, version):
    asked = {name.removeprefix("query_").removesuffix(".ndjson") for name in recorded(version) if name.startswith("query_")}
    assert asked <= set(query_names())
    checked = layerhouse("check", "--warehouse", warehouses / f"warehouse-{version}")
    assert checked.returncode == 0
    findings = [line.split("  ")[-1].strip() for line in checked.stdout.splitlines()]
    assert set(findings) <= {"commits: made by a version with other columns, which read as null"}
