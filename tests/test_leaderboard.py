"""Ranks, complete rows and differences from the base, beside values computed by hand; variants; what is said of the rows."""

from __future__ import annotations

import json
import math

import pytest
from click.testing import CliRunner

from layerhouse.cli import cli
from layerhouse.errors import UsageError
from layerhouse.tests.test_sql import stored_rows
from layerhouse.vocabulary import ZERO_SHOT_TASKS
from layerhouse.warehouse.answers.handle import Warehouse
from layerhouse.warehouse.answers.selection import Selection, select_answer
from layerhouse.warehouse.storage.store import create_store, write_commit

TASKS = ("boolq", "piqa", "toxic", "speak")
COMMON = {"harness": "lm_eval", "suite": "zeroshot", "unit": "fraction", "n_shot": 0, "run_at": "2026-01-01T00:00:00Z"}
TOXIC = {"metric": "score", "unit": None, "higher_is_better": False}
SPEAK = {"metric": "acc", "higher_is_better": True}


def score(model, task, value, stderr=None, **more):
    """A row of the result file of a model, or of one of its variants."""
    metric = "acc" if task in ("boolq", "winogrande") else "acc_norm"
    row = COMMON | {"task": task, "metric": metric, "value": value, "stderr": stderr} | more
    return row | {"result_id": f"{model} {more.get('variant')} {more.get('file', '')}", "model_id": model}


def store(root, rows, bases):
    """A warehouse of models with results; `bases` names the base of each model that has one."""
    models = sorted({row["model_id"] for row in rows} | {*bases, *bases.values()})
    files = {row["result_id"]: row["model_id"] for row in rows}
    names = {"model_id", "file"}
    commit = {
        "checkpoints": [{"model_id": model, "params": 1000} for model in models],
        "layer_matches": [
            {"checkpoint_id": model, "base_checkpoint_id": base, "layer_index": 0, "base_layer_index": 0}
            for model, base in bases.items()
        ],
        "results": [{name: value for name, value in row.items() if name not in names} for row in rows],
        "links": [{"result_id": file, "model_id": model} for file, model in files.items()],
    }
    write_commit(create_store(root), {table: stored_rows(table, given) for table, given in commit.items()}, "ingest")
    return root


BOARD = [
    *(score("base", "boolq", 0.75, 0.03), score("a", "boolq", 0.5, 0.04), score("b", "boolq", 0.5, 0.01)),
    score("c", "boolq", 78.9, 0.01, doubt="outside of 0 to 1"),
    *(score("base", "piqa", 0.8, 0.02), score("a", "piqa", 0.75, 0.015), score("b", "piqa", 0.7)),
    *(score("base", "toxic", 0.25, 0.01, **TOXIC), score("a", "toxic", 0.5, 0.01, **TOXIC)),
    *(score("b", "toxic", 0.125, 0.01, **TOXIC), score("c", "toxic", 0.25, 0.01, **TOXIC)),
    *(score("base", "speak", 0.5, **SPEAK), score("b", "speak", 0.25, **SPEAK), score("c", "speak", 0.75, **SPEAK)),
    *(score("a", "speak", 0.5, **SPEAK), score("a", "speak", 0.25, file="again", **SPEAK)),
    *(score("base", "boolq", 0.25, 0.01, variant="load_in_4bit"), score("a", "boolq", 0.125, 0.01, variant="load_in_4bit")),
]
"""Ties, an unknown value, a value of doubtful scale, a conflict, a task of which less is better, variants."""


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    return store(tmp_path_factory.mktemp("board") / "w", BOARD, dict.fromkeys("abc", "base"))


def answer_of(root, name="performance", **options):
    selection = Selection(**options)
    with Warehouse(root) as wh:
        return select_answer(wh.connection_for(selection.asked_sql(name)), name, selection)


def rows_of(root, columns, name="performance", **options):
    table = answer_of(root, name, **options).table
    return [tuple(row.values()) for row in table.select(["model_id", *columns]).to_pylist()]


def test_ranks_share_ties_count_what_is_ranked_and_sort(board):
    """boolq: 1 2.5 2.5 -; piqa: 1 2 3 -; toxic, less is better: 2.5 4 1 2.5; speak: 2 - 3 1, in the order base a b c."""
    assert rows_of(board, ["mean_rank", "n_ranked"], tasks=TASKS, is_ranked=True) == [
        ("base", (1 + 1 + 2.5 + 2) / 4, 4),
        ("c", (2.5 + 1) / 2, 2),
        ("b", (2.5 + 3 + 1 + 3) / 4, 4),
        ("a", 8.5 / 3, 3),
    ]


def test_ranks_are_among_the_rows_shown(board):
    """By a condition on other columns and by models, before the ranks; by a condition on ranks, after them."""
    ranked = {"tasks": TASKS, "is_ranked": True}
    assert rows_of(board, ["mean_rank"], where='"speak/acc" IS NOT NULL', **ranked) == [
        ("base", (1 + 1 + 2.5 + 2) / 4),
        ("c", (2.5 + 1) / 2),
        ("b", (2 + 2 + 1 + 3) / 4),
    ]
    assert rows_of(board, ["mean_rank"], models=("a", "b"), sort=("model",), **ranked) == [("a", 4.5 / 3), ("b", 5.5 / 4)]
    assert rows_of(board, ["mean_rank"], where="mean_rank > 2 AND N_RANKED > 3", **ranked) == [("b", 9.5 / 4)]


def test_complete_rows_have_every_task_and_are_ranked_alone(board):
    answer = answer_of(board, tasks=TASKS, is_complete=True, is_ranked=True)
    assert [(row["model_id"], row["mean_rank"], row["n_ranked"]) for row in answer.table.to_pylist()] == [
        ("base", (1 + 1 + 2 + 1) / 4, 4),
        ("b", (2 + 2 + 1 + 2) / 4, 4),
    ]
    assert (answer.num_left_out, answer.runs) == (2, (("base", None), ("b", None)))
    assert rows_of(board, [], is_complete=True) == []
    assert [model for model, *_ in rows_of(board, [], tasks=("piqa",), is_complete=True)] == ["a", "b", "base"]


def differences(task):
    return [f"{task}_delta", f"{task}_delta_stderr", f"{task}_beyond_2se"]


UNKNOWN = (None, None, None)


def test_differences_have_the_errors_of_both(board):
    """sqrt(.03^2 + .04^2) is .05; .8 - .75 is two times sqrt(.02^2 + .015^2), which is not beyond it."""
    options = {"tasks": TASKS, "has_differences": True}
    assert rows_of(board, differences("boolq"), **options) == [
        ("a", -0.25, 0.05, True),
        ("b", -0.25, math.hypot(0.01, 0.03), True),
        ("base", *UNKNOWN),
        ("c", *UNKNOWN),
    ]
    assert rows_of(board, differences("piqa"), **options) == [
        ("a", -0.05, 0.025, False),
        ("b", -0.1, None, None),
        ("base", *UNKNOWN),
        ("c", *UNKNOWN),
    ]
    error = math.hypot(0.01, 0.01)
    assert rows_of(board, differences("toxic/score"), **options) == [
        ("a", 0.25, error, True),
        ("b", -0.125, error, True),
        ("base", *UNKNOWN),
        ("c", 0.0, error, False),
    ]
    assert rows_of(board, differences("speak/acc"), **options) == [
        ("a", *UNKNOWN),
        ("b", -0.25, None, None),
        ("base", *UNKNOWN),
        ("c", 0.25, None, None),
    ]


def test_differences_are_of_the_models_shown_whether_or_not_their_base_is(board):
    assert rows_of(board, differences("boolq"), models=("a",), has_differences=True) == [("a", -0.25, 0.05, True)]


def test_variants_are_rows_of_their_own_and_plain_is_compared_with_plain(board):
    columns = ["variant", "boolq", "boolq_stderr", "boolq_delta", "mean_rank", "base_model_id", "mean_accuracy_change"]
    options = {"is_ranked": True, "shows_errors": True, "has_differences": True, "is_against_base": True}
    found = rows_of(board, columns, "performance_variants", where="model_id IN ('a', 'base')", sort=("model",), **options)
    assert found == [
        ("a", None, 0.5, 0.04, -0.25, (2 + 2) / 2, "base", None),
        ("a", "load_in_4bit", 0.125, 0.01, None, 4.0, "base", None),
        ("base", None, 0.75, 0.03, None, (1 + 1) / 2, "base", None),
        ("base", "load_in_4bit", 0.25, 0.01, None, 3.0, "base", None),
    ]


def test_the_only_run_of_a_model_is_compared_with_the_only_run_of_its_base(tmp_path):
    """Both keep the stored weights; where the base has a plain run too, its other run stands for nothing."""
    half = {"variant": "dtype=float16"}
    rows = [
        *(score("m", "boolq", 0.25, 0.04, **half), score("base", "boolq", 0.5, 0.03, **half)),
        *(
            score("n", "boolq", 0.25, 0.04, **half),
            score("other", "boolq", 0.5, 0.03, **half),
            score("other", "boolq", 0.75, 0.03),
        ),
    ]
    root = store(tmp_path / "w", rows, {"m": "base", "n": "other"})
    found = {row[0]: row[1:] for row in rows_of(root, differences("boolq"), has_differences=True)}
    assert (found["m"], found["n"]) == ((-0.25, 0.05, True), UNKNOWN)
    against = {row[0]: row[1:] for row in rows_of(root, ["variant", "base_model_id"], is_against_base=True)}
    assert against["m"] == ("dtype=float16", "base")


def test_values_of_two_measures_have_no_difference(tmp_path):
    """The column piqa has accuracies of files that name no metric, which are not comparable with acc_norm to a difference."""
    rows = [score("base", "piqa", 0.75, 0.01), score("m", "piqa", 0.5, 0.01, metric="accuracy"), score("n", "piqa", 0.5, 0.01)]
    root = store(tmp_path / "w", rows, {"m": "base", "n": "base"})
    found = {row[0]: row[1:] for row in rows_of(root, ["piqa", "piqa_delta", "piqa_beyond_2se"], has_differences=True)}
    assert found == {"base": (0.75, None, None), "m": (0.5, None, None), "n": (0.5, -0.25, True)}


def test_the_mean_has_a_difference_and_an_error_where_every_task_has(tmp_path):
    """Seven errors of .03 and seven of .04: the mean's is sqrt(7 * .05^2) / 7."""
    rows = [score("base", task, 0.5, 0.03) for task in ZERO_SHOT_TASKS]
    rows += [score("m", task, 0.4, 0.04) for task in ZERO_SHOT_TASKS]
    rows += [score("n", task, 0.49, 0.04 if task != "piqa" else None) for task in ZERO_SHOT_TASKS]
    rows += [score("o", task, 0.49, 0.04) for task in ZERO_SHOT_TASKS[1:]]
    root = store(tmp_path / "w", rows, dict.fromkeys("mno", "base"))
    found = {row[0]: row[1:] for row in rows_of(root, differences("mean_accuracy"), has_differences=True)}
    delta, error, is_beyond = found["m"]
    assert (delta, is_beyond) == (-0.1, True)
    assert error == pytest.approx(0.05 / math.sqrt(7), rel=1e-12)
    assert (found["n"], found["o"]) == ((-0.01, None, None), UNKNOWN)
    promoted = rows_of(root, differences("mean_score"), tasks=("boolq", "winogrande"), has_differences=True)
    delta, error, is_beyond = {row[0]: row[1:] for row in promoted}["n"]
    assert (delta, is_beyond) == (-0.01, False)
    assert error == pytest.approx(0.05 / math.sqrt(2), rel=1e-12)


def test_a_task_of_unknown_direction_has_no_rank(tmp_path):
    unknown, mixed = {"metric": "score", "unit": None}, {"metric": "rate", "unit": None}
    rows = [score("m", "boolq", 0.5), score("m", "odd", 1.0, **unknown)]
    rows += [score("m", "two", 1.0, higher_is_better=True, **mixed), score("n", "two", 1.0, higher_is_better=False, **mixed)]
    root = store(tmp_path / "w", rows, {})
    answer = answer_of(root, tasks=("boolq", "odd", "two"), is_ranked=True)
    assert answer.table.select(["model_id", "mean_rank", "n_ranked"]).to_pylist() == [
        {"model_id": "m", "mean_rank": 1.0, "n_ranked": 1},
        {"model_id": "n", "mean_rank": None, "n_ranked": 0},
    ]
    assert answer.unranked == ("odd/score", "two/rate")
    with pytest.raises(UsageError, match="--rank: of no task shown it is known whether more or less of it is better"):
        answer_of(root, tasks=("odd",), is_ranked=True)
    for option in ("is_ranked", "is_complete", "has_differences"):
        with pytest.raises(UsageError, match="is for tables with tasks: performance"):
            answer_of(root, "summary", **{option: True})


def test_columns_by_metric_hold_one_measure_each(tmp_path):
    rows = [
        *(score("m", "mmlu", 0.5, metric="acc", n_shot=5), score("n", "mmlu", 0.25, metric="acc", n_shot=5)),
        *(score("m", "rte", 0.5, metric="acc", n_shot=5), score("n", "rte", 0.25, metric="acc")),
        score("m", "mgsm", 0.5, metric="acc", n_shot=8, language="en"),
        score("n", "mgsm", 0.25, metric="acc", n_shot=8, language="zh"),
    ]
    root = store(tmp_path / "w", rows, {})
    names = ["mgsm/acc@8shot (en)", "mgsm/acc@8shot (zh)", "mmlu/acc", "rte/acc", "rte/acc@5shot"]
    table = answer_of(root, tasks=("*",), metrics=("acc",), columns=("model", *names)).table
    assert [tuple(row.values()) for row in table.to_pylist()] == [
        ("m", 0.5, None, 0.5, None, 0.5),
        ("n", None, 0.25, 0.25, 0.25, None),
    ]
    shown = run(root, "--metrics", "acc", "--columns", ",".join(f'"{name}"' for name in ("model", *names)))
    assert shown.stdout.splitlines()[0] == "mmlu/acc: mmlu/acc@5shot"


def run(root, *arguments):
    return CliRunner().invoke(cli, ["performance", "-w", str(root), *arguments], catch_exceptions=False)


def test_the_options_combine_in_the_command(board):
    options = [
        "--tasks",
        "boolq,piqa,toxic,speak",
        "--complete",
        "--rank",
        "--delta",
        "--stderr",
        "--best",
        "--group",
        "method",
    ]
    shown = run(
        board,
        *options,
        "--where",
        "params_b > 0",
        "-f",
        "md",
        "--columns",
        "model,mean_rank,n_ranked,boolq,boolq_delta,boolq_delta_stderr,boolq_beyond_2se",
    )
    assert shown.stdout.splitlines() == [
        "| model | mean rank | ranked in | boolq % | boolq delta % | boolq beyond 2se |",
        "| :--- | ---: | ---: | ---: | ---: | :--- |",
        "| base | **1.25** | 4/4 | **75.00** | - | - |",
        "| b | 1.75 | 4/4 | 50.00 | -25.00 ± 3.16 | yes |",
    ]
    apart = "1 model has values of other runs, which stand apart; see: layerhouse performance --variants\n"
    assert shown.stderr == "2 rows lack a task and are left out\n" + apart
    text = run(board, "-m", "c", "--tasks", "toxic,speak", "--delta", "--columns", "speak/acc_delta,toxic/score_delta")
    assert [line.split() for line in text.stdout.splitlines()[2:]] == [["+25.00", "0.0000"]]
    rows = json.loads(run(board, "--variants", "-f", "json", "--rank", "-m", "a").stdout)
    assert [(row["model_id"], row["variant"], row["mean_rank"]) for row in rows] == [
        ("a", None, 1.0),
        ("a", "load_in_4bit", 2.0),
    ]


def test_what_is_left_blank_is_said_of_the_rows_shown(board):
    conflict = "1 measure has several values of one time and is blank; see: layerhouse query conflicts\n"
    doubt = "1 value is of doubtful scale and left out; see: layerhouse query doubtful\n"
    apart = "values of other runs, which stand apart; see: layerhouse performance --variants\n"
    for output_format in ("text", "csv"):
        assert run(board, "-f", output_format).stderr == f"{conflict}{doubt}2 models have {apart}"
    assert run(board, "-m", "a").stderr == f"{conflict}1 model has {apart}"
    assert run(board, "-m", "b").stderr == ""
    assert run(board, "--where", "model_id = 'c'").stderr == doubt


@pytest.mark.parametrize("output_format", ["text", "md", "html", "latex", "csv", "json"])
def test_a_column_of_variants_is_read_only_where_there_are_some(board, output_format):
    """In formats for programs it is there always; a text lists it neither as a column nor as one that is not known."""
    is_for_programs = output_format in ("csv", "json")
    name = ">variant<" if output_format == "html" else "variant"
    assert (name in run(board, "-f", output_format).stdout) == is_for_programs
    assert ("run_note" in run(board, "--variants", "-m", "b", "-f", output_format).stdout) == is_for_programs
    assert "load" in run(board, "--variants", "-f", output_format).stdout
    assert name in run(board, "--columns", "model,variant", "-f", output_format).stdout


@pytest.fixture(scope="module")
def conditioned(tmp_path_factory):
    """All perplexities have one context; of two models' piqa one states its shots."""
    perplexity = {"suite": "perplexity", "metric": "perplexity", "unit": "per_token", "dataset": "wikitext2", "n_shot": None}
    rows = [
        *(score(model, "wikitext2", 7.5, seq_len=2048, **perplexity) for model in ("m", "n")),
        *(score(model, "boolq", 0.5, n_shot=None) for model in ("m", "n")),
        *(score("m", "piqa", 0.5, metric="accuracy", n_shot=None), score("n", "piqa", 0.5)),
        *(score(model, "copa", 0.5, n_shot=None, **SPEAK) for model in ("m", "n")),
    ]
    return store(tmp_path_factory.mktemp("conditioned") / "w", rows, {})


SHARED = ["ppl_wikitext2: context 2048", "boolq: shots not stated", "piqa: shots not stated (1 of 2)"]


def test_what_all_values_share_is_said_once_above_the_table(conditioned):
    assert run(conditioned).stdout.splitlines()[0] == "; ".join(SHARED)
    assert run(conditioned, "--columns", "model,boolq").stdout.splitlines()[0] == SHARED[1]
    assert run(conditioned, "-m", "n", "--columns", "model,piqa").stdout.splitlines()[0].split() == ["model", "piqa", "%"]
    promoted = run(conditioned, "--tasks", "boolq,copa", "--columns", "model,boolq,copa/acc").stdout
    assert promoted.splitlines()[0] == "boolq, copa/acc: shots not stated"
    assert run(conditioned, "-f", "md").stdout.splitlines()[:2] == ["; ".join(SHARED), ""]
    assert f"<caption>{'<br>'.join(SHARED)}</caption>" in run(conditioned, "-f", "html").stdout
    latex = run(conditioned, "-f", "latex", "--columns", "model,boolq").stdout.splitlines()
    assert latex[1:4] == [r"\begin{tabular}{lr}", rf"\multicolumn{{2}}{{l}}{{\footnotesize {SHARED[1]}}} \\", r"\toprule"]
    for output_format in ("csv", "json", "ndjson"):
        assert "shots not stated" not in run(conditioned, "-f", output_format).stdout
