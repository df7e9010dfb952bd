"""Messages on stderr. stdout is for data alone."""

from __future__ import annotations

import sys
from typing import NoReturn

import click

from layerhouse.terminal.exit_codes import Exit


def one_line(text: str) -> str:
    """Text with control characters and line breaks escaped: a file name can neither drive the terminal nor fake a line."""
    if text.isprintable():
        return text
    from layerhouse.warehouse.render.terminal import visible

    return visible(text)


def talk(text: str) -> None:
    """Write one line to stderr."""
    click.echo(one_line(text), err=True)


def fail(text: str, code: Exit) -> NoReturn:
    """Write the error to stderr and exit. The text is not escaped: DuckDB's errors take several lines."""
    click.echo(f"layerhouse: {text}", err=True)
    sys.exit(code)
