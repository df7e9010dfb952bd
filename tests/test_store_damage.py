"""What a warehouse notices: changed, lost and foreign files of its own; what is set aside, and what comes back."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

import layerhouse as lh
from layerhouse import DamagedWarehouseError, WarehouseError
from layerhouse.tests.running import layerhouse
from layerhouse.tests.test_store import checkpoint, layer
from layerhouse.warehouse.admin.health import check_warehouse
from layerhouse.warehouse.storage import heads
from layerhouse.warehouse.storage.commit_file import commit_json, parse_commit
from layerhouse.warehouse.storage.commits import list_commits
from layerhouse.warehouse.storage.sealing import sealed
from layerhouse.warehouse.storage.store import create_store, write_commit

MODELS = ("a", "b", "c")


@pytest.fixture
def root(tmp_path):
    return create_store(tmp_path / "warehouse")


@pytest.fixture
def ids(root) -> list[str]:
    """Three commits of a model each, after the one that made the warehouse."""
    return [write_commit(root, {"checkpoints": [checkpoint(name)], "layers": [layer(name, 0)]}, "ingest") for name in MODELS]


def models(root: Path) -> list[str]:
    with lh.open(root) as wh:
        return wh.models()["model_id"].to_list()


def faults(root: Path, *, verify: bool = False) -> list[str]:
    """The paths that opening the warehouse names as damaged."""
    return [damage.path for damage in list_commits(root, verify=verify).damages]


def edit(path: Path, change: Callable[[dict], object]) -> None:
    document = json.loads(path.read_bytes())
    change(document)
    path.write_text(json.dumps(document, indent=1))


# Lost commits


@pytest.mark.parametrize("number", range(3))
def test_a_lost_commit_is_noticed_the_newest_too(root, ids, number):
    lost = f"commits/{ids[number]}.json"
    (root / lost).unlink()
    for command in (("summarize",), ("layers",), ("sql", "SELECT 1"), ("tables",), ("export", "--duckdb", root / "x.duckdb")):
        result = layerhouse(*command, "--warehouse", root)
        assert (result.returncode, result.stdout) == (3, "")
        assert f"damaged: {lost}: missing, though other commits name it" in result.stderr
    assert not (root / "x.duckdb").exists()
    (finding,) = check_warehouse(root, repair=True)
    assert (finding.kind, finding.where, finding.repaired) == (
        "damaged",
        lost,
        f"moved to damaged/{ids[number]}; ingest its models again",
    )
    assert models(root) == [name for name in MODELS if name != MODELS[number]]
    assert check_warehouse(root) == []
    assert sorted(path.name for path in (root / f"damaged/{ids[number]}").iterdir()) == [
        f"{table}-{ids[number]}.parquet" for table in ("checkpoints", "layers")
    ]


def test_several_lost_commits_are_all_named(root, ids):
    for commit_id in ids[1:]:
        (root / f"commits/{commit_id}.json").unlink()
    assert faults(root) == [f"commits/{commit_id}.json" for commit_id in ids[1:]]


def test_a_lost_commit_is_noticed_though_the_head_records_are_gone(root, ids):
    shutil.rmtree(root / "heads")
    assert models(root) == [*MODELS]
    (root / f"commits/{ids[1]}.json").unlink()
    assert faults(root) == [f"commits/{ids[1]}.json"]


def test_a_commit_after_the_loss_does_not_hide_it(root, ids):
    (root / f"commits/{ids[2]}.json").unlink()
    write_commit(root, {"checkpoints": [checkpoint("d")]}, "ingest")
    assert faults(root) == [f"commits/{ids[2]}.json"]


def test_a_head_record_lists_what_its_commit_saw_and_replaces_those_before(root, ids):
    (record,) = (root / "heads").iterdir()
    (created,) = {commit.commit_id for commit in list_commits(root).commits} - {*ids}
    assert record.name == f"{ids[2]}.json"
    assert json.loads(record.read_bytes())["seen"] == sorted([created, *ids[:2]])
    commits = {commit.commit_id: commit.parents for commit in list_commits(root).commits}
    assert commits == {created: (), ids[0]: (created,), ids[1]: (ids[0],), ids[2]: (ids[1],)}


def test_writers_at_once_leave_head_records_that_name_every_commit(root):
    with ThreadPoolExecutor(8) as pool:
        ids = [*pool.map(lambda number: write_commit(root, {"checkpoints": [checkpoint(f"m{number}")]}, "ingest"), range(32))]
    named = heads.read_heads(root).named
    assert named >= {*ids}
    for commit_id in ids[::5]:
        path = root / f"commits/{commit_id}.json"
        path.rename(root / "hidden")
        assert faults(root) == [f"commits/{commit_id}.json"]
        (root / "hidden").rename(path)
    assert faults(root) == []


def test_a_run_that_ends_between_commit_and_head_record_loses_nothing(root, ids, monkeypatch):
    monkeypatch.setattr("layerhouse.warehouse.storage.store.write_head", lambda *_: None)
    cut_off = write_commit(root, {"checkpoints": [checkpoint("d")]}, "ingest")
    monkeypatch.undo()
    assert models(root) == [*MODELS, "d"]
    write_commit(root, {"checkpoints": [checkpoint("e")]}, "ingest")
    assert len([*(root / "heads").iterdir()]) == 1
    (root / f"commits/{cut_off}.json").unlink()
    assert faults(root) == [f"commits/{cut_off}.json"]


def test_a_replaced_commit_may_be_gone(root, ids):
    """As after packing: a commit has the rows of others, whose files are deleted later."""
    path = root / f"commits/{ids[2]}.json"
    packed = replace(parse_commit(path.read_bytes()), replaces=(ids[0], ids[1]))
    path.write_bytes(commit_json(packed))
    assert models(root) == ["c"]
    for commit_id in ids[:2]:
        (root / f"commits/{commit_id}.json").unlink()
        (root / f"layers/{commit_id}.parquet").unlink()
    assert faults(root) == []
    assert models(root) == ["c"]


def test_a_warehouse_that_an_earlier_version_wrote_to_as_well_is_read_and_watched(root, ids):
    """An earlier version writes no digest, no parents and no head record."""
    shutil.rmtree(root / "heads")
    for path in (root / "commits").iterdir():
        edit(path, lambda document: [document.pop(key) for key in ("digest", "parents", "set_aside")])
        edit(path, lambda document: [file.pop(key) for file in document["files"] for key in ("footer_bytes", "footer_sha256")])
    assert models(root) == [*MODELS]
    assert check_warehouse(root) == []
    write_commit(root, {"checkpoints": [checkpoint("d")]}, "ingest")
    (root / f"commits/{ids[0]}.json").unlink()
    assert faults(root) == [f"commits/{ids[0]}.json"]


# Changed files


EDITS = {
    "table": lambda document: document["files"][0].update(table="tensors"),
    "rows": lambda document: document["files"][1].update(rows=2),
    "replaces": lambda document: document.update(replaces=["0" * 32]),
    "made_at": lambda document: document.update(made_at="2020-01-01T00:00:00+00:00"),
    "a file less": lambda document: document["files"].pop(),
    "a digest less": lambda document: document.pop("digest"),
    "operation": lambda document: document.update(operation="create"),
    "a text for a count": lambda document: document["files"][0].update(rows="1"),
    "no list": lambda document: document.update(files=None),
    "another path": lambda document: document["files"][0].update(path="../checkpoints/x.parquet"),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_commit_that_was_changed_is_noticed_by_every_reader(root, ids, name):
    path = root / f"commits/{ids[1]}.json"
    edit(path, EDITS[name])
    with pytest.raises(DamagedWarehouseError, match=f"damaged: commits/{ids[1]}.json: not readable as a commit: "):
        lh.open(root)
    with pytest.raises(DamagedWarehouseError):
        create_store(root)
    check_warehouse(root, repair=True)
    assert models(root) == ["a", "c"]


EARLIER_EDITS = {
    "table": ("commits", "files: path 'checkpoints/"),
    "rows": ("layers", "expected 2 rows, found 1"),
    "replaces": ("commits", "it replaces commits, and it has no digest"),
    "a text for a count": ("commits", "rows: '1', not a count"),
    "another path": ("commits", "files: path '../checkpoints/x.parquet' for the table checkpoints"),
}


@pytest.mark.parametrize("name", EARLIER_EDITS)
def test_what_commits_without_a_digest_say_is_compared_with_the_files(root, ids, name):
    path, (folder, what) = root / f"commits/{ids[1]}.json", EARLIER_EDITS[name]
    edit(path, lambda document: [document.pop(key) for key in ("digest", "parents", "set_aside")])
    edit(path, lambda document: [file.pop(key) for file in document["files"] for key in ("footer_bytes", "footer_sha256")])
    edit(path, EDITS[name])
    (damage,) = list_commits(root).damages
    assert damage.path.startswith(f"{folder}/{ids[1]}")
    assert what in damage.what


def test_another_time_of_a_commit_without_a_digest_is_found_by_check(root, ids):
    path = root / f"commits/{ids[1]}.json"
    edit(path, lambda document: [document.pop(key) for key in ("digest", "parents", "set_aside")])
    edit(path, lambda document: [file.pop(key) for file in document["files"] for key in ("footer_bytes", "footer_sha256")])
    edit(path, EDITS["made_at"])
    assert {finding.what for finding in check_warehouse(root)} == {"its rows have another ingested_at than the commit"}


def test_a_changed_head_record_is_noticed_and_written_anew(root, ids):
    (record,) = (root / "heads").iterdir()
    edit(record, lambda document: document["seen"].pop())
    assert faults(root) == [f"heads/{record.name}"]
    (finding,) = check_warehouse(root, repair=True)
    assert finding.repaired == f"moved to damaged/{record.stem}; it is written anew"
    assert check_warehouse(root) == []
    assert models(root) == [*MODELS]
    (root / f"commits/{ids[2]}.json").unlink()
    assert faults(root) == [f"commits/{ids[2]}.json"]


def test_a_commit_of_a_later_version_with_more_members_and_tables_is_read(root, ids):
    path = root / f"commits/{ids[1]}.json"
    document = json.loads(path.read_bytes())
    del document["digest"]
    document["files"].append({**document["files"][0], "table": "spectra", "path": f"spectra/{ids[1]}.parquet", "codec": "x"})
    path.write_bytes(sealed({**document, "later": 1}))
    assert models(root) == [*MODELS]
    assert check_warehouse(root) == []


# Set aside and put back


def test_what_was_set_aside_is_put_back_once_it_is_whole(root, ids):
    path = root / f"layers/{ids[1]}.parquet"
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    check_warehouse(root, repair=True)
    assert models(root) == ["a", "c"]
    (finding,) = check_warehouse(root, restore=True)
    assert (finding.kind, finding.where, finding.repaired) == ("aside", f"damaged/{ids[1]}", None)
    assert (
        finding.what
        == f"cannot be put back: layers/{ids[1]}.parquet: its content differs from what was committed (SHA-256 mismatch)"
    )
    assert models(root) == ["a", "c"]

    (root / f"damaged/{ids[1]}/layers-{ids[1]}.parquet").write_bytes(data)
    result = layerhouse("check", "--restore", "--warehouse", root)
    assert (result.returncode, result.stdout) == (0, f"aside    damaged/{ids[1]}: whole; put back\n")
    assert models(root) == [*MODELS]
    assert check_warehouse(root) == []
    assert not (root / f"damaged/{ids[1]}").exists()
    (root / f"commits/{ids[1]}.json").unlink()
    assert faults(root) == [f"commits/{ids[1]}.json"]


def test_a_lost_commit_is_put_back_with_its_data_when_its_file_is_found(root, ids):
    path = root / f"commits/{ids[0]}.json"
    found = path.read_bytes()
    path.unlink()
    check_warehouse(root, repair=True)
    (root / f"damaged/{ids[0]}/{path.parent.name}-{path.name}").write_bytes(found)
    check_warehouse(root, restore=True)
    assert models(root) == [*MODELS]


def test_what_is_damaged_again_is_set_aside_beside_the_first(root, ids):
    path = root / f"layers/{ids[1]}.parquet"
    data = path.read_bytes()
    for number in (1, 2):
        path.write_bytes(data[:-number])
        check_warehouse(root, repair=True)
        shutil.copytree(root / f"damaged/{ids[1]}", root / "copy", dirs_exist_ok=True)
        for aside in (root / "copy").iterdir():
            folder, _, name = aside.name.partition("-")
            shutil.copy(aside, root / folder / name)
        shutil.rmtree(root / "copy")
    assert sorted(folder.name for folder in (root / "damaged").iterdir()) == [ids[1], f"{ids[1]}.2"]


def test_check_says_how_much_is_set_aside(root, ids):
    (root / f"commits/{ids[0]}.json").unlink()
    layerhouse("check", "--repair", "--warehouse", root)
    result = layerhouse("check", "--warehouse", root)
    assert result.returncode == 0
    assert f"1 set aside in {root / 'damaged'}; put back what is whole with: layerhouse check --restore" in result.stderr


# What the system refuses, and files that are none


@pytest.fixture
def shared(root, ids) -> Iterator[Path]:
    """A copy of the warehouse that any user of the machine can reach and write to."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        copy = Path(folder) / "warehouse"
        shutil.copytree(root, copy)
        for path in (copy, *copy.rglob("*")):
            path.chmod(0o777 if path.is_dir() else 0o666)
        yield copy


@contextmanager
def as_another_user() -> Iterator[None]:
    """The superuser is denied nothing, so it becomes somebody else for a while."""
    is_superuser = os.geteuid() == 0
    if is_superuser:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_superuser:
            os.seteuid(0)


@pytest.mark.parametrize("folder", ["commits", "layers", "heads"])
def test_a_denied_permission_is_no_damage(shared, ids, folder):
    assert check_warehouse(shared) == []  # which imports all that it needs
    path = next(path for path in (shared / folder).iterdir() if ids[2] in path.name)
    os.utime(path)  # so that it is read again
    path.chmod(0)
    before = sorted(shared.rglob("*"))
    for call in (lh.open, check_warehouse, lambda root: check_warehouse(root, repair=True)):
        with as_another_user(), pytest.raises(WarehouseError) as caught:
            call(shared)
        assert str(caught.value) == (
            f"{path}: cannot be read: Permission denied; see to the disk or its permissions, then run it again"
        )
    assert {*sorted(shared.rglob("*"))} - {*before} <= {shared / ".lock"}


def make_link(path: Path, outside: Path) -> None:
    outside.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(outside)


def make_pipe(path: Path, _: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("make", [make_link, make_pipe])
@pytest.mark.parametrize("folder", ["commits", "layers", "heads"])
def test_links_and_pipes_in_the_place_of_files_are_not_opened(root, ids, tmp_path, folder, make):
    path = next(path for path in (root / folder).iterdir() if ids[2] in path.name)
    make(path, tmp_path / "outside")
    kind = "a symbolic link" if make is make_link else "a named pipe"
    (damage,) = list_commits(root).damages
    assert damage.path == f"{folder}/{path.name}"
    assert damage.what.endswith(f"{kind}, which no command opens")
    outside = (tmp_path / "outside").read_bytes() if make is make_link else b""
    check_warehouse(root, repair=True)
    assert check_warehouse(root) == []
    assert make is make_pipe or (tmp_path / "outside").read_bytes() == outside


@pytest.mark.parametrize("folder", ["commits", "layers", "heads", "kept", "damaged"])
def test_a_folder_of_the_warehouse_that_is_a_link_is_refused(root, ids, tmp_path, folder):
    outside = tmp_path / "outside"
    if (root / folder).exists():
        (root / folder).rename(outside)
    else:
        outside.mkdir()
    (root / folder).symlink_to(outside)
    before = sorted(outside.iterdir())
    for call in (lh.open, create_store, check_warehouse, lambda path: check_warehouse(path, repair=True)):
        with pytest.raises(WarehouseError, match=f"{root / folder}: a symbolic link; "):
            call(root)
    assert sorted(outside.iterdir()) == before


def test_a_lock_that_is_a_link_is_not_made_elsewhere(root, tmp_path):
    (root / ".lock").unlink(missing_ok=True)
    (root / ".lock").symlink_to(tmp_path / "outside")
    with pytest.raises(WarehouseError, match="a symbolic link, which no command opens; remove it"):
        write_commit(root, {"checkpoints": [checkpoint("d")]}, "ingest")
    assert not (tmp_path / "outside").exists()


def test_the_mark_of_a_warehouse_is_no_pipe(root):
    (root / "layerhouse.json").unlink()
    os.mkfifo(root / "layerhouse.json")
    with pytest.raises(DamagedWarehouseError, match=r"layerhouse.json: a named pipe, which no command opens"):
        lh.open(root)


# A warehouse of somebody who means harm: digests that fit


HOSTILE = (
    None,
    True,
    -1,
    2**70,
    1.5,
    "",
    "x" * 100_000,
    "\x1b[31m",
    "../../x",
    [],
    [[]],
    {},
    {"a": {}},
    ["f" * 32],
    float("nan"),
)
NOT_SEALED = (b"[" * 200_000, b'{"a": ' * 100_000, b"9" * 10_000, b"\xff\xfe{", b"{}", b"null", b" " * (1 << 25))


def sealed_file(root: Path, folder: str, commit_id: str) -> Path:
    """The mark of a warehouse, or a commit's file in a folder."""
    return root / folder if folder.endswith(".json") else root / folder / f"{commit_id}.json"


def members(document: dict) -> list[tuple[dict, str]]:
    """Every member of a document, and of the objects in its lists."""
    inner = [item for value in document.values() if isinstance(value, list) for item in value if isinstance(item, dict)]
    return [(holder, key) for holder in (document, *inner[:1]) for key in holder if key != "digest"]


@pytest.mark.parametrize("folder", ["commits", "heads", "layerhouse.json"])
def test_hostile_values_in_a_sealed_file_are_refused_in_one_line(root, ids, folder):
    path = (
        root / folder if folder.endswith(".json") else next(path for path in (root / folder).iterdir() if ids[2] in path.name)
    )
    original = path.read_bytes()
    for position in range(len(members(json.loads(original)))):
        for number, value in enumerate(HOSTILE):
            document = json.loads(original)
            holder, key = members(document)[position]
            holder[key] = value
            document.pop("digest")
            path.write_bytes(sealed(document))
            call = (models, create_store, check_warehouse)[(position + number) % 3]
            try:
                call(root)
            except WarehouseError as error:
                assert "\n" not in str(error)
                assert len(str(error)) < 1000
    path.write_bytes(original)
    assert models(root) == [*MODELS]
    assert check_warehouse(root) == []


@pytest.mark.parametrize("content", NOT_SEALED)
@pytest.mark.parametrize("folder", ["commits", "heads", "layerhouse.json"])
def test_a_file_that_is_no_sealed_object_is_named(root, ids, folder, content):
    path = (
        root / folder if folder.endswith(".json") else next(path for path in (root / folder).iterdir() if ids[2] in path.name)
    )
    path.write_bytes(content)
    with pytest.raises(WarehouseError, match=f"{path.name}: "):
        lh.open(root)
