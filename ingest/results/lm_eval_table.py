"""The tables that lm-evaluation-harness prints (utils.make_table), in markdown, also in a log or a page of notes.

The columns are `Tasks` or `Groups`, `Version`, `Filter` and `n-shot` (from 0.4), `Metric`, `Value` and `Stderr`. A blank task
is that of the line above. The line over a table, `hf (pretrained=...), limit: None, num_fewshot: 0, ...`, names the model. The
task is the printed one, which may be an alias, and values have 4 decimals.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from layerhouse.ingest.checkpoint.notes import note
from layerhouse.ingest.results.lm_eval_run import HARNESS, at_length, generation_text, model_columns
from layerhouse.ingest.results.parsed import Item, Row
from layerhouse.ingest.results.printed_tables import PrintedTable, find_tables
from layerhouse.ingest.results.rows import left_out_line, measure_task
from layerhouse.ingest.results.scores import INT32_MAX, finite
from layerhouse.ingest.results.settings import settings_text
from layerhouse.ingest.results.table_lines import cell_number
from layerhouse.ingest.results.tasks import canonical_task, suite_of_shots

HEADER = re.compile(
    r"^[ \t>#]*\|[ \t]*(?:Tasks?|Groups)[ \t]*\|[ \t]*Version[ \t]*\|[^\n]{0,300}\bMetric\b[^\n]{0,300}\|[ \t]*Value[ \t]*\|"
    r"[^\n]{0,300}$",
    re.MULTILINE,
)
RUN_SETTINGS = re.compile(r", limit: (\S{1,40}), num_fewshot: (\S{1,40}),")
REACH = 4000
"""Characters before a table in which the line of its run is looked for."""
DIRECTIONS = {"↑": True, "↓": False}
ROUNDED = note("rounded", "printed with 4 decimals")


def has_table(text: str) -> bool:
    """Whether a text has such a table."""
    return HEADER.search(text) is not None


def table_items(text: str, path: Path) -> Iterator[Item]:
    """A row for every value of every table."""
    end_of_last = 0
    run: Row = {}
    groups = {task for table in find_tables(text, HEADER) if _is_of_groups(table) for _, task, _ in _named_lines(table)}
    for table in find_tables(text, HEADER):
        before = text[max(end_of_last, table.start - REACH) : table.start]
        if (found := _find_run(before)) is not None:
            run = found
        elif not _is_of_groups(table):
            run = {}
        end_of_last = table.start
        for where, task, cells in _named_lines(table):
            yield _item(where, task, cells, run, is_group=_is_of_groups(table) or task in groups)


def _is_of_groups(table: PrintedTable) -> bool:
    return table.header[:1] == ("Groups",)


def _named_lines(table: PrintedTable) -> Iterator[tuple[str, str, dict[str, str] | None]]:
    """Place, task and cells by column of each line; None for one with another number of cells than the header."""
    task = ""
    for where, cells in table.lines:
        if len(cells) != len(table.header):
            yield where, task, None
            continue
        task = re.sub(r"^(?:- *)+", "", cells[0]) or task
        by_column = {name: cell for name, cell in zip(table.header, cells, strict=True) if name}
        blank = [cell for name, cell in zip(table.header, cells, strict=True) if not name]
        yield where, task, by_column | {"direction": next((cell for cell in blank if cell in DIRECTIONS), "")}


def _item(where: str, printed_task: str, cells: dict[str, str] | None, run: Row, *, is_group: bool) -> Item:
    if cells is None:
        return left_out_line(where, "another number of cells than the header has")
    if not printed_task or not cells.get("Metric"):
        return left_out_line(where, "no name of a task or no metric")
    shots = _whole(cells.get("n-shot", ""))
    if shots is None and "n-shot" not in cells and not is_group:
        shots = run.get("n_shot")
    task, metric = canonical_task(printed_task, cells["Metric"])
    answer_filter = cells.get("Filter", "")
    columns: Row = {
        **run,
        "harness": HARNESS,
        "task": task,
        "stated_task": printed_task if task != printed_task else None,
        "stated_metric": cells["Metric"] if metric != cells["Metric"] else None,
        "suite": suite_of_shots(shots),
        "n_shot": shots,
        "filter": None if answer_filter in ("", "none") else answer_filter,
        "stderr": finite(cell_number(cells.get("Stderr"))),
        "is_group": is_group,
    }
    row = measure_task(where, metric, cell_number(cells["Value"]), notes=[ROUNDED], **columns)
    if isinstance(row, dict) and row["higher_is_better"] is None and cells["direction"]:
        row["higher_is_better"] = DIRECTIONS[cells["direction"]]
    return at_length(row, cells["Metric"]) if isinstance(row, dict) else row


def _find_run(before: str) -> Row | None:
    """What the last line of a run in a text says of it; None if there is no such line."""
    at = before.rfind(", limit: ")
    settings = RUN_SETTINGS.match(before, at) if at >= 0 else None
    if settings is None:
        return None
    model, _, generation = before[before.rfind("\n", 0, at) + 1 : at].partition(", gen_kwargs: ")
    backend, _, arguments = model.partition("(")
    config = {"model": backend.strip(), "model_args": arguments.rpartition(")")[0]}
    limit, shots = cell_number(settings[1]), _whole(settings[2])
    subset = settings_text({"gen_kwargs": generation_text(generation.strip().removeprefix("(").removesuffix(")"))})
    return {**model_columns(config), "sample_limit": finite(limit), "n_shot": shots, "subset": subset}


def _whole(text: str) -> int | None:
    number: Any = cell_number(text)
    return number if isinstance(number, int) and 0 <= number <= INT32_MAX else None
