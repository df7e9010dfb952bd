"""Tables on stdout or in a file, and the warehouse that they come from."""

from __future__ import annotations

import io
import shutil
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

if TYPE_CHECKING:
    import pyarrow as pa

    from layerhouse.warehouse.answers.handle import Warehouse
    from layerhouse.warehouse.answers.selection import Selection
    from layerhouse.warehouse.render.registry import Layout

READ_ALL = ReadingOptions()


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


def show_table(table: pa.Table, output: OutputOptions, layout: Layout | None = None, caption: str | None = None) -> None:
    """Write a table to a file, or to stdout as wide as the terminal. Raises UsageError for a binary format on a terminal."""
    from layerhouse.warehouse.render import FORMATS, Layout, write_table
    from layerhouse.warehouse.render.target import choose_format, write_table_file

    format_name = choose_format(output.format_name, output.output)
    layout = replace(layout or Layout(), is_raw=output.raw)
    if output.output is not None:
        write_table_file(table, format_name, output.output, layout)
        talk(f"wrote {output.output}")
        return
    is_terminal = sys.stdout.isatty()
    if is_terminal and FORMATS[format_name].is_binary:
        raise UsageError(f"{format_name} is not for a terminal; name a file with --output")
    width = shutil.get_terminal_size().columns if is_terminal else None
    buffer = io.BytesIO()
    write_table(table, format_name, buffer, layout, width=width, caption=caption)
    data = visible_lines(buffer.getvalue().decode()).encode() if is_terminal else buffer.getvalue()
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def show_query(
    wh: Warehouse,
    name: str,
    selection: Selection,
    output: OutputOptions,
    layout: Layout | None = None,
    caption: str | None = None,
) -> None:
    """Show the selected rows and columns of a named query. Raises NotFoundError and UsageError."""
    from layerhouse.warehouse.answers.query import asked_by, query_text
    from layerhouse.warehouse.answers.selection import Selection, select_table

    is_plain = replace(selection, models=()) == Selection()
    connection = wh.connection_for(asked_by(query_text(name), selection.models)) if is_plain else wh.connection_for()
    show_table(select_table(connection, name, selection), output, layout, caption)


def show_changes(wh: Warehouse, since: str, models: tuple[str, ...], table: TableOptions, output: OutputOptions) -> None:
    """Show what each model was at an earlier time beside what it is."""
    from layerhouse.warehouse.answers.dates import summary_since
    from layerhouse.warehouse.answers.selection import select_rows

    with wh.at(since) as earlier:
        changes = summary_since(earlier.connection_for(), wh.connection_for(), models)
    show_table(select_rows(wh.connection_for(), changes, table.selection()), output, table.layout)


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
