"""Options that several commands share. Options that belong together reach the command as one object."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from layerhouse.local_paths import local_path
from layerhouse.terminal.completion import complete_column, complete_columns, complete_formats, complete_models
from layerhouse.terminal.messages import talk
from layerhouse.vocabulary import KeptBy

if TYPE_CHECKING:
    from layerhouse.warehouse.answers.selection import Selection
    from layerhouse.warehouse.render.registry import Layout

ALL_COLUMNS = "all"
"""What --columns takes for all columns."""

Command = Callable[..., Any]
Decorator = Callable[[Command], Command]

FORMATS_HELP = "text, csv, json, ndjson, markdown, parquet, xlsx, html or latex."


@dataclass(frozen=True)
class OutputOptions:
    """Where a table goes and in which format; both None: as text to stdout. `raw` leaves texts in csv as they are.

    Of a terminal: `wide` shows all columns, `vertical` each row as a card, and `pager` whether long texts are paged.
    """

    output: Path | None = None
    format_name: str | None = None
    raw: bool = False
    wide: bool = False
    vertical: bool = False
    pager: bool = True

    @property
    def is_default(self) -> bool:
        """Whether nothing is asked for that only a table has."""
        return replace(self, pager=True) == OutputOptions()


@dataclass(frozen=True)
class TableOptions:
    """Which rows and columns of a table are shown and how they look, as typed; the names are those of the options."""

    by: str | None = None
    columns: str | None = None
    where: str | None = None
    sort: str | None = None
    group: str | None = None
    best: bool = False
    digits: int | None = None
    language: str = "en"

    def selection(self, models: tuple[str, ...] = ()) -> Selection:
        """The rows and columns, of the models that match one of the globs."""
        from layerhouse.warehouse.answers.selection import Selection, split_names

        return Selection(
            models=models,
            by=self.by,
            where=self.where,
            sort=split_names(self.sort or ""),
            columns=() if self.columns == ALL_COLUMNS else split_names(self.columns or ""),
            group=split_names(self.group or ""),
            language=self.language,
            on_hint=talk,
        )

    @property
    def layout(self) -> Layout:
        """How the table is set in formats for reading."""
        from layerhouse.warehouse.render.registry import Layout

        is_whole = self.columns == ALL_COLUMNS
        is_chosen = bool(self.columns) and not is_whole
        return Layout(
            language=self.language, digits=self.digits, marks_best=self.best, are_columns_chosen=is_chosen, is_whole=is_whole
        )


@dataclass(frozen=True)
class ReadingOptions:
    """How a warehouse is opened for reading, as typed; see layerhouse.open."""

    as_of: str | None = None
    verify: bool = False
    skip_damaged: bool = False


@dataclass(frozen=True)
class TaskOptions:
    """What `performance` shows of evaluation tasks, as typed; the names are those of the options."""

    tasks: str | None = None
    metrics: str | None = None
    errors: bool = False
    against_base: bool = False
    variants: bool = False
    complete: bool = False
    rank: bool = False
    delta: bool = False

    @property
    def query(self) -> str:
        """The query whose rows are shown."""
        return "performance_variants" if self.variants else "performance"

    def added_to(self, selection: Selection) -> Selection:
        """A selection with these task columns."""
        from layerhouse.warehouse.answers.selection import split_names

        return replace(
            selection,
            tasks=split_names(self.tasks or ""),
            metrics=split_names(self.metrics or ""),
            shows_errors=self.errors,
            is_against_base=self.against_base,
            is_complete=self.complete,
            is_ranked=self.rank,
            has_differences=self.delta,
        )


class LocalPath(click.Path):
    """A path of this machine, as a Path. URLs are refused in one line."""

    def __init__(self, *, exists: bool = False, file_okay: bool = True, dir_okay: bool = True) -> None:
        super().__init__(exists=exists, file_okay=file_okay, dir_okay=dir_okay, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(local_path(value), param, ctx)


def collected(parameter: str, options_type: type[Any], *options: Decorator) -> Decorator:
    """A decorator that adds the options to a command.

    Those that a dataclass has fields for reach the command as one object of it, under the name `parameter`; others by their
    own names. `--help` lists the options in this order.
    """
    names = [field.name for field in fields(options_type)]

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def collect(*args: Any, **values: Any) -> Any:
            values[parameter] = options_type(**{name: values.pop(name) for name in names})
            return command(*args, **values)

        decorated: Command = collect
        for option in reversed(options):
            decorated = option(decorated)
        return decorated

    return decorate


warehouse_option = click.option(
    "-w",
    "--warehouse",
    type=LocalPath(),
    envvar="LAYERHOUSE_WAREHOUSE",
    default="layerhouse-data",
    show_default=True,
    show_envvar=True,
    help="Folder of the warehouse.",
)
as_of_option = click.option(
    "--as-of", metavar="TIME", help="Show the warehouse as it was at this time, or at the end of this day (2026-01-31, UTC)."
)
verify_option = click.option(
    "--verify", is_flag=True, help="Read every file of the warehouse first and compare it with its SHA-256."
)
reading_options = collected(
    "reading",
    ReadingOptions,
    as_of_option,
    verify_option,
    click.option("--skip-damaged", is_flag=True, help="Answer without the commits that are damaged; the exit code is still 3."),
)
model_option = click.option(
    "-m",
    "--model",
    "models",
    metavar="MODEL",
    multiple=True,
    shell_complete=complete_models,
    help="A name, the end of one, or a glob; repeatable.",
)


def model_arguments(command: Command) -> Command:
    """A decorator for the commands of tables: models are named as arguments or with -m, and reach the command as `models`."""

    @functools.wraps(command)
    def collect(*args: Any, named_models: tuple[str, ...], models: tuple[str, ...], **values: Any) -> Any:
        return command(*args, models=(*named_models, *models), **values)

    decorated: Command = model_option(collect)
    return click.argument("named_models", nargs=-1, metavar="[MODEL]...", shell_complete=complete_models)(decorated)


format_option = click.option(
    "-f", "--format", "format_name", metavar="FORMAT", shell_complete=complete_formats, help=FORMATS_HELP
)
raw_option = click.option(
    "--raw",
    is_flag=True,
    help="In csv, leave texts that a spreadsheet would take for formulas as they are, without an apostrophe.",
)
screen_options = (
    click.option("--wide", is_flag=True, help="On a terminal, show all columns, not only those that fit."),
    click.option("--vertical", is_flag=True, help="On a terminal, show each row as a card: a line for each of its values."),
    click.option("--pager/--no-pager", default=True, help="Whether texts longer than the terminal go through PAGER."),
)
output_options = collected(
    "output",
    OutputOptions,
    click.option("-o", "--output", type=LocalPath(), help="Write to this file; its suffix selects the format."),
    format_option,
    raw_option,
    *screen_options,
)
summary_output_options = collected(
    "output",
    OutputOptions,
    click.option(
        "-o",
        "--output",
        type=LocalPath(),
        metavar="FILE|PREFIX",
        help="Write the table to FILE, whose suffix selects the format; without a suffix of letters, write PREFIX.txt "
        "and PREFIX.json in the form of the study scripts.",
    ),
    format_option,
    raw_option,
    *screen_options,
)


def language_option(description: str) -> Decorator:
    """The option for the language of what people read, with its description."""
    return click.option(
        "--lang", "language", type=click.Choice(["en", "zh"]), default="en", show_default=True, help=description
    )


table_options = collected(
    "table",
    TableOptions,
    click.option(
        "--by",
        type=click.Choice([str(measure) for measure in KeptBy]),
        help="Count what is kept in all parameters, in those that are not zero, in bytes or in MACs; by default in those that "
        "are not zero if they are known of every row, else in all.",
    ),
    click.option(
        "--columns",
        metavar="A,B,...",
        shell_complete=complete_columns,
        help="Show these columns, in this order; `all` for all of them.",
    ),
    click.option(
        "--where",
        metavar="SQL",
        shell_complete=complete_column,
        help="Show only rows that satisfy this condition on the columns.",
    ),
    click.option(
        "--sort",
        metavar="A,-B,...",
        shell_complete=complete_columns,
        help="Sort by these columns; a leading - sorts one in descending order.",
    ),
    click.option(
        "--group",
        metavar="A,B,...",
        shell_complete=complete_columns,
        help="Group rows by these columns, such as method,ratio; bases come first.",
    ),
    click.option("--best", is_flag=True, help="Set the best value of each column, or group, in bold (markdown, html, latex)."),
    click.option("--digits", type=click.IntRange(0, 12), metavar="N", help="Number of decimals, in formats made for reading."),
    language_option("Language of the headings, in formats made for reading."),
)
task_options = collected(
    "tasks",
    TaskOptions,
    click.option(
        "--tasks", metavar="GLOB,...", help="Show the tasks that match, and their mean, instead of the seven by default."
    ),
    click.option("--metrics", metavar="A,...", help="Metrics that the task columns show, such as acc,acc_norm."),
    click.option("--stderr", "errors", is_flag=True, help="Show the standard errors of tasks where they are known."),
    click.option("--against-base", is_flag=True, help="Show differences and ratios to each model's base."),
    click.option("--variants", is_flag=True, help="Show every run of a model: a row for each way in which it was loaded."),
    click.option("--complete", is_flag=True, help="Show only rows that have a value of every task."),
    click.option("--rank", is_flag=True, help="Show the mean rank over the tasks, and sort by it."),
    click.option(
        "--delta",
        is_flag=True,
        help="Show what each task differs by from the base, the standard error of that, and whether it is beyond two of them.",
    ),
)
