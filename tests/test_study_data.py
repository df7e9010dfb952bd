"""A published pruning study of Llama-3-8B-Instruct, through the command: the answers are the published tables."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import openpyxl
import pytest

import layerhouse as lh
from layerhouse.tests.running import layerhouse
from layerhouse.warehouse.answers.handle import Warehouse

STUDY = Path(__file__).parents[2] / "shared/data/llama3-8b"

pytestmark = pytest.mark.skipif(not STUDY.is_dir(), reason="the published study is not part of the repository")

SHORT_7, SHORT_4 = "baselines/ShortGPT_remove_7", "results/ShortGPT_remove_4"
HGSP, LLM_PRUNER = "results/HGSP_2000", "results/LLM-Pruner_1937"
BASE, SLICED, TUNED = "baselines/Llama-3-8B-Instruct", "baselines/SliceGPT_2000", "results/HGSP_2000_finetuned"

# Columns of the published tables: our column, and the factor from our unit to the published one.
SUMMARY_LISTS = {"removed_layers": "removed_layers"} | {f"below_{n}pct": f"layers_below_{n}pct" for n in (5, 10, 15, 20)}
PERFORMANCE = {
    "size_gb": ("size_gb", 1),
    "params_b": ("params_b", 1),
    "ppl_wikitext2": ("ppl_wikitext2", 1),
    "ppl_ptb": ("ppl_ptb", 1),
    "boolq": ("boolq", 100),
    "piqa": ("piqa", 100),
    "hellaswag": ("hellaswag", 100),
    "winogrande": ("winogrande", 100),
    "arc_easy": ("arc_easy", 100),
    "arc_challenge": ("arc_challenge", 100),
    "openbookqa": ("openbookqa", 100),
    "mean": ("mean_accuracy", 100),
    "tok_s_bs1": ("throughput_bs1", 1),
    "ms_tok_bs1": ("latency_ms_bs1", 1),
    "tok_s_bs4": ("throughput_bs4", 1),
    "ms_tok_bs4": ("latency_ms_bs4", 1),
    "memory_mb": ("memory_mb", 1),
}


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory):
    path = tmp_path_factory.mktemp("study") / "warehouse"
    done = layerhouse("ingest", "baselines", "results", "-w", path, cwd=STUDY)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.splitlines() == [
        f"taken       {BASE}: 1 result file",
        f"taken       {SHORT_7}: 3 analysis files",
        f"taken       {SLICED}: 1 result file",
        f"taken       {HGSP}: 3 analysis files, 1 result file",
        f"taken       {TUNED}: 1 result file",
        f"taken       {LLM_PRUNER}: 1 analysis file",
        f"taken       {SHORT_4}: 2 analysis files",
        f"7 taken; warehouse {path}",
    ]
    return path


def table(warehouse, *command):
    """A table of the command, by model."""
    done = layerhouse(*command, "-w", warehouse, "-f", "json")
    assert (done.returncode, done.stderr) == (0, "")
    return {row["model_id"]: row for row in json.loads(done.stdout)}


@pytest.fixture(scope="module")
def summary(warehouse):
    return table(warehouse, "summarize")


@pytest.fixture(scope="module")
def performance(warehouse):
    return table(warehouse, "performance")


@pytest.fixture(scope="module")
def wh(warehouse):
    with Warehouse(warehouse) as opened:
        yield opened


def published(name):
    with (STUDY / f"published_{name}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def assert_to_its_digits(value, text):
    """A published number is ours, rounded to as many digits as it has."""
    digits = len(text.partition(".")[2])
    assert abs(value - float(text)) <= 0.5 * 10**-digits * (1 + 1e-9), (value, text)


def test_the_summary_is_the_published_one(summary, performance):
    rows = published("summary")
    assert [row["model"] for row in rows] == [HGSP, LLM_PRUNER, SHORT_7, SHORT_4]
    for row in rows:
        ours = summary[row["model"]] | performance[row["model"]]
        for column in ("total_params", "num_layers", "zero_layers"):
            assert ours[column.replace("total_", "")] == int(row[column]), column
        for column in ("reduction_ratio", "layer_reduction_ratio"):
            assert ours[column] == float(row[column]), column
        for column in ("retention_std", "retention_var"):
            if row[column]:
                assert_to_its_digits(ours[column], row[column])
        for column, our_column in SUMMARY_LISTS.items():
            if row[column]:
                assert ours[our_column] == [int(word) for word in row[column].split()], column


def test_the_performance_is_the_published_one(performance):
    rows = published("performance")
    assert [row["model"] for row in rows] == [BASE, HGSP]
    for row in rows:
        assert set(row) == {"model", *PERFORMANCE}
        for column, (our_column, scale) in PERFORMANCE.items():
            assert_to_its_digits(performance[row["model"]][our_column] * scale, row[column])


def test_every_model_is_in_with_its_method_and_strategy(summary):
    columns = ("method", "declared_ratio", "strategy", "num_layers", "base_num_layers", "num_removed_layers")
    assert {model: tuple(row[column] for column in columns) for model, row in summary.items()} == {
        BASE: (None, None, None, 32, None, None),
        SHORT_7: ("ShortGPT", None, "layer_removal", 25, 32, 7),
        SLICED: ("SliceGPT", 0.2, None, 32, None, None),
        HGSP: ("HGSP", 0.2, "non_uniform", 32, 32, 0),
        TUNED: ("HGSP", 0.2, None, 32, None, None),
        LLM_PRUNER: ("LLM-Pruner", 0.1937, "non_uniform", 32, 32, 0),
        SHORT_4: ("ShortGPT", None, "layer_removal", 28, 32, 4),
    }


def test_the_base_has_8_billion_parameters_for_every_comparison(summary):
    compared = {model: row["base_params"] for model, row in summary.items() if row["base_params"] is not None}
    assert compared == dict.fromkeys((SHORT_7, HGSP, LLM_PRUNER, SHORT_4), 8030261248)


def test_all_comparisons_are_with_the_one_described_base(wh):
    bases = wh.sql("SELECT DISTINCT checkpoint_id, declared_name, num_layers, status FROM checkpoints WHERE model_id IS NULL")
    assert [row[1:] for row in bases.rows()] == [("Llama-3-8B-Instruct", 32, "ok")]


def test_all_comparisons_are_with_one_base_whatever_the_files_call_it(tmp_path):
    """As the study's scripts write it, who call every base the original model."""
    shutil.copytree(STUDY, tmp_path / "study", ignore=shutil.ignore_patterns("*.csv"))
    for number, path in enumerate(sorted((tmp_path / "study").rglob("*_comparison.json"))):
        path.chmod(0o644)
        document = json.loads(path.read_text("utf-8"))
        path.write_text(json.dumps(document | {"original_name": ("Original Model", "原始模型", "/models/base")[number % 3]}))
    lh.ingest([tmp_path / "study/results", tmp_path / "study/baselines"], warehouse=tmp_path / "w")
    with Warehouse(tmp_path / "w") as wh:
        bases = wh.sql("SELECT model_id, base_checkpoint_id FROM models WHERE base_checkpoint_id IS NOT NULL")
        assert set(bases["model_id"]) == {HGSP, LLM_PRUNER, SHORT_7, SHORT_4}
        assert bases["base_checkpoint_id"].n_unique() == 1
        assert set(wh.query("against_base")["base_model_id"]) == {BASE}


def test_removed_layers_are_named_where_a_file_names_them(summary):
    assert summary[SHORT_7]["removed_layers"] == [22, 23, 24, 25, 26, 27, 28]
    assert summary[SHORT_7]["status_note"] is None
    assert (summary[HGSP]["removed_layers"], summary[LLM_PRUNER]["removed_layers"]) == ([], [])


def test_where_no_file_names_them_it_is_said_how_many_and_not_which(summary, wh):
    row = summary[SHORT_4]
    assert (row["removed_layers"], row["num_removed_layers"]) == (None, 4)
    assert row["status_note"] == "4 of 32 blocks removed, no file says which"
    assert wh.layers(SHORT_4)["base_layer_index"].null_count() == 32


def test_layers_that_stand_out(wh):
    columns = ("model_id", "level", "n_layers", "base_layers")
    assert wh.query("special_layers").select(columns).rows() == [
        (SHORT_7, "removed", 7, [22, 23, 24, 25, 26, 27, 28]),
        (HGSP, "heavy", 6, [9, 10, 11, 12, 25, 26]),
        (HGSP, "light", 17, [6, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 27, 28, 30, 31]),
        (SHORT_4, "removed", 4, None),
    ]


def test_llm_pruner_left_its_first_and_last_layers_alone(wh):
    layers = wh.layers(LLM_PRUNER).select("base_layer_index", "layer_index", "reduction_ratio", "level").rows()
    untouched = {0, 1, 2, 3, 30, 31}
    assert layers == [
        (index, index, 0.0, "untouched") if index in untouched else (index, index, 0.2742723004694836, "medium")
        for index in range(32)
    ]


def test_a_perplexity_of_a_named_context_stands_apart(performance):
    row = performance[TUNED]
    assert row["perplexities"] == {"ptb@2048/512": 17.799942016601562, "wikitext2@2048/512": 11.25265121459961}
    assert (row["ppl_wikitext2"], row["ppl_ptb"]) == (None, None)


def test_complete_models_are_ranked_and_differ_from_the_base_by_more_than_their_errors(warehouse, performance):
    """HGSP is before SliceGPT in five of seven tasks. The other models have no results, or not all tasks."""
    done = layerhouse("performance", "--complete", "--rank", "--delta", "--stderr", "-w", warehouse, "-f", "json")
    assert (done.returncode, done.stderr) == (0, "4 rows lack a task and are left out\n")
    rows = json.loads(done.stdout)
    assert [(row["model_id"], row["mean_rank"], row["n_ranked"]) for row in rows] == [
        (BASE, 1.0, 7),
        (HGSP, (5 * 2 + 2 * 3) / 7, 7),
        (SLICED, (5 * 3 + 2 * 2) / 7, 7),
    ]
    base, pruned, sliced = rows
    assert pruned["boolq_delta"] == pytest.approx(performance[HGSP]["boolq"] - performance[BASE]["boolq"], abs=1e-15)
    assert pruned["boolq_delta_stderr"] == pytest.approx((base["boolq_stderr"] ** 2 + pruned["boolq_stderr"] ** 2) ** 0.5)
    assert all(pruned[f"{task}_beyond_2se"] is True for task in ("boolq", "openbookqa", "mean_accuracy"))
    assert (base["boolq_delta"], sliced["boolq_delta"]) == (None, None)


def test_a_model_with_results_alone_has_its_row(summary, performance):
    assert summary[SLICED]["params"] == 7219960768
    assert summary[SLICED]["size_gb"] == 13.44822871685028
    assert summary[SLICED]["status_note"] == "results alone, no structure: size and parameters as they report them"
    assert performance[SLICED]["boolq"] == 0.5596330275229358
    assert set(performance[SLICED]["perplexities"]) == {"ptb@128", "ptb@2048/512", "wikitext2@128", "wikitext2@2048/512"}


def test_methods_are_grouped(wh):
    columns = ("method", "declared_ratio", "declared_removed_layers", "n_models", "n_reduction", "reduction_ratio_mean")
    assert wh.query("methods").select(columns).rows() == [
        ("HGSP", 0.2, None, 2, 1, 0.199998673816496),
        ("LLM-Pruner", 0.1937, None, 1, 1, 0.19368910076087228),
        ("ShortGPT", None, 4, 1, 1, 0.10864503321324571),
        ("ShortGPT", None, 7, 1, 1, 0.19012880812318),
        ("SliceGPT", 0.2, None, 1, 0, None),
    ]


def test_a_second_run_finds_nothing_new(warehouse):
    commits = sorted((warehouse / "commits").iterdir())
    done = layerhouse("ingest", "baselines", "results", "-w", warehouse, cwd=STUDY)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, f"7 unchanged; warehouse {warehouse}")
    assert sorted((warehouse / "commits").iterdir()) == commits


def test_the_written_performance_is_the_published_one(warehouse, tmp_path):
    paths = {suffix: tmp_path / f"t.{suffix}" for suffix in ("csv", "xlsx", "md", "html", "tex")}
    for path in paths.values():
        assert layerhouse("performance", "-w", warehouse, "-o", path).returncode == 0
    with paths["csv"].open(encoding="utf-8") as file:
        found = {row["model_id"]: row for row in csv.DictReader(file)}
    book = openpyxl.load_workbook(paths["xlsx"])
    sheet = list(book[book.sheetnames[0]].iter_rows(values_only=True))
    cells = {row[0]: dict(zip(found[BASE], row, strict=True)) for row in sheet[1:]}
    for row in published("performance"):
        for column, (our_column, scale) in PERFORMANCE.items():
            assert_to_its_digits(float(found[row["model"]][our_column]) * scale, row[column])
            assert_to_its_digits(cells[row["model"]][our_column] * scale, row[column])
    for suffix in ("md", "html", "tex"):
        (line,) = (line for line in paths[suffix].read_text("utf-8").splitlines() if BASE in line)
        for text in ("14.958", "19.52", "84.40", "78.84", "69.70", "34.367", "15324.633"):
            assert text in line
