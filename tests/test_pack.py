"""Packing: one commit of many, with the same rows and the same answers at any time, for whoever reads or writes meanwhile."""

from __future__ import annotations

import math
import random
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import layerhouse as lh
from layerhouse import DamagedWarehouseError, UsageError, WarehouseError, demo
from layerhouse.tests import study_builder
from layerhouse.tests.running import CLEAN, layerhouse, run_on_terminal
from layerhouse.tests.test_health import commit_again, flip
from layerhouse.tests.test_kill import VIEWS
from layerhouse.tests.test_store import checkpoint, layer, write_as_earlier_version
from layerhouse.tests.test_store_damage import as_another_user
from layerhouse.warehouse.admin import pack, pack_rows, prune
from layerhouse.warehouse.admin.health import check_warehouse
from layerhouse.warehouse.admin.pack import pack_warehouse
from layerhouse.warehouse.admin.pack_rows import row_order
from layerhouse.warehouse.admin.prune import parse_age
from layerhouse.warehouse.admin.removals import drop_model, rename_model
from layerhouse.warehouse.answers.query import query_names, query_text, run_sql
from layerhouse.warehouse.storage import commits as commits_module
from layerhouse.warehouse.storage import packs
from layerhouse.warehouse.storage.commit_file import commit_json, parse_commit
from layerhouse.warehouse.storage.commits import count_commits, list_commits
from layerhouse.warehouse.storage.heads import read_heads
from layerhouse.warehouse.storage.packs import PACK
from layerhouse.warehouse.storage.reading import read_rows
from layerhouse.warehouse.storage.schema import TABLES, arrow_schema
from layerhouse.warehouse.storage.store import create_store, write_commit

EARLIER = Path(__file__).parent / "earlier/warehouse-0.1.0"
AT_ONCE = timedelta(0)


def rows_of_all_commits(root: Path) -> dict[str, pa.Table]:
    """The rows of every table as they are on disk, also those that no view shows."""
    stored = {}
    for table in TABLES:
        schema, parts = arrow_schema(table), []
        for path in list_commits(root).require_whole().files(table):
            rows = pq.read_table(path)
            missing = [name for name in schema.names if name not in rows.column_names]
            for name in missing:
                rows = rows.append_column(name, pa.nulls(len(rows), schema.field(name).type))
            parts.append(rows.select(schema.names).cast(pa.schema([field.with_nullable(True) for field in schema])))
        stored[table] = pa.concat_tables(parts)
    return stored


def assert_same_rows(before: dict[str, pa.Table], now: dict[str, pa.Table]) -> None:
    """Assert that no row of a table is only before or only now, however often it is there."""
    with lh.open(EARLIER).connection as connection:
        for table in TABLES:
            connection.register("before_rows", before[table])
            connection.register("now_rows", now[table])
            for first, second in (("before_rows", "now_rows"), ("now_rows", "before_rows")):
                sql = f"SELECT count(*) FROM (SELECT * FROM {first} EXCEPT ALL SELECT * FROM {second})"
                assert (table, connection.sql(sql).fetchall()) == (table, [(0,)])
            assert len(before[table]) == len(now[table])


SOME = ("summary", "history", "performance", "per_layer")


def answers(root: Path, as_of: datetime | None = None, names: tuple[str, ...] = SOME) -> dict[str, list[str]]:
    """The rows of queries, as they are."""
    with lh.open(root, as_of=as_of) as wh:
        return {name: [str(row) for row in wh.query(name).rows()] for name in names}


def all_answers(root: Path) -> dict[str, list[str]]:
    """The rows of every query, as they are, and of every table and view, in any order."""
    with lh.open(root) as wh:
        connection = wh.connection_for("\n".join((*VIEWS, *map(query_text, query_names()))))
        given = {f"query {name}": run_sql(connection, query_text(name)) for name in query_names()}
        answered = {name: [str(row) for row in table.to_pylist()] for name, table in given.items()}
        for name in (*TABLES, *VIEWS):
            answered[name] = sorted(str(row) for row in connection.sql(f"SELECT * FROM {name}").fetchall())
        return answered


def moments(root: Path) -> list[datetime]:
    """A moment before the first commit, and one after each."""
    made = [commit.made_at for commit in list_commits(root).commits]
    return [made[0] - timedelta(seconds=1), *made]


def make_study(folder: Path) -> Path:
    """A warehouse of many commits: of an earlier version first, then of this one, with all that a commit can hold."""
    root = folder / "warehouse"
    shutil.copytree(EARLIER, root)
    demo.write_study(folder)
    lh.ingest([folder / "baselines"], warehouse=root, units=True)
    lh.ingest([folder / "results"], warehouse=root, base=folder / demo.BASE)
    lh.ingest([folder / "results"], warehouse=root, base=folder / demo.BASE, units=True)
    study_builder.write_study(folder / "analyses")
    lh.ingest([folder / "analyses/baselines", folder / "analyses/results"], warehouse=root)
    rename_model(root, "results/LLM-Pruner_2000", "renamed")
    drop_model(root, "study/results/EmptyBlocks_1")
    shutil.copy(folder / demo.BASE / "model.safetensors", folder / "results/HeadPrune_2000/model.safetensors")
    lh.ingest([folder / "results"], warehouse=root, base=folder / demo.BASE)
    return root


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return make_study(tmp_path_factory.mktemp("pack") / "study")


@pytest.fixture
def root(study, tmp_path):
    return Path(shutil.copytree(study, tmp_path / "warehouse"))


@pytest.fixture
def small(tmp_path):
    """A warehouse of three commits of a model each."""
    made = create_store(tmp_path / "small")
    for name in "abc":
        add_model(made, name)
    return made


def add_model(root: Path, name: str) -> str:
    rows = {"checkpoints": [checkpoint(name, num_layers=2)], "layers": [layer(name, 1), layer(name, 0)]}
    return write_commit(root, rows, "ingest")


def models(root: Path) -> list[str]:
    """The models of a warehouse in which each has two layers."""
    sql = "SELECT model_id FROM checkpoints JOIN layers USING (checkpoint_id) ORDER BY model_id"
    with lh.open(root) as wh:
        found = [name for (name,) in wh.connection_for(sql).sql(sql).fetchall()]
    assert found[::2] == found[1::2]
    return found[::2]


def the_pack(root: Path) -> Path:
    (pack,) = (commit for commit in list_commits(root).commits if commit.operation == PACK)
    return root / f"commits/{pack.commit_id}.json"


# Answers


def test_every_row_is_kept_and_every_answer_at_any_time(root):
    stored, times = rows_of_all_commits(root), moments(root)
    assert len(times) > 15
    some = times[::4]
    before = [all_answers(root), *(answers(root, moment) for moment in some)]
    assert len({str(answer) for answer in before}) > 4
    report = pack_warehouse(root)
    assert report.commits == len(times) - 1 - 2  # one made the tables of the earlier version, one those of this
    assert report.rows == sum(map(len, stored.values()))
    assert {commit.operation for commit in list_commits(root).commits} == {PACK, "create"}
    assert len(list_commits(root).commits) == 2
    assert_same_rows(stored, rows_of_all_commits(root))
    assert [all_answers(root), *(answers(root, moment) for moment in some)] == before
    assert check_warehouse(root) == []
    assert not list_commits(root).tables_of_other_columns()


def test_what_is_done_after_packing_is_as_if_it_had_not_been_packed(root, tmp_path):
    packed = Path(shutil.copytree(root, tmp_path / "packed"))
    pack_warehouse(packed, prune=AT_ONCE)
    names = ("summary", "performance", "per_layer", "unlinked")
    for warehouse in (root, packed):
        drop_model(warehouse, "renamed")
        rename_model(warehouse, "baselines/ShortGPT_remove_2", "other")
        rename_model(warehouse, "other", "another")
    before = answers(root, names=names)
    assert answers(packed, names=names) == before
    pack_warehouse(packed)
    assert answers(packed, names=names) == before
    assert check_warehouse(packed) == []


def test_an_ingest_after_packing_finds_everything_unchanged(root, study):
    pack_warehouse(root, prune=AT_ONCE)
    report = lh.ingest([study.parent / "baselines", study.parent / "results"], warehouse=root, base=study.parent / demo.BASE)
    assert {event.kind for event in report.events if event.what != "no model"} <= {"unchanged", "based"}


def test_what_an_ingest_reads_without_sql_is_the_same(root):
    tables = ("tensors", "layers", "units")
    ids = sorted({*rows_of_all_commits(root)["checkpoints"].column("checkpoint_id").to_pylist()})
    columns = {table: [name for name in TABLES[table].column_names if name != "signature"] for table in tables}

    def read() -> dict:
        found = {table: read_rows(root, table, ids, columns[table]) for table in tables}
        return {table: {name: sorted(map(str, rows)) for name, rows in of.items()} for table, of in found.items()}

    before = read()
    pack_warehouse(root)
    assert read() == before


def test_a_session_that_was_open_answers_on(root):
    with lh.open(root) as wh, lh.open(root) as asked:
        before = [asked.query("summary").rows(), asked.scan("layers").collect().height]
        pack_warehouse(root)
        pack_warehouse(root, prune=timedelta(days=7))
        add_model(root, "later")
        assert [wh.query("summary").rows(), wh.scan("layers").collect().height] == before
        assert [asked.query("summary").rows(), asked.scan("layers").collect().height] == before
        wh.refresh()
        assert wh.query("summary").height == len(before[0]) + 1


def test_values_of_every_type_stay_as_they_are(tmp_path):
    root, chance = create_store(tmp_path / "warehouse"), random.Random(1)
    nasty = (math.nan, -0.0, math.inf, 5e-324, None)
    tensors = [
        {"checkpoint_id": f"c{number % 3}", "name": f"t{number}", "shape": [2**62, 0], "mean": nasty[number % 5]}
        | {"signature": [chance.random() for _ in range(number % 4)], "abs_quantiles": [-0.0, 1e-300], "zero_rows": 2**63 - 1}
        | {
            field.name: [0.5 if number % 2 else -0.0] * 64
            for field in arrow_schema("tensors")
            if str(field.type).endswith("[64]")
        }
        for number in range(20)
    ]
    notes = [{"code": "x", "text": "a\nb\x00"}, {"code": None, "text": None}]
    tagged = [checkpoint("c0", tags={"": "", "名": None}, notes=notes), checkpoint("c1", tags={}, notes=[]), checkpoint("c2")]
    write_commit(root, {"tensors": tensors[:11], "checkpoints": tagged}, "ingest")
    write_commit(root, {"tensors": tensors[11:], "layers": [layer("c0", 0, role_params={"q": 2**63 - 1})]}, "ingest")
    before = rows_of_all_commits(root)
    pack_warehouse(root)
    after = rows_of_all_commits(root)
    for table in TABLES:
        assert sorted(map(str, before[table].to_pylist())) == sorted(map(str, after[table].to_pylist()))
        for path in list_commits(root).files(table):
            assert pq.read_schema(path).equals(arrow_schema(table))


# Files


def test_rows_are_sorted_in_row_groups_and_equal_warehouses_give_equal_bytes(study, tmp_path, monkeypatch):
    monkeypatch.setattr(pack_rows, "GROUP_ROWS", 64)
    contents = []
    for name in ("once", "again", "in two steps"):
        root = Path(shutil.copytree(study, tmp_path / name))
        if name == "in two steps":
            last = list_commits(root).commits[-1]
            kept = Path(shutil.copytree(root, tmp_path / "kept"))
            for path in root.rglob(f"{last.commit_id}.*"):
                path.unlink()
            shutil.rmtree(root / "heads")
            pack_warehouse(root)
            for path in kept.rglob(f"{last.commit_id}.*"):
                shutil.copy(path, root / path.relative_to(kept))
        pack_warehouse(root)
        files = {file.table: (root / file.path).read_bytes() for file in parse_commit(the_pack(root).read_bytes()).files}
        contents.append(files)
    assert contents[0] == contents[1] == contents[2]
    for table in contents[0]:
        file = pq.ParquetFile(tmp_path / "once" / table / f"{the_pack(tmp_path / 'once').stem}.parquet")
        sizes = [file.metadata.row_group(number).num_rows for number in range(file.metadata.num_row_groups)]
        assert sizes[:-1] == [64] * (len(sizes) - 1)
        rows = file.read(columns=[*row_order(table)]).to_pylist()
        keys = [[(value is None, value) for value in row.values()] for row in rows]
        assert keys == sorted(keys)


def test_every_table_has_an_order_that_begins_with_what_it_is_asked_by():
    firsts = {table: row_order(table)[0] for table in TABLES}
    assert {firsts.pop(table) for table in ("checkpoints", "links")} == {"model_id"}
    assert (firsts.pop("results"), firsts.pop("removals")) == ("result_id", "commit_id")
    assert {*firsts.values()} == {"checkpoint_id"}
    for table in TABLES:
        assert "commit_id" in row_order(table)
        assert {*row_order(table)} <= {*TABLES[table].column_names}


def test_of_a_pack_only_the_row_groups_of_a_checkpoint_are_read(small, monkeypatch):
    monkeypatch.setattr(pack_rows, "GROUP_ROWS", 2)
    pack_warehouse(small)
    read = []
    real = pq.ParquetFile.iter_batches
    monkeypatch.setattr(
        pq.ParquetFile, "iter_batches", lambda file, size, groups, **how: read.append(groups) or real(file, size, groups, **how)
    )
    assert [row["layer_index"] for row in read_rows(small, "layers", ["b"], ["layer_index"])["b"]] == [0, 1]
    assert read == [[1]]


def test_a_pack_replaces_all_and_sorts_before_whatever_comes_later(small):
    before = list_commits(small).commits
    pack_warehouse(small)
    created, packed = list_commits(small).commits
    assert packed.replaces == tuple(commit.commit_id for commit in before[1:])
    assert (packed.parents, packed.set_aside) == ((created.commit_id,), ())
    assert int(packed.commit_id[:16], 16) == int(before[-1].commit_id[:16], 16) + 1
    assert [(head.commit_id, head.seen) for head in read_heads(small).records] == [(packed.commit_id, (created.commit_id,))]
    later = add_model(small, "d")
    assert [(head.commit_id, {*head.seen}) for head in read_heads(small).records] == [
        (later, {created.commit_id, packed.commit_id})
    ]
    assert list_commits(small).commits[-1].parents == (packed.commit_id,)
    assert models(small) == ["a", "b", "c", "d"]


def test_commits_that_are_replaced_are_not_read(small, monkeypatch):
    pack_warehouse(small)
    read = []
    real = commits_module._read_commit
    monkeypatch.setattr(commits_module, "_read_commit", lambda path: read.append(path.stem) or real(path))
    assert len(list_commits(small).commits) == len(read) == 2
    assert len([*(small / "commits").iterdir()]) == 5


def test_packing_again_takes_the_earlier_pack_and_forgets_what_nothing_names(small):
    ids = [commit.commit_id for commit in list_commits(small).commits[1:]]
    (small / f"layers/{ids[1]}.parquet").write_bytes(b"")
    check_warehouse(small, repair=True)  # a commit without rows
    seen = []
    for name in "def":
        pack_warehouse(small, prune=AT_ONCE if name == "e" else None)
        assert check_warehouse(small) == []
        packed = parse_commit(the_pack(small).read_bytes())
        assert packed.set_aside == (ids[1],)
        seen.append(packed)
        add_model(small, name)
    assert models(small) == ["a", "c", "d", "e", "f"]
    assert set(seen[1].replaces) > {seen[0].commit_id, *seen[0].replaces}
    assert seen[0].commit_id in seen[1].replaces
    assert len(seen[0].replaces) == 3
    assert len(set(seen[0].replaces) - set(seen[2].replaces)) == 1  # that of the repair; the others have rows
    assert seen[0].commit_id not in seen[2].replaces
    assert seen[1].commit_id in seen[2].replaces
    assert pack_warehouse(small).commits == 2


def test_nothing_to_pack_changes_nothing(tmp_path):
    root = create_store(tmp_path / "warehouse")
    for count in (0, 1):
        before = sorted(root.rglob("*"))
        result = layerhouse("pack", "--warehouse", root)
        assert (result.returncode, result.stdout) == (0, "")
        assert result.stderr == "nothing to pack: there is one commit at most\n"
        assert sorted(root.rglob("*")) == before
        if not count:
            add_model(root, "a")
    add_model(root, "b")
    assert pack_warehouse(root).commits == 2


def test_a_commit_of_other_columns_is_packed_though_it_is_alone(tmp_path):
    root = create_store(tmp_path / "warehouse")
    add_model(root, "a")
    write_as_earlier_version(root, "head_dim")
    assert pack_warehouse(root, dry_run=True).commits == 1
    assert pack_warehouse(root).commits == 1
    assert not list_commits(root).tables_of_other_columns()
    assert models(root) == ["a"]
    assert check_warehouse(root) == []
    assert pack_warehouse(root).commits == 0


def test_what_a_later_version_wrote_is_not_lost(small):
    path = small / f"layers/{list_commits(small).commits[1].commit_id}.parquet"
    table = pq.read_table(path)
    commit_again(small, path, table.append_column("colour", pa.nulls(len(table), pa.string())))
    change_commit(small / f"commits/{path.stem}.json", schema="f" * 16)
    before = {*small.rglob("*")}
    with pytest.raises(
        WarehouseError, match="a later version of layerhouse, which has to pack it: the column colour of layers/"
    ):
        pack_warehouse(small)
    assert {*small.rglob("*")} - before <= {small / ".lock"}
    (small / "spectra").mkdir()
    commit_again(small, path, table)
    commit = parse_commit((small / f"commits/{path.stem}.json").read_bytes())
    change_commit(
        small / f"commits/{path.stem}.json",
        files=(*commit.files, replace(commit.files[0], table="spectra", path=f"spectra/{path.name}")),
    )
    with pytest.raises(WarehouseError, match=f"the table of spectra/{path.name} is not known to this one"):
        pack_warehouse(small)


def change_commit(path: Path, **members) -> None:
    """Write a commit's file with other members, and a digest that fits."""
    path.write_bytes(commit_json(replace(parse_commit(path.read_bytes()), **members)))


# Pruning


def data_files(root: Path) -> set[str]:
    return {
        path.parent.name + "/" + path.stem
        for path in root.rglob("*")
        if path.suffix in (".parquet", ".json") and path.parent != root
    }


class Later(datetime):
    """The clock of some days ahead."""

    days = 0.0

    @classmethod
    def now(cls, tz=None):
        return datetime.now(tz) + timedelta(days=cls.days)


def test_old_files_are_deleted_once_a_pack_is_old_enough(small, monkeypatch):
    for module in (prune, pack):
        monkeypatch.setattr(module, "datetime", Later)
    week, nothing = timedelta(days=7), prune.Pruning(0, 0)
    replaced = {path.stem for path in (small / "layers").iterdir()} - {list_commits(small).commits[0].commit_id}
    size = sum(path.stat().st_size for path in small.rglob("*") if path.stem in replaced and path.parent.name != "heads")
    monkeypatch.setattr(Later, "days", 0)
    assert pack_warehouse(small, prune=week).pruning == nothing
    first = the_pack(small).stem
    monkeypatch.setattr(Later, "days", 6.9)
    assert pack_warehouse(small, prune=week).pruning == nothing
    add_model(small, "d")
    assert pack_warehouse(small, prune=week).pruning == nothing  # its pack replaces the first one, which has an age of its own
    monkeypatch.setattr(Later, "days", 7.1)
    assert pack_warehouse(small, prune=timedelta(days=8)).pruning == nothing
    assert pack_warehouse(small, prune=week, dry_run=True).pruning == prune.Pruning(9, size)
    assert replaced < {path.stem for path in small.rglob("*.parquet")}
    assert pack_warehouse(small, prune=week).pruning == prune.Pruning(9, size)
    assert replaced.isdisjoint({path.stem for path in small.rglob("*.*")})
    assert {first, the_pack(small).stem} < {path.stem for path in small.rglob("*.parquet")}
    assert pack_warehouse(small, prune=week).pruning == nothing
    assert models(small) == ["a", "b", "c", "d"]
    assert check_warehouse(small) == []
    assert pack_warehouse(small, prune=AT_ONCE).pruning.files == 3 + 3
    assert models(small) == ["a", "b", "c", "d"]
    assert check_warehouse(small) == []
    assert len([*small.rglob("*.parquet")]) == len(TABLES) + 2


def test_data_files_are_deleted_before_the_commits_that_name_them(small, monkeypatch):
    deleted = []
    monkeypatch.setattr(prune, "_remove", lambda path: deleted.append(path) or path.unlink())
    pack_warehouse(small, prune=AT_ONCE)
    assert [path.suffix for path in deleted] == [".parquet"] * 6 + [".json"] * 3


def test_nothing_is_deleted_unless_the_pack_is_whole_to_the_last_byte(small):
    pack_warehouse(small)
    flip(small / f"layers/{the_pack(small).stem}.parquet")
    before = data_files(small)
    with pytest.raises(DamagedWarehouseError, match="its content differs from what was committed"):
        pack_warehouse(small, prune=AT_ONCE)
    assert data_files(small) == before


def test_a_file_that_was_changed_is_not_packed(small):
    flip(small / f"layers/{list_commits(small).commits[2].commit_id}.parquet")
    before = data_files(small)
    result = layerhouse("pack", "--warehouse", small)
    assert (result.returncode, result.stdout) == (3, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"layerhouse: {small}: damaged: layers/")
    assert line.endswith(f"SHA-256 mismatch); mend it with: layerhouse check --repair --warehouse {small}")
    assert data_files(small) == before


@pytest.mark.parametrize(
    ("text", "age"),
    [("7d", timedelta(days=7)), ("12h", timedelta(hours=12)), ("0d", AT_ONCE), ("99999d", timedelta(days=99999))],
)
def test_ages_are_days_or_hours(text, age):
    assert parse_age(text) == age
    assert datetime.now(UTC) - parse_age("99999d") < datetime.now(UTC)


HOSTILE_AGES = (
    "",
    "7",
    "d",
    "-1d",
    "+1d",
    "7 d",
    " 7d",
    "7d\n",
    "7D",
    "1.5d",
    "1e3d",
    "999999d",
    "\u0667d",
    "7d7d",
    "\x1b[31m",
    "7w",
    "nan",
    "0x7d",
)


@pytest.mark.parametrize("text", HOSTILE_AGES)
def test_what_is_no_age_is_refused_before_anything_is_done(small, text):
    with pytest.raises(UsageError, match="not an age; write days or hours, such as 7d, 12h or 0d"):
        parse_age(text)


def test_a_wrong_age_is_one_line_and_code_2(small):
    before = data_files(small)
    result = layerhouse("pack", "--prune", "\x1b[31mweek", "--warehouse", small)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == r"layerhouse: --prune '\x1b[31mweek': not an age; write days or hours, such as 7d, 12h or 0d" + "\n"
    assert data_files(small) == before


# What it says


def test_it_says_what_was_made_one_and_what_was_deleted(small):
    def run(*options: str) -> list[str]:
        result = layerhouse("pack", *options, "--warehouse", small)
        assert (result.returncode, result.stdout) == (0, "")
        return [line.partition(", ")[0] for line in result.stderr.splitlines()]

    assert run("--dry-run", "--prune", "0d") == [
        "would make one of 3 commits: 9 rows",
        "nothing to prune: no commit was replaced so long ago",
    ]
    assert [path for path in data_files(small) if path.startswith("heads")]
    assert len(list_commits(small).commits) == 4
    assert run() == [
        "made one of 3 commits: 9 rows",
        "the old files stay for open sessions; delete those of a week ago with: "
        f"layerhouse pack --prune 7d --warehouse {small}",
    ]
    assert run("--prune", "1h") == [
        "nothing to pack: there is one commit at most",
        "nothing to prune: no commit was replaced so long ago",
    ]
    assert run("--prune", "0d", "--dry-run") == ["nothing to pack: there is one commit at most", "would delete 9 files"]
    assert run("--prune", "0d") == ["nothing to pack: there is one commit at most", "deleted 9 files"]
    assert models(small) == ["a", "b", "c"]


def test_a_dry_run_writes_nothing(root):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    report = pack_warehouse(root, dry_run=True, prune=AT_ONCE)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    real = pack_warehouse(root)
    assert (report.commits, report.rows, report.size) == (real.commits, real.rows, real.size)


def test_a_terminal_sees_a_bar_of_rows(small, tmp_path):
    code, output = run_on_terminal(["pack", "--warehouse", small], tmp_path)
    assert code == 0
    assert "9 of 9 rows" in output
    assert "made one of 3 commits: 9 rows, " in output


def test_progress_counts_rows_up_to_all(small, monkeypatch):
    monkeypatch.setattr(pack_rows, "GROUP_ROWS", 2)
    seen = []
    pack_warehouse(small, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(2, 9), (3, 9), (5, 9), (7, 9), (9, 9)]


def test_many_commits_are_named_by_check_and_by_ingest(small, tmp_path, monkeypatch):
    advice = f"3 commits: layerhouse pack --warehouse {small} makes one of them"
    assert advice not in layerhouse("check", "--warehouse", small).stderr
    code = "from layerhouse.warehouse.storage import packs; packs.MANY_COMMITS = 3\nfrom layerhouse.cli import main\nmain()"
    (tmp_path / "empty").mkdir()

    def run(*arguments) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)], env=CLEAN, capture_output=True, text=True, check=False
        )
        assert (done.returncode in (0, 1), done.stdout) == (True, "")  # there is nothing to ingest
        return done.stderr.splitlines()

    assert run("check", "--warehouse", small)[-1] == advice
    assert run("ingest", "--quiet", tmp_path / "empty", "--warehouse", small)[-1] == advice
    assert advice not in run("ingest", "--dry-run", tmp_path / "empty", "--warehouse", small)
    pack_warehouse(small)
    assert count_commits(small) == 1
    assert run("check", "--warehouse", small)[-1] == f"{small}: healthy"
    assert packs.MANY_COMMITS == 200


# Where it cannot be


def test_where_there_is_no_warehouse_it_says_so(tmp_path):
    result = layerhouse("pack", "--warehouse", tmp_path / "none")
    assert (result.returncode, result.stdout) == (3, "")
    assert result.stderr.startswith(f"layerhouse: {tmp_path / 'none'}: no warehouse here")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("folder", ["commits", "layers", "heads", "damaged"])
def test_a_folder_that_is_a_link_is_refused(small, tmp_path, folder):
    outside = tmp_path / "outside"
    if (small / folder).exists():
        (small / folder).rename(outside)
    else:
        outside.mkdir()
    (small / folder).symlink_to(outside)
    before = sorted(outside.iterdir())
    for age in (None, AT_ONCE):
        with pytest.raises(WarehouseError, match=f"{small / folder}: a symbolic link; "):
            pack_warehouse(small, prune=age)
    assert sorted(outside.iterdir()) == before


def test_a_folder_that_may_not_be_written_to_is_one_line(small):
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        copy = Path(shutil.copytree(small, Path(folder) / "warehouse"))
        (copy / ".lock").unlink()
        for path in (copy, *copy.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        pack_warehouse(copy, dry_run=True)
        with as_another_user(), pytest.raises(WarehouseError) as caught:
            pack_warehouse(copy)
        assert str(caught.value) == f"{copy}: cannot write: Permission denied"
        copy.chmod(0o777)
        with as_another_user(), pytest.raises(WarehouseError) as caught:
            pack_warehouse(copy)
        assert str(caught.value) == f"{copy}: cannot be packed: Permission denied; all commits are as they were"
        assert models(copy) == ["a", "b", "c"]
        for path in (copy, *copy.rglob("*")):
            path.chmod(0o777 if path.is_dir() else 0o666)


def test_a_pack_that_fails_half_way_leaves_nothing(small, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    before = data_files(small)
    monkeypatch.setattr(pack_rows, "describe_file", full)
    with pytest.raises(
        WarehouseError, match=f"{small}: cannot be packed: No space left on device; all commits are as they were"
    ):
        pack_warehouse(small)
    monkeypatch.undo()
    monkeypatch.setattr("layerhouse.warehouse.admin.pack.write_pack", full)
    with pytest.raises(WarehouseError, match="No space left on device"):
        pack_warehouse(small)
    assert data_files(small) == before
    assert not [*small.rglob("*.tmp")]
    assert check_warehouse(small) == []
