"""Completion in a shell: the command that prints its script, and what of the warehouse may complete a word.

A shell asks at every press of the key: an answer takes few imports and a single question to the warehouse. Whatever goes wrong
is an empty answer, as nobody who is in the middle of a line could read a message.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem, get_completion_class

COMMAND = "layerhouse"
SHELLS = ("bash", "zsh", "fish")
SAFE_NAME = re.compile(r"[\w./@+:=%,~-]+")
"""Names that no shell splits, expands or runs. Others have to be typed in quotes, and complete nothing."""
QUERIES = {
    "summarize": "summary",
    "layers": "per_layer",
    "compare": "per_layer",
    "lineage": "lineage",
    "performance": "performance",
}
"""The query whose table a command shows."""

Names = Callable[[click.Context, str], Iterable[str]]
Completion = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def completing(names: Names) -> Completion:
    """A completion by the names that start with the word."""

    def complete(context: click.Context, _: click.Parameter, word: str) -> list[CompletionItem]:
        try:
            found = [name for name in names(context, word) if name.startswith(word) and SAFE_NAME.fullmatch(name)]
        except Exception:
            return []
        return [CompletionItem(name) for name in dict.fromkeys(found)]

    return complete


def in_a_list(names: Names) -> Completion:
    """A completion of the last of several names between commas, by those that are not there yet."""

    def complete_list(context: click.Context, word: str) -> Iterable[str]:
        before, comma, last = word.rpartition(",")
        sign = "-" if last.startswith("-") else ""
        used = {name.removeprefix("-") for name in before.split(",")}
        return [f"{before}{comma}{sign}{name}" for name in names(context, last) if name not in used]

    return completing(complete_list)


def model_names(context: click.Context, word: str) -> list[str]:
    """The names of all models, and those ends of them that name one alone if a word has no slash."""
    from layerhouse.warehouse.answers.query import MODEL_NAMES
    from layerhouse.warehouse.answers.session import connect

    root = Path(context.params.get("warehouse") or str(_first_argument(context, "first")))
    connection, _ = connect(root, asked=MODEL_NAMES)
    with connection:
        names = [name for (name,) in connection.execute(MODEL_NAMES).fetchall()]
    ends = [name.rpartition("/")[2] for name in names]
    alone = [end for end in ends if end and ends.count(end) == 1 and end not in names]
    return [*names, *(alone if word and "/" not in word else [])]


def query_names(*_: Any) -> Sequence[str]:
    """The names of all queries."""
    from layerhouse.warehouse.answers.sql_text import sql_files

    return [*sql_files("queries")]


def table_names(*_: Any) -> Sequence[str]:
    """The names of all tables and views."""
    from layerhouse.warehouse.answers.sql_text import sql_files
    from layerhouse.warehouse.storage.schema import TABLES

    views = [stem.partition("_")[2] for stem in sql_files("warehouse.views") if not stem.startswith("00_")]
    return sorted([*TABLES, *views])


def format_names(*_: Any) -> Sequence[str]:
    """The names of the formats of tables."""
    from layerhouse.warehouse.render import FORMATS

    return [*FORMATS]


def column_names(context: click.Context, _: str) -> Sequence[str]:
    """The columns of the table that a command shows, then those of models, by which it can be selected too."""
    from layerhouse.warehouse.answers.naming.condition import select_columns
    from layerhouse.warehouse.answers.query import query_text
    from layerhouse.warehouse.answers.sql_text import sql_files

    name = _first_argument(context, "name") if context.info_name == "query" else QUERIES.get(str(context.info_name))
    own = select_columns(query_text(name)) if name is not None else []
    (models,) = (text for stem, text in sql_files("warehouse.views").items() if stem.endswith("_models"))
    return [*own, *select_columns(models.partition(" AS\n")[2])]


def _first_argument(context: click.Context, parameter: str) -> str | None:
    """The first argument of a command, which is no parameter yet if the last word before the cursor is an option."""
    value = context.params.get(parameter) or next(iter(context.args), None)
    return None if value is None else str(value)


def models_or_paths(context: click.Context, parameter: click.Parameter, word: str) -> list[CompletionItem]:
    """A completion by models and by files."""
    return [*complete_models(context, parameter, word), CompletionItem(word, type="file")]


def paths(_: click.Context, __: click.Parameter, word: str) -> list[CompletionItem]:
    """A completion by files."""
    return [CompletionItem(word, type="file")]


complete_models = completing(model_names)
complete_queries = completing(query_names)
complete_tables = completing(table_names)
complete_formats = completing(format_names)
complete_column = completing(column_names)
complete_columns = in_a_list(column_names)


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that completes commands and names in SHELL.

    The line for the profile of bash (for zsh with its name), and that for fish:

    \b
        eval "$(layerhouse completion bash)"
        layerhouse completion fish | source

    They complete commands, options, formats and queries, and the models and columns of the warehouse.
    """
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(context.find_root().command, {}, COMMAND, f"_{COMMAND.upper()}_COMPLETE").source())
