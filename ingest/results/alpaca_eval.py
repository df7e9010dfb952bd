"""The leaderboard that AlpacaEval writes (leaderboard.csv): a model a line, with its win rate over a reference model.

Win rates stay percent, as the file has them; `standard_error` is that of `win_rate`, and `lc_standard_error` that of the rate
controlled for length. The first column, which has no name, is the model. The file lies in a folder that has the name of the
annotators' configuration, such as `weighted_alpaca_eval_gpt4_turbo`: it is part of the measure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from layerhouse.ingest.results.parsed import EMPTY_ROW, Item, ParsedResults, ResultFormat, Row, parsed_results
from layerhouse.ingest.results.rows import is_text, left_out_line, measure
from layerhouse.ingest.results.run_times import read_run_at
from layerhouse.ingest.results.scores import finite, whole_number
from layerhouse.ingest.results.settings import settings_text
from layerhouse.ingest.results.table_lines import (
    cell_number,
    check_table,
    read_header,
    read_lines,
    too_many_cells,
    unread_columns,
)
from layerhouse.ingest.results.tasks import ZERO_SHOT

HARNESS = "alpaca_eval"
ANNOTATORS = re.compile(r"\w*alpaca_eval_\w+|alpaca_farm\w*|(?:chatgpt|claude|gpt4|guanaco)(?:_\w+)?")
RATES = {"win_rate": "standard_error", "length_controlled_winrate": "lc_standard_error", "discrete_win_rate": None}
"""Win rates and the columns of their standard errors."""

READ = frozenset({"", "n_total", "avg_length", *RATES, *filter(None, RATES.values())})


def recognises(document: Any, path: Path) -> bool:
    """A CSV whose first column has no name, with a win rate and its error."""
    header = read_header(document) if isinstance(document, str) else None
    return header is not None and header[:1] == [""] and {"win_rate", "standard_error"} <= set(header)


def parse(document: Any, path: Path) -> ParsedResults:
    """A row for every win rate, and for the length of the answers."""
    check_table(document, path)
    run_at, notes = read_run_at(None, path)
    annotators = ANNOTATORS.fullmatch(path.parent.name)
    common = {
        **EMPTY_ROW,
        "harness": HARNESS,
        "task": "alpaca_eval",
        "subset": settings_text({"annotators": annotators[0] if annotators else None}),
        "suite": ZERO_SHOT,
        "run_at": run_at,
        "is_group": False,
    }
    return parsed_results(_items(document), common, notes)


FORMAT: ResultFormat = ResultFormat(HARNESS, recognises, parse)


def _items(document: str) -> Iterator[Item]:
    header = read_header(document) or []
    yield from unread_columns(name for name in header if name not in READ)
    for line in read_lines(document, header):
        if isinstance(line, str):
            yield line
            continue
        model = line.cells.get("")
        if is_text(model):
            yield from _model(line.where, model.strip(), line.cells)
        else:
            yield left_out_line(line.where, "no name of a model")
        yield from too_many_cells(line)


def _model(where: str, model: str, cells: Row) -> Iterator[Item]:
    columns: Row = {"declared_model": model, "n_samples": whole_number(cell_number(cells.get("n_total")))}
    for name, error in RATES.items():
        value = cell_number(cells.get(name))
        if value is not None:
            stderr = finite(cell_number(cells.get(error))) if error else None
            yield measure(f"{where}.{name}", name, value, unit="percent", higher_is_better=True, stderr=stderr, **columns)
    length = cell_number(cells.get("avg_length"))
    if length is not None:
        yield measure(f"{where}.avg_length", "avg_length", length, unit="characters", **columns)
