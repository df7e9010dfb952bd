"""Messages on stderr. stdout is for data alone."""

from __future__ import annotations

import sys
from typing import NoReturn

import click

from layerhouse.escapes import visible, visible_lines
from layerhouse.terminal.exit_codes import Exit
from layerhouse.terminal.screen.device import screen, show_text


def talk(text: str) -> None:
    """Write one line to stderr, with what is hidden in it as escapes: a name can neither drive the terminal nor fake a line."""
    click.echo(visible(text), err=True)


def print_lines(text: str, *, has_pager: bool = True) -> None:
    """Write lines to stdout, with what is hidden in each as escapes; on a terminal through the pager if they are many."""
    shown = visible_lines(text) + ("" if text.endswith("\n") else "\n")
    target = screen(has_pager=has_pager)
    if target is None:
        click.echo(shown, nl=False)
    else:
        show_text(shown, target)


def fail(text: str, code: Exit, *, has_lines: bool = False) -> NoReturn:
    """Write the error to stderr, escaped and on one line, and exit.

    Only DuckDB's errors have several lines. All but the first are indented, as they may quote what looks like a message.
    """
    shown = visible_lines(text.rstrip("\n")).replace("\n", "\n  ") if has_lines else visible(text)
    click.echo(f"layerhouse: {shown}", err=True)
    sys.exit(code)
