"""Manual links: the user names the model to which a result file in the warehouse belongs."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from layerhouse.errors import NotFoundError, UsageError
from layerhouse.file_door import open_regular
from layerhouse.vocabulary import LinkRule
from layerhouse.warehouse.answers.query import model_names, own_sql
from layerhouse.warehouse.answers.session import connect, keep_answers
from layerhouse.warehouse.storage.store import write_commit


def link_results(root: Path, pairs: Sequence[tuple[str, str]]) -> int:
    """Link result files to models, all or none, and return the number of links. A later ingest keeps these links.

    Raises NotFoundError for a model that is not in the warehouse, UsageError for a file without results in it.
    """
    connection, _ = connect(root, asked="models result_links")
    with connection, own_sql(connection):
        names = model_names(connection)
        linked = connection.execute("SELECT source_uri, result_id FROM result_links").fetchall()
    results_by_file: dict[str, list[str]] = {}
    for source_uri, result_id in linked:
        results_by_file.setdefault(source_uri, []).append(result_id)
    links = []
    for file, model_id in pairs:
        if model_id not in names:
            raise NotFoundError("model", model_id, names)
        address = str(Path(file).absolute())
        result_ids = results_by_file.get(address) or results_by_file.get(str(Path(file).resolve())) or results_by_file.get(file)
        if not result_ids:
            raise UsageError(f"{file}: no results of this file in the warehouse; take it with: layerhouse ingest {file}")
        for result_id in result_ids:
            link = {"result_id": result_id, "model_id": model_id, "rule": LinkRule.BY_HAND, "source_uri": address}
            links.append(link | {"linked_at": datetime.now(UTC), "tags": {}})
    write_commit(root, {"links": links}, "link")
    keep_answers(root)
    return len(links)


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """(file, model) pairs from a CSV with these columns. Files are relative to the folder of the CSV. Raises UsageError."""
    try:
        with os.fdopen(open_regular(path)[0], encoding="utf-8-sig", newline="") as lines:
            return list(_pairs(path, csv.DictReader(lines)))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from None


def _pairs(path: Path, rows: Iterable[dict[str, str]]) -> Iterable[tuple[str, str]]:
    for number, row in enumerate(rows, 2):
        file, model_id = row.get("file"), row.get("model")
        if not file or not model_id:
            raise UsageError(f"{path}: line {number}: a line has a file and a model, under a header of these names")
        yield str(path.parent / file), model_id
