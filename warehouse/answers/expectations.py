"""Conditions that models or layers are expected to meet, for a pipeline that stops where one does not.

A condition is SQL over the columns of a row of the view `models` or `layer_pruning`. One that is null fails, too: what is not
known is not as expected.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerhouse.errors import UsageError
from layerhouse.warehouse.answers.naming.columns import find_column
from layerhouse.warehouse.answers.naming.condition import fraction_hints, parse_condition
from layerhouse.warehouse.answers.query import MODEL_COLUMN, keep_models, own_sql, run_sql
from layerhouse.warehouse.answers.selection import ignore, judge_rows

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

MODELS, LAYERS = "models", "layers"
ROWS = {
    MODELS: "SELECT * FROM models ORDER BY model_id",
    LAYERS: (
        "SELECT * FROM layer_pruning ORDER BY model_id, stack_rank(stack), coalesce(base_layer_index, layer_index), layer_index"
    ),
}
"""What a condition may be asked of, and the rows of it."""
MEASURED = "SELECT model_id, stats_level, status_note FROM current_checkpoints LEFT JOIN status_notes USING (model_id)"
ASKED = "\n".join((*ROWS.values(), MEASURED))
"""All SQL of checking."""
TOML_KEYS = {"that": (str, list), "models": (str, list), "each": (str,)}


@dataclass(frozen=True)
class Expectation:
    """A condition, the globs of the models that it is asked of (none: of all), and what of them: each model, or each layer."""

    condition: str
    models: tuple[str, ...] = ()
    each: str = MODELS


@dataclass(frozen=True)
class Outcome:
    """Whether one row meets a condition; None if the condition is null. `values` are those of the columns that it names.

    `reason` says why a value may be null, if that is known.
    """

    expectation: Expectation
    model: str
    stack: str | None
    layer: int | None
    is_met: bool | None
    values: Mapping[str, Any]
    reason: str | None = None

    @property
    def row_name(self) -> str:
        place = [] if self.stack is None else [f"{self.stack} layer {'?' if self.layer is None else self.layer}"]
        return ", ".join([self.model, *place])

    @property
    def text(self) -> str:
        """The condition, and what was found instead."""
        found = ", ".join(f"{name} is {_shown(value)}" for name, value in self.values.items())
        return f"{self.expectation.condition}: {found or 'false'}" + (f" ({self.reason})" if self.reason else "")


def read_expectations(path: Path) -> list[Expectation]:
    """The expectations of a TOML file: tables `[[expect]]` with `that`, `models` and `each`. Raises UsageError."""
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: {str(error).splitlines()[0]}") from error
    tables = document.get("expect")
    if set(document) != {"expect"} or not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise UsageError(f"{path}: it has to have tables [[expect]] and nothing else")
    expectations: list[Expectation] = []
    for number, table in enumerate(tables, 1):
        expectations += _of_table(table, f"{path}: expect {number}")
    return expectations


def _of_table(table: Mapping[str, Any], where: str) -> Iterator[Expectation]:
    for key, value in table.items():
        if key not in TOML_KEYS or not isinstance(value, TOML_KEYS[key]):
            raise UsageError(
                f"{where}: {key!r}: the keys are that, models (a text or a list of texts) and each (models or layers)"
            )
    conditions, globs = (_texts(table.get(key, []), f"{where}: {key}") for key in ("that", "models"))
    each = table.get("each", MODELS)
    if not conditions:
        raise UsageError(f'{where}: no condition; write one as: that = "prunable_sparsity >= 0.49"')
    if each not in ROWS:
        raise UsageError(f"{where}: each is {each!r}, and has to be one of {', '.join(ROWS)}")
    for condition in conditions:
        yield Expectation(condition, globs, each)


def _texts(value: str | list[Any], where: str) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not all(isinstance(text, str) for text in texts):
        raise UsageError(f"{where}: not a text or a list of texts")
    return tuple(texts)


def check_expectations(
    connection: duckdb.DuckDBPyConnection, expectations: Sequence[Expectation], on_hint: Callable[[str], None] = ignore
) -> list[Outcome]:
    """The outcome of every expectation for every row that it is asked of, in their order.

    `on_hint` is called with each hint on a condition. A model without layers does not meet what is expected of each layer.
    Raises NotFoundError for a glob that no model matches, and UsageError for a condition that DuckDB refuses and if there is no
    model.
    """
    with own_sql(connection):
        measured = {row["model_id"]: row for row in run_sql(connection, MEASURED).to_pylist()}
        tables = {each: run_sql(connection, ROWS[each]) for each in {MODELS, *(entry.each for entry in expectations)}}
    if not tables[MODELS].num_rows:
        raise UsageError("no model is there to expect anything of")
    outcomes: list[Outcome] = []
    names = tables[MODELS][MODEL_COLUMN].to_pylist()
    for expectation in expectations:
        models, table = (
            keep_models(tables[each], names, expectation.models) if expectation.models else tables[each]
            for each in (MODELS, expectation.each)
        )
        outcomes += _judge(table, expectation, measured)
        for hint in fraction_hints(tables[expectation.each], expectation.condition):
            on_hint(hint)
        without_rows = sorted({*models[MODEL_COLUMN].to_pylist()} - {*table[MODEL_COLUMN].to_pylist()})
        outcomes += [Outcome(expectation, model, None, None, None, {}, "no layers are known") for model in without_rows]
    return outcomes


def _judge(table: pa.Table, expectation: Expectation, measured: Mapping[str, Mapping[str, Any]]) -> Iterator[Outcome]:
    judged = judge_rows(table, expectation.condition)
    names = parse_condition(expectation.condition).columns
    columns = {find_column(table.schema, name) for name in names}
    named = [name for name in table.column_names if name in columns]
    for row, is_met in zip(table.to_pylist(), judged, strict=True):
        values = {name: row[name] for name in named}
        is_removed = row.get("is_removed") is True
        reason = None
        if is_met is None:
            reason = "the block was removed" if is_removed else _reason(measured.get(row["model_id"]))
        layer = None
        if expectation.each == LAYERS:
            layer = row["layer_index"] if row["base_layer_index"] is None else row["base_layer_index"]
        stack = row["stack"] if expectation.each == LAYERS else None
        yield Outcome(expectation, row["model_id"], stack, layer, is_met, values, reason)


def _reason(model: Mapping[str, Any] | None) -> str | None:
    """Why something of a model may be null."""
    if model is None:
        return "no structure, results alone"
    if model["stats_level"] == "none":
        return "its values were not read: --stats none"
    note: str | None = model["status_note"]
    return note


def _shown(value: Any) -> str:
    """A value as SQL would write it."""
    if value is None:
        return "null"
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    return f"'{value}'" if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
