"""Write cli.md, formats.md and tables.md beside this file from the commands, the forms of weights, the schema, the views and
the queries.

With `--check`, write nothing and exit with 1 if a page is out of date.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from layerhouse.cli import Exit, cli
from layerhouse.ingest.checkpoint.forms import FILES, PACKINGS
from layerhouse.warehouse.answers.query import query_list, query_names, query_text
from layerhouse.warehouse.answers.session import connect
from layerhouse.warehouse.answers.sql_text import quote_identifier, sql_files
from layerhouse.warehouse.answers.tables import documented_columns, list_tables
from layerhouse.warehouse.storage.schema import TABLES
from layerhouse.warehouse.storage.store import create_store

HELP_WIDTH = 88
EXIT_TEXTS = {
    Exit.DONE: "All done.",
    Exit.SOME_FAILED: "Some inputs failed, each named on stderr; the others are in the warehouse.",
    Exit.USAGE: "Wrong usage: an unknown model, query, format or option, faulty SQL, or an option whose package is missing.",
    Exit.BROKEN: "There is no warehouse, it is damaged, or it cannot be written.",
    Exit.INTERRUPTED: "Interrupted (Ctrl-C, SIGTERM); what was finished is in the warehouse.",
}


def cli_page() -> Iterator[str]:
    """The page of the commands: their help and their exit codes."""
    yield "# Commands"
    yield "Generated from the help of the commands by `python docs/generate.py`. The [guide](guide.md) shows examples."
    top = click.Context(cli, info_name="layerhouse", terminal_width=HELP_WIDTH, **cli.context_settings)
    yield _fenced("text", cli.get_help(top))
    yield "Data goes to stdout, messages and progress go to stderr. Exit codes:"
    yield _table(("code", "meaning"), ((str(code.value), EXIT_TEXTS[code]) for code in Exit))
    for name, command in sorted(cli.commands.items()):
        yield f"## layerhouse {name}"
        yield _fenced("text", command.get_help(click.Context(command, info_name=name, parent=top)))


def formats_page() -> Iterator[str]:
    """The forms of stored weights that are read."""
    yield "# Forms of stored weights"
    yield (
        "Generated from the registries by `python docs/generate.py`; `layerhouse formats` prints the same. Weights of every "
        "form count by their own shape, whatever they are packed to. Where zeros are null, no stored code says which weights "
        "are zero. Forms are tested with checkpoints that the tools themselves wrote, or that were made after their source. "
        "Weights of no other form have [a count](guide.md#models-to-analyse): it is null, never that of a smaller model."
    )
    for title, forms in (("Files", FILES), ("Packed, quantised and masked weights, in any file", PACKINGS)):
        yield f"## {title}"
        rows = ((form.name, form.written_by, form.shape, str(form.zeros), ", ".join(form.checked)) for form in forms)
        yield _table(("form", "written by", "shape from", "zeros", "tested with"), rows)


def tables_page() -> Iterator[str]:
    """Every table, view and query with its columns."""
    described, columns = _empty_warehouse()
    yield "# Tables, views and queries"
    yield (
        "Generated from the schema, the views and the queries by `python docs/generate.py`. All of them can be read by "
        "`layerhouse sql`, by `wh.sql(...)` in Python, and by any DuckDB session (see "
        "[the guide](guide.md#the-warehouse-in-duckdb)). "
        "Views answer most questions: start with `models`, `layer_pruning` and `performance`."
    )
    yield "Tables hold what was read, one folder of Parquet files each; views combine them."
    for kind in ("view", "table"):
        rows = [row for row in described if row["kind"] == kind]
        links = ((f"[{row['name']}](#{row['name']})", row["description"]) for row in rows)
        yield _table((kind, "what a row is"), links)
    for row in described:
        yield f"## {row['name']}"
        yield f"{row['kind'].capitalize()}. {row['description']}"
        yield _columns(row["name"], columns[row["name"]])
    shared = {column for row in described for column, _ in columns[row["name"]]}
    yield "## Queries"
    yield "`layerhouse query NAME` runs one; with `--show` it prints the SQL, which can be pasted into any DuckDB session."
    for row in query_list().to_pylist():
        yield f"### query {row['name']}"
        yield row["description"]
        own = [column for column in columns[f"query {row['name']}"] if column[0] not in shared]
        if own:
            yield "Columns that no view has:"
            yield _columns(row["name"], own)
        yield _fenced("sql", query_text(row["name"]))
    yield "## Thresholds and formulas"
    yield "The macros that the views use. They can be called in SQL as well."
    yield _fenced("sql", sql_files("warehouse.views")["00_macros"])


def _empty_warehouse() -> tuple[list[dict[str, Any]], dict[str, list[tuple[str, str]]]]:
    """The tables and views of an empty warehouse, and the columns (name, type) of each; those of queries as `query NAME`."""
    with tempfile.TemporaryDirectory() as folder:
        root = create_store(Path(folder) / "warehouse")
        described: list[dict[str, Any]] = list_tables(root).to_pylist()
        sources = {row["name"]: quote_identifier(row["name"]) for row in described}
        sources |= {f"query {name}": query_text(name) for name in query_names()}
        connection, _ = connect(root, asked="\n".join((*sources, *sources.values())))
        with connection:
            columns = {
                name: [(column, type_) for column, type_, *_ in connection.sql(f"DESCRIBE {source}").fetchall()]
                for name, source in sources.items()
            }
    return described, columns


def _columns(name: str, columns: Iterable[tuple[str, str]]) -> str:
    known = documented_columns(name)
    rows = []
    for column_name, type_ in columns:
        column = known[column_name]
        never_null = ", never null" if column.required and name in TABLES else ""
        rows.append((column_name, type_ + never_null, column.unit or "", column.text))
    return _table(("column", "type", "unit", "meaning"), rows)


def _table(heading: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [tuple(heading)]
    lines += [("---",) * len(lines[0]), *(tuple(cell.replace("|", "\\|") for cell in row) for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _fenced(language: str, text: str) -> str:
    return f"```{language}\n{text.rstrip()}\n```"


def pages() -> dict[str, str]:
    """The text of each page by its name."""
    makers = (("cli.md", cli_page), ("formats.md", formats_page), ("tables.md", tables_page))
    return {name: "\n\n".join(page()) + "\n" for name, page in makers}


def main() -> int:
    """Write the pages, or with `--check` report those that are out of date; return the exit code."""
    status = 0
    for name, text in pages().items():
        path = Path(__file__).with_name(name)
        if "--check" not in sys.argv[1:]:
            path.write_text(text, "utf-8")
        elif not path.exists() or path.read_text("utf-8") != text:
            sys.stderr.write(f"{path}: out of date; write it with: python docs/generate.py\n")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
