"""The command as a user types it: streams, exit codes, formats, messages."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from layerhouse import demo
from layerhouse.ingest.measure.kernels.cpu import IS_BUILT
from layerhouse.tests import study_builder
from layerhouse.tests.running import CLEAN, layerhouse, run_on_terminal
from layerhouse.version import __version__
from layerhouse.warehouse.storage.schema import TABLES

NOT_BUILT = "import sys; sys.modules['layerhouse.ingest.measure.kernels._loops'] = None"
DEMO_LINES = [
    "taken       baselines/Tiny-Base: weights (1 file, 3.3 MiB, 75 tensors), 1 result file",
    "taken       baselines/Magnitude_2of4: weights (1 file, 3.3 MiB, 75 tensors), 1 result file",
    "taken       baselines/Magnitude_5000: weights (1 file, 3.3 MiB, 75 tensors), 1 result file",
    "taken       baselines/ShortGPT_remove_2: weights (1 file, 2.6 MiB, 57 tensors), 1 result file",
    "taken       results/HeadPrune_2000: weights (1 file, 2.8 MiB, 75 tensors), 1 result file",
    "taken       results/LLM-Pruner_2000: weights (1 file, 2.8 MiB, 75 tensors)",
]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study of analyses, ingested once; tests only read it."""
    folder = tmp_path_factory.mktemp("study")
    study_builder.write_study(folder)
    result = layerhouse("ingest", "baselines", "results", cwd=folder)
    assert (result.returncode, result.stdout) == (0, "")
    return folder


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """The study of `demo --keep`; tests only read it."""
    folder = tmp_path_factory.mktemp("demo") / "kept"
    result = layerhouse("demo", "--keep", folder, PYTHONHASHSEED="1")
    assert result.returncode == 0, result.stderr
    return folder


def test_the_demo_prints_the_three_tables_and_its_lines_alone_and_leaves_nothing(tmp_path):
    result = layerhouse("demo", TMPDIR=str(tmp_path))
    assert result.returncode == 0, result.stderr
    headings = [line for line in result.stdout.splitlines() if re.match(r"(summary|per_layer|performance)\b", line)]
    assert headings == ["summary", "per_layer of results/HeadPrune_2000", "performance"]
    *lines, last = result.stderr.splitlines()
    assert lines == DEMO_LINES
    assert last.startswith(f"6 taken; warehouse {tmp_path}/layerhouse-demo-")
    assert list(tmp_path.iterdir()) == []


def test_the_demo_keeps_its_study_on_request_and_overwrites_nothing(kept):
    assert (kept / "layerhouse-data/layerhouse.json").is_file()
    again = layerhouse("demo", "--keep", kept)
    assert again.returncode == 2
    assert again.stderr == f"layerhouse: {kept}: exists and is not an empty folder\n"


def test_the_demo_shows_each_way_to_prune(kept):
    result = layerhouse(
        "sql", "SELECT model_id, strategy, removed_layers, prunable_sparsity FROM models", "-f", "json", cwd=kept
    )
    rows = {row["model_id"]: row for row in json.loads(result.stdout)}
    assert {name: row["strategy"] for name, row in rows.items()} == {
        "baselines/Magnitude_2of4": "masked",
        "baselines/Magnitude_5000": "masked",
        "baselines/ShortGPT_remove_2": "layer_removal",
        "baselines/Tiny-Base": "dense",
        "results/HeadPrune_2000": "non_uniform",
        "results/LLM-Pruner_2000": "non_uniform",
    }
    assert rows["baselines/ShortGPT_remove_2"]["removed_layers"] == [4, 5]
    assert [rows[f"baselines/Magnitude_{name}"]["prunable_sparsity"] for name in ("2of4", "5000")] == [0.5, 0.5]


def test_the_results_of_the_demo_count_the_parameters_of_its_weights(kept):
    sql = """SELECT model_id, params, value_integer FROM models JOIN model_results USING (model_id)
        WHERE metric = 'total_params' AND params <> value_integer"""
    assert json.loads(layerhouse("sql", sql, "-f", "json", cwd=kept).stdout) == []


def test_the_demo_writes_the_same_bytes_every_time(kept, tmp_path):
    demo.write_study(tmp_path)
    files = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {
        path.relative_to(kept): path.read_bytes()
        for folder in ("baselines", "results")
        for path in (kept / folder).rglob("*")
        if path.is_file()
    }


def test_every_input_has_a_line_on_stderr_and_stdout_stays_empty(study, tmp_path):
    result = layerhouse("ingest", study / "baselines", study / "results", "-w", tmp_path / "w")
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "taken       baselines/ShortGPT_remove_3: 3 analysis files, 1 result file",
        "taken       baselines/Tiny-Base: 1 analysis file, 1 result file",
        "taken       baselines/Uniform_2000: 2 analysis files, 1 result file",
        "taken       results/EmptyBlocks_1: 2 analysis files",
        "taken       results/HeadPrune_2000: 2 analysis files, 1 result file",
        f"5 taken; warehouse {tmp_path / 'w'}",
    ]


def test_a_second_ingest_finds_nothing_new(study):
    result = layerhouse("ingest", "baselines", "results", "--quiet", cwd=study)
    assert (result.returncode, result.stderr) == (0, "5 unchanged; warehouse layerhouse-data\n")


def test_bad_inputs_are_named_exit_1_and_the_others_are_in(study, tmp_path):
    root = tmp_path / "results"
    demo.write_json(root / "good/evaluation/evaluation_results.json", {"metrics": {"avg_zeroshot_acc": 0.5}})
    demo.write_json(root / "other/evaluation/notes.json", {"hello": 1})
    (root / "cut/evaluation").mkdir(parents=True)
    (root / "cut/evaluation/evaluation_results.json").write_text('{"metrics": {"ppl": {"ptb": 1')
    (root / "empty").mkdir()
    result = layerhouse("ingest", root, tmp_path / "missing", "-w", tmp_path / "w")
    assert result.returncode == 1
    failed = sorted(line for line in result.stderr.splitlines() if line.startswith("FAILED"))
    assert [line.split(": ")[0].split()[1] for line in failed] == [
        str(tmp_path / "missing"),
        f"{root}/cut/evaluation/evaluation_results.json",
        f"{root}/empty",
        f"{root}/other/evaluation/notes.json",
    ]
    assert result.stderr.splitlines()[-1].startswith("1 taken, 4 failed")
    summary = layerhouse("summarize", "-w", tmp_path / "w", "--format", "json")
    assert [row["model_id"] for row in json.loads(summary.stdout)] == ["results/good"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ingest"], "Missing argument"),
        (["summarize", "--nonsense"], "No such option"),
        (["summarize", "--format", "docx"], "no format 'docx'; there is text, csv, json, ndjson, markdown, parquet"),
        (["performance", "--output", "table.docx"], "the suffix names no format"),
        (["query", "nothing"], "no query 'nothing'; there is against_base, changes, conflicts, correlation"),
        (["layers", "results/none"], "no model 'results/none'; there is baselines/ShortGPT_remove_3, baselines/Tiny-Base"),
        (["tables", "nothing"], "no table or view 'nothing'"),
        (["sql"], "give a statement, or --init"),
        (["sql", "SELEC 1"], "Parser Error"),
        (["summarize", "--as-of", "yesterday"], "not a time"),
        (["export", "--duckdb", "layerhouse-data/layerhouse.json"], "exists already"),
        (["performance", "--output", "no/such/folder/t.csv"], "cannot be written"),
    ],
)
def test_usage_errors_exit_2_with_what_to_do(study, arguments, message):
    result = layerhouse(*arguments, cwd=study)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_no_warehouse_is_one_line_and_exit_3(tmp_path):
    for command in (["summarize"], ["layers"], ["sql", "SELECT 1"], ["tables"], ["check"], ["drop", "x"], ["sql", "--init"]):
        result = layerhouse(*command, cwd=tmp_path)
        assert result.returncode == 3
        assert result.stderr.startswith(f"layerhouse: {tmp_path / 'layerhouse-data'}: no warehouse here; make one with: ")
        assert result.stderr.count("\n") == 1


def test_the_environment_names_the_warehouse(study, tmp_path):
    result = layerhouse("summarize", "-f", "csv", cwd=tmp_path, LAYERHOUSE_WAREHOUSE=str(study / "layerhouse-data"))
    assert len(result.stdout.splitlines()) == 6


def test_formats_agree_on_rows_and_names(study, tmp_path):
    as_csv = list(csv.DictReader(io.StringIO(layerhouse("performance", "-f", "csv", cwd=study).stdout)))
    as_json = json.loads(layerhouse("performance", "-f", "json", cwd=study).stdout)
    as_lines = [json.loads(line) for line in layerhouse("performance", "-f", "ndjson", cwd=study).stdout.splitlines()]
    assert layerhouse("performance", "-o", tmp_path / "t.parquet", cwd=study).returncode == 0
    as_parquet = pq.read_table(tmp_path / "t.parquet")
    markdown = layerhouse("performance", "-f", "md", cwd=study).stdout
    as_markdown = [line for line in markdown.splitlines() if line.startswith("|")]
    assert as_json == as_lines
    assert list(as_csv[0]) == list(as_json[0]) == as_parquet.column_names
    assert [row["model_id"] for row in as_csv] == [row["model_id"] for row in as_json] == as_parquet["model_id"].to_pylist()
    assert len(as_markdown) == len(as_json) + 2
    assert [row["boolq"] for row in as_json] == [0.61, 0.74, 0.58, None, 0.66]
    assert [row["boolq"] for row in as_csv] == ["0.61", "0.74", "0.58", "", "0.66"]


def test_model_globs_filter_and_order_stays(study):
    result = layerhouse("summarize", "-f", "csv", "--model", "results/*", "--model", "baselines/Tiny*", cwd=study)
    assert [line.split(",")[0] for line in result.stdout.splitlines()[1:]] == [
        "baselines/Tiny-Base",
        "results/EmptyBlocks_1",
        "results/HeadPrune_2000",
    ]


def test_a_base_that_is_a_model_is_its_own_base(study):
    row = json.loads(layerhouse("summarize", "-f", "json", "-m", "baselines/Tiny-Base", cwd=study).stdout)[0]
    assert (row["base_params"], row["reduction_ratio"], row["removed_layers"]) == (row["params"], 0.0, [])


def test_summarize_with_a_prefix_writes_the_study_form(study, tmp_path):
    result = layerhouse("summarize", "--output", tmp_path / "summary.v1", cwd=study)
    assert (result.returncode, result.stdout) == (0, "")
    document = json.loads((tmp_path / "summary.v1.json").read_text("utf-8"))
    assert document["total_models"] == 5
    removed = document["models"][0]
    assert removed["name"] == "baselines/ShortGPT_remove_3"
    assert [layer["layer_idx"] for layer in removed["layer_pruning"] if layer["is_zero"]] == [8, 9, 10]
    assert removed["zero_layers"] == []
    lines = (tmp_path / "summary.v1.txt").read_text("utf-8").splitlines()
    names = [line.split()[0] for line in lines[6:11]]
    assert (names[0], sorted(names)) == ("baselines/Tiny-Base", [model["name"] for model in document["models"]])


def test_summarize_with_a_known_suffix_writes_the_table(study, tmp_path):
    assert layerhouse("summarize", "--output", tmp_path / "t.csv", cwd=study).returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def test_sql_reads_standard_input_and_keeps_integers(study):
    result = layerhouse(
        "sql", "-", "-f", "csv", cwd=study, stdin="SELECT sum(9007199254740993) AS n, typeof(sum(params)) AS t FROM layers"
    )
    assert result.stdout == "n,t\n" + str(9007199254740993 * 57) + ",HUGEINT\n"


def test_query_lists_shows_and_runs(study):
    listing = layerhouse("query", "-f", "csv", cwd=study).stdout
    assert [line.split(",")[0] for line in listing.splitlines()] == [
        "name",
        "against_base",
        "changes",
        "conflicts",
        "correlation",
        "declared",
        "doubtful",
        "history",
        "lineage",
        "methods",
        "missing",
        "per_layer",
        "performance",
        "performance_variants",
        "special_layers",
        "structure",
        "summary",
        "trade_off",
        "unit_overlap",
        "unit_pruning",
        "unlinked",
    ]
    assert "FROM method_groups" in layerhouse("query", "methods", "--show", cwd=study).stdout
    rows = list(csv.DictReader(io.StringIO(layerhouse("query", "special_layers", "-f", "csv", cwd=study).stdout)))
    assert {row["level"] for row in rows} == {"removed", "zero"}


def test_tables_lists_every_table_and_the_columns_of_one(study):
    rows = list(csv.DictReader(io.StringIO(layerhouse("tables", "-f", "csv", cwd=study).stdout)))
    assert {row["name"] for row in rows} >= {*TABLES, "models", "layer_pruning", "model_results", "performance", "history"}
    assert {row["name"]: row["num_rows"] for row in rows}["models"] == "5"
    columns = list(csv.DictReader(io.StringIO(layerhouse("tables", "layers", "-f", "csv", cwd=study).stdout)))
    assert [row["column"] for row in columns] == list(TABLES["layers"].column_names)
    assert all(row["description"] for row in columns)


@pytest.mark.parametrize(("blocked", "engine"), [("", "C" if IS_BUILT else "numpy"), (NOT_BUILT, "numpy")])
def test_the_version_names_the_engine_that_counts(blocked, engine):
    code = f"{blocked}\nimport sys\nfrom layerhouse.cli import main\nsys.argv = ['layerhouse', '--version']\nmain()"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert (result.stdout, result.stderr) == (f"layerhouse {__version__} (counts in {engine})\n", "")


def test_help_lists_the_commands():
    helped = layerhouse("-h").stdout
    for command in (
        "check",
        "demo",
        "drop",
        "expect",
        "export",
        "ingest",
        "layers",
        "performance",
        "query",
        "rename",
        "sql",
        "summarize",
    ):
        assert re.search(rf"^  {command} ", helped, re.MULTILINE), command


def test_a_closed_pipe_is_no_traceback(study):
    shell = f"{sys.executable} -m layerhouse layers -f csv | head -1"
    result = subprocess.run(shell, shell=True, cwd=study, env=CLEAN, capture_output=True, encoding="utf-8", check=False)
    assert result.stdout.startswith("model_id,")
    assert result.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_one_line(study):
    command = [sys.executable, "-m", "layerhouse", "layers", "-f", "csv"]
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            command, cwd=study, env=CLEAN, stdout=full, stderr=subprocess.PIPE, encoding="utf-8", check=False
        )
    assert result.returncode == 1
    assert result.stderr == "layerhouse: stdout: cannot be written: No space left on device; make room and run it again\n"


def test_names_cannot_write_escapes_to_the_terminal(tmp_path):
    demo.write_json(
        tmp_path / "results/a\x1b[31m\nb/evaluation/evaluation_results.json", {"metrics": {"avg_zeroshot_acc": 0.5}}
    )
    result = layerhouse("ingest", tmp_path / "results", "-w", tmp_path / "w")
    assert result.returncode == 0
    assert "\x1b" not in result.stderr
    assert r"results/a\x1b[31m\nb" in result.stderr
    assert "\x1b" not in layerhouse("summarize", "-w", tmp_path / "w").stdout


def test_a_terminal_gets_a_progress_bar_and_lines(study, tmp_path):
    code, output = run_on_terminal(["ingest", study / "results", "-w", tmp_path / "w"], study)
    assert code == 0
    assert "results/HeadPrune_2000: 2 analysis files, 1 result file" in output
    assert "models" in output
    assert "━" in output


def test_a_terminal_gets_tables_of_its_width(study):
    code, output = run_on_terminal(["summarize"], study)
    assert code == 0
    assert max(len(line) for line in output.splitlines() if not line.startswith("not known")) <= 100


def test_a_terminal_gets_no_parquet(study):
    code, output = run_on_terminal(["summarize", "-f", "parquet"], study)
    assert code == 2
    assert "parquet is not for a terminal; name a file with --output" in output


@pytest.mark.parametrize("suffix", [".xls", ".pdf", ".doc", ".PDF", ".foo", ".ods"])
def test_a_suffix_of_an_unknown_format_is_refused_and_nothing_is_written(study, tmp_path, suffix):
    commands = (["summarize"], ["layers"], ["sql", "SELECT 1"], ["tables"])
    for command in commands if suffix == ".xls" else commands[2:3]:
        result = layerhouse(*command, "-o", tmp_path / f"table{suffix}", cwd=study)
        assert result.returncode == 2
        assert "the suffix names no format (.txt, .csv, .json, .ndjson, .jsonl, .md, .parquet, .xlsx" in result.stderr
        assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["summary.v2", "summary.2026-01-31", "Qwen2.5-0.5B", "plain"])
def test_the_prefix_of_a_summary_may_have_dots(study, tmp_path, name):
    assert layerhouse("summarize", "-o", tmp_path / name, cwd=study).returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{name}.json", f"{name}.txt"]


def test_a_format_and_a_suffix_that_contradict_each_other_are_refused(study, tmp_path):
    for command in (["summarize"], ["performance"], ["sql", "SELECT 1"]):
        result = layerhouse(*command, "-f", "json", "-o", tmp_path / "x.csv", cwd=study)
        assert result.returncode == 2
        message = f"--format json and the suffix of {tmp_path / 'x.csv'} contradict each other; leave out one of them"
        assert result.stderr == f"layerhouse: {message}\n"
    assert list(tmp_path.iterdir()) == []
    for options in (["-f", "jsonl", "-o", "x.ndjson"], ["-f", "md", "-o", "x.md"], ["-f", "csv", "-o", "x.data"]):
        assert layerhouse("sql", "SELECT 1 AS a", *options, "-w", study / "layerhouse-data", cwd=tmp_path).returncode == 0


def test_an_error_that_nobody_foresaw_is_one_line(tmp_path):
    script = (
        "import sys, layerhouse.cli, layerhouse.warehouse.answers.handle as handle\n"
        "handle.Warehouse.__init__ = lambda *_, **__: {}['a\\x1b[2J\\n']\n"
        "sys.argv = ['layerhouse', 'summarize', '-w', 'w']\n"
        "layerhouse.cli.main()\n"
    )
    for environment, lines in (({}, 1), ({"LAYERHOUSE_DEBUG": "1"}, 2)):
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=tmp_path,
            env={**CLEAN, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert (done.returncode, done.stdout) == (1, "")
        said = done.stderr.splitlines()
        assert (len(said) == 1) == (lines == 1)
        assert said[-1].startswith("layerhouse: unexpected KeyError: ")
        assert said[-1].endswith("; please report it with the command; LAYERHOUSE_DEBUG=1 prints where it happened")
        assert "\x1b" not in done.stderr
