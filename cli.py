"""The `layerhouse` command: each subcommand parses, makes one call and renders.

stdout is data; messages and progress go to stderr. Heavy packages are imported inside the commands that need them.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import click

from layerhouse.errors import UsageError
from layerhouse.terminal.completion import complete_column, complete_models, complete_queries, complete_tables, completion
from layerhouse.terminal.engine import version_option
from layerhouse.terminal.exit_codes import Exit
from layerhouse.terminal.expectations import ExpectationOptions, collect_expectations, expectation_options, show_outcomes
from layerhouse.terminal.forms_table import list_forms
from layerhouse.terminal.ingest_options import IngestOptions, ingest_options, stats_level
from layerhouse.terminal.lineage import settle_lineage, show_trees
from layerhouse.terminal.messages import print_lines, talk
from layerhouse.terminal.options import (
    LocalPath,
    OutputOptions,
    ReadingOptions,
    TableOptions,
    TaskOptions,
    model_arguments,
    output_options,
    reading_options,
    summary_output_options,
    table_options,
    task_options,
    warehouse_option,
)
from layerhouse.terminal.packing import advise_packing
from layerhouse.terminal.picture import draw, is_picture_wanted
from layerhouse.terminal.plot import FigureOutput, PlotOptions, figure_output_options, list_kinds, plot_options, write_figures
from layerhouse.terminal.process import Commands, exit_without_teardown, run_to_exit
from layerhouse.terminal.progress import ingest_display, report_line
from layerhouse.terminal.report import ReportOptions, report_options
from layerhouse.terminal.study_files import model_files, write_batch_files, write_model_files, write_summary_files
from layerhouse.terminal.tables import (
    opened_warehouse,
    show_changes,
    show_differences,
    show_list,
    show_query,
    show_table,
    write_init_script,
)
from layerhouse.terminal.upkeep import check, drop, export, link, pack, rename
from layerhouse.vocabulary import EventKind

__all__ = ["Exit", "cli", "main", "program"]


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@version_option
def cli() -> None:
    """A columnar warehouse for pruned and compressed language-model checkpoints.

    Ingest folders of models once; then ask with SQL, tables or polars which model kept what, layer by layer, and what that
    cost in quality and speed.
    """


@cli.command()
@click.argument("roots", nargs=-1, required=True, type=LocalPath(), metavar="ROOT...")
@warehouse_option
@ingest_options
def ingest(
    roots: tuple[Path, ...],
    warehouse: Path,
    options: IngestOptions,
    spectral: bool,
    write_analysis: Path | None,
    force: bool,
    quiet: bool,
) -> None:
    """Take everything below ROOT... into the warehouse.

    ROOT is a folder of models at any depth, the folder of one model, or one file. Weights, analyses and evaluation results are
    read, and no code in them is run. What the warehouse has already, unchanged, is not read again. Every input has a line on
    stderr. Exit code 1 means that some inputs failed.
    """
    import layerhouse

    options = replace(options, stats=stats_level(options.stats, spectral=spectral))
    with ingest_display(quiet=quiet) as (on_event, on_progress):
        report = layerhouse.ingest(
            roots, warehouse=warehouse, map_files=True, on_event=on_event, on_progress=on_progress, **vars(options)
        )
    talk(report_line(report, warehouse, dry_run=options.dry_run))
    if not options.dry_run:
        advise_packing(warehouse)
    are_written = True
    if write_analysis is not None and not options.dry_run:
        kinds = (EventKind.TAKEN, EventKind.UNCHANGED)
        models = dict.fromkeys(event.where for event in report.events if event.kind in kinds)
        are_written = write_batch_files(warehouse, [*models], write_analysis, force=force)
    if report.count(EventKind.FAILED) or not are_written:
        sys.exit(Exit.SOME_FAILED)


@cli.command()
@model_arguments
@warehouse_option
@reading_options
@table_options
@click.option("--since", metavar="TIME", help="Show what each model was at this earlier time beside what it is.")
@summary_output_options
def summarize(
    models: tuple[str, ...],
    warehouse: Path,
    reading: ReadingOptions,
    table: TableOptions,
    since: str | None,
    output: OutputOptions,
) -> None:
    """Show what each MODEL kept of its base, one row per model."""
    from layerhouse.warehouse.render.target import is_prefix

    with opened_warehouse(warehouse, reading) as wh:
        if since is not None:
            show_changes(wh, since, models, table, output)
        elif output.output is not None and output.format_name is None and is_prefix(output.output):
            write_summary_files(wh, models, output.output, by=table.by)
        else:
            show_query(wh, "summary", table.selection(models), output, table.layout)


@cli.command()
@model_arguments
@warehouse_option
@reading_options
@click.option(
    "--picture/--no-picture",
    default=None,
    help="Draw the layers of each model that has a base; by default only for a single model on a terminal.",
)
@table_options
@output_options
def layers(
    models: tuple[str, ...],
    warehouse: Path,
    reading: ReadingOptions,
    picture: bool | None,
    table: TableOptions,
    output: OutputOptions,
) -> None:
    """Show the layers of each MODEL, by default of all.

    A single model on a terminal is drawn beside its base.
    """
    with opened_warehouse(warehouse, reading) as wh:
        pictures = draw(wh, models, by=table.by) if is_picture_wanted(picture, models, output, table) else []
        if pictures:
            print_lines("\n".join(pictures), has_pager=output.pager)
        else:
            show_query(wh, "per_layer", table.selection(models), output, table.layout)


@cli.command()
@click.argument("model", shell_complete=complete_models)
@click.argument("base", required=False, shell_complete=complete_models)
@warehouse_option
@reading_options
@table_options
@output_options
def compare(
    model: str, base: str | None, warehouse: Path, reading: ReadingOptions, table: TableOptions, output: OutputOptions
) -> None:
    """Show MODEL beside BASE, layer by layer.

    It shows what was kept, cut and removed, and how each layer was matched.

    BASE is any other model of the warehouse, by default the one that MODEL was last compared with. A comparison that is not
    stored is made of stored rows, and changes no table. With --format or --output, the table behind the picture is written.
    """
    from layerhouse.compare_call import compared

    with opened_warehouse(warehouse, reading) as wh:
        model, base = wh.find_model(model), None if base is None else wh.find_model(base, "base")
        with compared(wh, model, base) as (shown, texts):
            if output.is_default:
                print_lines("".join(draw(shown, (model,), base, by=table.by)), has_pager=output.pager)
            else:
                show_query(shown, "per_layer", table.selection((model,)), output, table.layout)
            for text in texts:
                talk(text)


@cli.command()
@click.argument("first", type=LocalPath(), metavar="WAREHOUSE_A")
@click.argument("second", type=LocalPath(), metavar="WAREHOUSE_B")
@model_arguments
@reading_options
@table_options
@output_options
def diff(
    first: Path, second: Path, models: tuple[str, ...], reading: ReadingOptions, table: TableOptions, output: OutputOptions
) -> None:
    """Show what differs between two warehouses.

    Models, their structures and layers, and scores are compared; models are matched by their names. A row is something that
    only one of the two has, or a value that differs, with both values. The exit code is 0 whether or not anything differs:
    an empty table says that nothing does.
    """
    with opened_warehouse(first, reading) as wh, opened_warehouse(second, reading) as other:
        if not show_differences(wh, other, models, table, output):
            talk(f"no differences between {first} and {second}")


@cli.command()
@model_arguments
@warehouse_option
@reading_options
@click.option("--update", is_flag=True, help="First find the descent of all models anew, as after runs on several machines.")
@table_options
@output_options
def lineage(
    models: tuple[str, ...], warehouse: Path, reading: ReadingOptions, update: bool, table: TableOptions, output: OutputOptions
) -> None:
    """Show what each MODEL was made from, and what from it.

    The tree is found by the stored rows of the tensors; `ingest` compares models with its roots where no base is named. With
    --format, --output or an option of tables, the table behind the tree is written instead.
    """
    if update:
        settle_lineage(warehouse)
    with opened_warehouse(warehouse, reading) as wh:
        if output.is_default and table == TableOptions():
            show_trees(wh, models)
        else:
            show_query(wh, "lineage", table.selection(models), output, table.layout)


@cli.command()
@click.argument("model", shell_complete=complete_models)
@warehouse_option
@reading_options
@click.option("-O", "--output-dir", type=LocalPath(), required=True, metavar="DIR", help="Folder to write into.")
@click.option("--force", is_flag=True, help="Overwrite files that layerhouse did not write.")
def analysis(model: str, warehouse: Path, reading: ReadingOptions, output_dir: Path, force: bool) -> None:
    """Write MODEL's structure as the files of the study scripts.

    They have its layers, its base's layers, and the comparison of both.
    """
    write_model_files(model_files(warehouse, reading, model), output_dir, force=force)


@cli.command()
@model_arguments
@warehouse_option
@reading_options
@task_options
@table_options
@output_options
def performance(
    models: tuple[str, ...],
    warehouse: Path,
    reading: ReadingOptions,
    tasks: TaskOptions,
    table: TableOptions,
    output: OutputOptions,
) -> None:
    """Show quality, speed and memory of each MODEL."""
    with opened_warehouse(warehouse, reading) as wh:
        show_query(wh, tasks.query, tasks.added_to(table.selection(models)), output, table.layout)


@cli.command()
@model_arguments
@warehouse_option
@reading_options
@report_options
def report(warehouse: Path, models: tuple[str, ...], reading: ReadingOptions, page: ReportOptions) -> None:
    """Write one HTML page of all models, for any browser.

    The page has the table, figures, each model with its layers and results, and the SQL. It needs no network, no other file and
    no layerhouse, and a browser loads and runs nothing but what is in it.
    """
    with opened_warehouse(warehouse, reading) as wh:
        wh.report(page.output, models=models, title=page.title, language=page.language)
        talk(f"wrote {page.output}")


@cli.command()
@click.argument("name", required=False, shell_complete=complete_queries)
@model_arguments
@warehouse_option
@reading_options
@click.option("--show", is_flag=True, help="Print the SQL instead of running it.")
@table_options
@output_options
def query(
    name: str | None,
    models: tuple[str, ...],
    warehouse: Path,
    reading: ReadingOptions,
    show: bool,
    table: TableOptions,
    output: OutputOptions,
) -> None:
    """Run the query NAME; without a name, list the queries."""
    from layerhouse.warehouse.answers.query import query_list, query_text

    if name is None:
        show_list(query_list(), output)
    elif show:
        print_lines(query_text(name))
    else:
        with opened_warehouse(warehouse, reading) as wh:
            show_query(wh, name, table.selection(models), output, table.layout)


@cli.command()
@click.argument("kind", required=False)
@model_arguments
@warehouse_option
@reading_options
@plot_options
@figure_output_options
def plot(
    kind: str | None,
    warehouse: Path,
    models: tuple[str, ...],
    reading: ReadingOptions,
    figure: PlotOptions,
    output: FigureOutput,
) -> None:
    """Draw a figure of models; without KIND, list the kinds.

    Each MODEL is a name or a glob; by default all are drawn. The suffix of the file selects its format: .svg, .png, .pdf,
    .html, or .json for the Vega-Lite specification. layers, roles and units show one model: a folder takes a file for each.
    """
    if kind is None:
        list_kinds(output)
        return
    with opened_warehouse(warehouse, reading) as wh:
        write_figures(wh, kind, models, figure, output)


@cli.command()
@click.argument("statement", required=False)
@warehouse_option
@reading_options
@click.option("--init", is_flag=True, help="Print the statements that open the warehouse in any DuckDB session.")
@click.option("--safe", is_flag=True, help="Refuse everything but one SELECT over the tables and views.")
@output_options
def sql(statement: str | None, warehouse: Path, reading: ReadingOptions, init: bool, safe: bool, output: OutputOptions) -> None:
    """Run the SQL STATEMENT over every table and view.

    `-` reads it from standard input. A statement runs in DuckDB with your rights: it can read and write files and attach
    databases. --safe is for statements of others, and for warehouses of others.
    """
    if init == (statement is not None):
        raise UsageError("give a statement, or --init")
    if init:
        write_init_script(warehouse, reading, output.output)
        return
    text = sys.stdin.read() if statement == "-" else str(statement)
    with opened_warehouse(warehouse, reading) as wh:
        show_table(wh.run(text, safe=safe), output)


@cli.command()
@click.argument("name", required=False, shell_complete=complete_tables)
@warehouse_option
@output_options
def tables(name: str | None, warehouse: Path, output: OutputOptions) -> None:
    """List the tables and views, or the columns of the one NAME.

    Tables and views have their sizes, columns their types, units and meaning.
    """
    from layerhouse.warehouse.answers.tables import list_columns, list_tables

    show_list(list_tables(warehouse) if name is None else list_columns(warehouse, name), output)


@cli.command()
@output_options
def formats(output: OutputOptions) -> None:
    """List the forms of stored weights that are read.

    The table says who writes each, and whether its zeros are counted.
    """
    show_list(list_forms(), output)


@cli.command()
@click.argument("conditions", nargs=-1, metavar="CONDITION...", shell_complete=complete_column)
@warehouse_option
@reading_options
@expectation_options
def expect(conditions: tuple[str, ...], warehouse: Path, reading: ReadingOptions, expected: ExpectationOptions) -> None:
    """Check that models meet each CONDITION.

    A CONDITION is SQL over the columns of `models` or `layer_pruning`. One that is null fails, too. Exit code 1 means that
    a condition is not met.
    """
    expectations = collect_expectations(conditions, expected)
    with opened_warehouse(warehouse, reading) as wh:
        are_met = show_outcomes(wh, expectations, expected.format_name)
    if not are_met:
        sys.exit(Exit.SOME_FAILED)


@cli.command()
@click.option("--keep", type=LocalPath(), metavar="FOLDER", help="Make the study in this folder and keep it.")
def demo(keep: Path | None) -> None:
    """Make a small study, ingest it, and print three tables.

    The checkpoints of the study are real ones, small and random.
    """
    from layerhouse.demo import show_demo

    show_demo(keep)


for command in (link, check, pack, drop, rename, export, completion):
    cli.add_command(command)


def main() -> NoReturn:
    """Run the command and exit with its code."""
    run_to_exit(lambda: cli.main(standalone_mode=False))


def program() -> NoReturn:
    """The installed command: `main`, and an exit without teardown."""
    exit_without_teardown(main)


if __name__ == "__main__":
    program()
