"""What an ingest shows on stderr while it runs: a line for each input and, on a terminal, a progress bar below them."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from layerhouse.escapes import visible
from layerhouse.terminal.messages import talk
from layerhouse.vocabulary import EventKind

if TYPE_CHECKING:
    from layerhouse.ingest.run import Event, Progress, Report

    OnEvent = Callable[[Event], None]
    OnProgress = Callable[[Progress], None]

WriteLine = Callable[[str, str], None]
"""Writes a line in a style of rich, such as `red`; an empty style is that of the terminal."""

EVENT_WORDS = {
    EventKind.TAKEN: "taken",
    EventKind.PLANNED: "would take",
    EventKind.UNCHANGED: "unchanged",
    EventKind.PASSED: "passed over",
    EventKind.BASED: "base",
    EventKind.FAILED: "FAILED",
}
COUNT_WORDS = EVENT_WORDS | {
    EventKind.PLANNED: "would be taken",
    EventKind.FAILED: "failed",
    EventKind.BASED: "with a base found",
}


@contextmanager
def ingest_display(*, quiet: bool) -> Iterator[tuple[OnEvent, OnProgress]]:
    """The callbacks of `layerhouse.ingest` that show its events and progress. With `quiet`, only failures have a line."""
    make_display = _bar if sys.stderr.isatty() else _plain_lines
    with make_display() as (write_line, on_progress), _log_lines(write_line, quiet=quiet):

        def on_event(event: Event) -> None:
            is_failure = event.kind == EventKind.FAILED
            if is_failure or not quiet:
                words = EVENT_WORDS[EventKind(event.kind)]
                write_line(f"{words:11} {event.where}: {event.what}", "red" if is_failure else "")

        yield on_event, on_progress


@contextmanager
def row_display(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar of rows on a terminal, and nothing elsewhere. It is told how many are done, and how many there are."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich import progress as bars
    from rich.console import Console

    columns = (bars.TextColumn(title), bars.BarColumn(), bars.TextColumn("{task.fields[detail]}"), bars.TimeRemainingColumn())
    with bars.Progress(*columns, console=Console(stderr=True), transient=True) as display:
        task = display.add_task(title, total=None, detail="")
        yield lambda done, total: display.update(task, completed=done, total=total, detail=f"{done:,} of {total:,} rows")


def report_line(report: Report, warehouse: Path, *, dry_run: bool) -> str:
    """The last line of an ingest: how many events of each kind there were."""
    counts = ((report.count(kind), words) for kind, words in COUNT_WORDS.items())
    text = ", ".join(f"{count} {words}" for count, words in counts if count) or "nothing to do"
    return f"{text}{' (dry run)' if dry_run else f'; warehouse {warehouse}'}"


@contextmanager
def _plain_lines() -> Iterator[tuple[WriteLine, OnProgress]]:
    yield lambda text, style: talk(text), lambda progress: None


@contextmanager
def _bar() -> Iterator[tuple[WriteLine, OnProgress]]:
    """Lines above a bar. The bar counts bytes of weights if any are to be read, else models."""
    from rich import progress as bars
    from rich.console import Console
    from rich.text import Text

    from layerhouse.ingest.events import size_text

    columns = (
        bars.TextColumn("ingest"),
        bars.BarColumn(),
        bars.TextColumn("{task.fields[detail]}"),
        bars.TimeRemainingColumn(elapsed_when_finished=True),
    )
    with bars.Progress(*columns, console=Console(stderr=True), transient=True) as display:
        task = display.add_task("ingest", total=None, detail="")
        started = time.monotonic()

        def write_line(text: str, style: str) -> None:
            display.console.print(Text(visible(text), style), soft_wrap=True)

        def on_progress(progress: Progress) -> None:
            if progress.total_answers:
                detail = f"{progress.answers}/{progress.total_answers} answers kept"
                display.update(task, completed=progress.answers, total=progress.total_answers, detail=detail)
                return
            detail = f"{progress.models}/{progress.total_models} models"
            if not progress.total_bytes:
                display.update(task, completed=progress.models, total=progress.total_models, detail=detail)
                return
            rate = progress.bytes / max(time.monotonic() - started, 0.001)
            detail += f", {size_text(progress.bytes)} of {size_text(progress.total_bytes)} at {size_text(int(rate))}/s"
            display.update(task, completed=min(progress.bytes, progress.total_bytes), total=progress.total_bytes, detail=detail)

        yield write_line, on_progress


@contextmanager
def _log_lines(write_line: WriteLine, *, quiet: bool) -> Iterator[None]:
    """Show the log records of layerhouse as lines: warnings, and without `quiet` records of level INFO too."""

    class LineHandler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            write_line(record.getMessage(), "")

    handler = LineHandler()
    logger = logging.getLogger("layerhouse")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
