"""The words that SQL and column descriptions spell out are those of the enums: SQL cannot import them, so they are compared.

SQL is parsed by DuckDB. A column or parameter named in WORDS holds members of that enum, so every string that it is compared
with, and every string that a column of that name is made of, has to be one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import duckdb
import pytest

from layerhouse.vocabulary import (
    ZERO_SHOT_TASKS,
    BaseRule,
    CheckpointStatus,
    Descent,
    Gone,
    KeptBy,
    LayerMatch,
    Level,
    LinkRule,
    MeasureKind,
    Module,
    Relation,
    RemovalAction,
    ResultStatus,
    SourceKind,
    Stack,
    StatsLevel,
    Strategy,
    UnitKind,
    UnitMatch,
)
from layerhouse.warehouse.answers.sql_text import sql_files
from layerhouse.warehouse.answers.view_columns import VIEW_COLUMNS
from layerhouse.warehouse.storage.schema import TABLES

WORDS = {
    "action": {*RemovalAction},
    "base_rule": {*BaseRule},
    "descent": {*Descent},
    "inactive_part": {*Gone},
    "kept_by": {*KeptBy},
    "kind": {*UnitKind, *MeasureKind},
    "level": {*Level},
    "match": {*LayerMatch, *UnitMatch},
    "module": {*Module},
    "parent_rule": {*BaseRule},
    "params_source": {*SourceKind},
    "relation": {*Relation},
    "rule": {*LinkRule},
    "source_kind": {*SourceKind},
    "stack": {*Stack},
    "stats_level": {*StatsLevel},
    "status": {*CheckpointStatus, *ResultStatus},
    "strategy": {*Strategy},
}
MACROS = dict(
    re.findall(
        r"^CREATE OR REPLACE MACRO (\w+)\([^)]*\) AS \(\n(.*?)^\);", sql_files("warehouse.views")["00_macros"], re.M | re.S
    )
)
VIEWS = {name: sql.partition(" AS\n")[2] for name, sql in sql_files("warehouse.views").items() if not name.startswith("00_")}
STATEMENTS = {
    **{f"macro {name}": f"SELECT (\n{body})" for name, body in MACROS.items()},
    **{f"view {name.partition('_')[2]}": sql for name, sql in VIEWS.items()},
    **{f"query {name}": sql for name, sql in sql_files("queries").items()},
    **{f"check {name}": sql for name, sql in sql_files("warehouse.checks").items()},
}


def parse(sql: str) -> dict[str, Any]:
    [(text,)] = duckdb.execute("SELECT json_serialize_sql(?)", [sql]).fetchall()
    tree = json.loads(text)
    assert not tree["error"], tree
    return tree


def nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every expression and clause of a parsed statement."""
    if isinstance(tree, dict):
        yield tree
        tree = tree.values()
    if not isinstance(tree, str):
        for part in tree if hasattr(tree, "__iter__") else ():
            yield from nodes(part)


def text_of(node: dict[str, Any]) -> str | None:
    """The text of a string constant."""
    literal = node.get("literal")
    return literal["text"] if node.get("class") == "CONSTANT" and literal["kind"] == "STRING" else None


def column_of(node: dict[str, Any]) -> str | None:
    return node["column_names"][-1] if node.get("class") == "COLUMN_REF" else None


def arguments_of(call: dict[str, Any]) -> list[dict[str, Any]]:
    return [argument["expression"] for argument in call["arguments"]]


def results(node: dict[str, Any]) -> Iterator[str]:
    """The string constants that an expression can have as its value."""
    if (text := text_of(node)) is not None:
        yield text
    elif node.get("type") == "CASE_EXPR":
        for branch in (*(check["then_expr"] for check in node["case_checks"]), node["else_expr"]):
            yield from results(branch)


def spelled_words(tree: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Column and word, wherever a column of WORDS is compared with a string or made of strings."""
    for node in nodes(tree):
        operands = []
        if node.get("class") == "COMPARISON":
            operands = [node["left"], node["right"]]
        elif node.get("type") in ("COMPARE_IN", "COMPARE_NOT_IN"):
            operands = node["children"]
        elif node.get("function_name") == "list_position":
            ordered, sought = arguments_of(node)
            operands = [sought, *arguments_of(ordered)]
        columns = [name for operand in operands if (name := column_of(operand)) in WORDS]
        for operand in operands if columns else ():
            yield from ((columns[0], text) for text in results(operand))
        if node.get("alias") in WORDS and "class" in node:
            yield from ((node["alias"], text) for text in results(node))


@pytest.mark.parametrize("name", STATEMENTS)
def test_every_word_that_sql_spells_out_is_in_its_enum(name):
    assert [(column, word) for column, word in spelled_words(parse(STATEMENTS[name])) if word not in WORDS[column]] == []


def test_the_words_of_sql_are_found():
    sql = """
        SELECT
            CASE a.kind WHEN 'head_1' THEN 1 END,
            CASE WHEN b THEN 'exact_1' ELSE 'exact_2' END AS match,
            'weights_1' AS source_kind
        FROM a
        WHERE
            a.status <> 'ok_1'
            AND relation IN ('cast_1', 'cast_2')
            AND (a.rule IS NOT DISTINCT FROM 'folder_1')
            AND count(*) FILTER (WHERE level = 'zero_1') > 0
        ORDER BY list_position(['text_1', 'text_2'], stack)
    """
    assert sorted(word for _, word in spelled_words(parse(sql))) == [
        "cast_1", "cast_2", "exact_1", "exact_2", "folder_1", "head_1", "ok_1", "text_1", "text_2", "weights_1", "zero_1",
    ]  # fmt: skip


def test_views_spell_out_most_columns_of_words():
    found = {column for sql in STATEMENTS.values() for column, _ in spelled_words(parse(sql))}
    assert found == set(WORDS) - {"descent", "parent_rule", "strategy"}


@pytest.mark.parametrize(("macro", "words"), [("layer_level", Level), ("pruning_strategy", Strategy), ("gone_part", Gone)])
def test_a_macro_gives_every_word_of_its_enum(macro, words):
    [body] = parse(STATEMENTS[f"macro {macro}"])["statements"][0]["node"]["select_list"]
    assert {*results(body)} == {*words}


def test_stacks_rank_in_the_order_of_their_enum():
    assert [word for _, word in spelled_words(parse(STATEMENTS["macro stack_rank"]))] == [*Stack]


def test_every_kind_of_measure_is_made_by_the_view():
    words = {word for column, word in spelled_words(parse(STATEMENTS["view measure_keys"])) if column == "kind"}
    suites = re.findall(r"suite IN \(([^)]*)\) THEN suite$", VIEWS["17_measure_keys"], re.MULTILINE)
    assert words | {*re.findall(r"'(\w+)'", suites[0])} == {*MeasureKind}


OF_TASKS = (
    "view model_measures",
    *(f"{kind} {name}" for kind in ("view", "query") for name in ("performance", "performance_variants")),
)


@pytest.mark.parametrize("view", OF_TASKS)
def test_views_and_queries_have_a_column_for_each_zero_shot_task(view):
    columns = re.findall(r"^ +(?:\w+\.)?(\w+),$|(?: AS (\w+),$)", STATEMENTS[view], re.MULTILINE)
    tasks = [name or alias for name, alias in columns if (name or alias) in ZERO_SHOT_TASKS]
    assert tuple(tasks) == ZERO_SHOT_TASKS


def test_a_task_column_is_of_the_task_that_it_is_named_after():
    columns = re.findall(r"kind = 'task' AND measure = '(\w+)'\) AS (\w+)", VIEWS["55_model_measures"])
    assert columns == [(task, task) for task in ZERO_SHOT_TASKS]


def test_the_mean_is_over_the_zero_shot_tasks():
    [(summands, number)] = re.findall(r"\(([^()]*)\) / (\d+) AS mean_accuracy", VIEWS["59_performance_variants"])
    assert re.findall(r"\.(\w+)", summands) == [*ZERO_SHOT_TASKS]
    assert int(number) == len(ZERO_SHOT_TASKS)


def test_every_zero_shot_task_has_a_metric_and_no_other_task():
    assert sorted(re.findall(r"'(\w+)'", re.sub("THEN '.*'", "", MACROS["task_metric"]))) == sorted(ZERO_SHOT_TASKS)


DESCRIBED = {f"{table.name}.{column.name}": column for table in TABLES.values() for column in table.columns} | VIEW_COLUMNS


@pytest.mark.parametrize("name", [name for name, column in DESCRIBED.items() if column.words or "`" in column.text])
def test_a_description_names_the_words_that_the_column_holds(name):
    words, text = DESCRIBED[name].words, DESCRIBED[name].text
    named = re.findall(r"`([^`]*)`", text)
    assert words is not None
    assert len(named) == len(set(named))
    assert set(named) <= {*words}
    assert text.endswith("...") or set(named) == {*words}


def test_every_stored_column_of_words_says_its_enum():
    columns = [DESCRIBED[name] for name in DESCRIBED if name.partition(".")[2] in WORDS and name.partition(".")[0] in TABLES]
    assert [column.name for column in columns if column.words is None] == []
    assert all({*column.words} <= WORDS[column.name] for column in columns)
