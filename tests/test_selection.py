"""Rows, columns, order, groups and tasks of the tables, and what tables of incomplete or awkward results look like."""

from __future__ import annotations

import csv
import io
import json

import openpyxl
import pyarrow as pa
import pytest

import layerhouse as lh
from layerhouse import demo
from layerhouse.errors import NotFoundError, UsageError
from layerhouse.tests.running import layerhouse
from layerhouse.tests.test_export import read_markdown, read_text_table, text_of
from layerhouse.warehouse.answers.query import matching_models
from layerhouse.warehouse.answers.selection import (
    Selection,
    filter_rows,
    select_table,
    sort_rows,
    split_names,
)

NAMES = ("results/a|b", "results/=SUM(A1)", "results/数据_é")


def write_results(root, name, zeroshot, **metrics):
    demo.write_json(root / name / "evaluation/evaluation_results.json", {"metrics": {"zeroshot": zeroshot, **metrics}})


def opened(root):
    lh.ingest([root / "results"], warehouse=root / "w")
    return lh.open(root / "w")


@pytest.fixture
def incomplete(tmp_path):
    """Three models and four tasks: the second model lacks one, the third has NaN in one."""
    scores = {"mmlu": 0.5, "gsm8k": 0.25, "boolq": 0.75, "copa": 0.5}
    for name, drop, nan in zip(NAMES, (None, "gsm8k", None), (None, None, "copa"), strict=True):
        tasks = {
            task: {"acc,none": float("nan") if task == nan else value, "acc_stderr,none": 0.01}
            for task, value in scores.items()
            if task != drop
        }
        write_results(tmp_path, name, tasks)
    with opened(tmp_path) as wh:
        yield wh


def test_a_mean_is_over_complete_rows_with_the_count_beside_it(incomplete):
    table = select_table(incomplete.connection, "performance", Selection(tasks=("*",), metrics=("acc",)))
    shown = ["model_id", "boolq/acc", "copa/acc", "gsm8k/acc", "mmlu/acc", "mean_score", "n_tasks"]
    assert [tuple(row.values()) for row in table.select(shown).to_pylist()] == [
        ("results/=SUM(A1)", 0.75, 0.5, None, 0.5, None, 3),
        ("results/a|b", 0.75, 0.5, 0.25, 0.5, 0.5, 4),
        ("results/数据_é", 0.75, None, 0.25, 0.5, None, 3),
    ]
    cells = read_text_table(text_of(table.select(shown)))
    assert cells[0] == ["model", "boolq/acc %", "copa/acc %", "gsm8k/acc %", "mmlu/acc %", "mean score %", "tasks"]
    assert [row[5:] for row in cells[1:]] == [["-", "3/4"], ["50.00", "4/4"], ["-", "3/4"]]


def test_names_survive_every_format(incomplete, tmp_path):
    files = {suffix: tmp_path / f"t.{suffix}" for suffix in ("md", "csv", "json", "xlsx", "html", "tex")}
    for path in files.values():
        done = layerhouse("performance", "--tasks", "mm*,boolq", "-w", tmp_path / "w", "-o", path)
        assert (done.returncode, done.stderr) == (0, f"wrote {path}\n")
    rows = read_markdown(files["md"].read_text("utf-8"))
    assert len({len(row) for row in rows}) == 1
    names = sorted(NAMES)
    assert [row[0] for row in rows[1:]] == names
    assert [row["model_id"] for row in csv.DictReader(io.StringIO(files["csv"].read_text("utf-8")))] == names
    assert [row["model_id"] for row in json.loads(files["json"].read_text("utf-8"))] == names
    book = openpyxl.load_workbook(files["xlsx"])
    sheet = book[book.sheetnames[0]]
    assert [(row[0].value, row[0].data_type) for row in sheet.iter_rows(min_row=2)] == [(name, "s") for name in names]
    assert "results/a|b" in files["html"].read_text("utf-8")
    assert r"results/a\textbar{}b" in files["tex"].read_text("utf-8")
    assert list(tmp_path.glob(".*.tmp")) == []


def test_twelve_tasks_give_twelve_columns_with_blanks_where_nothing_is_known(tmp_path):
    tasks = {f"task{number}": {"acc,none": number / 100, "acc_stderr,none": 0.001, "n_shot": 5} for number in range(11)}
    write_results(tmp_path, "results/m", tasks | {"bare": {"acc,none": 0.5, "acc_stderr,none": "N/A"}})
    write_results(tmp_path, "results/n", {"task0": {"acc,none": 0.0004, "acc_stderr,none": 0.0001}})
    with opened(tmp_path) as wh:
        table = select_table(wh.connection, "performance", Selection(tasks=("*",), metrics=("acc",), shows_errors=True))
    values = [name for name in table.column_names if "/acc" in name and not name.endswith("_stderr")]
    assert len({name.split("/")[0] for name in values}) == 12
    assert [name for name in values if name.startswith("task0/")] == ["task0/acc", "task0/acc@5shot"]
    row = table.to_pylist()[0]
    assert (row["bare/acc"], row["bare/acc_stderr"], row["task3/acc_stderr"]) == (0.5, None, 0.001)
    cells = dict(
        zip(*read_text_table(text_of(table.slice(0, 1).select(["bare/acc", "task3/acc", "task3/acc_stderr"]))), strict=True)
    )
    assert cells == {"bare/acc %": "50.00", "task3/acc %": "3.00 ± 0.10"}


def test_counts_stay_exact_integers_in_every_format(tmp_path):
    write_results(tmp_path, "results/m", {"boolq": {"acc,none": 0.5}}, model_info={"total_params": 2**53 + 1})
    with opened(tmp_path) as wh:
        assert wh.sql("SELECT sum(value_integer) AS n FROM results WHERE metric = 'total_params'")["n"].to_list() == [2**53 + 1]
        table = select_table(wh.connection, "summary", Selection(columns=("model_id", "params")))
    assert table.schema.field("params").type == pa.int64()
    assert text_of(table, "csv").splitlines()[1] == "results/m,9007199254740993"
    assert json.loads(text_of(table, "json"))[0]["params"] == 2**53 + 1
    assert "9,007,199,254,740,993" in text_of(table, "latex")


def test_tasks_without_a_fair_mean_have_none(tmp_path):
    write_results(tmp_path, "results/m", {"mmlu": {"acc,none": 0.5, "acc_norm,none": 0.6}})
    with opened(tmp_path) as wh:
        table = select_table(wh.connection, "performance", Selection(tasks=("mmlu",)))
        assert {"mmlu/acc", "mmlu/acc_norm"} <= set(table.column_names)
        assert not {"mean_score", "n_tasks", "mean_accuracy", "boolq", "other_scores", "group_scores"} & set(table.column_names)
        with pytest.raises(NotFoundError, match="no task 'x'; there is boolq, piqa"):
            select_table(wh.connection, "performance", Selection(tasks=("x",)))
        with pytest.raises(UsageError, match="--tasks is for tables with tasks"):
            select_table(wh.connection, "summary", Selection(tasks=("mmlu",)))
        with pytest.raises(UsageError, match="--stderr is for tables with tasks"):
            select_table(wh.connection, "summary", Selection(shows_errors=True))


def test_groups_are_columns_and_never_in_a_mean_with_other_tasks(tmp_path):
    """A group beside what may be its members would count those twice; alone, or members alone, they have a mean."""
    members = {"mmlu_law": {"acc,none": 0.25, "acc_stderr,none": 0.02}, "mmlu_art": {"acc,none": 0.75}}
    document = {
        "results": members | {"mmlu": {"acc,none": 0.4, "acc_stderr,none": 0.01}},
        "group_subtasks": {"mmlu": [*members]},
        "n-shot": dict.fromkeys(members, 5),
        "model_name": "results/m",
    }
    write_results(tmp_path, "results/m", {"boolq": {"acc,none": 0.5}})
    (tmp_path / "results/m/evaluation/mmlu.json").write_text(json.dumps(document))
    with opened(tmp_path) as wh:
        table = select_table(wh.connection, "performance", Selection(tasks=("mmlu*",), shows_errors=True))
        assert table.select([name for name in table.column_names if "mmlu" in name]).to_pylist() == [
            {
                "mmlu_art/acc@5shot": 0.75,
                "mmlu_art/acc@5shot_stderr": None,
                "mmlu_law/acc@5shot": 0.25,
                "mmlu_law/acc@5shot_stderr": 0.02,
                "mmlu/acc@5shot": 0.4,
                "mmlu/acc@5shot_stderr": 0.01,
            }
        ]
        assert "mean_score" not in table.column_names
        alone = select_table(wh.connection, "performance", Selection(tasks=("mmlu",))).to_pylist()[0]
        assert (alone["mean_score"], alone["n_tasks"]) == (0.4, 1)
        below = select_table(wh.connection, "performance", Selection(tasks=("mmlu_*",))).to_pylist()[0]
        assert (below["mean_score"], below["n_tasks"]) == (0.5, 2)
        by_metric = select_table(wh.connection, "performance", Selection(tasks=("*",), metrics=("acc",)))
        assert {"boolq/acc", "mmlu/acc", "mmlu_art/acc"} <= set(by_metric.column_names)
        assert text_of(table).splitlines()[0].count("%") >= 3


def test_a_file_that_was_replaced_decides_nothing_of_a_column(tmp_path):
    """gsm8k was written as percent first, which is no fraction; the file that stands has fractions."""
    write_results(tmp_path, "results/m", {"gsm8k": {"acc,none": 25.0}})
    opened(tmp_path).close()
    write_results(tmp_path, "results/m", {"gsm8k": {"acc,none": 0.25}})
    with opened(tmp_path) as wh:
        table = select_table(wh.connection, "performance", Selection(tasks=("gsm8k",)))
        assert text_of(table.select(["gsm8k/acc"])).split() == ["gsm8k/acc", "%", "-----------", "25.00"]


TABLE = pa.table({"model_id": ["b", "a", "c", "d"], "x": [1.0, float("nan"), None, 3.0], "g": ["q", None, "p", "q"]})


def test_a_condition_filters_and_values_stay():
    assert filter_rows(TABLE, "x > 0 AND NOT isnan(x)")["model_id"].to_pylist() == ["b", "d"]
    assert filter_rows(TABLE, "g IS NULL -- a base").to_pylist()[0]["model_id"] == "a"
    assert filter_rows(TABLE, "FALSE").schema == TABLE.schema


@pytest.mark.parametrize(
    ("condition", "reason"),
    [
        ("y = 1", 'Referenced column "y" not found'),
        ("TRUE; DROP TABLE answer", "syntax error"),
        ("TRUE) UNION SELECT (1", "syntax error"),
        ("TRUE FROM x", "syntax error"),
        ("", "Parser Error"),
        ("CAST(g AS INTEGER) = 1", "Conversion Error"),
        ("(SELECT count(*) FROM read_text('/etc/hostname')) > 0", "the table function 'read_text' is refused"),
        ("(SELECT count(*) FROM TABLE) > 0", "Error"),
    ],
)
def test_a_bad_condition_is_one_line_with_the_columns(condition, reason):
    with pytest.raises(UsageError) as caught:
        filter_rows(TABLE, condition)
    text = str(caught.value)
    assert text.startswith(f"--where {condition!r}: ")
    assert reason in text
    assert text.endswith("; the columns are model_id, x, g")
    assert "\n" not in text


def test_order_has_null_and_nan_last_and_groups_together():
    assert sort_rows(TABLE, ["x"])["model_id"].to_pylist() == ["b", "d", "a", "c"]
    assert sort_rows(TABLE, ["-x"])["model_id"].to_pylist() == ["d", "b", "a", "c"]
    assert sort_rows(TABLE, ["-x"], ["g"])["model_id"].to_pylist() == ["a", "c", "d", "b"]
    with pytest.raises(UsageError, match="--sort: no column 'y'; the columns are model_id, x, g"):
        sort_rows(TABLE, ["y"])


def test_names_between_commas():
    assert split_names('a, b,"x/y,z",') == ("a", "b", "x/y,z")
    assert split_names("") == ()


def test_tables_are_grouped_and_filtered_by_columns_of_the_model_that_they_do_not_show(tmp_path):
    for name, value in (
        ("results/Base", 0.9),
        ("results/Wanda_5000", 0.5),
        ("results/FLAP_2000", 0.6),
        ("results/Wanda_2000", 0.7),
    ):
        write_results(tmp_path, name, {"boolq": {"acc,none": value}})
    with opened(tmp_path) as wh:
        grouped = select_table(wh.connection, "performance", Selection(group=("method", "ratio")))
        assert grouped.column_names[:3] == ["model_id", "method", "declared_ratio"]
        assert grouped["declared_ratio"].to_pylist() == [None, 0.2, 0.2, 0.5]
        assert grouped["model_id"].to_pylist() == [
            "results/Base",
            "results/FLAP_2000",
            "results/Wanda_2000",
            "results/Wanda_5000",
        ]
        kept = select_table(
            wh.connection, "performance", Selection(where="method = 'Wanda'", sort=("-boolq",), columns=("model",))
        )
        assert kept.to_pydict() == {"model_id": ["results/Wanda_2000", "results/Wanda_5000"]}
        assert wh.query("methods")["method"].to_list() == ["FLAP", "Wanda", "Wanda"]
        for selection in (Selection(columns=("nope",)), Selection(group=("nope",))):
            with pytest.raises(UsageError, match="no column 'nope'; the columns are model_id, params_b"):
                select_table(wh.connection, "performance", selection)
    done = layerhouse(
        "performance", "-w", tmp_path / "w", "--group", "method", "--best", "-f", "md", "--columns", "model,method,boolq"
    )
    assert done.stderr == ""
    assert [row[2] for row in read_markdown_bold(done.stdout)] == ["boolq %", "90.00", "60.00", "**70.00**", "50.00"]
    done = layerhouse("summarize", "-w", tmp_path / "w", "--lang", "zh", "-f", "md", "--columns", "model,method")
    assert done.stdout.splitlines()[0] == "| 模型 | 方法 |"
    done = layerhouse("performance", "-w", tmp_path / "w", "--where", "1 = ", "-f", "csv")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def read_markdown_bold(text):
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "---" not in line and "|" in line
    ]


def test_columns_of_one_name_are_one_line(tmp_path):
    write_results(tmp_path, "results/m", {"boolq": {"acc,none": 0.5}})
    with opened(tmp_path) as wh, pytest.raises(UsageError, match="two columns are named 'a', and a polars frame holds one"):
        wh.sql("SELECT 1 AS a, 2 AS a")
    for suffix in ("json", "ndjson", "parquet"):
        done = layerhouse("sql", "SELECT 1 AS a, 2 AS a", "-w", tmp_path / "w", "-o", tmp_path / f"t.{suffix}")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "two columns are named 'a'" in done.stderr
        assert not (tmp_path / f"t.{suffix}").exists()


MODEL_NAMES = ("results/HGSP_2000", "results/HGSP_2000/step", "baselines/HGSP_2000", "baselines/Wanda_2000", "x/[a]")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("results/HGSP_2000", {"results/HGSP_2000"}),
        ("results/*", {"results/HGSP_2000", "results/HGSP_2000/step"}),
        ("Wanda_2000", {"baselines/Wanda_2000"}),
        ("step", {"results/HGSP_2000/step"}),
        ("HGSP_2000/step", {"results/HGSP_2000/step"}),
        ("[a]", {"x/[a]"}),
        ("*Wanda_2000", {"baselines/Wanda_2000"}),
        ("*/HGSP_2000", {"results/HGSP_2000", "baselines/HGSP_2000"}),
    ],
)
def test_a_model_is_found_by_its_name_a_glob_or_the_only_ending(text, found):
    assert matching_models(MODEL_NAMES, text) == found


@pytest.mark.parametrize(("text", "what"), [("HGSP_2000", "2 models have names that end in 'HGSP_2000'"), ("000", "no model")])
def test_an_ending_of_several_names_or_none_is_refused(text, what):
    with pytest.raises(UsageError, match=what):
        matching_models(MODEL_NAMES, text)


def test_an_unknown_name_among_many_gets_the_nearest_ones():
    error = NotFoundError("model", "results/HGSP_200", tuple(f"a/{number}" for number in range(20)) + MODEL_NAMES)
    assert str(error).startswith("no model 'results/HGSP_200'; did you mean 'results/HGSP_2000' or ")
