"""Damaged files: what queries still return, what `check` reports and repairs, and that the next ingest restores the rest."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import layerhouse as lh
from layerhouse import DamagedWarehouseError, WarehouseError
from layerhouse.ingest.run import Options, ingest_roots
from layerhouse.terminal.engine import engine_text
from layerhouse.tests.running import layerhouse
from layerhouse.tests.study_builder import (
    Scores,
    Width,
    analysis_document,
    result_document,
    write_json,
)
from layerhouse.tests.test_store import checkpoint, layer
from layerhouse.warehouse.admin.health import check_warehouse
from layerhouse.warehouse.admin.removals import drop_model
from layerhouse.warehouse.answers.load_inventory import load_inventory
from layerhouse.warehouse.answers.sql_text import sql_files
from layerhouse.warehouse.storage.commit_file import commit_json, parse_commit
from layerhouse.warehouse.storage.commits import list_commits
from layerhouse.warehouse.storage.data_files import footer_of
from layerhouse.warehouse.storage.store import create_store, write_commit

WIDE, NARROW = Width(8, 4, 704), Width(4, 2, 352)
MODELS = {"a": (WIDE, WIDE), "b": (WIDE, NARROW), "c": (NARROW, NARROW)}


def ingest(warehouse: Path, *roots: Path) -> None:
    root = create_store(warehouse)
    report = ingest_roots(roots, root, load_inventory(root), Options())
    assert report.count("failed") == 0


def answers(warehouse: Path) -> dict:
    """The rows that a user sees, without the columns that name commits."""
    with lh.open(warehouse) as wh:
        seen = {"summary": wh.query("summary").rows()}
        for table in ("layers", "layer_matches", "results"):
            seen[table] = sorted(map(str, wh.scan(table).drop("commit_id", "ingested_at").collect().rows()))
        return seen


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Three models, each with its analysis, that of the base, and results; and their warehouse, with one commit per model."""
    folder = tmp_path_factory.mktemp("study")
    base = analysis_document("base", (WIDE, WIDE))
    for number, (name, widths) in enumerate(MODELS.items()):
        document = analysis_document(name, widths)
        write_json(folder / f"models/{name}/analysis/pruned_model_analysis.json", document)
        write_json(folder / f"models/{name}/analysis/original_model_analysis.json", base)
        results = result_document(document, Scores(10.0 + number, 20.0, (0.5,) * 7, 100.0))
        write_json(folder / f"models/{name}/evaluation/evaluation_results.json", results)
        ingest(folder / "warehouse", folder / "models" / name)
    return folder


@pytest.fixture(scope="module")
def before(study):
    return answers(study / "warehouse")


@pytest.fixture
def root(study, tmp_path):
    shutil.copytree(study / "warehouse", tmp_path / "warehouse")
    return tmp_path / "warehouse"


def file_of(root: Path, model: str, table: str) -> Path:
    """The file of a table in the commit of a model."""
    commit = list_commits(root).commits[1 + list(MODELS).index(model)]
    (path,) = (file.path for file in commit.files if file.table == table)
    return root / path


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    """Change bytes of the data pages, which the size and the footer do not show."""
    data = path.read_bytes()
    middle = (len(data) - len(footer_of(data))) // 2
    path.write_bytes(data[:middle] + bytes(byte ^ 0xFF for byte in data[middle : middle + 8]) + data[middle + 8 :])


def commit_again(root: Path, path: Path, table: pa.Table) -> None:
    """Write a data file with other rows, and its commit so that it agrees."""
    pq.write_table(table, path)
    marker, data = root / f"commits/{path.stem}.json", path.read_bytes()
    commit, footer = parse_commit(marker.read_bytes()), footer_of(data)
    written = {
        "rows": len(table),
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "footer_bytes": len(footer),
        "footer_sha256": hashlib.sha256(footer).hexdigest(),
    }
    files = tuple(replace(file, **written) if file.table == path.parent.name else file for file in commit.files)
    marker.write_bytes(commit_json(replace(commit, files=files)))


def findings_of(root: Path, *, repair: bool = False) -> list[tuple[str, str]]:
    return sorted((finding.kind, finding.where) for finding in check_warehouse(root, repair=repair))


def test_a_healthy_warehouse_has_no_findings(root):
    assert check_warehouse(root) == check_warehouse(root, repair=True) == []
    result = layerhouse("check", "--warehouse", root)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", f"layerhouse {engine_text()}\n{root}: healthy\n")


@pytest.mark.parametrize("damage", [cut, empty, Path.unlink])
def test_a_damaged_file_hides_only_its_own_commit(root, before, damage):
    path = file_of(root, "c", "results")
    damage(path)
    with pytest.raises(DamagedWarehouseError, match=f"damaged: {path.relative_to(root)}: .*; mend it with: layerhouse check"):
        lh.open(root)
    with lh.open(root, skip_damaged=True) as wh:
        assert wh.query("summary").rows() == before["summary"][:2]
        assert [damage.path for damage in wh.damages] == [str(path.relative_to(root))]
    assert findings_of(root) == [("damaged", str(path.relative_to(root)))]


def test_repair_sets_a_damaged_commit_aside_and_the_next_ingest_takes_its_models_again(root, study, before):
    path = file_of(root, "c", "results")
    cut(path)
    assert findings_of(root, repair=True) == [("damaged", f"results/{path.name}")]
    tables = ("checkpoints", "layer_matches", "layers", "links", "results")
    moved = sorted(path.name for path in (root / "damaged" / path.stem).iterdir())
    assert moved == [f"{table}-{path.name}" for table in tables[:1]] + [f"commits-{path.stem}.json"] + [
        f"{table}-{path.name}" for table in tables[1:]
    ]
    ingest(root, study / "models")
    assert answers(root) == before
    assert findings_of(root) == []


def test_commands_refuse_a_damaged_warehouse_and_answer_without_it_where_asked(root):
    path = file_of(root, "b", "layers")
    size = path.stat().st_size
    cut(path)
    fault = f"layers/{path.name}: expected {size} bytes, found {size - 100}"
    command = ("sql", "SELECT model_id FROM models ORDER BY 1", "-f", "csv", "--warehouse", root)
    result = layerhouse(*command)
    mend = f"mend it with: layerhouse check --repair --warehouse {root}"
    assert (result.returncode, result.stdout) == (3, "")
    assert result.stderr == f"layerhouse: {root}: damaged: {fault}; {mend}\n"
    result = layerhouse(*command, "--skip-damaged")
    assert (result.returncode, result.stdout) == (3, "model_id\nmodels/a\nmodels/c\n")
    assert f"damaged: {fault}; the answer is without commit {path.stem}" in result.stderr.splitlines()
    result = layerhouse("check", "--warehouse", root)
    assert (result.returncode, result.stdout) == (
        3,
        f"damaged  layers/{path.name}: expected {size} bytes, found {size - 100}\n",
    )
    assert "layerhouse check --repair" in result.stderr
    result = layerhouse("check", "--repair", "--warehouse", root)
    assert (result.returncode, result.stdout.endswith(f"; moved to damaged/{path.stem}; ingest its models again\n")) == (
        0,
        True,
    )


def test_flipped_bytes_of_equal_size_are_found_by_check(root, study, before):
    path = file_of(root, "c", "layers")
    flip(path)
    assert lh.open(root).damages == ()
    with pytest.raises(DamagedWarehouseError, match=f"layers/{path.name}: its content differs"):
        lh.open(root, verify=True)
    assert findings_of(root) == [("damaged", f"layers/{path.name}")]
    (finding,) = check_warehouse(root, repair=True)
    assert finding.what == "its content differs from what was committed (SHA-256 mismatch)"
    assert lh.open(root).query("summary")["model_id"].to_list() == ["models/a", "models/b"]
    ingest(root, study / "models")
    assert answers(root) == before


@pytest.mark.parametrize(
    ("table", "command"),
    [
        ("layers", ("summarize",)),
        ("layers", ("summarize", "--output", "summary")),
        ("layers", ("layers",)),
        ("checkpoints", ("drop", "models/c")),
        ("results", ("performance",)),
        ("results", ("tables",)),
        ("checkpoints", ("ingest", "models")),
    ],
)
def test_flipped_bytes_of_equal_size_are_an_error_of_one_line_in_every_command(root, study, tmp_path, table, command):
    path = file_of(root, "c", table)
    path.write_bytes(bytes(byte ^ 0xFF for byte in path.read_bytes()))
    (tmp_path / "models").symlink_to(study / "models")
    result = layerhouse(*command, "--warehouse", root, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (3, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"layerhouse: {root}: damaged: {table}/{path.name}: its footer differs")
    assert findings_of(root) == [("damaged", f"{table}/{path.name}")]


def test_flipped_bytes_raise_a_warehouse_error_in_python(root):
    path = file_of(root, "c", "layers")
    path.write_bytes(bytes(byte ^ 0xFF for byte in path.read_bytes()))
    with pytest.raises(DamagedWarehouseError, match=f"layers/{path.name}: its footer differs"):
        lh.open(root)


def test_damaged_results_of_a_dropped_model_come_back_with_the_next_ingest(root, study, before):
    drop_model(root, "models/c")
    ingest(root, study / "models")
    assert answers(root)["summary"] == before["summary"]
    cut(file_of(root, "c", "results"))
    check_warehouse(root, repair=True)
    ingest(root, study / "models")
    assert answers(root) == before
    assert findings_of(root) == []


def test_a_truncated_commit_is_ignored_and_reported(root, study, before):
    path = root / f"commits/{file_of(root, 'c', 'layers').stem}.json"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert lh.open(root, skip_damaged=True).query("summary").rows() == before["summary"][:2]
    assert findings_of(root) == [("damaged", f"commits/{path.name}")]
    assert findings_of(root, repair=True) == [("damaged", f"commits/{path.name}")]
    ingest(root, study / "models")
    assert answers(root) == before


def test_a_copy_of_a_commit_adds_nothing(root, before):
    path = root / f"commits/{file_of(root, 'c', 'layers').stem}.json"
    shutil.copy(path, root / f"commits/{'f' * 31}0.json")
    assert lh.open(root, skip_damaged=True).scan("results").collect().height == len(before["results"])
    assert findings_of(root, repair=True) == [("damaged", f"commits/{'f' * 31}0.json")]
    assert (answers(root), findings_of(root)) == (before, [])


def test_the_base_in_a_damaged_commit_comes_back_with_the_next_ingest(root, study, before):
    """The commit of the first model holds the base of all models. Without it the others have no base, which check reports."""
    cut(file_of(root, "a", "layers"))
    intact = lh.open(root, skip_damaged=True)
    assert intact.models().select("model_id", "base_params").rows() == [("models/b", None), ("models/c", None)]
    assert {kind for kind, _ in findings_of(root, repair=True)} == {"damaged", "promise"}
    assert findings_of(root) == [("promise", "matches_without_checkpoint")]
    ingest(root, study / "models")
    assert answers(root) == before
    assert findings_of(root) == []


@pytest.mark.parametrize("table", ["tensors", "checkpoints"])
def test_a_missing_table_folder_is_created_again(root, study, before, table):
    shutil.rmtree(root / table)
    with pytest.raises(WarehouseError, match=f"damaged: {table}/.*; mend it with: layerhouse check --repair"):
        lh.open(root)
    assert {kind for kind, _ in findings_of(root)} == {"damaged"}
    check_warehouse(root, repair=True)
    if table == "checkpoints":
        ingest(root, study / "models")
    assert answers(root) == before
    assert findings_of(root) == []


def test_leftovers_of_a_run_are_set_aside_and_files_of_other_programs_are_kept(root, before):
    commit_id = "1" * 32
    layers = file_of(root, "c", "layers")
    orphan, half = root / f"layers/{commit_id}.parquet", root / f"results/{commit_id}.parquet"
    temporary = root / f"layers/.{commit_id}.parquet.0123abcd.tmp"
    marker = root / f"commits/.{commit_id}.json.0123abcd.tmp"
    foreign = [root / "layers/mine.parquet", root / "results/table.csv", root / "commits/notes.txt", root / "layers/.keep"]
    shutil.copy(layers, orphan)
    half.write_bytes(layers.read_bytes()[:50])
    for path in (temporary, marker):
        path.write_bytes(b"PAR1")
    shutil.copy(layers, foreign[0])
    for path in foreign[1:]:
        path.write_text("model_id\nmine\n")

    leftovers = [("orphan", str(path.relative_to(root))) for path in (orphan, half, temporary, marker)]
    others = [("foreign", str(path.relative_to(root))) for path in foreign]
    assert findings_of(root) == sorted([*leftovers, *others])
    assert findings_of(root, repair=True) == sorted([*leftovers, *others])
    assert findings_of(root) == sorted(others)
    assert not any(path.exists() for path in (orphan, half, temporary, marker))
    assert sorted(str(path.relative_to(root)) for path in (root / "damaged").rglob("*.parquet")) == [
        f"damaged/{commit_id}/layers-{commit_id}.parquet",
        f"damaged/{commit_id}/results-{commit_id}.parquet",
    ]
    assert all(path.exists() for path in foreign)
    assert layerhouse("check", "--warehouse", root).returncode == 0
    assert answers(root) == before


def test_a_file_with_other_columns_is_found(root):
    """Size and hashes agree with the commit, the columns do not, as if another tool had written file and commit."""
    path = file_of(root, "c", "layers")
    commit_again(root, path, pq.read_table(path).drop_columns(["zeros"]))
    (finding,) = check_warehouse(root)
    assert (finding.kind, finding.where, finding.what) == (
        "damaged",
        f"layers/{path.name}",
        "its columns differ from those of the table",
    )


RESULT = {"measure_id": "m", "harness": "native", "metric": "acc", "source_uri": "/f", "status": "ok", "value": 0.5}
MATCH = {"checkpoint_id": "x", "base_checkpoint_id": "x", "stack": "text", "match": "declared"}
UNIT = {"checkpoint_id": "x", "stack": "text", "layer_index": 0, "kind": "head", "unit_index": 0}
LINK = {"model_id": "m", "rule": "folder", "source_uri": "/f", "linked_at": 0}
PROMISES = {
    "base_blocks_twice": {"checkpoints": [checkpoint("x")], "layer_matches": [{**MATCH, "base_layer_index": 3}] * 2},
    "checkpoints_without_layers": {"checkpoints": [checkpoint("x", num_layers=2)]},
    "layers_twice": {"checkpoints": [checkpoint("x")], "layers": [layer("x", 0), layer("x", 0, params=1)]},
    "layers_without_checkpoint": {"layers": [layer("x", 0)]},
    "links_without_results": {"links": [{**LINK, "result_id": "r"}]},
    "matches_without_checkpoint": {
        "checkpoints": [checkpoint("x")],
        "layer_matches": [{**MATCH, "base_checkpoint_id": "y", "layer_index": 0}],
    },
    "unit_matches_without_layers": {
        "unit_matches": [{**UNIT, "base_checkpoint_id": "x", "base_layer_index": 0, "match": "none"}],
    },
    "units_without_checkpoint": {"units": [UNIT]},
    "tensors_without_checkpoint": {"tensors": [{"checkpoint_id": "x", "name": "t"}]},
    "values_against_status": {"results": [{**RESULT, "result_id": "r", "status": "nan"}]},
}


def test_every_promise_has_a_case():
    assert set(PROMISES) == set(sql_files("warehouse.checks"))


@pytest.mark.parametrize("promise", PROMISES)
def test_rows_that_break_a_promise_are_reported(tmp_path, promise):
    root = create_store(tmp_path / "warehouse")
    write_commit(root, PROMISES[promise], "ingest")
    (finding,) = check_warehouse(root)
    assert (finding.kind, finding.where, finding.repaired) == ("promise", promise, None)
    sentence = sql_files("warehouse.checks")[promise].splitlines()[0].removeprefix("-- ")
    assert finding.what.startswith(f"does not hold: {sentence} (")


def test_a_value_without_ok_and_ok_without_a_value_both_break_the_promise(tmp_path):
    root = create_store(tmp_path / "warehouse")
    cases = (("a", "ok", None), ("b", "missing", 1.0), ("c", "ok", 0.0), ("d", "inf", None))
    rows = [{**RESULT, "result_id": name, "status": status, "value": value} for name, status, value in cases]
    write_commit(root, {"results": rows}, "ingest")
    result = layerhouse("check", "--warehouse", root)
    examples = (
        "(result_id=a, task=None, metric=acc, status=ok, value=None; "
        "result_id=b, task=None, metric=acc, status=missing, value=1.0)"
    )
    assert (result.returncode, result.stdout.rstrip().endswith(examples)) == (3, True)
