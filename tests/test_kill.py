"""Runs that are killed, interrupted or concurrent: readers always see complete models, each once."""

from __future__ import annotations

import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

import layerhouse as lh
from layerhouse.tests.running import CLEAN
from layerhouse.tests.study_builder import (
    Scores,
    Width,
    analysis_document,
    result_document,
    write_json,
)
from layerhouse.warehouse.admin.health import check_warehouse
from layerhouse.warehouse.answers.sql_text import sql_files
from layerhouse.warehouse.storage.schema import TABLES

COMMAND = [sys.executable, "-m", "layerhouse", "ingest"]
VIEWS = [stem.partition("_")[2] for stem in sql_files("warehouse.views") if not stem.startswith("00")]
# Rows of one model of `write_models`; all models have the same base of 3 layers.
PER_MODEL = {"layers": 3, "layer_matches": 3, "results": 25, "links": 1, "checkpoints": 1}
PER_MODEL |= {"models": 1, "performance": 1, "history": 1, "sightings": 1, "current_checkpoints": 1, "result_links": 1}
PER_MODEL |= {"checkpoint_facts": 1, "layer_pruning": 3, "layer_summary": 1, "model_results": 25, "measures": 22}
PER_MODEL |= {
    "model_measures": 1,
    "status_notes": 1,
    "model_runs": 1,
    "run_values": 22,
    "run_measures": 22,
    "measure_sources": 22,
}
PER_MODEL |= {"performance_variants": 1, "layer_changes": 3, "base_names": 1, "block_changes": 1}
PER_MODEL |= {"model_names": 1, "pair_layers": 3, "pair_summary": 1}
OF_BASE = {"layers": 3, "checkpoints": 1, "checkpoint_facts": 1, "base_names": 1, "pair_layers": 3, "pair_summary": 1}
OF_MEASURES = ("measure_keys", "column_conditions", "measure_scales", "common_hardware")
"""Views whose rows are of measures, which all models share."""


def params(number: int) -> int:
    """Parameters of a model: embedding, head and final norm; three layers of 8 + 4 heads; MLPs of three widths."""
    return 2 * 4096 * 256 + 256 + 3 * (16384 * 12 + 512) + 768 * (704 + 1 + number % 700 + 1 + number // 700)


def write_models(folder: Path, count: int) -> Path:
    base = analysis_document("base", (Width(8, 4, 704),) * 3)
    for number in range(count):
        widths = (Width(8, 4, 704), Width(8, 4, 1 + number % 700), Width(8, 4, 1 + number // 700))
        document = analysis_document(f"m{number:04}", widths)
        assert document["total_params"] == params(number)
        model = folder / "models" / f"m{number:04}"
        write_json(model / "analysis/pruned_model_analysis.json", document)
        write_json(model / "analysis/original_model_analysis.json", base)
        results = result_document(document, Scores(10.0 + number, 20.0, (0.5,) * 7, 100.0))
        write_json(model / "evaluation/evaluation_results.json", results)
    return folder / "models"


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("many"), 2000)


@pytest.fixture(scope="module")
def some(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("some"), 160)


def start(models: Path, root: Path) -> subprocess.Popen[str]:
    command = [*COMMAND, models, "--warehouse", root]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=CLEAN, encoding="utf-8")


def stop_after(process: subprocess.Popen[str], num_taken: int, stop: Callable[[], None]) -> tuple[int, str]:
    """Call `stop` once that many models were reported as taken; return how many were taken in all, and the last line."""
    taken, line = 0, ""
    with process:
        for line in process.stderr or ():
            if line.startswith("taken "):
                taken += 1
                if taken == num_taken:
                    stop()
    return taken, line


def assert_all_is_there_once(root: Path, count: int, *, at_least_once: tuple[str, ...] = ()) -> None:
    """Assert that every view and table has exactly the rows of `count` models, none twice. `at_least_once` names tables of
    which two processes may each have written a row."""
    with lh.open(root) as wh:
        for name in (*TABLES, *VIEWS):
            if count > 1000 and name in ("performance", "performance_variants", "method_groups"):
                continue  # They take seconds then, and are made of the other views.
            expected = PER_MODEL.get(name, 0) * count + OF_BASE.get(name, 0)
            total, distinct = wh.sql(f"SELECT count(*) AS n, count(DISTINCT {name}) AS m FROM {name}").row(0)
            is_right = total == expected or name in OF_MEASURES or (name in at_least_once and total > expected)
            assert (name, is_right) == (name, True), (total, expected)
            assert (name, distinct) == (name, total)
            if name in TABLES:
                assert (name, wh.scan(name).collect().height) == (name, total)
        names = wh.sql("SELECT model_id, params, base_params FROM models ORDER BY model_id").rows()
        base_params = params(703) - 768 * (703 % 700 + 703 // 700 + 2) + 768 * 1408
        assert names == [(f"models/m{number:04}", params(number), base_params) for number in range(count)]


def assert_no_model_is_half_there(root: Path) -> int:
    """The number of models in the warehouse."""
    with lh.open(root) as wh:
        models = wh.scan("checkpoints").filter(pl.col("model_id").is_not_null()).collect()
        assert wh.scan("links").collect()["model_id"].sort().equals(models["model_id"].sort())
        results = wh.scan("results").group_by("result_id").len().collect()
        assert (results.height, set(results["len"])) == (models.height, {25} if models.height else set())
        for table in ("layers", "layer_matches"):
            rows = wh.scan(table).filter(pl.col("checkpoint_id").is_in(models["checkpoint_id"].to_list()))
            sizes = rows.group_by("checkpoint_id").len().collect()
            assert (sizes.height, set(sizes["len"])) == (models.height, {3} if models.height else set())
        return models.height


def test_kill_9_loses_nothing_that_was_committed_and_the_next_run_goes_on(many, tmp_path):
    chance, root, there = random.Random(4), tmp_path / "warehouse", 0
    for num_taken in (128, chance.randrange(1, 700)):
        process = start(many, root)

        def kill(process=process):
            time.sleep(chance.uniform(0, 0.03))
            process.kill()

        stop_after(process, num_taken, kill)
        assert process.returncode == -signal.SIGKILL
        now_there = assert_no_model_is_half_there(root)
        assert now_there >= there + num_taken - 128
        there = now_there
        assert {finding.kind for finding in check_warehouse(root)} <= {"orphan"}
    assert 0 < there < 2000

    process = start(many, root)
    taken, line = stop_after(process, 0, lambda: None)
    assert (process.returncode, taken) == (0, 2000 - there)
    assert line == f"{taken} taken, {there} unchanged; warehouse {root}\n"
    assert_all_is_there_once(root, 2000)
    check_warehouse(root, repair=True)
    assert check_warehouse(root) == []
    assert not list(root.rglob("*.tmp"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupt_commits_what_was_finished_and_the_next_run_goes_on(some, tmp_path, number):
    root = tmp_path / "warehouse"
    process = start(some, root)
    taken, line = stop_after(process, 60, lambda: process.send_signal(number))
    assert process.returncode == 130
    assert line.startswith("layerhouse: interrupted; what was finished is in the warehouse")
    there = lh.open(root).models().height
    assert 60 <= taken <= there <= taken + 1 < 160
    assert check_warehouse(root) == []

    process = start(some, root)
    taken, line = stop_after(process, 0, lambda: None)
    assert (process.returncode, taken) == (0, 160 - there)
    assert assert_no_model_is_half_there(root) == 160


def test_two_ingests_of_one_folder_at_once_show_every_row_once(some, tmp_path):
    root = tmp_path / "warehouse"
    processes = [start(some, root) for _ in range(2)]
    outputs = [process.communicate(timeout=600)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert_all_is_there_once(root, 160, at_least_once=("checkpoints", "links", "sightings"))
    assert check_warehouse(root) == []


def test_ingests_of_two_folders_at_once_are_both_there(some, tmp_path):
    other = write_models(tmp_path / "other", 5).rename(tmp_path / "others")
    root = tmp_path / "warehouse"
    processes = [start(folder, root) for folder in (some, other)]
    for process in processes:
        process.communicate(timeout=600)
    assert [process.returncode for process in processes] == [0, 0]
    with lh.open(root) as wh:
        assert wh.sql("SELECT split_part(model_id, '/', 1) AS root, count(*) FROM models GROUP BY 1 ORDER BY 1").rows() == [
            ("models", 160),
            ("others", 5),
        ]
        assert wh.sql("SELECT count(*) AS n FROM results").row(0) == (165 * 25,)
    assert check_warehouse(root) == []


READER = """
import sys
from pathlib import Path
import layerhouse as lh
root, done = Path(sys.argv[1]), Path(sys.argv[2])
seen = []
while True:
    is_last = done.exists()
    try:
        wh = lh.open(root)
    except lh.MissingWarehouseError:
        assert not seen and not is_last
        continue
    with wh:
        models = wh.sql("SELECT model_id, base_params, num_layers FROM models")
        assert set(models.select("base_params", "num_layers").rows()) in (set(), {(BASE, 3)}), models
        results = wh.scan("results").collect()
        assert (results.height, results["result_id"].n_unique()) == (25 * models.height, models.height)
        assert not seen or models.height >= seen[-1]
        assert wh.damages == ()
        seen.append(models.height)
    if is_last:
        print(len(seen), seen[-1], len(set(seen)))
        break
"""


def test_readers_see_whole_commits_while_others_write(some, tmp_path):
    root, done = tmp_path / "warehouse", tmp_path / "done"
    base_params = str(params(703) - 768 * (703 % 700 + 703 // 700 + 2) + 768 * 1408)
    reader = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", READER.replace("BASE", base_params), root, done],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    try:
        time.sleep(0.5)
        writer = start(some, root)
        writer.communicate(timeout=600)
    finally:
        done.touch()
    assert writer.returncode == 0
    output, errors = reader.communicate(timeout=600)
    assert (reader.returncode, errors) == (0, "")
    num_reads, last, _ = map(int, re.findall(r"\d+", output))
    assert (last, num_reads >= 1) == (160, True)
