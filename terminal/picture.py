"""The picture of a model's layers beside its base's."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from layerhouse.errors import UsageError
from layerhouse.terminal.screen.device import screen

if TYPE_CHECKING:
    from layerhouse.terminal.options import OutputOptions, TableOptions
    from layerhouse.warehouse.answers.handle import Warehouse


def draw(wh: Warehouse, models: Sequence[str], base: str | None = None, *, by: str | None = None) -> list[str]:
    """The picture of each model that matches one of the globs and has a base other than itself, counted in a measure.

    Of one model beside a `base` that was named, also what became of the base's tensors and units.
    """
    from layerhouse.warehouse.answers.comparing import PAIR_SQL, PICTURE_SQL, pair_lines, pictures

    encoding = (sys.stdout.encoding or "ascii").lower().replace("-", "")
    target = screen()
    width = None if target is None else target.width
    connection = wh.connection_for(PICTURE_SQL)
    drawn = pictures(connection, models, is_unicode=encoding.startswith("utf"), by=by, base_name=base, width=width)
    return drawn if base is None else [*drawn, *(f"{line}\n" for line in pair_lines(wh.connection_for(PAIR_SQL), *models))]


def is_picture_wanted(choice: bool | None, models: Sequence[str], output: OutputOptions, table: TableOptions) -> bool:
    """Whether `layers` draws: as asked by --picture, else for a single model on a terminal if nothing is asked of a table.

    Raises UsageError if a picture and a file or format are both asked for.
    """
    if choice and not (output.output is None and output.format_name in (None, "text")):
        raise UsageError("--picture is for reading; leave out --format and --output")
    if choice is None:
        is_plain = output.is_default and replace(table, by=None) == type(table)()
        return is_plain and len(models) == 1 and sys.stdout.isatty()
    return choice
