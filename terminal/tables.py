"""Tables on stdout or in a file, and the warehouse that they come from."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from layerhouse.errors import UsageError
from layerhouse.escapes import visible_lines
from layerhouse.terminal.exit_codes import Exit
from layerhouse.terminal.messages import fail, print_lines, talk
from layerhouse.terminal.options import OutputOptions, ReadingOptions, TableOptions
from layerhouse.terminal.screen.device import Screen, screen, show_text
from layerhouse.terminal.screen.form import Glance

if TYPE_CHECKING:
    import pyarrow as pa

    from layerhouse.warehouse.answers.handle import Warehouse
    from layerhouse.warehouse.answers.selection import Answer, Selection
    from layerhouse.warehouse.render.registry import Layout

READ_ALL = ReadingOptions()
PLAIN_RUNS, ALL_RUNS = "performance", "performance_variants"
OF_RUNS = (PLAIN_RUNS, ALL_RUNS)
"""Queries whose rows are runs of models."""
OF_VARIANTS = ("variant", "run_note")
"""Columns of theirs that say nothing of plain models."""
KEPT_SHARES = ("kept_share", "kept_share_mean", "kept_share_max")
"""Columns of the share that is kept, of which a table has one."""


@contextmanager
def opened_warehouse(path: Path, reading: ReadingOptions = READ_ALL) -> Iterator[Warehouse]:
    """A warehouse for reading. Damaged commits that an answer was to skip are named after it, and make the exit code 3."""
    import layerhouse

    with layerhouse.open(path, **vars(reading)) as wh:
        yield wh
        for damage in wh.damages:
            talk(f"damaged: {damage.path}: {damage.what}; the answer is without commit {damage.commit_id}")
        if wh.damages:
            fail(f"{path}: some of it is damaged; see: layerhouse check --warehouse {path}", Exit.BROKEN)


def show_table(
    table: pa.Table,
    output: OutputOptions,
    layout: Layout | None = None,
    caption: str | None = None,
    *,
    glance: Glance | None = None,
) -> None:
    """Write a table to a file or to stdout. Raises UsageError for a binary format on a terminal.

    On a terminal, text is shown at a glance if a glance is given and not all columns are asked for.
    """
    from layerhouse.warehouse.render import FORMATS, Layout, write_table
    from layerhouse.warehouse.render.target import choose_format, write_table_file

    format_name = choose_format(output.format_name, output.output)
    layout = replace(layout or Layout(), is_raw=output.raw)
    if output.output is not None:
        write_table_file(table, format_name, output.output, layout)
        talk(f"wrote {output.output}")
        return
    target = screen(has_pager=output.pager)
    if target is None:
        buffer = io.BytesIO()
        write_table(table, format_name, buffer, layout, caption=caption)
        sys.stdout.flush()
        sys.stdout.buffer.write(buffer.getvalue())
        sys.stdout.buffer.flush()
        return
    if FORMATS[format_name].is_binary:
        raise UsageError(f"{format_name} is not for a terminal; name a file with --output")
    if format_name == "text" and (text := _at_a_glance(table, replace(layout, caption=caption), output, target, glance)):
        show_text(text, target)
        return
    buffer = io.BytesIO()
    write_table(table, format_name, buffer, layout, width=target.width, caption=caption)
    show_text(visible_lines(buffer.getvalue().decode()), target)


def _at_a_glance(table: pa.Table, layout: Layout, output: OutputOptions, target: Screen, glance: Glance | None) -> str | None:
    """The table as a person reads it on a terminal; None if it is to be shown whole."""
    from layerhouse.terminal.screen.glance import card_text, fits, glance_text

    if output.vertical:
        return card_text(table, layout, target, glance)
    if glance is None or output.wide or layout.is_whole:
        return None
    is_card = table.num_rows == 1 and not layout.are_columns_chosen and not fits(table, layout, target, glance)
    return (card_text if is_card else glance_text)(table, layout, target, glance)


def show_list(table: pa.Table, output: OutputOptions) -> None:
    """Show a table of prose, which is wrapped on a terminal. See show_table."""
    show_table(table, output, glance=Glance(is_list=True))


def show_query(
    wh: Warehouse,
    name: str,
    selection: Selection,
    output: OutputOptions,
    layout: Layout | None = None,
    caption: str | None = None,
) -> None:
    """Show the selected rows and columns of a named query. Raises NotFoundError and UsageError."""
    from layerhouse.warehouse.answers.selection import select_table

    if name in OF_RUNS:
        show_runs(wh, name, selection, output, layout, caption)
    else:
        connection = wh.connection_for(selection.asked_sql(name))
        table = select_table(connection, name, selection)
        show_table(table, output, layout, caption, glance=_glance(wh, name, output))
        _talk_of_shares(table, selection.by)


def _glance(wh: Warehouse, query: str | None, output: OutputOptions) -> Glance | None:
    """How a table of models is shown at a glance; None where it is not for a terminal."""
    from layerhouse.warehouse.answers.query import MODEL_NAMES, run_sql
    from layerhouse.warehouse.render.short_names import shortest_endings

    if output.output is not None or not sys.stdout.isatty():
        return None
    names = run_sql(wh.connection_for(MODEL_NAMES), MODEL_NAMES).column(0).to_pylist()
    return Glance(query, shortest_endings(names))


def show_runs(
    wh: Warehouse, name: str, selection: Selection, output: OutputOptions, layout: Layout | None, caption: str | None
) -> None:
    """Show a table of performance; what is to be said of its values stands above it in formats for reading, and on stderr.

    Those formats leave out columns about variants if all runs are of plain models and the columns are not asked for by name.
    """
    from layerhouse.warehouse.answers.conditions import count_blanks, count_models_with_hidden_runs, shared_conditions
    from layerhouse.warehouse.answers.selection import select_answer
    from layerhouse.warehouse.render import FORMATS, Layout
    from layerhouse.warehouse.render.target import choose_format

    connection = wh.connection_for(f"{selection.asked_sql(name)}\nSELECT * FROM run_measures")
    answer = select_answer(connection, name, selection)
    table, layout = answer.table, layout or Layout()
    if FORMATS[choose_format(output.format_name, output.output)].is_for_reading:
        layout = replace(layout, notes=shared_conditions(connection, answer))
        asked = {*selection.columns, *selection.group_columns}
        silent = [column for column in OF_VARIANTS if column in table.column_names and column not in asked]
        table = table.drop_columns([column for column in silent if table[column].null_count == table.num_rows])
    show_table(table, output, layout, caption, glance=_glance(wh, name, output))
    _talk_of_shares(table, selection.by)
    _talk_of_answer(answer, *count_blanks(connection, answer.runs))
    if name == PLAIN_RUNS and (count := count_models_with_hidden_runs(connection, answer.runs)):
        models = "1 model has" if count == 1 else f"{count} models have"
        talk(f"{models} values of other runs, which stand apart; see: layerhouse performance --variants")


def _talk_of_shares(table: pa.Table, by: str | None) -> None:
    """Say how many rows lack the share that was asked for."""
    column = next((name for name in KEPT_SHARES if name in table.column_names), None)
    if by is not None and column is not None and (count := table[column].null_count):
        rows = "1 row has" if count == 1 else f"{count} rows have"
        talk(f"{rows} no share by {by}: without a base, or it is not known")


def _talk_of_answer(answer: Answer, num_conflicts: int, num_doubtful: int) -> None:
    """Say what the table does not show, a line each."""
    if answer.num_left_out:
        rows = "1 row lacks a task and is" if answer.num_left_out == 1 else f"{answer.num_left_out} rows lack a task and are"
        talk(f"{rows} left out")
    if answer.unranked:
        talk(f"not ranked, as no file says whether more or less is better: {', '.join(answer.unranked)}")
    if num_conflicts:
        measures = "1 measure has" if num_conflicts == 1 else f"{num_conflicts} measures have"
        blank = "is" if num_conflicts == 1 else "are"
        talk(f"{measures} several values of one time and {blank} blank; see: layerhouse query conflicts")
    if num_doubtful:
        values = "1 value is" if num_doubtful == 1 else f"{num_doubtful} values are"
        talk(f"{values} of doubtful scale and left out; see: layerhouse query doubtful")


def show_changes(wh: Warehouse, since: str, models: tuple[str, ...], table: TableOptions, output: OutputOptions) -> None:
    """Show what each model was at an earlier time beside what it is. Raises UsageError for options that it does not have."""
    from layerhouse.warehouse.answers.dates import MODELS, summary_since
    from layerhouse.warehouse.answers.selection import select_rows

    if table.by is not None:
        raise UsageError("--by is not for --since, which shows parameters")
    with wh.at(since) as earlier:
        changes = summary_since(earlier.connection_for(MODELS), wh.connection_for(MODELS), models)
    selection = table.selection()
    rows = select_rows(wh.connection_for(selection.asked_sql("summary")), changes, selection)
    show_table(rows, output, table.layout, glance=_glance(wh, None, output))


def show_differences(
    first: Warehouse, second: Warehouse, models: tuple[str, ...], table: TableOptions, output: OutputOptions
) -> bool:
    """Show what differs between two warehouses; return whether anything does."""
    from layerhouse.warehouse.answers.selection import select_rows

    compared = first.differences_table(second, models)
    selection = table.selection()
    rows = select_rows(first.connection_for(selection.asked_sql("summary")), compared, selection)
    show_table(rows, output, table.layout, glance=_glance(first, None, output))
    return bool(compared.num_rows)


def write_init_script(warehouse: Path, reading: ReadingOptions, target: Path | None) -> None:
    """Write the SQL that opens the warehouse in any DuckDB session, to a file or stdout."""
    from layerhouse.warehouse.answers.session import init_script, parse_as_of
    from layerhouse.warehouse.render.target import write_file

    if reading.skip_damaged:
        raise UsageError("--skip-damaged is not for --init: the script would hide what is damaged")
    as_of = None if reading.as_of is None else parse_as_of(reading.as_of)
    script = init_script(warehouse, as_of=as_of, verify=reading.verify)
    if target is None:
        print_lines(script)
    else:
        write_file(target, script.encode())
