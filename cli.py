"""The `layerhouse` command: parse, one call, render. The only module that prints.

stdout is data; stderr is talk and progress. Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import enum
import errno
import functools
import gc
import io
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from layerhouse.errors import LayerhouseError, UsageError, WarehouseError
from layerhouse.version import __version__

if TYPE_CHECKING:
    import pyarrow as pa

    from layerhouse.ingest.run import Event, Progress, Report
    from layerhouse.warehouse.answers.handle import Warehouse
    from layerhouse.warehouse.answers.selection import Selection
    from layerhouse.warehouse.render.registry import Layout

Command = Callable[..., Any]


class Exit(enum.IntEnum):
    """Exit codes of every command."""

    DONE = 0
    SOME_FAILED = 1
    USAGE = 2
    BROKEN = 3
    INTERRUPTED = 130


def warehouse_option(command: Command) -> Command:
    return click.option(
        "-w",
        "--warehouse",
        type=click.Path(path_type=Path),
        envvar="LAYERHOUSE_WAREHOUSE",
        default="layerhouse-data",
        show_default=True,
        show_envvar=True,
        help="Folder of the warehouse.",
    )(command)


def as_of_option(command: Command) -> Command:
    return click.option(
        "--as-of", metavar="TIME", help="Show the warehouse as it was then: 2026-01-31 (its end, UTC) or a time."
    )(command)


def model_option(command: Command) -> Command:
    return click.option("-m", "--model", "models", metavar="GLOB", multiple=True, help="Only models like this; repeatable.")(
        command
    )


def output_options(command: Command) -> Command:
    command = click.option(
        "-f",
        "--format",
        "format_name",
        metavar="FORMAT",
        help="text, csv, json, ndjson, markdown, parquet, xlsx, html or latex.",
    )(command)
    return click.option(
        "-o", "--output", type=click.Path(path_type=Path), help="Write to this file; its suffix names the format."
    )(command)


@dataclass(frozen=True)
class Shown:
    """What the options of a table ask for: rows and columns, and how they look."""

    selection: Selection
    layout: Layout


def table_options(command: Command) -> Command:
    """Options that choose rows and columns of a named table and how it looks; the command gets them as `shown`."""

    @functools.wraps(command)
    def collect(
        *args: Any,
        columns: str | None,
        where: str | None,
        sort: str | None,
        group: str | None,
        language: str,
        digits: int | None,
        best: bool,
        **rest: Any,
    ) -> Any:
        from layerhouse.warehouse.answers.selection import Selection, split_names
        from layerhouse.warehouse.render.registry import Layout

        selection = Selection(
            where=where,
            sort=split_names(sort or ""),
            columns=split_names(columns or ""),
            group=split_names(group or ""),
        )
        layout = Layout(language=language, digits=digits, marks_best=best, group=selection.group_columns)
        return command(*args, shown=Shown(selection, layout), **rest)

    for option in reversed(
        (
            click.option("--columns", metavar="A,B,...", help="These columns, in this order."),
            click.option("--where", metavar="SQL", help="Rows for which this condition on the columns holds."),
            click.option("--sort", metavar="A,-B,...", help="Sort by these columns; - before one is descending."),
            click.option(
                "--group", metavar="A,B,...", help="Rows equal in these columns together, such as method,ratio; bases first."
            ),
            click.option("--best", is_flag=True, help="Bold for the best value of a column, or group (markdown, html, latex)."),
            click.option("--digits", type=click.IntRange(0, 12), metavar="N", help="Decimals where people read."),
            click.option(
                "--lang",
                "language",
                type=click.Choice(["en", "zh"]),
                default="en",
                show_default=True,
                help="Language of headings where people read.",
            ),
        )
    ):
        collect = option(collect)
    return collect


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="layerhouse %(version)s")
def cli() -> None:
    """A columnar warehouse for pruned and compressed language-model checkpoints.

    Ingest folders of models once; then ask with SQL, tables or polars which model kept what, layer by layer, and what that
    cost in quality and speed.
    """


@cli.command()
@click.argument("roots", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="ROOT...")
@warehouse_option
@click.option(
    "--base",
    metavar="PATH|MODEL",
    help="The model that the others were made from: its path, its name if it is in, or its config.json alone.",
)
@click.option("--stats", type=click.Choice(["full", "none"]), default="full", show_default=True, help="none: headers alone.")
@click.option(
    "--compare",
    type=click.Choice(["auto", "rows", "values"]),
    default="auto",
    show_default=True,
    help="Read values beside the base's: auto, of models that are measured now; values, of all; rows, of none.",
)
@click.option("--near-zero", type=float, metavar="T", help="Also count values of magnitude T or less.")
@click.option("--units", is_flag=True, help="Also read heads, KV groups, neurons and experts, and match them with the base's.")
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Threads that measure; one a core without it.")
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Models read at once; one a device without it.")
@click.option("--spectral", is_flag=True, help="Also measure the spectra of weight matrices: norm, ranks, power law.")
@click.option(
    "--device",
    metavar="cpu|cuda[:N]|auto",
    default="cpu",
    show_default=True,
    help="Where values are counted; auto: on GPUs where there are any.",
)
@click.option(
    "--limit-factor",
    type=float,
    default=1.0,
    show_default=True,
    metavar="F",
    help="Multiply the limits on what a file may claim: over 1 for a large one that is refused, under 1 to be stricter.",
)
@click.option(
    "--method-pattern",
    "method_patterns",
    metavar="REGEX",
    multiple=True,
    help="What names declare, by groups (?P<method>..), (?P<ratio>..), (?P<removed>..); before the built-in rules; repeatable.",
)
@click.option(
    "--write-analysis",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Also write the study scripts' files beside each model, and batch_analysis_results.json into DIR.",
)
@click.option("--force", is_flag=True, help="Let --write-analysis overwrite files of another writer.")
@click.option("--name", metavar="MODEL", help="Name of the one model found; without it a model is named by its path.")
@click.option("--exclude", "excludes", metavar="GLOB", multiple=True, help="Pass over paths like this; repeatable.")
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be taken; write nothing.")
@click.option("-q", "--quiet", is_flag=True, help="Name failures alone.")
def ingest(
    roots: tuple[Path, ...],
    warehouse: Path,
    base: str | None,
    stats: str,
    compare: str,
    near_zero: float | None,
    units: bool,
    threads: int | None,
    workers: int | None,
    spectral: bool,
    device: str,
    limit_factor: float,
    method_patterns: tuple[str, ...],
    write_analysis: Path | None,
    force: bool,
    name: str | None,
    excludes: tuple[str, ...],
    dry_run: bool,
    quiet: bool,
) -> None:
    """Take everything found below ROOT... into the warehouse.

    ROOT is a folder of models at any depth, a model's folder, or one file. Weights, analyses and evaluation results are read,
    and no code in them is run; what is in the warehouse unchanged is not read again. Every input has one line on stderr; exit
    code 1 says that some failed.
    """
    import layerhouse

    if spectral and stats == "none":
        raise UsageError("--spectral reads weights, and --stats none does not: give one of them")
    signal.signal(signal.SIGTERM, _interrupt)
    with _ingest_display(quiet=quiet) as (on_event, on_progress):
        report = layerhouse.ingest(
            roots,
            warehouse=warehouse,
            exclude=excludes,
            base=base,
            name=name,
            dry_run=dry_run,
            stats="spectral" if spectral else stats,
            compare=compare,
            near_zero=near_zero,
            threads=threads,
            workers=workers,
            device=device,
            limit_factor=limit_factor,
            method_patterns=method_patterns,
            units=units,
            on_event=on_event,
            on_progress=on_progress,
        )
    _talk(_report_line(report, warehouse, dry_run=dry_run))
    is_written = True
    if write_analysis is not None and not dry_run:
        models = dict.fromkeys(event.where for event in report.events if event.kind in ("taken", "unchanged"))
        is_written = _write_analyses(warehouse, [*models], write_analysis, force=force)
    if report.count("failed") or not is_written:
        sys.exit(Exit.SOME_FAILED)


@cli.command()
@warehouse_option
@model_option
@as_of_option
@table_options
@click.option("--since", metavar="TIME", help="What each model was at an earlier time, beside what it is.")
@click.option(
    "-f", "--format", "format_name", metavar="FORMAT", help="text, csv, json, ndjson, markdown, parquet, xlsx, html or latex."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE|PREFIX",
    help="A known suffix gives the table; anything else is a prefix of PREFIX.txt and PREFIX.json in the study's form.",
)
def summarize(
    warehouse: Path,
    models: tuple[str, ...],
    as_of: str | None,
    shown: Shown,
    since: str | None,
    format_name: str | None,
    output: Path | None,
) -> None:
    """The summary table: one row a model, what it kept against its base."""
    from layerhouse.warehouse.render import format_of

    with _opened(warehouse, as_of) as wh:
        if since is not None:
            _show_since(wh, since, models, format_name, output, shown)
        elif output is not None and format_name is None and format_of(output) is None:
            _write_study_files(wh, models, output)
        else:
            _show_query(wh, "summary", models, format_name, output, shown)


@cli.command()
@click.argument("model", nargs=-1)
@warehouse_option
@as_of_option
@click.option(
    "--picture/--no-picture",
    default=None,
    help="Draw the layers of each model that has a base; as it is, those of one model on a terminal.",
)
@table_options
@output_options
def layers(
    model: tuple[str, ...],
    warehouse: Path,
    as_of: str | None,
    picture: bool | None,
    shown: Shown,
    format_name: str | None,
    output: Path | None,
) -> None:
    """The per-layer table of MODEL (a name or glob; all models without one)."""
    with _opened(warehouse, as_of) as wh:
        is_text = output is None and format_name in (None, "text")
        if picture is None:
            picture = is_text and len(model) == 1 and sys.stdout.isatty()
        if picture and not is_text:
            raise UsageError("--picture is for reading; leave out --format and --output")
        drawn = _draw(wh, model) if picture else []
        if drawn:
            click.echo("\n".join(drawn), nl=False)
        else:
            _show_query(wh, "per_layer", model, format_name, output, shown)


@cli.command()
@click.argument("model")
@click.argument("base", required=False)
@warehouse_option
@as_of_option
@table_options
@output_options
def compare(
    model: str,
    base: str | None,
    warehouse: Path,
    as_of: str | None,
    shown: Shown,
    format_name: str | None,
    output: Path | None,
) -> None:
    """MODEL beside BASE, block by block: what was kept, cut and removed, and how that is known.

    BASE is the one that MODEL was last compared with; another one is compared by: layerhouse ingest MODEL --base BASE. A
    --format or --output gives the table behind the picture.
    """
    from layerhouse.warehouse.answers.comparing import require_pair

    with _opened(warehouse, as_of) as wh:
        require_pair(wh.connection, model, base)
        if output is None and format_name is None:
            click.echo("".join(_draw(wh, (model,))), nl=False)
        else:
            _show_query(wh, "per_layer", (model,), format_name, output, shown)


@cli.command()
@click.argument("file", required=False)
@click.argument("model", required=False)
@click.option(
    "--from",
    "table",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="CSV",
    help="Many links at once: a table with the columns file and model.",
)
@warehouse_option
def link(file: str | None, model: str | None, table: Path | None, warehouse: Path) -> None:
    """Say that the results of FILE are MODEL's. It holds for later ingests too.

    `layerhouse query unlinked` lists the files that no model was found for.
    """
    from layerhouse.warehouse.admin.link_results import link_results, read_pairs

    if (table is None) == (file is None or model is None):
        raise UsageError("name a FILE and a MODEL, or a table with --from")
    pairs = read_pairs(table) if table is not None else [(str(file), str(model))]
    count = link_results(warehouse, pairs)
    _talk(f"linked {count} result file{'' if count == 1 else 's'}")


@cli.command()
@click.argument("model")
@warehouse_option
@as_of_option
@click.option("-O", "--output-dir", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Where to write them.")
@click.option("--force", is_flag=True, help="Overwrite files of another writer.")
def analysis(model: str, warehouse: Path, as_of: str | None, output_dir: Path, force: bool) -> None:
    """Write MODEL's structure in the files of the study scripts: its layers, its base's, and one against the other."""
    from layerhouse.warehouse.study.analysis_files import analysis_files
    from layerhouse.warehouse.study.written_files import write_files

    with _opened(warehouse, as_of) as wh:
        files = analysis_files(wh.connection, model)
    write_files(output_dir, files, force=force)
    for name in sorted(files):
        _talk(f"wrote {output_dir / name}")


def _write_analyses(warehouse: Path, models: Sequence[str], folder: Path, *, force: bool) -> bool:
    """Write analysis files beside each model, and what became of each into a folder; whether all could be."""
    from layerhouse.warehouse.study.analysis_files import write_analyses

    with _opened(warehouse, None) as wh:
        failures = write_analyses(wh.connection, models, folder, force=force)
    for model, reason in failures.items():
        _talk(f"FAILED      {model}: {reason}")
    return not failures


def _draw(wh: Warehouse, models: Sequence[str]) -> list[str]:
    """The picture of each model like one of these that has a base other than itself."""
    from layerhouse.warehouse.answers.comparing import pictures

    encoding = (sys.stdout.encoding or "ascii").lower().replace("-", "")
    return pictures(wh.connection, models, is_unicode=encoding.startswith("utf"))


@cli.command()
@warehouse_option
@model_option
@as_of_option
@click.option("--tasks", metavar="GLOB,...", help="A column for each task like this, and their mean, in place of the seven.")
@click.option("--metrics", metavar="A,...", help="Metrics that the columns of tasks are of, such as acc,acc_norm.")
@click.option("--stderr", "errors", is_flag=True, help="Standard errors of tasks, where they are known.")
@click.option("--against-base", is_flag=True, help="Differences and ratios to each model's base.")
@table_options
@output_options
def performance(
    warehouse: Path,
    models: tuple[str, ...],
    as_of: str | None,
    tasks: str | None,
    metrics: str | None,
    errors: bool,
    against_base: bool,
    shown: Shown,
    format_name: str | None,
    output: Path | None,
) -> None:
    """The performance table: quality, speed and memory beside structure."""
    from layerhouse.warehouse.answers.selection import split_names

    selection = replace(
        shown.selection,
        tasks=split_names(tasks or ""),
        metrics=split_names(metrics or ""),
        shows_errors=errors,
        is_against_base=against_base,
    )
    with _opened(warehouse, as_of) as wh:
        _show_query(wh, "performance", models, format_name, output, replace(shown, selection=selection))


@cli.command()
@click.argument("name", required=False)
@warehouse_option
@model_option
@as_of_option
@click.option("--show", is_flag=True, help="Print the SQL instead of running it.")
@table_options
@output_options
def query(
    name: str | None,
    warehouse: Path,
    models: tuple[str, ...],
    as_of: str | None,
    show: bool,
    shown: Shown,
    format_name: str | None,
    output: Path | None,
) -> None:
    """Run the query NAME; list the queries without one."""
    from layerhouse.warehouse.answers.query import query_list, query_text

    if name is None:
        _show(query_list(), format_name, output)
    elif show:
        click.echo(query_text(name), nl=False)
    else:
        with _opened(warehouse, as_of) as wh:
            _show_query(wh, name, models, format_name, output, shown)


@cli.command()
@click.argument("statement", required=False)
@warehouse_option
@as_of_option
@click.option("--init", is_flag=True, help="Print the statements that open the warehouse in any DuckDB session.")
@output_options
def sql(
    statement: str | None, warehouse: Path, as_of: str | None, init: bool, format_name: str | None, output: Path | None
) -> None:
    """Run the SQL STATEMENT over every table and view; `-` reads it from standard input."""
    from layerhouse.warehouse.answers.query import run_sql
    from layerhouse.warehouse.answers.session import init_script, parse_as_of
    from layerhouse.warehouse.render.target import write_file

    if init == (statement is not None):
        raise UsageError("give a statement, or --init")
    if init:
        script = init_script(warehouse, as_of=None if as_of is None else parse_as_of(as_of))
        if output is None:
            click.echo(script, nl=False)
        else:
            write_file(output, script.encode())
        return
    text = sys.stdin.read() if statement == "-" else str(statement)
    with _opened(warehouse, as_of) as wh:
        _show(run_sql(wh.connection, text), format_name, output)


@cli.command()
@click.argument("name", required=False)
@warehouse_option
@output_options
def tables(name: str | None, warehouse: Path, format_name: str | None, output: Path | None) -> None:
    """The tables and views with their sizes; with NAME its columns, types, units and meaning."""
    from layerhouse.warehouse.answers.tables import list_columns, list_tables

    _show(list_tables(warehouse) if name is None else list_columns(warehouse, name), format_name, output)


@cli.command()
@warehouse_option
@click.option(
    "--repair", is_flag=True, help="Remove leftovers of cut-off runs; set damaged commits aside to be ingested again."
)
def check(warehouse: Path, repair: bool) -> None:
    """The health of a warehouse: every file read in full, every promise of the rows asked. Exit code 3 where one is broken."""
    from layerhouse.warehouse.admin.health import check_warehouse

    findings = check_warehouse(warehouse, repair=repair)
    for finding in findings:
        click.echo(f"{finding.kind:8} {finding.where}: {finding.what}{f'; {finding.repaired}' if finding.repaired else ''}")
    left = [finding for finding in findings if not finding.repaired and finding.kind in ("damaged", "promise")]
    if not findings:
        _talk(f"{warehouse}: healthy")
    elif not repair and any(finding.kind in ("damaged", "orphan", "schema") for finding in findings):
        _talk(f"mend what can be mended with: layerhouse check --repair --warehouse {warehouse}")
    if left:
        sys.exit(Exit.BROKEN)


@cli.command()
@click.argument("model")
@warehouse_option
def drop(model: str, warehouse: Path) -> None:
    """Take MODEL and its results out of every answer; --as-of an earlier time still shows them."""
    from layerhouse.warehouse.admin.removals import drop_model

    drop_model(warehouse, model)
    _talk(f"dropped {model}")


@cli.command()
@click.argument("model")
@click.argument("new_name")
@warehouse_option
def rename(model: str, new_name: str, warehouse: Path) -> None:
    """Call MODEL by NEW_NAME, in later ingests of its folder too."""
    from layerhouse.warehouse.admin.removals import rename_model

    rename_model(warehouse, model, new_name)
    _talk(f"renamed {model} to {new_name}")


@cli.command()
@warehouse_option
@as_of_option
@click.option(
    "--duckdb", "target", type=click.Path(path_type=Path), required=True, metavar="FILE", help="The database to write."
)
def export(warehouse: Path, as_of: str | None, target: Path) -> None:
    """Write a self-contained DuckDB database with every table and view, for any DuckDB client."""
    from layerhouse.warehouse.answers.session import export_database, parse_as_of

    export_database(warehouse, target, as_of=None if as_of is None else parse_as_of(as_of))
    _talk(f"wrote {target}")


@cli.command()
@click.option("--keep", type=click.Path(path_type=Path), metavar="FOLDER", help="Make the study here and leave it.")
def demo(keep: Path | None) -> None:
    """Make a small study of real checkpoints, ingest it, and print the three tables."""
    from layerhouse.demo import BASE, SHOWN, demo_study

    with demo_study(keep) as folder:
        import layerhouse

        with _ingest_display(quiet=False) as (on_event, on_progress):
            report = layerhouse.ingest(
                [folder / "baselines", folder / "results"],
                warehouse=folder / "layerhouse-data",
                base=folder / BASE,
                on_event=on_event,
                on_progress=on_progress,
            )
        _talk(_report_line(report, folder / "layerhouse-data", dry_run=False))
        with _opened(folder / "layerhouse-data", None) as wh:
            for number, name in enumerate(("summary", "per_layer", "performance")):
                models = (SHOWN,) if name == "per_layer" else ()
                click.echo("" if number else None, nl=bool(number))
                _show_query(wh, name, models, "text", None, caption=name + (f" of {models[0]}" if models else ""))
        if keep is not None:
            _talk(f"the study and its warehouse are in {folder}")


def main() -> NoReturn:
    """Run the command; every error that layerhouse raises on purpose is one line on stderr and an exit code."""
    try:
        code = cli.main(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else Exit.DONE)
    except UsageError as error:
        _fail(str(error), Exit.USAGE)
    except WarehouseError as error:
        _fail(str(error), Exit.BROKEN)
    except LayerhouseError as error:
        _fail(str(error), Exit.SOME_FAILED)
    except click.ClickException as error:
        error.show()
        sys.exit(Exit.USAGE)
    except (click.Abort, KeyboardInterrupt):
        _fail(
            "interrupted; what was finished is in the warehouse, and the same command goes on from there",
            Exit.INTERRUPTED,
        )
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(Exit.SOME_FAILED)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _fail(
            f"{error.filename or 'stdout'}: cannot be written: {error.strerror}; make room and run it again", Exit.SOME_FAILED
        )


def program() -> NoReturn:
    """The installed command: `main`, and out at once. Taking down what numba and DuckDB hold, in order, would take up to half a
    second and gives nothing back: all files are closed and all commits made by then."""
    # Modules stay, rows live until their commit, and neither is given up in cycles: looking for some was an eighth of the time.
    gc.set_threshold(50_000, 20, 20)
    code: object = Exit.DONE
    try:
        main()
    except SystemExit as leaving:
        code = leaving.code
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (BrokenPipeError, ValueError):
        code = code or Exit.SOME_FAILED
    os._exit(Exit.DONE if code is None else code if isinstance(code, int) else Exit.SOME_FAILED)


@contextmanager
def _opened(warehouse: Path, as_of: str | None) -> Iterator[Warehouse]:
    """A warehouse for reading. Damage is named after the answer, which is without the damaged commits, and the exit says so."""
    import layerhouse

    with layerhouse.open(warehouse, as_of=as_of) as wh:
        yield wh
        for damage in wh.damages:
            _talk(f"damaged: {damage.path}: {damage.what}; the answer is without commit {damage.commit_id}")
        if wh.damages:
            _fail(f"{warehouse}: some of it is damaged; see: layerhouse check --warehouse {warehouse}", Exit.BROKEN)


def _show_query(
    wh: Warehouse,
    name: str,
    models: Sequence[str],
    format_name: str | None,
    output: Path | None,
    shown: Shown | None = None,
    caption: str | None = None,
) -> None:
    from layerhouse.warehouse.answers.query import asked_by, query_text
    from layerhouse.warehouse.answers.selection import Selection, select_table

    selection = replace(shown.selection if shown else Selection(), models=tuple(models))
    is_plain = replace(selection, models=()) == Selection()
    connection = wh.connection_for(asked_by(query_text(name), models)) if is_plain else wh.connection
    table = select_table(connection, name, selection)
    _show(table, format_name, output, shown.layout if shown else None, caption)


def _show_since(
    wh: Warehouse, since: str, models: Sequence[str], format_name: str | None, output: Path | None, shown: Shown
) -> None:
    import layerhouse
    from layerhouse.warehouse.answers.dates import summary_since
    from layerhouse.warehouse.answers.selection import select_rows

    with layerhouse.open(wh.path, as_of=since) as earlier:
        table = summary_since(earlier.connection, wh.connection, models)
    _show(select_rows(wh.connection, table, shown.selection), format_name, output, shown.layout)


def _show(
    table: pa.Table,
    format_name: str | None,
    output: Path | None,
    layout: Layout | None = None,
    caption: str | None = None,
) -> None:
    from layerhouse.warehouse.render import FORMATS, write_table
    from layerhouse.warehouse.render.target import choose_format, write_table_file

    chosen = choose_format(format_name, output)
    if output is not None:
        write_table_file(table, chosen, output, layout)
        _talk(f"wrote {output}")
        return
    is_terminal = sys.stdout.isatty()
    if is_terminal and FORMATS[chosen].is_binary:
        raise UsageError(f"{chosen} is not for a terminal; name a file with --output")
    width = shutil.get_terminal_size().columns if is_terminal else None
    buffer = io.BytesIO()
    write_table(table, chosen, buffer, layout, width=width, caption=caption)
    sys.stdout.flush()
    sys.stdout.buffer.write(buffer.getvalue())
    sys.stdout.buffer.flush()


def _write_study_files(wh: Warehouse, models: Sequence[str], prefix: Path) -> None:
    from layerhouse.warehouse.answers.query import study_rows
    from layerhouse.warehouse.render.target import write_file
    from layerhouse.warehouse.study.summary_form import study_document, study_json, study_text

    document = study_document(*study_rows(wh.connection, models))
    for suffix, text in ((".txt", study_text(document)), (".json", study_json(document))):
        path = prefix.with_name(prefix.name + suffix)
        write_file(path, text.encode())
        _talk(f"wrote {path}")


@contextmanager
def _ingest_display(*, quiet: bool) -> Iterator[tuple[Callable[[Event], None], Callable[[Progress], None]]]:
    """A line an input on stderr; on a terminal a bar below them."""
    words = {
        "taken": "taken",
        "planned": "would take",
        "unchanged": "unchanged",
        "passed": "passed over",
        "failed": "FAILED",
    }

    def line(event: Event) -> str:
        return f"{words[event.kind]:11} {event.where}: {event.what}"

    def is_shown(event: Event) -> bool:
        return event.kind == "failed" or not quiet

    if not sys.stderr.isatty():
        with _remarks_shown(_talk, quiet=quiet):
            yield lambda event: _talk(line(event)) if is_shown(event) else None, lambda progress: None
        return
    from rich import progress as bars
    from rich.console import Console
    from rich.text import Text

    from layerhouse.ingest.take_weights import size_text

    columns = (
        bars.TextColumn("ingest"),
        bars.BarColumn(),
        bars.TextColumn("{task.fields[detail]}"),
        bars.TimeRemainingColumn(elapsed_when_finished=True),
    )
    with bars.Progress(*columns, console=Console(stderr=True), transient=True) as display:
        task = display.add_task("ingest", total=None, detail="")
        started = time.monotonic()

        def on_event(event: Event) -> None:
            if is_shown(event):
                style = "red" if event.kind == "failed" else ""
                display.console.print(Text(_on_one_line(line(event)), style), soft_wrap=True)

        def on_progress(progress: Progress) -> None:
            detail = f"{progress.models}/{progress.total_models} models"
            if not progress.total_bytes:
                display.update(task, completed=progress.models, total=progress.total_models, detail=detail)
                return
            rate = progress.bytes / max(time.monotonic() - started, 0.001)
            detail += f", {size_text(progress.bytes)} of {size_text(progress.total_bytes)} at {size_text(int(rate))}/s"
            display.update(task, completed=min(progress.bytes, progress.total_bytes), total=progress.total_bytes, detail=detail)

        with _remarks_shown(lambda text: display.console.print(Text(_on_one_line(text)), soft_wrap=True), quiet=quiet):
            yield on_event, on_progress


@contextmanager
def _remarks_shown(show: Callable[[str], None], *, quiet: bool) -> Iterator[None]:
    """Show what the ingest logs, such as that the first run on a machine compiles."""
    import logging

    class Shown(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            show(record.getMessage())

    handler = Shown()
    logger = logging.getLogger("layerhouse")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


def _report_line(report: Report, warehouse: Path, *, dry_run: bool) -> str:
    counts = {kind: report.count(kind) for kind in ("taken", "planned", "unchanged", "passed", "failed")}
    words = {
        "taken": "taken",
        "planned": "would be taken",
        "unchanged": "unchanged",
        "passed": "passed over",
        "failed": "failed",
    }
    shown = ", ".join(f"{number} {words[kind]}" for kind, number in counts.items() if number) or "nothing to do"
    return f"{shown}{' (dry run)' if dry_run else f'; warehouse {warehouse}'}"


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _on_one_line(text: str) -> str:
    if text.isprintable():
        return text
    from layerhouse.warehouse.render.terminal import visible

    return visible(text)


def _talk(text: str) -> None:
    click.echo(_on_one_line(text), err=True)


def _fail(text: str, code: Exit) -> NoReturn:
    click.echo(f"layerhouse: {text}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    program()
