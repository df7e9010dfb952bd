"""The commands that change a warehouse or look after it; each parses, makes one call and says what it did."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from layerhouse.errors import UsageError
from layerhouse.terminal.completion import complete_models, paths
from layerhouse.terminal.engine import engine_text
from layerhouse.terminal.exit_codes import Exit
from layerhouse.terminal.findings import show_findings
from layerhouse.terminal.messages import talk
from layerhouse.terminal.options import LocalPath, as_of_option, verify_option, warehouse_option
from layerhouse.terminal.packing import advise_packing, pack_lines
from layerhouse.terminal.progress import row_display


@click.command()
@click.argument("file", required=False, shell_complete=paths)
@click.argument("model", required=False, shell_complete=complete_models)
@click.option(
    "--from",
    "table",
    type=LocalPath(exists=True, dir_okay=False),
    metavar="CSV",
    help="Make many links at once, from a table with the columns file, model and, where needed, of.",
)
@click.option("--of", metavar="NAME", help="Of a FILE with results of several models, those of the model that it calls NAME.")
@warehouse_option
def link(file: str | None, model: str | None, table: Path | None, of: str | None, warehouse: Path) -> None:
    """Declare that the results in FILE are MODEL's.

    Later ingests keep to it. `layerhouse query unlinked` lists the files for which no model was found, with the command for
    each.
    """
    from layerhouse.warehouse.admin.link_results import LinkRequest, link_results, read_requests

    if (table is None) == (file is None or model is None) or (table is not None and of is not None):
        raise UsageError("name a FILE and a MODEL, or a table with --from")
    requests = read_requests(table) if table is not None else [LinkRequest(str(file), str(model), of)]
    link_results(warehouse, requests)
    talk(f"linked {len(requests)} result file{'' if len(requests) == 1 else 's'}")


@click.command()
@warehouse_option
@click.option(
    "--repair",
    is_flag=True,
    help="Set damaged commits and leftovers of interrupted runs aside, so that their models are ingested again.",
)
@click.option("--restore", is_flag=True, help="Put back the commits that were set aside, as far as their files are whole.")
def check(warehouse: Path, repair: bool, restore: bool) -> None:
    """Read every file of a warehouse and test its rows.

    Files are read in full and compared with what was committed. Exit code 3 means that the warehouse is broken.
    """
    from layerhouse.warehouse.admin.health import check_warehouse, count_set_aside

    findings = check_warehouse(warehouse, repair=repair, restore=restore)
    talk(f"layerhouse {engine_text()}")
    is_broken = show_findings(findings, warehouse, repair=repair)
    if count := count_set_aside(warehouse):
        command = f"layerhouse check --restore --warehouse {warehouse}"
        talk(f"{count} set aside in {warehouse / 'damaged'}; put back what is whole with: {command}")
    if is_broken:
        sys.exit(Exit.BROKEN)
    advise_packing(warehouse)


@click.command()
@warehouse_option
@click.option(
    "--prune",
    "age",
    metavar="AGE",
    help="Then delete the files of commits that were made one at least this long ago, such as 7d, 12h or 0d.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be done, and write nothing.")
def pack(warehouse: Path, age: str | None, dry_run: bool) -> None:
    """Make one commit of all commits of a warehouse.

    A warehouse of many commits opens and answers faster then. All answers stay as they are, at any time of --as-of too. The
    old files stay for sessions that read them, until --prune deletes them.
    """
    from layerhouse.warehouse.admin.pack import pack_warehouse
    from layerhouse.warehouse.admin.prune import parse_age

    prune = None if age is None else parse_age(age)
    with row_display("pack") as on_progress:
        report = pack_warehouse(warehouse, prune=prune, dry_run=dry_run, on_progress=on_progress)
    for line in pack_lines(report, warehouse):
        talk(line)


@click.command()
@click.argument("model", shell_complete=complete_models)
@warehouse_option
def drop(model: str, warehouse: Path) -> None:
    """Leave MODEL and its results out of every answer.

    With --as-of an earlier time they are still there.
    """
    from layerhouse.warehouse.admin.removals import drop_model

    talk(f"dropped {drop_model(warehouse, model)}")


@click.command()
@click.argument("model", shell_complete=complete_models)
@click.argument("new_name")
@warehouse_option
def rename(model: str, new_name: str, warehouse: Path) -> None:
    """Rename MODEL to NEW_NAME, for later ingests too."""
    from layerhouse.warehouse.admin.removals import rename_model

    talk(f"renamed {rename_model(warehouse, model, new_name)} to {new_name}")


@click.command()
@warehouse_option
@as_of_option
@verify_option
@click.option("--duckdb", "target", type=LocalPath(), required=True, metavar="FILE", help="The database to write.")
def export(warehouse: Path, as_of: str | None, verify: bool, target: Path) -> None:
    """Write a DuckDB database with every table and view.

    It is one file with all rows in it, for any DuckDB client.
    """
    from layerhouse.warehouse.answers.session import export_database, parse_as_of

    export_database(warehouse, target, as_of=None if as_of is None else parse_as_of(as_of), verify=verify)
    talk(f"wrote {target}")
