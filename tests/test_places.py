"""Any path of a warehouse and any name of a model works: they are text, passed on exactly."""

from __future__ import annotations

import ast
import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import polars as pl
import pytest

import layerhouse as lh
from layerhouse import UsageError, WarehouseError
from layerhouse.ingest.run import Options, ingest_roots
from layerhouse.tests.running import CLEAN, layerhouse
from layerhouse.tests.study_builder import (
    Width,
    analysis_document,
    write_json,
    write_study,
)
from layerhouse.warehouse.admin.health import check_warehouse
from layerhouse.warehouse.answers.load_inventory import load_inventory
from layerhouse.warehouse.answers.query import query_text, run_sql
from layerhouse.warehouse.answers.session import export_database, init_script
from layerhouse.warehouse.render import write_table
from layerhouse.warehouse.storage.store import create_store, write_commit

PLACES = (
    'it\'s a; "place"/~/$HOME/-x',
    "[v1]*/?{x,y}",
    "model_id=x/commit_id=7",
    "名 é/new\nline/md:x",
    "/".join(["deep"] * 60),
)
NAMES = ("007", "123", "1e5", "2024-01-01", "=x", "a|b", "it's; DROP TABLE x", "null")
# Values of the study, in the order of model names.
STUDY = [
    ("baselines/ShortGPT_remove_3", 8_737_536, [8, 9, 10], "layer_removal"),
    ("baselines/Uniform_2000", 8_886_528, [], "uniform"),
    ("results/EmptyBlocks_1", 10_213_632, [], "non_uniform"),
    ("results/HeadPrune_2000", 8_591_616, [], "non_uniform"),
]
SUMMARY = "SELECT model_id, params, removed_layers, strategy FROM models WHERE strategy <> 'dense' ORDER BY model_id"


def ingest(warehouse: Path, *roots: Path, **options) -> None:
    root = create_store(warehouse)
    report = ingest_roots(roots, root, load_inventory(root), Options(**options))
    assert report.count("failed") == 0, report.events


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The demo's study and its warehouse, to be copied or moved."""
    folder = tmp_path_factory.mktemp("made")
    write_study(folder / "study")
    ingest(folder / "warehouse", folder / "study/baselines", folder / "study/results")
    return folder


def summary(path: Path | str) -> list[tuple]:
    with lh.open(path) as wh:
        return [(name, params, removed, strategy) for name, params, removed, strategy in wh.sql(SUMMARY).rows() if strategy]


def in_duckdb_alone(script: str, sql: str, cwd: Path | None = None) -> list[tuple]:
    """Rows of `sql` after `script` in a fresh process that does not import layerhouse."""
    code = (
        "import sys, duckdb\n"
        "script, sql = sys.stdin.read().split('\\0')\n"
        "connection = duckdb.connect()\n"
        "connection.execute(script)\n"
        "rows = connection.execute(sql).fetchall()\n"
        "assert 'layerhouse' not in sys.modules\n"
        "sys.stdout.buffer.write(repr(rows).encode())\n"
    )
    answer = subprocess.run(
        [sys.executable, "-I", "-X", "utf8", "-c", code],
        input=f"{script}\0{sql}".encode(),
        capture_output=True,
        check=False,
        cwd=cwd,
    )
    assert answer.returncode == 0, answer.stderr.decode()
    return ast.literal_eval(answer.stdout.decode())


@pytest.mark.parametrize("place", PLACES, ids=ascii)
def test_a_warehouse_works_wherever_it_stands(made, tmp_path, place):
    path = tmp_path / place / "warehouse"
    create_store(path)
    write_commit(path, {"removals": []}, "ingest")
    shutil.copytree(made / "warehouse", path, dirs_exist_ok=True)
    with lh.open(path) as wh:
        assert wh.sql(SUMMARY).rows() == STUDY
        assert wh.scan("layers").collect().height == 57
        columns = wh.connection.execute("SELECT * FROM checkpoints").description
        assert [column[0] for column in columns] == list(wh.scan("checkpoints").collect_schema())


def test_the_init_script_opens_it_in_duckdb_alone_from_any_folder(made, tmp_path):
    path = tmp_path / 'it\'s [v1]* = "名"\n;' / "model_id=x"
    shutil.copytree(made / "warehouse", path)
    with lh.open(path) as wh:
        rows = wh.query("summary").rows()
        assert in_duckdb_alone(init_script(path), query_text("summary"), cwd=Path("/")) == rows
        assert len(rows) == 5


def test_a_relative_path_a_moved_folder_and_a_link_to_it_show_the_same(made, tmp_path, monkeypatch):
    shutil.copytree(made / "warehouse", tmp_path / "here/warehouse")
    monkeypatch.chdir(tmp_path / "here")
    assert summary("warehouse") == STUDY
    wh = lh.open("warehouse")
    monkeypatch.chdir("/")
    assert wh.sql(SUMMARY).rows() == STUDY
    (tmp_path / "here").rename(tmp_path / "there")
    (tmp_path / "link").symlink_to(tmp_path / "there/warehouse")
    assert summary(tmp_path / "there/warehouse") == summary(tmp_path / "link") == STUDY
    monkeypatch.chdir(tmp_path / "there/warehouse/layers")
    assert summary("..") == STUDY
    result = layerhouse("sql", SUMMARY, "-f", "json", cwd=tmp_path / "there", LAYERHOUSE_WAREHOUSE="warehouse")
    assert [tuple(row.values()) for row in json.loads(result.stdout)] == STUDY


def test_a_path_that_is_not_utf8_is_refused_before_anything_is_made(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    for call in (create_store, lh.open, check_warehouse):
        with pytest.raises(WarehouseError, match="not UTF-8"):
            call(path)
    assert list(tmp_path.iterdir()) == []


def test_read_only_media_answer_and_refuse_writes_with_one_line(made, tmp_path):
    shutil.copytree(made / "warehouse", tmp_path / "warehouse")
    write_json(tmp_path / "new/m/analysis/model_structure.json", analysis_document("m", (Width(8, 4, 704),)))
    commands = [
        ["sql", SUMMARY, "-f", "json"],
        ["check"],
        ["ingest", made / "study/results"],
        ["ingest", tmp_path / "new"],
        ["check", "--repair"],
    ]
    script = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'
    confined = ["unshare", "-rm", "sh", "-c", script, "sh", str(tmp_path / "warehouse")]
    if shutil.which("unshare") is None or subprocess.run([*confined, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespace to make a folder read-only in")
    results = []
    for command in commands:
        arguments = [*confined, sys.executable, "-m", "layerhouse", *map(str, command), "-w", str(tmp_path / "warehouse")]
        results.append(subprocess.run(arguments, capture_output=True, encoding="utf-8", env=CLEAN, check=False))
    assert [result.returncode for result in results] == [0, 0, 0, 3, 3]
    assert [tuple(row.values()) for row in json.loads(results[0].stdout)] == STUDY
    refusal = f"layerhouse: {tmp_path / 'warehouse'}: cannot write: Read-only file system"
    for result in results[3:]:
        *taken, last = result.stderr.splitlines()
        assert last.startswith(refusal)
        assert all(line.startswith("taken ") for line in taken)


# Names


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """A warehouse of models with awkward names: number n has n layers. The folder name of the last one is not UTF-8."""
    folder = tmp_path_factory.mktemp("named")
    names = (*NAMES, os.fsdecode(b"w\xff"))
    for number, name in enumerate(names, 1):
        write_json(folder / "m" / name / "analysis/model_structure.json", analysis_document("m", (Width(8, 4, 704),) * number))
    ingest(folder / "warehouse", folder / "m")
    bare = [{"action": "rename", "model_id": f"m/{name}", "new_model_id": name} for name in NAMES]
    write_commit(folder / "warehouse", {"removals": bare}, "rename")
    return folder / "warehouse"


EXPECTED = [(name, number) for number, name in enumerate((*NAMES, "m/w\\xff"), 1)]
BY_LAYERS = "SELECT model_id, num_layers FROM models ORDER BY num_layers"


def test_names_are_exact_in_sql_and_in_polars(named):
    with lh.open(named) as wh:
        assert wh.models().sort("num_layers").select("model_id", "num_layers").rows() == EXPECTED
        assert wh.models().schema["model_id"] == pl.String
        assert sorted(wh.scan("checkpoints").collect()["model_id"]) == sorted([*(f"m/{name}" for name in NAMES), "m/w\\xff"])
        for name, num_layers in EXPECTED[-3:]:
            found = wh.connection.execute("SELECT num_layers FROM models WHERE model_id = ?", [name]).fetchall()
            assert (name, found) == (name, [(num_layers,)])
            assert (name, wh.layers(name).height) == (name, num_layers)


@pytest.fixture(scope="module")
def table(named):
    with lh.open(named) as wh:
        return run_sql(wh.connection, BY_LAYERS)


def written(table, format_name: str, **options) -> bytes:
    buffer = io.BytesIO()
    write_table(table, format_name, buffer, **options)
    return buffer.getvalue()


def test_names_are_exact_in_every_format_for_programs(table):
    rows = [[name, str(number)] for name, number in EXPECTED]
    assert list(csv.reader(io.StringIO(written(table, "csv", raw=True).decode(), newline="")))[1:] == rows
    objects = [{"model_id": name, "num_layers": number} for name, number in EXPECTED]
    assert json.loads(written(table, "json")) == objects
    assert [json.loads(line) for line in written(table, "ndjson").splitlines()] == objects
    assert pl.read_parquet(io.BytesIO(written(table, "parquet"))).rows() == EXPECTED


def test_names_are_exact_in_a_markdown_table(table):
    lines = written(table, "markdown").decode().splitlines()[2:]
    cells = [re.split(r"(?<!\\)\|", line)[1].strip() for line in lines]
    assert [re.sub(r"\\(.)", r"\1", cell) for cell in cells] == [name for name, _ in EXPECTED]
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 3 for line in lines)


def test_the_init_script_and_the_exported_database_give_the_same_numbers(named, tmp_path):
    target = tmp_path / "it's an export.duckdb"
    with lh.open(named) as wh:
        rows = wh.query("summary").rows()
    export_database(named, target)
    shutil.copytree(named, tmp_path / "gone")
    assert in_duckdb_alone(init_script(tmp_path / "gone"), query_text("summary")) == rows
    shutil.rmtree(tmp_path / "gone")
    quoted = str(target).replace("'", "''")
    for script in (f"ATTACH '{quoted}' AS other (READ_ONLY); USE other;", f'ATTACH \'{quoted}\' AS "select"; USE "select";'):
        assert in_duckdb_alone(script, query_text("summary")) == rows
    with duckdb.connect() as connection:
        connection.execute(f"ATTACH '{quoted}' AS other (READ_ONLY)")
        assert connection.execute("SELECT model_id, num_layers FROM other.models ORDER BY num_layers").fetchall() == EXPECTED
        assert connection.execute("SELECT count(*) FROM other.performance").fetchall() == [(len(EXPECTED),)]


def test_an_export_replaces_nothing_and_says_where_it_cannot_write(named, tmp_path):
    (tmp_path / "mine.duckdb").write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        export_database(named, tmp_path / "mine.duckdb")
    for target in (tmp_path / "mine.duckdb/below.duckdb", tmp_path / "nowhere/x.duckdb"):
        with pytest.raises(UsageError, match="cannot be written") as caught:
            export_database(named, target)
        assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.duckdb"]
    assert (tmp_path / "mine.duckdb").read_text() == "mine"
