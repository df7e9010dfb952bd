"""Packs that are damaged, lost, set aside, killed or raced: no row is lost, none is there twice, and nothing is silent."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import layerhouse as lh
from layerhouse import DamagedWarehouseError, WarehouseError
from layerhouse.tests.running import CLEAN, layerhouse
from layerhouse.tests.test_health import commit_again, cut
from layerhouse.tests.test_pack import AT_ONCE, add_model, change_commit, models, the_pack
from layerhouse.tests.test_store import checkpoint, layer
from layerhouse.warehouse.admin.health import check_warehouse
from layerhouse.warehouse.admin.pack import pack_warehouse
from layerhouse.warehouse.storage import commits as commits_module
from layerhouse.warehouse.storage import packs
from layerhouse.warehouse.storage.commit_file import commit_json, parse_commit
from layerhouse.warehouse.storage.commits import list_commits
from layerhouse.warehouse.storage.heads import read_heads
from layerhouse.warehouse.storage.packs import PACK
from layerhouse.warehouse.storage.reading import read_rows
from layerhouse.warehouse.storage.store import create_store, write_commit

MODELS = ["a", "b", "c"]


@pytest.fixture
def root(tmp_path):
    """A warehouse of three commits of a model each."""
    made = create_store(tmp_path / "warehouse")
    for name in MODELS:
        add_model(made, name)
    return made


def ids_of(root: Path) -> list[str]:
    return [commit.commit_id for commit in list_commits(root).commits if commit.operation == "ingest"]


def findings(root: Path, **options: bool) -> list[tuple[str, str | None]]:
    return [(finding.where, finding.repaired) for finding in check_warehouse(root, **options)]


def cut_commit(root: Path) -> str:
    cut(the_pack(root))
    return "commits"


def lose_commit(root: Path) -> str:
    the_pack(root).unlink()
    return "commits"


def cut_rows(root: Path) -> str:
    cut(root / f"layers/{the_pack(root).stem}.parquet")
    return "layers"


def lose_rows(root: Path) -> str:
    (root / f"layers/{the_pack(root).stem}.parquet").unlink()
    return "layers"


DAMAGES = (cut_commit, lose_commit, cut_rows, lose_rows)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_pack_is_reported_and_what_it_replaced_counts_again_after_a_repair(root, damage):
    pack_warehouse(root)
    pack = the_pack(root).stem
    where = f"{damage(root)}/{pack}.{'json' if damage in (cut_commit, lose_commit) else 'parquet'}"
    for call in (lh.open, create_store, pack_warehouse):
        with pytest.raises(DamagedWarehouseError, match=f"damaged: {where}: "):
            call(root)
    with lh.open(root, skip_damaged=True) as wh:
        layers = wh.scan("layers").collect()
        assert layers.height == layers.n_unique("checkpoint_id") * 2  # no row twice
    assert findings(root) == [(where, None)]
    assert findings(root, repair=True) == [
        (where, f"moved to damaged/{pack}; 3 of the 3 commits that it replaced count again"),
    ]
    assert models(root) == MODELS
    assert check_warehouse(root) == []
    pack_warehouse(root, prune=AT_ONCE)
    assert models(root) == MODELS
    assert check_warehouse(root) == []


@pytest.mark.parametrize("damage", [cut_commit, lose_rows])
def test_a_pack_that_is_damaged_after_pruning_is_lost_and_it_is_said(root, damage):
    pack_warehouse(root, prune=AT_ONCE)
    pack = the_pack(root).stem
    damage(root)
    with pytest.raises(DamagedWarehouseError):
        lh.open(root)
    ((_, repaired),) = findings(root, repair=True)
    assert repaired == (
        f"moved to damaged/{pack}; 0 of the 3 commits that it replaced count again; for the others, ingest its models again"
    )
    assert models(root) == []
    assert check_warehouse(root) == []


def test_a_damaged_pack_of_a_pack_gives_way_to_the_earlier_one(root):
    pack_warehouse(root, prune=AT_ONCE)
    first = the_pack(root).stem
    add_model(root, "d")
    pack_warehouse(root)
    second = the_pack(root).stem
    cut(root / f"checkpoints/{second}.parquet")
    ((_, repaired),) = findings(root, repair=True)
    assert repaired == f"moved to damaged/{second}; 5 of the 5 commits that it replaced count again"
    assert [commit.commit_id for commit in list_commits(root).commits if commit.operation == PACK] == [first]
    assert models(root) == [*MODELS, "d"]
    assert check_warehouse(root) == []


def test_a_pack_damaged_after_half_a_pruning_takes_what_is_not_whole_with_it(root):
    ids = ids_of(root)
    pack_warehouse(root)
    pack = the_pack(root).stem
    (root / f"layers/{ids[0]}.parquet").unlink()
    assert check_warehouse(root) == []
    cut(root / f"layers/{pack}.parquet")
    found = dict(findings(root, repair=True))
    assert found.keys() == {f"layers/{pack}.parquet", f"layers/{ids[0]}.parquet"}
    assert found[f"layers/{pack}.parquet"].endswith(
        "; 2 of the 3 commits that it replaced count again; for the others, ingest its models again"
    )
    assert models(root) == ["b", "c"]
    assert check_warehouse(root) == []


def test_a_whole_pack_that_was_set_aside_is_put_back_and_hides_what_it_replaced(root):
    pack_warehouse(root)
    path = root / f"layers/{the_pack(root).stem}.parquet"
    data = path.read_bytes()
    cut(path)
    check_warehouse(root, repair=True)
    add_model(root, "d")
    (root / f"damaged/{path.stem}/layers-{path.name}").write_bytes(data)
    assert findings(root, restore=True) == [(f"damaged/{path.stem}", "put back")]
    assert models(root) == [*MODELS, "d"]
    assert check_warehouse(root) == []
    pack_warehouse(root, prune=AT_ONCE)
    assert models(root) == [*MODELS, "d"]
    assert check_warehouse(root) == []


def test_a_pack_whose_rows_another_has_by_now_is_not_put_back(root):
    pack_warehouse(root)
    path = root / f"layers/{the_pack(root).stem}.parquet"
    data = path.read_bytes()
    cut(path)
    check_warehouse(root, repair=True)
    pack_warehouse(root)
    newer = the_pack(root).stem
    aside = root / f"damaged/{path.stem}"
    (aside / f"layers-{path.name}").write_bytes(data)
    (finding,) = check_warehouse(root, restore=True)
    assert (finding.what, finding.repaired) == (f"cannot be put back: commit {newer} has its rows by now", None)
    assert models(root) == MODELS
    for file in aside.iterdir():  # as a user may by hand
        folder, _, name = file.name.partition("-")
        shutil.copy(file, root / folder / name)
    with pytest.raises(DamagedWarehouseError, match=f"commits/{path.stem}.json: commit {newer} has its rows, too"):
        lh.open(root)
    with lh.open(root, skip_damaged=True) as wh:
        assert wh.scan("layers").collect().height == 6
    check_warehouse(root, repair=True)
    assert models(root) == MODELS
    assert check_warehouse(root) == []


@pytest.mark.parametrize("again", [False, True])
def test_what_was_set_aside_before_packing_comes_back_once(root, again):
    aside = ids_of(root)[1]
    path = root / f"layers/{aside}.parquet"
    data = path.read_bytes()
    cut(path)
    check_warehouse(root, repair=True)
    pack_warehouse(root, prune=AT_ONCE)
    assert parse_commit(the_pack(root).read_bytes()).set_aside == (aside,)
    assert check_warehouse(root) == []
    if again:
        add_model(root, "d")
        pack_warehouse(root, prune=AT_ONCE)
    (root / f"damaged/{aside}/layers-{aside}.parquet").write_bytes(data)
    assert findings(root, restore=True) == [(f"damaged/{aside}", "put back")]
    assert models(root) == [*MODELS, "d"] if again else MODELS
    assert check_warehouse(root) == []
    (root / f"commits/{aside}.json").rename(root / "hidden")
    assert [damage.path for damage in list_commits(root).damages] == [f"commits/{aside}.json"]
    (root / "hidden").rename(root / f"commits/{aside}.json")
    pack_warehouse(root)
    assert parse_commit(the_pack(root).read_bytes()).set_aside == ()
    assert models(root) == [*MODELS, "d"] if again else MODELS
    assert check_warehouse(root) == []


def test_a_commit_that_is_put_back_between_those_of_a_pack_counts_by_its_own_time(tmp_path):
    """Three commits measured a checkpoint; the pack has the first two or the last two of them, or the first and the last."""
    for position in range(3):
        root = create_store(tmp_path / str(position))
        for number in range(3):
            unit = {"checkpoint_id": "c", "stack": "text", "layer_index": 0, "kind": "head", "unit_index": number}
            write_commit(root, {"checkpoints": [checkpoint("c")], "layers": [layer("c", number)], "units": [unit]}, "ingest")
        path = root / f"layers/{ids_of(root)[position]}.parquet"
        data = path.read_bytes()
        cut(path)
        check_warehouse(root, repair=True)
        pack_warehouse(root, prune=AT_ONCE)
        (root / f"damaged/{path.stem}/layers-{path.name}").write_bytes(data)
        check_warehouse(root, restore=True)
        assert list_commits(root).has_mixed_times() == (position > 0)
        for table, column, shown in (("layers", "layer_index", 2), ("units", "unit_index", 0)):
            with lh.open(root) as wh:
                assert wh.sql(f"SELECT {column} FROM {table}").rows() == [(shown,)]
                assert wh.scan(table).collect()[column].to_list() == [shown]
            assert [row[column] for row in read_rows(root, table, ["c"], [column])["c"]] == [shown]


def test_a_replaced_commit_that_is_damaged_or_copied_back_changes_nothing(root):
    ids = ids_of(root)
    copies = Path(shutil.copytree(root, root.parent / "copies"))
    pack_warehouse(root, prune=AT_ONCE)
    for commit_id in ids:  # as from a backup
        for path in copies.rglob(f"{commit_id}.*"):
            if path.parent.name != "heads":
                shutil.copy(path, root / path.relative_to(copies))
    (root / f"commits/{ids[0]}.json").write_bytes(b"{")
    assert models(root) == MODELS
    assert check_warehouse(root) == []
    add_model(root, "d")
    assert pack_warehouse(root, prune=AT_ONCE).commits == 2
    assert models(root) == [*MODELS, "d"]
    assert len([*(root / "commits").iterdir()]) == 2


def test_rows_that_are_not_of_replaced_commits_are_found(root):
    pack_warehouse(root)
    path = root / f"layers/{the_pack(root).stem}.parquet"
    rows = pq.read_table(path)
    marker = the_pack(root)
    data, commit = path.read_bytes(), marker.read_bytes()
    place = rows.schema.get_field_index("commit_id")
    foreign = rows.set_column(place, rows.schema.field(place), pa.array(["f" * 32, *rows.column("commit_id").to_pylist()[1:]]))
    later = rows.schema.get_field_index("ingested_at")
    times = rows.column("ingested_at").to_pylist()
    field = rows.schema.field(later)
    late = rows.set_column(later, field, pa.array([*times[:-1], times[-1] + timedelta(days=1)], field.type))
    twice = rows.set_column(later, field, pa.array([*times[:-1], times[-1] - timedelta(seconds=1)], field.type))
    for changed, what in (
        (foreign, f"it has rows of {'f' * 32}, which it does not replace"),
        (late, "its rows have a later ingested_at than the commit"),
        (twice, f"rows of {rows.column('commit_id')[-1]} have several ingested_at"),
    ):
        commit_again(root, path, changed)
        assert [(finding.where, finding.what) for finding in check_warehouse(root)] == [(f"layers/{path.name}", what)]
        path.write_bytes(data)
        marker.write_bytes(commit)
    assert check_warehouse(root) == []


def test_commits_cannot_replace_each_other_or_themselves(root):
    ids = ids_of(root)
    for replaced in (ids[2], ids[1]):
        path = root / f"commits/{ids[1]}.json"
        data = path.read_bytes()
        change_commit(path, replaces=(replaced,))
        with pytest.raises(DamagedWarehouseError, match="it replaces a commit that is not older"):
            lh.open(root)
        path.write_bytes(data)


def test_leftovers_of_replaced_commits_are_no_orphans_and_others_are(root):
    ids = ids_of(root)
    pack_warehouse(root)
    for commit_id in ids:
        (root / f"commits/{commit_id}.json").unlink()
    (root / f"layers/{'1' * 32}.parquet").write_bytes(b"")
    assert findings(root) == [(f"layers/{'1' * 32}.parquet", None)]
    assert pack_warehouse(root, prune=AT_ONCE).pruning.files == 6
    assert models(root) == MODELS


# Runs that end anywhere


KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from layerhouse.warehouse.admin import pack, health
from layerhouse.warehouse.admin.prune import parse_age
from layerhouse.warehouse.answers import session
import pyarrow.parquet, pyarrow.compute
source, folder = Path(sys.argv[1]), Path(sys.argv[2])

def counted(call, left):
    def counting(*arguments, **options):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **options)
    return counting

for number in range(1, 1000):
    root = Path(shutil.copytree(source, folder / str(number)))
    child = os.fork()
    if not child:
        left = [number]
        for name in ("replace", "unlink", "open"):
            setattr(Path, name, counted(getattr(Path, name), left))
        os.fsync = counted(os.fsync, left)
        pack.pack_warehouse(root, prune=parse_age("0d"))
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        print(number)
        break
"""


def test_kill_9_at_every_step_of_packing_and_pruning_loses_and_doubles_nothing(root, tmp_path):
    ids = ids_of(root)
    cut(root / f"layers/{ids[1]}.parquet")
    check_warehouse(root, repair=True)
    add_model(root, "d")
    (tmp_path / "killed").mkdir()
    command = [sys.executable, "-W", "ignore", "-c", KILLED, root, tmp_path / "killed"]
    result = subprocess.run(command, env=CLEAN, capture_output=True, text=True, timeout=500, check=False)
    assert result.returncode == 0, result.stderr
    count, before, states = int(result.stdout), ["a", "c", "d"], set()
    assert count > 30
    for number in range(1, count + 1):
        copy = tmp_path / f"killed/{number}"
        assert not any(damage for damage in list_commits(copy, verify=True).damages)
        assert models(copy) == before
        states.add((len(list_commits(copy).commits), len([*copy.rglob("*.parquet")])))
        if number % 2:
            add_model(copy, "e")
        report = pack_warehouse(copy, prune=AT_ONCE)
        assert {finding.kind for finding in check_warehouse(copy)} <= {"orphan"}
        assert models(copy) == [*before, *("e" if number % 2 else "")]
        left = {path.stem for path in (copy / "commits").glob("[0-9a-f]*.json")}
        assert left == {commit.commit_id for commit in list_commits(copy).commits}
        assert report.pruning.files or number == count or len(left) == 2
        (pack,) = (commit for commit in list_commits(copy).commits if commit.operation == PACK)
        assert pack.commit_id in read_heads(copy).named
        shutil.rmtree(copy)
    assert len(states) > 8


WRITER = """
import sys
from pathlib import Path
from layerhouse.tests.test_pack import add_model
from layerhouse.warehouse.storage.reading import read_rows
from layerhouse.warehouse.storage.store import create_store, write_commit
root, count = Path(sys.argv[1]), int(sys.argv[2])
for number in range(count):
    add_model(create_store(root), f"w{number:03}")
"""
READER = """
import sys
from pathlib import Path
from layerhouse.warehouse.storage.commits import list_commits
root, done, seen, reads = Path(sys.argv[1]), Path(sys.argv[2]), 0, 0
while not done.exists():
    snapshot = list_commits(root).require_whole()
    assert snapshot.rows("layers") == 2 * snapshot.rows("checkpoints") >= seen, (snapshot.rows("layers"), seen)
    seen, reads = snapshot.rows("layers"), reads + 1
print(reads, seen)
"""


def test_packing_and_pruning_while_another_process_writes_and_one_reads(root, tmp_path):
    done, num_written = tmp_path / "done", 80
    commands = ([WRITER, root, num_written], [READER, root, done])
    writer, reader = (
        subprocess.Popen(
            [sys.executable, "-c", *map(str, command)], env=CLEAN, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for command in commands
    )
    try:
        packed = 0
        while writer.poll() is None:
            packed += pack_warehouse(root, prune=AT_ONCE).commits > 0
            time.sleep(0.05)
    finally:
        done.touch()
    errors = writer.communicate(timeout=100)[1]
    assert (writer.returncode, errors) == (0, "")
    output, errors = reader.communicate(timeout=100)
    assert (reader.returncode, errors) == (0, "")
    assert (int(output.split()[0]) > 3, packed > 1) == (True, True)
    pack_warehouse(root, prune=AT_ONCE)
    assert models(root) == [*MODELS, *(f"w{number:03}" for number in range(num_written))]
    assert check_warehouse(root) == []


def test_a_writer_waits_for_a_pack_and_commits_after_it(root, monkeypatch):
    script = f"from layerhouse.tests.test_pack import add_model; from pathlib import Path; add_model(Path({str(root)!r}), 'd')"
    waiting = []
    real = packs.write_durably

    def start_a_writer(path, data):
        if not waiting:
            waiting.append(subprocess.Popen([sys.executable, "-c", script], env=CLEAN))
            with pytest.raises(subprocess.TimeoutExpired):
                waiting[0].wait(8)
        real(path, data)

    monkeypatch.setattr(packs, "write_durably", start_a_writer)
    pack_warehouse(root)
    assert waiting[0].wait(60) == 0
    pack, later = list_commits(root).commits[1:]
    assert (pack.operation, later.parents, later.commit_id > pack.commit_id) == (PACK, (pack.commit_id,), True)
    assert models(root) == [*MODELS, "d"]
    assert check_warehouse(root) == []


def test_a_reader_that_listed_commits_before_they_were_pruned_lists_them_again(root, monkeypatch):
    real, is_first = commits_module._read_commit, [True]

    def prune_meanwhile(path):
        if is_first[0]:
            is_first[0] = False
            pack_warehouse(root, prune=AT_ONCE)
        return real(path)

    monkeypatch.setattr(commits_module, "_read_commit", prune_meanwhile)
    shutil.rmtree(root / "heads")  # nothing else tells that a commit is missing
    snapshot = list_commits(root).require_whole()
    assert snapshot.rows("checkpoints") == 3
    assert not is_first[0]


def test_a_reader_whose_files_are_pruned_before_it_looks_at_them_lists_them_again(root, monkeypatch):
    real, is_first = commits_module.check_data_file, [True]

    def prune_meanwhile(*arguments, **options):
        if is_first[0]:
            is_first[0] = False
            pack_warehouse(root, prune=AT_ONCE)
        return real(*arguments, **options)

    monkeypatch.setattr(commits_module, "check_data_file", prune_meanwhile)
    assert list_commits(root).require_whole().rows("checkpoints") == 3
    assert not is_first[0]


def test_a_commit_after_a_pack_that_no_record_names_names_it(root, monkeypatch):
    monkeypatch.setattr(packs, "write_head", lambda *_: None)  # as of a run that ended there
    pack_warehouse(root)
    monkeypatch.undo()
    pack, ids = the_pack(root).stem, {path.stem for path in (root / "heads").iterdir()}
    later = add_model(root, "d")
    assert list_commits(root).commits[-1].parents == (pack,)
    assert [head.commit_id for head in read_heads(root).records] == [later]
    assert ids.isdisjoint(read_heads(root).named)
    assert models(root) == [*MODELS, "d"]
    (root / f"commits/{pack}.json").rename(root / "hidden")
    assert [damage.path for damage in list_commits(root).damages] == [f"commits/{pack}.json"]
    (root / "hidden").rename(root / f"commits/{pack}.json")
    assert check_warehouse(root) == []


def test_a_commit_writes_no_parents_that_a_pack_replaced(root):
    pack_warehouse(root)
    first, second = add_model(root, "d"), add_model(root, "e")
    assert [commit.parents for commit in list_commits(root).commits[-2:]] == [(the_pack(root).stem,), (first,)]
    (record,) = (root / "heads").iterdir()
    assert record.stem == second
    assert len(json.loads(record.read_bytes())["seen"]) == 3


def test_a_pack_that_names_too_many_commits_is_refused(root, monkeypatch):
    monkeypatch.setattr(packs, "MAX_COMMIT_BYTES", 100)
    with pytest.raises(WarehouseError, match=f"{root}: limit exceeded: a pack of 3 commits; nothing was changed"):
        pack_warehouse(root)
    assert models(root) == MODELS
    assert check_warehouse(root) == []


def test_a_killed_command_is_as_harmless(root):
    for number in range(2):
        process = subprocess.Popen([sys.executable, "-m", "layerhouse", "pack", "--prune", "0d", "-w", root], env=CLEAN)
        time.sleep(0.6 + 0.2 * number)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert {finding.kind for finding in check_warehouse(root)} <= {"orphan"}
        assert models(root) == MODELS
    assert layerhouse("pack", "-w", root).returncode == 0
    assert models(root) == MODELS


def test_a_clock_that_went_back_does_not_make_rows_later_than_their_pack(root, monkeypatch):
    path = root / f"commits/{ids_of(root)[1]}.json"
    future = parse_commit(path.read_bytes()).made_at + timedelta(days=400)
    for table in ("layers", "checkpoints"):
        file = root / f"{table}/{path.stem}.parquet"
        rows = pq.read_table(file)
        place = rows.schema.get_field_index("ingested_at")
        field = rows.schema.field(place)
        commit_again(root, file, rows.set_column(place, field, pa.array([future] * len(rows), field.type)))
    change_commit(path, made_at=future)
    assert check_warehouse(root) == []
    pack_warehouse(root, prune=AT_ONCE)
    assert check_warehouse(root) == []
    assert parse_commit(the_pack(root).read_bytes()).made_at == future


def test_a_commit_whose_id_is_of_no_time_stays(root):
    foreign = f"{'f' * 31}0"
    commit = parse_commit((root / f"commits/{ids_of(root)[2]}.json").read_bytes())
    (root / f"commits/{foreign}.json").write_bytes(commit_json(replace(commit, commit_id=foreign, files=())))
    pack_warehouse(root)
    assert foreign in {commit.commit_id for commit in list_commits(root).commits}
    assert models(root) == MODELS
