"""Which engine counts the values of tensors, and `--version`, which says so."""

from __future__ import annotations

import click

from layerhouse.version import __version__


def engine_text() -> str:
    """`counts in C`, or `counts in numpy` where the C extension was not built."""
    from layerhouse.ingest.measure.kernels.cpu import IS_BUILT

    return f"counts in {'C' if IS_BUILT else 'numpy'}"


def _show_version(context: click.Context, _: click.Parameter, is_given: bool) -> None:
    if is_given and not context.resilient_parsing:
        click.echo(f"layerhouse {__version__} ({engine_text()})")
        context.exit()


version_option = click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and the engine that counts values, and exit.",
)
