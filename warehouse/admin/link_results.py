"""Links by hand: which model a result file in the warehouse belongs to."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from layerhouse.errors import NotFoundError, UsageError
from layerhouse.warehouse.answers.query import model_names, own_sql
from layerhouse.warehouse.answers.session import connect, keep_answers
from layerhouse.warehouse.storage.store import write_commit

BY_HAND = "by_hand"


def link_results(root: Path, pairs: Sequence[tuple[str, str]]) -> int:
    """Link files to models, all or none; how many result files were linked. A later ingest leaves these links as they are.

    Raises NotFoundError for a model that the warehouse has not, UsageError for a file whose results it has not.
    """
    connection, _ = connect(root, asked="models result_links")
    with connection, own_sql():
        names = model_names(connection)
        found = connection.execute("SELECT source_uri, result_id FROM result_links").fetchall()
    by_file: dict[str, list[str]] = {}
    for source_uri, result_id in found:
        by_file.setdefault(source_uri, []).append(result_id)
    links = []
    for file, model_id in pairs:
        if model_id not in names:
            raise NotFoundError("model", model_id, names)
        address = str(Path(file).absolute())
        own = by_file.get(address) or by_file.get(str(Path(file).resolve())) or by_file.get(file)
        if not own:
            raise UsageError(f"{file}: no results of this file in the warehouse; take it with: layerhouse ingest {file}")
        for result_id in own:
            link = {"result_id": result_id, "model_id": model_id, "rule": BY_HAND, "source_uri": address}
            links.append(link | {"linked_at": datetime.now(UTC), "tags": {}})
    write_commit(root, {"links": links}, "link")
    keep_answers(root)
    return len(links)


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """Pairs of file and model from a CSV with these columns; a file is relative to the CSV's folder. Raises UsageError."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            return list(_pairs(path, csv.DictReader(lines)))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from None


def _pairs(path: Path, rows: Iterable[dict[str, str]]) -> Iterable[tuple[str, str]]:
    for number, row in enumerate(rows, 2):
        file, model_id = row.get("file"), row.get("model")
        if not file or not model_id:
            raise UsageError(f"{path}: line {number}: a line has a file and a model, under a header of these names")
        yield str(path.parent / file), model_id
