"""Rows on disk: what a commit promises, what creation refuses, and how versions with other columns read."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest

import layerhouse as lh
from layerhouse import LayerhouseError, MissingWarehouseError, WarehouseError
from layerhouse.tests.running import layerhouse
from layerhouse.warehouse.admin.health import check_warehouse
from layerhouse.warehouse.storage import store
from layerhouse.warehouse.storage.commits import list_commits
from layerhouse.warehouse.storage.own_files import COMMITS
from layerhouse.warehouse.storage.schema import TABLES, arrow_schema
from layerhouse.warehouse.storage.store import LOCK, create_store, open_store, write_commit, writers_locked_out

BIG = (2**53 + 1, 2**63 - 1, 0, -(2**63))


def checkpoint(checkpoint_id: str, **columns) -> dict:
    required = {"source_uri": "/s", "source_kind": "analysis", "status": "ok", "tool_version": "0"}
    return {"checkpoint_id": checkpoint_id, "model_id": checkpoint_id, **required, **columns}


def layer(checkpoint_id: str, layer_index: int, **columns) -> dict:
    return {"checkpoint_id": checkpoint_id, "stack": "text", "layer_index": layer_index, **columns}


@pytest.fixture
def root(tmp_path):
    return create_store(tmp_path / "warehouse")


def refusal(call) -> str:
    with pytest.raises(LayerhouseError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Commits


def test_a_commit_is_there_when_its_json_is(root):
    commit_id = write_commit(root, {"checkpoints": [checkpoint("a")]}, "ingest")
    marker, hidden, head = root / f"commits/{commit_id}.json", root / "hidden", root / f"heads/{commit_id}.json"
    record = head.read_bytes()
    marker.rename(hidden)
    head.unlink()  # written after the commit
    assert lh.open(root).models()["model_id"].to_list() == []
    assert lh.open(root).scan("checkpoints").collect().height == 0
    hidden.rename(marker)
    head.write_bytes(record)
    assert lh.open(root).models()["model_id"].to_list() == ["a"]
    assert lh.open(root).scan("checkpoints").collect().height == 1


def test_an_open_warehouse_stays_as_it_was_until_refreshed(root):
    wh = lh.open(root)
    write_commit(root, {"checkpoints": [checkpoint("a")]}, "ingest")
    assert wh.models().height == 0
    wh.refresh()
    assert wh.models().height == 1


def test_every_row_carries_its_commit_and_when_it_was_made(root):
    before = datetime.now(UTC)
    commit_id = write_commit(
        root, {"checkpoints": [checkpoint("a"), checkpoint("b")], "layers": [layer("a", 0), layer("b", 0)]}, "ingest"
    )
    after = datetime.now(UTC)
    wh = lh.open(root)
    for table in ("checkpoints", "layers"):
        rows = wh.sql(f"SELECT commit_id, ingested_at FROM {table}")
        assert rows["commit_id"].to_list() == [commit_id] * 2
        assert all(before <= moment <= after for moment in rows["ingested_at"])


def test_a_commit_says_what_its_files_hold(root):
    commit_id = write_commit(root, {"layers": [layer("a", 0), layer("a", 1)]}, "ingest")
    document = json.loads((root / f"commits/{commit_id}.json").read_bytes())
    (file,) = document["files"]
    data = (root / file["path"]).read_bytes()
    assert (document["commit"], document["operation"]) == (commit_id, "ingest")
    assert (file["table"], file["rows"], file["bytes"]) == ("layers", 2, len(data))
    assert file["sha256"] == hashlib.sha256(data).hexdigest()
    assert pq.read_schema(root / file["path"]).equals(arrow_schema("layers"))
    assert not [path for path in root.rglob("*") if path.name.endswith(".tmp")]


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (layer("a", 0, heads=3), "table layers has no column 'heads'"),
        (layer("a", None), "'layer_index' is required"),
        ({"checkpoint_id": "a", "layer_index": 0}, "'stack' is required"),
        (layer("a", 0, params=2**63), "too large"),
        (layer("a", 0, params="7"), "type str"),
        (layer("a", 0, params=7.5), "a float in a column of integers"),
    ],
)
def test_a_row_that_does_not_fit_the_schema_is_refused(root, row, complaint):
    with pytest.raises((ValueError, OverflowError, TypeError), match=complaint):
        write_commit(root, {"layers": [layer("b", 0), row]}, "ingest")
    assert lh.open(root).scan("layers").collect().height == 0


def test_counts_are_exact_to_the_last_integer(root):
    write_commit(root, {"checkpoints": [checkpoint(f"c{number}", params=value) for number, value in enumerate(BIG)]}, "ingest")
    wh = lh.open(root)
    assert wh.sql("SELECT params FROM checkpoints ORDER BY checkpoint_id")["params"].to_list() == list(BIG)
    assert wh.scan("checkpoints").sort("checkpoint_id").collect()["params"].to_list() == list(BIG)
    assert wh.sql("SELECT sum(params) AS total FROM checkpoints WHERE params > 0 AND params < 1e18").row(0) == (2**53 + 1,)


def test_lists_maps_and_notes_come_back_as_they_were(root):
    tags = {"finetuned": "yes", "a=b": "", "'": '"', "名": "\n"}
    notes = [{"code": "x", "text": "one\ntwo | three"}, {"code": "y", "text": None}]
    write_commit(
        root,
        {
            "checkpoints": [checkpoint("a", tags=tags, notes=notes), checkpoint("b", tags={}, notes=[]), checkpoint("c")],
            "layers": [layer("a", 0, role_params={"q_proj": 2**53 + 1, "k_proj": 0})],
            "tensors": [
                {"checkpoint_id": "a", "name": "scalar", "shape": [], "abs_quantiles": [0.1, 1e-300], "signature": [0.5]},
                {"checkpoint_id": "a", "name": "wide", "shape": [2**40, 3], "signature": []},
            ],
        },
        "ingest",
    )
    connection = lh.open(root).connection
    assert connection.execute("SELECT tags, notes FROM checkpoints ORDER BY checkpoint_id").fetchall() == [
        (tags, notes),
        ({}, []),
        (None, None),
    ]
    assert connection.execute("SELECT role_params FROM layers").fetchall() == [({"q_proj": 2**53 + 1, "k_proj": 0},)]
    assert connection.execute("SELECT shape, abs_quantiles, signature FROM tensors ORDER BY name").fetchall() == [
        ([], [0.1, 1e-300], [0.5]),
        ([2**40, 3], None, []),
    ]


def test_half_a_surrogate_pair_becomes_a_visible_escape(root):
    odd, shown = "half \ud800 pair", "half \\ud800 pair"
    row = checkpoint("a", model_id=odd, tags={odd: odd}, notes=[{"code": odd, "text": "whole 😀"}])
    write_commit(root, {"checkpoints": [row, checkpoint("b", model_id="whole 😀")]}, "ingest")
    rows = lh.open(root).connection.execute("SELECT model_id, tags, notes FROM checkpoints ORDER BY checkpoint_id").fetchall()
    assert rows == [(shown, {shown: shown}, [{"code": shown, "text": "whole 😀"}]), ("whole 😀", None, None)]


def test_commits_sort_by_their_order_though_the_clock_goes_back(root, monkeypatch):
    now = time.time_ns()
    ids = []
    for offset in (0, 100 * 365 * 86_400 * 10**9, -(10**9), 0):
        monkeypatch.setattr(time, "time_ns", lambda offset=offset: now + offset)
        ids.append(write_commit(root, {"checkpoints": [checkpoint(f"c{len(ids)}", model_id="m")]}, "ingest"))
    assert ids == sorted(ids)
    assert all(len(commit_id) == 32 for commit_id in ids)
    assert lh.open(root).models()["checkpoint_id"].to_list() == ["c3"]


# Places that are none


def test_two_processes_that_create_at_once_share_one_warehouse(tmp_path):
    script = """
import sys, time
from pathlib import Path
from layerhouse.tests.test_store import checkpoint
from layerhouse.warehouse.storage.store import create_store, write_commit
folder, name = Path(sys.argv[1]), sys.argv[2]
(folder / f"ready-{name}").touch()
while len(list(folder.glob("ready-*"))) < 2:
    time.sleep(0.001)
for number in range(5):
    write_commit(create_store(folder / f"warehouse{number}"), {"checkpoints": [checkpoint(name)]}, "ingest")
"""
    processes = [subprocess.Popen([sys.executable, "-c", script, tmp_path, name]) for name in "ab"]
    assert [process.wait(60) for process in processes] == [0, 0]
    for number in range(5):
        names = lh.open(tmp_path / f"warehouse{number}").scan("checkpoints").collect()["model_id"]
        assert sorted(names) == ["a", "b"]
    assert check_warehouse(tmp_path / "warehouse0") == []


@pytest.mark.parametrize("foreign", ["notes.txt", "results/run/metrics.json", "commits/HEAD", "results"])
def test_a_folder_with_other_things_in_it_is_refused_and_left_alone(tmp_path, foreign):
    path = tmp_path / "study" / foreign
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    message = refusal(lambda: create_store(tmp_path / "study"))
    assert message.startswith(f"{tmp_path / 'study'}: not a warehouse, and not empty (there is '{foreign[:11]}")
    assert message.endswith("; name a new folder with --warehouse")
    assert [path for path in (tmp_path / "study").rglob("*") if path.is_file()] == [path]


def test_a_creation_that_was_cut_off_is_finished_by_the_next(root):
    (root / "layerhouse.json").rename(root / ".layerhouse.json.0123abcd.tmp")
    (root / f"layers/.{'0' * 32}.parquet.0123abcd.tmp").touch()
    assert "no warehouse here" in refusal(lambda: lh.open(root))
    create_store(root)
    assert lh.open(root).models().height == 0


def test_a_lost_mark_of_a_warehouse_with_rows_is_damage_and_written_again(root):
    write_commit(root, {"checkpoints": [checkpoint("a")]}, "ingest")
    (root / "layerhouse.json").unlink()
    assert f"{root}: damaged: layerhouse.json: missing; mend it with" in refusal(lambda: lh.open(root))
    (finding,) = check_warehouse(root, repair=True)
    assert (finding.where, finding.repaired) == ("layerhouse.json", "written again")
    assert lh.open(root).models()["model_id"].to_list() == ["a"]


def test_a_file_is_no_place_for_a_warehouse(tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    assert refusal(lambda: create_store(file)) == f"{file}: a file; a warehouse is a folder"
    assert refusal(lambda: create_store(file / "below")) == f"{file / 'below'}: cannot make a warehouse here: Not a directory"
    assert file.read_text() == "mine"


@pytest.mark.parametrize("path", ["nowhere", "empty", "file"])
def test_where_there_is_no_warehouse_the_message_says_how_to_make_one(tmp_path, path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(MissingWarehouseError) as caught:
        lh.open(tmp_path / path)
    where = tmp_path / path
    assert str(caught.value) == f"{where}: no warehouse here; make one with: layerhouse ingest FOLDER --warehouse {where}"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"7", b'{"made_by": "x"}', b"\xff\xfe"])
def test_a_broken_mark_is_named(root, content):
    (root / "layerhouse.json").write_bytes(content)
    for open_it in (open_store, create_store):
        assert refusal(lambda open_it=open_it: open_it(root)).startswith(f"{root}: damaged: layerhouse.json: ")
    (finding,) = check_warehouse(root, repair=True)
    assert (finding.kind, finding.where, finding.repaired) == ("damaged", "layerhouse.json", "written again")
    assert (root / "damaged/layerhouse.json.0").read_bytes() == content
    assert check_warehouse(root) == []


def test_a_warehouse_of_another_format_is_refused(root):
    (root / "layerhouse.json").write_text('{"format": 99}')
    for call in (lh.open, create_store, check_warehouse):
        with pytest.raises(WarehouseError) as caught:
            call(root)
        assert str(caught.value) == f"{root}: warehouse format 99; this version of layerhouse reads format 1"


# Versions


def write_as_earlier_version(root: Path, without: str) -> None:
    """Rewrite every commit as a version would have that did not know one column of `layers`, nor digests and head records."""
    shutil.rmtree(root / "heads")
    (root / "layerhouse.json").write_text('{"format": 1, "made_by": "layerhouse 0.1.0"}')
    for path in (root / "commits").iterdir():
        document = json.loads(path.read_bytes())
        document["schema"] = "0" * 16
        for key in ("digest", "parents", "set_aside"):
            del document[key]
        for file in document["files"]:
            del file["footer_bytes"], file["footer_sha256"]
        for file in document["files"]:
            if file["table"] == "layers":
                table = pq.read_table(root / file["path"]).drop_columns([without])
                pq.write_table(table, root / file["path"])
                data = (root / file["path"]).read_bytes()
                file |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        path.write_text(json.dumps(document))


@pytest.mark.parametrize("repair", [False, True])
def test_a_column_that_earlier_files_lack_is_null_there(root, repair):
    write_commit(root, {"checkpoints": [checkpoint("a")], "layers": [layer("a", 0, head_dim=16, params=5)]}, "ingest")
    write_as_earlier_version(root, "head_dim")
    if repair:
        (finding,) = check_warehouse(root, repair=True)
        assert (finding.kind, finding.repaired) == ("schema", "brought up to date")
        assert check_warehouse(root) == []
    wh = lh.open(root)
    assert wh.sql("SELECT head_dim, params FROM layers").rows() == [(None, 5)]
    assert wh.scan("layers").select("head_dim", "params").collect().rows() == [(None, 5)]
    assert wh.layers("a").select("head_dim", "params").rows() == [(None, 5)]

    create_store(root)
    write_commit(root, {"checkpoints": [checkpoint("b")], "layers": [layer("b", 0, head_dim=32, params=6)]}, "ingest")
    wh = lh.open(root)
    assert wh.sql("SELECT head_dim, params FROM layers ORDER BY params").rows() == [(None, 5), (32, 6)]
    scanned = wh.scan("layers").sort("params").collect()
    assert scanned.select("head_dim", "params").rows() == [(None, 5), (32, 6)]
    assert scanned.schema["head_dim"] == pl.Int32
    assert check_warehouse(root) == []


def test_a_warehouse_that_lost_its_first_commit_says_how_to_mend_it(root):
    write_commit(root, {"checkpoints": [checkpoint("a")]}, "ingest")
    (created,) = (commit for commit in list_commits(root).commits if commit.operation == "create")
    (root / f"commits/{created.commit_id}.json").unlink()
    result = layerhouse("summarize", "--warehouse", root)
    assert (result.returncode, result.stdout) == (3, "")
    assert f"mend it with: layerhouse check --repair --warehouse {root}" in result.stderr
    assert f"damaged: commits/{created.commit_id}.json: missing, though other commits name it" in result.stderr
    assert {finding.kind for finding in check_warehouse(root)} == {"damaged"}
    check_warehouse(root, repair=True)
    assert lh.open(root).models()["model_id"].to_list() == ["a"]
    assert check_warehouse(root) == []


def test_every_table_has_a_file_from_the_start(root):
    (created,) = list_commits(root).commits
    assert [file.table for file in created.files] == list(TABLES)
    assert created.made_at - datetime.now(UTC) < timedelta(minutes=1)
    assert check_warehouse(root) == []


# Writers and repair at once


def can_lock(root: Path, mode: int) -> bool:
    """Whether another process would get the lock now."""
    with (root / LOCK).open("rb") as file:
        try:
            fcntl.flock(file, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def test_writers_share_the_lock_and_repair_holds_it_alone(root, monkeypatch):
    write, seen = store.write_durably, []

    def write_and_look(path: Path, data: bytes) -> None:
        write(path, data)
        seen.append((can_lock(root, fcntl.LOCK_SH), can_lock(root, fcntl.LOCK_EX)))

    monkeypatch.setattr(store, "write_durably", write_and_look)
    write_commit(root, {"checkpoints": [checkpoint("a")]}, "ingest")
    assert seen == [(True, False)] * 2
    with writers_locked_out(root):
        assert not can_lock(root, fcntl.LOCK_SH)
    assert can_lock(root, fcntl.LOCK_EX)


def test_repair_waits_for_a_commit_under_way(root, monkeypatch):
    """The rows of an unfinished commit are in a file that no commit names yet, which is what repair removes."""
    write, is_at_commit, goes_on = store.write_durably, threading.Event(), threading.Event()

    def pause_before_the_commit(path: Path, data: bytes) -> None:
        if path.parent.name == COMMITS:
            is_at_commit.set()
            assert goes_on.wait(60)
        write(path, data)

    monkeypatch.setattr(store, "write_durably", pause_before_the_commit)
    with ThreadPoolExecutor(2) as pool:
        written = pool.submit(write_commit, root, {"checkpoints": [checkpoint("a")]}, "ingest")
        try:
            assert is_at_commit.wait(60)
            repaired = pool.submit(check_warehouse, root, repair=True)
            with pytest.raises(TimeoutError):
                repaired.result(0.5)
        finally:
            goes_on.set()
        written.result(60)
        assert repaired.result(60) == []
    assert lh.open(root).models()["model_id"].to_list() == ["a"]


def test_two_writers_at_once_lose_nothing(root):
    with ThreadPoolExecutor(8) as pool:
        ids = [*pool.map(lambda number: write_commit(root, {"checkpoints": [checkpoint(f"c{number}")]}, "ingest"), range(32))]
    assert len(set(ids)) == 32
    assert sorted(lh.open(root).models()["model_id"]) == sorted(f"c{number}" for number in range(32))
    assert check_warehouse(root) == []
