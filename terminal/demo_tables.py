"""What `layerhouse demo` does: make a study, ingest it, and print its tables."""

from __future__ import annotations

from pathlib import Path

import click

from layerhouse.terminal.messages import talk
from layerhouse.terminal.options import OutputOptions, TableOptions
from layerhouse.terminal.progress import ingest_display, report_line
from layerhouse.terminal.tables import opened_warehouse, show_query


def show_demo(keep: Path | None) -> None:
    """Make the study in the folder `keep`, or in a temporary one, ingest it, and print three tables."""
    import layerhouse
    from layerhouse.demo import BASE, SHOWN_MODEL, demo_study

    with demo_study(keep) as folder:
        warehouse, roots = folder / "layerhouse-data", [folder / "baselines", folder / "results"]
        with ingest_display(quiet=False) as (on_event, on_progress):
            report = layerhouse.ingest(
                roots, warehouse=warehouse, base=folder / BASE, map_files=True, on_event=on_event, on_progress=on_progress
            )
        talk(report_line(report, warehouse, dry_run=False))
        with opened_warehouse(warehouse) as wh:
            for name, models in (("summary", ()), ("per_layer", (SHOWN_MODEL,)), ("performance", ())):
                click.echo("", nl=name != "summary")
                caption = f"{name} of {SHOWN_MODEL}" if models else name
                show_query(wh, name, TableOptions().selection(models), OutputOptions(format_name="text"), caption=caption)
        if keep is not None:
            talk(f"the study and its warehouse are in {folder}")
