"""Text of others on every path to a terminal: model names, files, tasks, columns, errors. Nothing of it is ever raw."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys

import openpyxl
import pytest

import layerhouse as lh
from layerhouse import demo
from layerhouse.cli import cli
from layerhouse.tests import study_builder
from layerhouse.tests.running import CLEAN, layerhouse, run_on_terminal

EVIL = "=e\x1b[31m\r\x07\x7f\x9b2J\u202e\u2066\u2028\u200b\U000e0041\nlayerhouse: all is well\tz"
"""A name that would colour, ring, clear, turn round and end the line, and write one of its own."""
RAW = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff\U000e0000-\U000e0fff]")
MODEL = f"results/{EVIL}"
FORMATS = ("text", "json", "ndjson", "markdown", "html", "latex")
TABLES = (
    *(
        ["summarize"],
        ["summarize", "--since", "2020-01-01"],
        ["layers"],
        ["lineage"],
        ["performance", "--tasks", "*"],
        ["tables"],
        ["formats"],
        ["query"],
    ),
    *(["plot"], ["plot", "heat", "-f", "svg"], ["plot", "heat", "-f", "html"], ["plot", "layers", MODEL, "-f", "json"]),
    *(["tables", "models"], ["sql", "SELECT * FROM models"], ["sql", "--safe", "SELECT * FROM results"]),
    ["sql", f'SELECT 1 AS "{EVIL}", model_id FROM models'],
    *(
        ["query", name]
        for name in ("history", "lineage", "methods", "missing", "per_layer", "structure", "summary", "trade_off", "unlinked")
    ),
)
"""Commands that print a table."""
WRONG = (
    (["summarize", f"--{EVIL}"], 2),
    (["summarize", "--digits", EVIL], 2),
    (["summarize", "--lang", EVIL], 2),
    ([EVIL], 2),
    (["summarize", "-m", f"{EVIL}?!"], 2),
    (["summarize", "-f", EVIL], 2),
    (["summarize", "-o", f"{EVIL}.xls"], 2),
    (["summarize", "-f", "json", "-o", f"{EVIL}.csv"], 2),
    (["summarize", "-o", f"no/{EVIL}.csv"], 2),
    (["summarize", "--where", f"model_id = {EVIL}"], 2),
    (["summarize", "--where", f"CAST(model_id AS INTEGER) = 1 OR model_id = '{EVIL}'"], 2),
    (["summarize", "--columns", EVIL], 2),
    (["summarize", "--sort", EVIL], 2),
    (["summarize", "--group", EVIL], 2),
    (["summarize", "--as-of", EVIL], 2),
    (["summarize", "--since", EVIL], 2),
    (["summarize", "-w", EVIL], 3),
    (["layers", f"{EVIL}?!"], 2),
    (["lineage", f"{EVIL}?!"], 2),
    (["compare", MODEL, f"no{EVIL}"], 2),
    (["compare", f"no{EVIL}"], 2),
    (["compare", MODEL, MODEL], 2),
    (["diff", "layerhouse-data", EVIL], 3),
    (["diff", EVIL, "layerhouse-data"], 3),
    (["diff", "layerhouse-data", "layerhouse-data", "-m", f"{EVIL}?!"], 2),
    (["analysis", f"no{EVIL}", "-O", "out"], 2),
    (["report", "-o", EVIL], 2),
    (["report", "-o", f"no/{EVIL}.html"], 2),
    (["report", "-o", "report.html", "-m", f"{EVIL}?!"], 2),
    (["query", EVIL], 2),
    (["plot", EVIL, "-f", "svg"], 2),
    (["plot", "heat", f"{EVIL}?!", "-f", "svg"], 2),
    (["plot", "heat", "--measure", EVIL, "-f", "svg"], 2),
    (["plot", "heat", "--width", EVIL, "-f", "svg"], 2),
    (["plot", "tradeoff", "--y", EVIL, "-f", "svg"], 2),
    (["plot", "heat", "-f", EVIL], 2),
    (["plot", "heat", "-o", f"{EVIL}.xls"], 2),
    (["plot", "heat", "-o", f"no/{EVIL}.svg"], 2),
    (["tables", EVIL], 2),
    (["sql", f"SELECT {EVIL}"], 2),
    (["sql", "SELECT CAST(model_id AS INTEGER) FROM models"], 2),
    (["sql", f"SELECT error('{EVIL}')"], 2),
    (["sql", f"FROM read_csv('{EVIL}')"], 2),
    (["sql", "--safe", f"FROM '{EVIL}.csv'"], 2),
    (["sql", "--init", "-w", EVIL], 3),
    (["link", EVIL, MODEL], None),
    (["link", "--from", EVIL], 2),
    (["drop", f"no{EVIL}"], 2),
    (["rename", f"no{EVIL}", "x"], 2),
    (["export", "--duckdb", f"no/{EVIL}.duckdb"], 2),
    (["check", "-w", EVIL], 3),
    (["pack", "-w", EVIL], 3),
    (["pack", "--prune", EVIL], 2),
    (["expect", f"{EVIL} = 1"], 2),
    (["completion", EVIL], 2),
    (["demo", "--keep", "results"], 2),
    (["ingest", EVIL], None),
    (["ingest", "results", "--base", EVIL], None),
    (["ingest", "results", "--device", EVIL], 2),
    (["ingest", "results", "--method-pattern", f"({EVIL}"], 2),
    (["ingest", "results", "-w", "results"], None),
)
"""Wrong usage with the name in it, and the exit code, where it is not the subject of another test."""


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study of which a model, its files, a task, a base and a note have the name."""
    folder = tmp_path_factory.mktemp("hostile")
    base = study_builder.analysis_document(EVIL, study_builder.BASE)
    widths = study_builder.BASE[:11]
    model = folder / "results" / EVIL
    demo.write_json(model / "analysis/pruned_model_analysis.json", study_builder.analysis_document(EVIL, widths))
    demo.write_json(model / "analysis/original_model_analysis.json", base)
    demo.write_json(model / "evaluation/evaluation_results.json", {"metrics": {"avg_zeroshot_acc": 0.5}})
    (folder / "scores").mkdir()
    (folder / "scores" / f"{EVIL}.csv").write_text(
        f'model,task,metric,value\n"{MODEL}","{EVIL}",acc,0.5\n"nobody{EVIL}","{EVIL}",acc,0.5\n', newline=""
    )
    (folder / "results" / f"cut{EVIL}").mkdir()
    (folder / "results" / f"cut{EVIL}" / f"{EVIL}.safetensors").write_bytes(b"\x08" + bytes(7) + b'{"a\x1b"')
    study_builder.write_study(folder)
    result = layerhouse("ingest", "results", "baselines", "scores", cwd=folder)
    assert (result.returncode, MODEL in result.stderr, r"results/=e\x1b[31m" in result.stderr) == (1, False, True), (
        result.stderr
    )
    assert_nothing_raw(result)
    with lh.open(folder / "layerhouse-data") as wh:
        assert MODEL in wh.models()["model_id"].to_list()
    return folder


def assert_nothing_raw(result, *, is_code_known: int | None = None):
    assert "Traceback" not in result.stderr, result.stderr
    for text in (result.stdout, result.stderr):
        assert RAW.search(text) is None, ascii(text)
        assert "\nlayerhouse: all is well" not in text
    if is_code_known is not None:
        assert result.returncode == is_code_known, result.stderr


def run_all(commands, cwd):
    """Run many commands in one process, each as the installed command would; starting Python for each would take minutes."""
    process = subprocess.run(
        [sys.executable, "-c", MANY],
        input=json.dumps(commands),
        cwd=cwd,
        env=CLEAN,
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    answers = json.loads(process.stdout)
    assert len(answers) == len(commands)
    return [subprocess.CompletedProcess(arguments, *answer) for arguments, answer in zip(commands, answers, strict=True)]


MANY = """
import json, os, sys, tempfile, traceback
from layerhouse.cli import main
answers, own = [], os.dup(1)
for arguments in json.loads(sys.stdin.read()):
    sys.argv = ["layerhouse", *arguments]
    files = [tempfile.TemporaryFile(), tempfile.TemporaryFile()]
    for number, file in enumerate(files, start=1):
        os.dup2(file.fileno(), number)
    try:
        main()
    except SystemExit as leaving:
        code = leaving.code
    except BaseException:
        code = 1
        traceback.print_exc()
    sys.stdout.flush(), sys.stderr.flush()
    for file in files:
        file.seek(0)
    answers.append([int(code), *(file.read().decode() for file in files)])
os.write(own, json.dumps(answers).encode())
"""


def test_tables_show_it_escaped(study):
    commands = [[*arguments] for arguments in TABLES]
    commands += [["sql", f'SELECT 1 AS "{EVIL}", model_id, status_note FROM models', "-f", name] for name in FORMATS]
    for result in run_all(commands, study):
        assert_nothing_raw(result, is_code_known=0)
        assert result.stdout


def test_errors_show_it_escaped_and_on_one_line(study):
    for (arguments, code), result in zip(WRONG, run_all([arguments for arguments, _ in WRONG], study), strict=True):
        assert_nothing_raw(result, is_code_known=code)
        assert result.stderr, arguments
        is_sql = arguments[0] == "sql" and len(arguments) == 2
        lines = result.stderr.removesuffix("\n").split("\n")
        if is_sql:
            assert all(line == "" or line.startswith("  ") for line in lines[1:]), result.stderr
        elif lines[0].startswith("Usage: "):
            assert (len(lines), lines[-1].startswith("Error: ")) == (4, True), result.stderr
        elif arguments[0] != "ingest":
            assert len(lines) == 1, result.stderr


def test_every_command_is_walked():
    walked = {arguments[0] for arguments in (*TABLES, *(arguments for arguments, _ in WRONG))}
    assert walked >= {*cli.commands}


def test_messages_pictures_scripts_and_files_show_it_escaped(study, tmp_path):
    commands = (
        (["compare", MODEL], 0),
        (["compare", MODEL, "results/HeadPrune_2000"], 0),
        (["compare", "results/HeadPrune_2000", MODEL], 0),
        (["layers", MODEL, "--picture"], 0),
        (["analysis", MODEL, "-O", f"{tmp_path}/{EVIL}"], 0),
        (["summarize", "-o", f"{tmp_path}/{EVIL}/summary"], 0),
        (["summarize", "-o", f"{tmp_path}/{EVIL}prefix"], 0),
        (["layers", "-o", f"{tmp_path}/{EVIL}.csv"], 0),
        (["plot", "heat", "-o", f"{tmp_path}/{EVIL}.pdf"], 0),
        (["plot", "layers", "-o", f"{tmp_path}/{EVIL}figures"], 0),
        (["report", "-o", f"{tmp_path}/{EVIL}.html", "--title", EVIL], 0),
        (["export", "--duckdb", f"{tmp_path}/{EVIL}.duckdb"], 0),
        (["ingest", "results", "--write-analysis", f"{tmp_path}/{EVIL}w", "-w", f"{tmp_path}/{EVIL}-wh"], 1),
        (["sql", "--init", "-w", f"{tmp_path}/{EVIL}-wh"], 0),
        (["diff", "layerhouse-data", f"{tmp_path}/{EVIL}-wh"], 0),
        (["diff", f"{tmp_path}/{EVIL}-wh", f"{tmp_path}/{EVIL}-wh"], 0),
        (["rename", MODEL, f"other/{EVIL}", "-w", f"{tmp_path}/{EVIL}-wh"], 0),
        (["link", f"{study}/scores/{EVIL}.csv", f"other/{EVIL}", "-w", f"{tmp_path}/{EVIL}-wh"], 2),
        (["drop", f"other/{EVIL}", "-w", f"{tmp_path}/{EVIL}-wh"], 0),
        (["pack", "--dry-run", "-w", f"{tmp_path}/{EVIL}-wh"], 0),
        (["pack", "-w", f"{tmp_path}/{EVIL}-wh"], 0),
        (["pack", "--prune", "0d", "-w", f"{tmp_path}/{EVIL}-wh"], 0),
        (["check", "-w", f"{tmp_path}/{EVIL}-wh"], 0),
        (["demo", "--keep", f"{tmp_path}/{EVIL}demo"], 0),
    )
    results = run_all([arguments for arguments, _ in commands], study)
    for (_, code), result in zip(commands, results, strict=True):
        assert_nothing_raw(result, is_code_known=code)
    damaged = next(path for path in (tmp_path / f"{EVIL}-wh/layers").glob("*.parquet"))
    damaged.write_bytes(b"")
    for result in run_all(
        [[*names, "-w", f"{tmp_path}/{EVIL}-wh"] for names in (["summarize"], ["check"], ["check", "--repair"])], study
    ):
        assert_nothing_raw(result)
    (tmp_path / f"{EVIL}-wh/commits/{'0' * 32}.json").write_text(json.dumps({"format": 1, "commit": EVIL}))
    assert_nothing_raw(layerhouse("check", "-w", f"{tmp_path}/{EVIL}-wh", cwd=study))


def test_a_terminal_gets_escapes_in_every_format_and_from_the_progress_bar(study, tmp_path):
    for arguments in (["summarize"], ["summarize", "-f", "csv", "--raw"], ["layers", MODEL], ["summarize", "-f", "html"]):
        code, output = run_on_terminal(arguments, study)
        assert code == 0
        assert RAW.search(output.replace("\r\n", "\n")) is None, ascii(output)
    _, output = run_on_terminal(["ingest", "results", "-w", tmp_path / "w"], study)
    assert "\x1b[31m\r" not in output
    assert "\x9b" not in output
    assert "\nlayerhouse: all is well" not in output
    assert re.search(RAW.pattern.replace("\x00-\x09\x0b-\x1f", "\x07"), output) is None


def test_csv_is_safe_in_a_spreadsheet_unless_raw(study, tmp_path):
    sql = "SELECT '=1+1' AS \"+a\", -0.5 AS b, model_id FROM models WHERE starts_with(model_id, 'results/=')"
    shown = layerhouse("sql", sql, "-f", "csv", cwd=study).stdout
    assert next(csv.reader(io.StringIO(shown, newline=""))) == ["'+a", "b", "model_id"]
    assert shown.split("\n")[1].startswith("'=1+1,-0.5,")
    raw = layerhouse("sql", sql, "-f", "csv", "--raw", cwd=study).stdout
    assert raw.split("\n")[1].startswith("=1+1,-0.5,")
    for options, start in (([], "'=1+1"), (["--raw"], "=1+1")):
        assert layerhouse("sql", sql, "-o", tmp_path / "t.csv", *options, cwd=study).returncode == 0
        assert (tmp_path / "t.csv").read_text("utf-8").split("\n")[1].split(",")[0] == start
    assert layerhouse("sql", sql, "-o", tmp_path / "t.xlsx", cwd=study).returncode == 0
    sheet = openpyxl.load_workbook(tmp_path / "t.xlsx").active
    assert [(cell.value, cell.data_type, cell.hyperlink) for cell in sheet[2]][:2] == [("=1+1", "s", None), (-0.5, "n", None)]
    objects = json.loads(layerhouse("sql", sql, "-f", "json", cwd=study).stdout)
    assert objects == [{"+a": "=1+1", "b": -0.5, "model_id": MODEL}]


def test_the_files_of_the_study_have_names_as_they_are(study, tmp_path):
    assert layerhouse("summarize", "-o", tmp_path / "s", cwd=study).returncode == 0
    names = [model["name"] for model in json.loads((tmp_path / "s.json").read_text("utf-8"))["models"]]
    assert MODEL in names
