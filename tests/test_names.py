"""What users call models and columns: the ends of names, headings, and what is said of a name that is nearly one."""

from __future__ import annotations

import csv
import io
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import layerhouse as lh
from layerhouse.cli import cli
from layerhouse.errors import NotFoundError, UsageError, nearest_names
from layerhouse.tests import study_builder
from layerhouse.warehouse.admin.link_results import LinkRequest, link_results
from layerhouse.warehouse.admin.removals import drop_model, rename_model
from layerhouse.warehouse.answers.naming.columns import find_column, resolve_columns
from layerhouse.warehouse.answers.naming.condition import fraction_hints, parse_condition
from layerhouse.warehouse.answers.query import the_model
from layerhouse.warehouse.answers.selection import Selection, filter_rows, select_table, sort_rows

MODELS = (
    "baselines/ShortGPT_remove_3",
    "baselines/Tiny-Base",
    "baselines/Uniform_2000",
    "results/EmptyBlocks_1",
    "results/HeadPrune_2000",
)


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("names")
    study_builder.write_study(folder)
    lh.ingest([folder / "baselines", folder / "results"], warehouse=folder / "w")
    return folder


@pytest.fixture
def own(study, tmp_path) -> Path:
    """A copy of the warehouse that a test may change."""
    return Path(shutil.copytree(study / "w", tmp_path / "w"))


def run(*arguments, warehouse: Path):
    """The rows of a command as csv, and its stderr."""
    done = CliRunner().invoke(cli, [*map(str, arguments), "-w", str(warehouse), "-f", "csv"], catch_exceptions=False)
    return [*csv.DictReader(io.StringIO(done.stdout))], done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["summarize", "HeadPrune_2000"],
        ["performance", "--model", "HeadPrune_2000"],
        ["query", "summary", "-m", "HeadPrune_2000"],
        ["layers", "HeadPrune_2000"],
        ["compare", "HeadPrune_2000"],
        ["summarize", "HeadPrune_2000", "--since", "2020-01-01"],
    ],
    ids=" ".join,
)
def test_a_command_takes_the_only_ending_of_a_name_as_argument_and_as_option(study, arguments):
    rows, _ = run(*arguments, warehouse=study / "w")
    assert {row["model_id"] for row in rows} == {"results/HeadPrune_2000"}


def test_arguments_and_options_add_up(study):
    rows, _ = run("summarize", "-m", "Tiny-Base", "results/H*", "EmptyBlocks_1", warehouse=study / "w")
    assert [row["model_id"] for row in rows] == ["baselines/Tiny-Base", "results/EmptyBlocks_1", "results/HeadPrune_2000"]


def test_lineage_takes_arguments_and_options_alike(study):
    for named in (["nobody"], ["-m", "nobody"], ["Tiny-Base", "-m", "nobody"]):
        with pytest.raises(NotFoundError, match="no model 'nobody'"):
            CliRunner().invoke(cli, ["lineage", *named, "-w", str(study / "w")], catch_exceptions=False)
    done = CliRunner().invoke(cli, ["lineage", "Tiny-Base", "-m", "HeadPrune_2000", "-w", str(study / "w")])
    assert done.exit_code == 0


def test_a_picture_of_layers_counts_in_the_measure_and_names_the_base(study):
    for named in (["HeadPrune_2000"], ["-m", "HeadPrune_2000"]):
        options = ["--picture", "--by", "params", "-w", str(study / "w")]
        lines = CliRunner().invoke(cli, ["layers", *named, *options], catch_exceptions=False).stdout.splitlines()
        assert lines[0] == "results/HeadPrune_2000 against baselines/Tiny-Base"
        assert lines[1].startswith("kept by params: 10,950,912")


def test_diff_takes_models_of_either_warehouse(study, own):
    drop_model(own, "Uniform_2000")
    drop_model(own, "EmptyBlocks_1")
    for spelling in (["Uniform_2000"], ["-m", "Uniform_2000"]):
        done = CliRunner().invoke(cli, ["diff", str(study / "w"), str(own), *spelling, "-f", "csv"], catch_exceptions=False)
        assert [row["model_id"] for row in csv.DictReader(io.StringIO(done.stdout))] == ["baselines/Uniform_2000"]


def test_compare_analysis_and_python_take_endings(study, tmp_path):
    done = CliRunner().invoke(cli, ["compare", "HeadPrune_2000", "Uniform_2000", "-w", str(study / "w")])
    assert done.stdout.startswith("results/HeadPrune_2000 against baselines/Uniform_2000\n")
    CliRunner().invoke(
        cli, ["analysis", "EmptyBlocks_1", "-w", str(study / "w"), "-O", str(tmp_path / "a")], catch_exceptions=False
    )
    assert (tmp_path / "a" / "model_structure.json").is_file()
    with lh.open(study / "w") as wh:
        assert wh.find_model("Tiny-Base") == "baselines/Tiny-Base"
        for frame in (
            wh.compare("HeadPrune_2000"),
            wh.compare("HeadPrune_2000", "Uniform_2000"),
            wh.layers("HeadPrune_2000"),
            wh.results("HeadPrune_2000"),
            wh.query("summary", models=["HeadPrune_2000"]),
        ):
            assert frame["model_id"].unique().to_list() == ["results/HeadPrune_2000"]
        with pytest.raises(UsageError, match="results/HeadPrune_2000: name another model to compare it with"):
            wh.compare("HeadPrune_2000", "results/HeadPrune_2000")


def test_drop_rename_and_link_say_the_full_name(own, study):
    def say(*arguments):
        return CliRunner().invoke(cli, [*map(str, arguments), "-w", str(own)], catch_exceptions=False).stderr

    assert say("rename", "HeadPrune_2000", "best/one") == "renamed results/HeadPrune_2000 to best/one\n"
    assert say("drop", "EmptyBlocks_1") == "dropped results/EmptyBlocks_1\n"
    (file,) = (study / "results/HeadPrune_2000").rglob("evaluation_results.json")
    assert link_results(own, [LinkRequest(str(file), "Uniform_2000")]) == 1
    with lh.open(own) as wh:
        assert wh.models()["model_id"].to_list() == ["baselines/ShortGPT_remove_3", *MODELS[1:3], "best/one"]
        linked = wh.sql("SELECT DISTINCT model_id FROM result_links WHERE rule = 'by_hand'")["model_id"].to_list()
        assert linked == ["baselines/Uniform_2000"]


def test_nothing_is_dropped_or_renamed_that_is_ambiguous_or_a_glob(own):
    rename_model(own, "HeadPrune_2000", "results/Uniform_2000")
    before = sorted(own.rglob("*"))
    for change in (lambda name: drop_model(own, name), lambda name: rename_model(own, name, "x")):
        with pytest.raises(
            UsageError, match="2 models have names that end in 'Uniform_2000': baselines/Uniform_2000, results/U"
        ):
            change("Uniform_2000")
        for name in ("results/*", "*", "Uniform", "", "/"):
            with pytest.raises(NotFoundError, match=f"^no model {name!r}".replace("*", r"\*")):
                change(name)
    assert sorted(own.rglob("*")) == before


def test_a_whole_name_is_no_ending_of_another():
    assert the_model(("a/b", "b"), "b") == "b"
    assert the_model(("x/a/b", "y/b"), "a/b") == "x/a/b"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["layers", "HedPrune_2000"], "no model 'HedPrune_2000'; did you mean 'results/HeadPrune_2000'? there is "),
        (["summarize", "-m", "result/headprune_2000"], "did you mean 'results/HeadPrune_2000'? there is "),
        (["compare", "Tiny-Base", "Uniform_200"], "no base 'Uniform_200'; did you mean 'baselines/Uniform_2000'? there is "),
        (["drop", "ShortGPT_remove_2"], "did you mean 'baselines/ShortGPT_remove_3'? there is "),
        (["query", "sumary"], "no query 'sumary'; did you mean 'summary'? there is against_base, "),
        (["performance", "--tasks", "bolq"], "no task 'bolq'; did you mean 'boolq'? there is "),
        (
            ["summarize", "--columns", "model,reduction_ration"],
            "--columns: no column 'reduction_ration'; did you mean 'reduction_",
        ),
        (["summarize", "--sort", "-sparsty"], "--sort: no column 'sparsty'; did you mean 'sparsity'? the columns are "),
        (["layers", "--group", "KV haeds"], "--group: no column 'KV haeds'; did you mean 'num_kv_heads'? the columns are "),
        (["layers", "--columns", "MLP wdth"], "--columns: no column 'MLP wdth'; did you mean 'MLP width'? the columns"),
        (
            ["performance", "--columns", "prunable_sparsty"],
            "no column 'prunable_sparsty'; did you mean 'prunable_sparsity'? the",
        ),
        (
            ["summarize", "--where", "metod = 'x'"],
            "\"metod\" not found in FROM clause; did you mean 'method'? the columns are ",
        ),
        (["summarize", "-f", "latx"], "no format 'latx'; did you mean 'latex'? there is text, "),
        (["tables", "modls"], "no table or view 'modls'; did you mean 'models'? there is "),
    ],
    ids=str,
)
def test_a_typing_error_is_one_line_with_the_nearest_name(study, arguments, said):
    with pytest.raises(UsageError) as caught:
        CliRunner().invoke(cli, [*arguments, "-w", str(study / "w")], catch_exceptions=False)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_are_nearest_by_their_last_part_and_none_is_where_none_is_like():
    assert nearest_names("results/none", MODELS) == []
    assert nearest_names("results/x", ("results/a", "results/b")) == []
    assert nearest_names("uniform_200", MODELS) == ["baselines/Uniform_2000"]
    twins = ("z/A_2000", "results/A_2000", "b/A_2001")
    assert nearest_names("result/A_2000", twins) == ["results/A_2000", "z/A_2000"]


TEXTS, COUNTS, RATIOS = ("model_id", "base_model_id", "base_model"), ("num_kv_heads", "params"), ("reduction_ratio", "params_b")
TYPES = ((TEXTS, pa.string()), (COUNTS, pa.int64()), (RATIOS, pa.float64()))
SCHEMA = pa.schema([(name, type_) for names, type_ in TYPES for name in names])


@pytest.mark.parametrize(
    ("name", "language", "column"),
    [
        ("num_kv_heads", "en", "num_kv_heads"),
        ("KV heads", "en", "num_kv_heads"),
        ("kv  HEADS", "en", "num_kv_heads"),
        ("reduction", "en", "reduction_ratio"),
        ("Reduction %", "en", "reduction_ratio"),
        ("model", "en", "model_id"),
        ("params", "en", "params"),
        ("params B", "en", "params_b"),
        ("KV头数", "zh", "num_kv_heads"),
        ("KV heads", "zh", "num_kv_heads"),
        ("参数减少率 %", "zh", "reduction_ratio"),
        ("KV头数", "en", None),
        ("heads", "en", None),
        ("", "en", None),
    ],
)
def test_a_column_is_found_by_its_name_before_its_heading(name, language, column):
    assert find_column(SCHEMA, name, language) == column


def test_a_name_as_it_is_written_wins_over_one_in_other_letters():
    schema = pa.schema([("Params", pa.int64()), ("params", pa.int64())])
    assert [find_column(schema, name) for name in ("params", "Params", "PARAMS")] == ["params", "Params", "Params"]


def test_a_heading_of_several_columns_is_refused():
    with pytest.raises(UsageError, match="'base' is the heading of 2 columns: name one of base_model_id, base_model"):
        resolve_columns(SCHEMA, "--columns", ["base"])


def test_options_take_headings_and_columns_of_models(study):
    rows, _ = run(
        "layers", "HeadPrune_2000", "--columns", "KV heads,reduction", "--sort", "-reduction %", warehouse=study / "w"
    )
    assert {*rows[0]} == {"num_kv_heads", "reduction_ratio"}
    assert [row["num_kv_heads"] for row in rows] == ["1", "1", "2", "2", "3", "3", "4", "4", "4", "4", "4", "4"]
    rows, _ = run("layers", "--where", '"KV heads" = 1 AND "MLP width" < 200', "--columns", "model", warehouse=study / "w")
    assert {row["model_id"] for row in rows} == {"results/HeadPrune_2000"}
    shown = ("--columns", "model,piqa,num_removed_layers,strategy", "--where", "removed_layers = [8, 9, 10]")
    rows, _ = run("performance", *shown, warehouse=study / "w")
    assert rows == [
        {
            "model_id": "baselines/ShortGPT_remove_3",
            "piqa": "0.64",
            "num_removed_layers": "3",
            "strategy": "layer_removal",
        }
    ]
    rows, _ = run("summarize", "--columns", "模型", "--sort", "-移除层数", "--lang", "zh", warehouse=study / "w")
    assert rows[0] == {"model_id": "baselines/ShortGPT_remove_3"}
    ranked = ("--rank", "--columns", "model,mean rank", "--where", '"mean rank" = 1', "--sort", "mean rank")
    rows, _ = run("performance", *ranked, warehouse=study / "w")
    assert [row["mean_rank"] for row in rows] == ["1.0"]


def test_a_column_wins_over_a_heading_and_a_heading_of_the_table_over_a_column_of_models(study):
    rows, _ = run("performance", "Tiny-Base", "--columns", "params", warehouse=study / "w")
    assert [*rows[0]] == ["params_b"]
    rows, _ = run("summarize", "Tiny-Base", "--columns", "params", warehouse=study / "w")
    assert [*rows[0]] == ["params"]


TABLE = pa.table({"sparsity": [0.5, None, 0.25], "kept_share": [1.08, 0.5, 1.0], "layers": [32, 30, 28]})


@pytest.mark.parametrize(
    ("condition", "hints"),
    [
        ("sparsity > 49", ["sparsity is a fraction; did you mean 0.49?"]),
        ("49.5 < sparsity", ["sparsity is a fraction; did you mean 0.495?"]),
        ("NOT (layers = 32 OR sparsity <= 2e1)", ["sparsity is a fraction; did you mean 0.2?"]),
        (
            "sparsity BETWEEN 10 AND 0.5 OR sparsity IN (30)",
            ["sparsity is a fraction; did you mean 0.1?", "sparsity is a fraction; did you mean 0.3?"],
        ),
        ('"sparsity %" > 49', ["sparsity % is a fraction; did you mean 0.49?"]),
        ("sparsity > -49", ["sparsity is a fraction; did you mean -0.49?"]),
        ("sparsity < 4096", ["sparsity is a fraction, at most 1"]),
        ("sparsity > 0.49", []),
        ("sparsity <= 1", []),
        ("sparsity * 100 > 49", []),
        ("layers > 30", []),
        ("kept_share > 1.05", []),
        ("sparsity > layers", []),
        ("'sparsity > 49' = 'x'", []),
        ("sparsity > ", []),
        ("unknown > 49", []),
    ],
)
def test_a_fraction_compared_with_a_percentage_gets_a_hint_only_where_that_is_true(condition, hints):
    assert fraction_hints(TABLE, condition) == hints


def test_a_condition_is_read_by_its_parsed_form():
    parsed = parse_condition("\"KV heads\" >= 4 AND len(list_filter(removed_layers, lambda x: x > 3)) > 1 AND 'a.b' = name")
    assert [*parsed.columns] == ["KV heads", "removed_layers", "x", "name"]
    assert [(name, str(number)) for name, number in parsed.comparisons] == [("KV heads", "4"), ("x", "3")]
    assert parse_condition("1 +").columns == ()
    assert parse_condition("(" * 3000 + "1" + ")" * 3000).columns == ()


def test_the_hint_goes_to_stderr_and_the_table_stays(study):
    rows, said = run("summarize", "--where", "reduction > 20", warehouse=study / "w")
    assert (rows, said) == ([], "reduction is a fraction; did you mean 0.2?\n")
    assert run("summarize", "--where", "reduction > 0.2", warehouse=study / "w")[1] == ""
    wrong = CliRunner().invoke(cli, ["summarize", "--where", "reduction > 20 AND nothing = 1", "-w", str(study / "w")])
    assert (type(wrong.exception), wrong.stderr) == (UsageError, "")
    done = CliRunner().invoke(cli, ["expect", "reduction_ratio < 20", "-w", str(study / "w")])
    assert (done.exit_code, done.stderr) == (
        0,
        "reduction_ratio is a fraction; did you mean 0.2?\n5 of 5 expectations are met\n",
    )


def test_a_heading_in_a_condition_adds_no_column():
    kept = filter_rows(TABLE, '"kept share" > 1')
    assert kept.to_pydict() == {"sparsity": [0.5], "kept_share": [1.08], "layers": [32]}
    assert sort_rows(TABLE, ["-Kept Share %"])["layers"].to_pylist() == [32, 28, 30]


def test_the_best_of_each_group_is_bold_whether_or_not_the_group_is_shown(study, tmp_path):
    def bold(columns, suffix="md"):
        target = tmp_path / f"t.{suffix}"
        options = ["--group", "strategy", "--best", "--columns", columns, "-o", str(target), "-w", str(study / "w")]
        assert CliRunner().invoke(cli, ["performance", *options], catch_exceptions=False).exit_code == 0
        return target

    lines = bold("model,strategy,boolq").read_text("utf-8").splitlines()[2:]
    hidden = bold("model,boolq").read_text("utf-8").splitlines()[2:]
    assert [line.split("|")[1::2] for line in hidden] == [[*line.split("|")[1:2], "\n"[1:]] for line in lines]
    assert [line.split("|")[2] for line in hidden] == [line.split("|")[3] for line in lines]
    strategies = [line.split("|")[2].strip() for line in lines]
    values = [line.split("|")[3].strip() for line in lines]
    for strategy in {*strategies}:
        of_group = [value for value, own in zip(values, strategies, strict=True) if own == strategy and value != "-"]
        marked = [value for value in of_group if value.startswith("**")]
        numbers = [float(value.strip("*")) for value in of_group]
        assert [float(value.strip("*")) for value in marked] == ([max(numbers)] if len(numbers) > 1 else [])
    assert bold("model,boolq", "html").read_text("utf-8").count("<tbody>") == len({*strategies})
    assert not pq.read_schema(bold("model,boolq", "parquet")).metadata


def test_a_model_of_a_nightly_run_continues_in_a_new_folder(tmp_path):
    folders = [tmp_path / "runs" / day / "checkpoint" for day in ("monday", "tuesday", "wednesday")]
    for number, folder in enumerate(folders):
        widths = (study_builder.Width(8 - number, 4, 704),) * 12
        document = study_builder.analysis_document("nightly", widths)
        study_builder.write_json(folder / "analysis" / "model_structure.json", document)
    counts = []
    for folder in (*folders, folders[-1]):
        report = lh.ingest([folder], warehouse=tmp_path / "w", name="nightly")
        counts.append([(event.kind.value, event.where) for event in report.events])
    assert counts == [[("taken", "nightly")]] * 3 + [[("unchanged", "nightly")]]
    with lh.open(tmp_path / "w") as wh:
        history = wh.query("history", models=["nightly"])
        assert history["source_uri"].to_list() == [str(folder) for folder in folders]
        assert history["params"].to_list() == sorted(history["params"].to_list(), reverse=True)
        assert history["params"].n_unique() == 3
        assert wh.models()["params"].to_list() == history["params"].to_list()[-1:]
    report = lh.ingest([tmp_path / "runs" / "tuesday"], warehouse=tmp_path / "w")
    assert [(event.kind.value, event.where) for event in report.events] == [("taken", "tuesday/checkpoint")]


def test_a_table_of_layers_takes_no_heading_of_models_for_one_of_layers(study):
    """`retention` is the heading of a model's mean: beside a layer that is gone it was that mean."""
    with lh.open(study / "w") as wh:
        connection = wh.connection_for()
        for option in ({"columns": ("retention",)}, {"where": "retention < 0.5"}, {"sort": ("retention",)}):
            with pytest.raises(UsageError, match="retention"):
                select_table(connection, "per_layer", Selection(**option))
        named = select_table(connection, "per_layer", Selection(("HeadPrune_2000",), columns=("layer", "retention_mean")))
        assert len(set(named["retention_mean"].to_pylist())) == 1
        assert select_table(connection, "summary", Selection(columns=("retention",))).column_names == ["retention_mean"]
