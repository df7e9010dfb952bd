"""Manual links: the user names the model to which the results of a file in the warehouse belong."""

from __future__ import annotations

import csv
import os
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from layerhouse.errors import UsageError
from layerhouse.file_door import open_regular
from layerhouse.vocabulary import LinkRule
from layerhouse.warehouse.admin.keeping import keep_answers
from layerhouse.warehouse.answers.query import model_names, own_sql, the_model
from layerhouse.warehouse.answers.session import connect
from layerhouse.warehouse.storage.store import write_commit

FILE_PARTS = """
WITH parts AS (
    SELECT
        result_links.source_uri,
        result_links.result_id,
        coalesce(result_links.file_id, result_links.result_id) AS contents,
        max(result_links.commit_id) AS commit_id,
        coalesce(min(results.declared_model), '') AS named
    FROM result_links
    JOIN results ON results.result_id = result_links.result_id
    GROUP BY ALL
)
SELECT
    source_uri,
    result_id,
    contents,
    named
FROM parts
QUALIFY contents = first_value(contents) OVER (PARTITION BY source_uri, named ORDER BY commit_id DESC, contents)
ORDER BY source_uri, named, result_id
"""
"""The parts of each file by the model that their rows name, of each the newest contents."""


@dataclass(frozen=True)
class LinkRequest:
    """The results in `file` are those of `model_id`, a name or the ending of one name alone. Of a file that names several
    models, those rows that name `of`; an empty text stands for rows that name none.
    """

    file: str
    model_id: str
    of: str | None = None


class _Part(NamedTuple):
    """The rows of a file that name one model."""

    result_id: str
    file_id: str
    named: str


def link_results(root: Path, requests: Sequence[LinkRequest]) -> int:
    """Link results to models, all or none, and return the number of links. A later ingest keeps these links.

    Raises NotFoundError for a model that is not in the warehouse, UsageError for an ending of several names, a file without
    results in it, and a file of several models where the request does not say of which.
    """
    connection, _ = connect(root, asked="model_names result_links")
    with connection, own_sql(connection):
        names = model_names(connection)
        rows = connection.execute(FILE_PARTS).fetchall()
    parts_by_file: dict[str, list[_Part]] = {}
    for source_uri, *columns in rows:
        parts_by_file.setdefault(source_uri, []).append(_Part(*columns))
    links = []
    for request in requests:
        model_id = the_model(names, request.model_id)
        addresses = (str(Path(request.file).absolute()), str(Path(request.file).resolve()), request.file)
        address = next((address for address in addresses if address in parts_by_file), None)
        if address is None:
            what = f"no results of this file in the warehouse; take it with: layerhouse ingest {shlex.quote(request.file)}"
            raise UsageError(f"{request.file}: {what}")
        for part in _chosen(request, parts_by_file[address]):
            link = {"result_id": part.result_id, "model_id": model_id, "rule": LinkRule.BY_HAND, "source_uri": address}
            links.append(link | {"file_id": part.file_id, "linked_at": datetime.now(UTC), "tags": {}})
    write_commit(root, {"links": links}, "link")
    keep_answers(root)
    return len(links)


def _chosen(request: LinkRequest, parts: Sequence[_Part]) -> list[_Part]:
    """The parts of a file that a request means. Raises UsageError where it does not say which."""
    names = [*dict.fromkeys(part.named for part in parts)]
    if request.of is None and len(names) == 1:
        return [*parts]
    if request.of in names:
        return [part for part in parts if part.named == request.of]
    listed = ", ".join(repr(name) for name in names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    if request.of is not None:
        raise UsageError(f"{request.file}: no results of {request.of!r} in it; there is {listed}")
    command = f"layerhouse link {shlex.quote(request.file)} {shlex.quote(request.model_id)} --of {shlex.quote(names[0])}"
    raise UsageError(f"{request.file}: results of {len(names)} models: {listed}; link those of one, such as with: {command}")


def read_requests(path: Path) -> list[LinkRequest]:
    """Links from a CSV with the columns file, model and maybe of. Files are relative to the folder of the CSV. Raises
    UsageError.
    """
    try:
        with os.fdopen(open_regular(path)[0], encoding="utf-8-sig", newline="") as lines:
            return list(_requests(path, csv.DictReader(lines)))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from None


def _requests(path: Path, rows: Iterable[dict[str, str]]) -> Iterable[LinkRequest]:
    for number, row in enumerate(rows, 2):
        file, model_id = row.get("file"), row.get("model")
        if not file or not model_id:
            raise UsageError(f"{path}: line {number}: a line has a file and a model, under a header of these names")
        yield LinkRequest(str(path.parent / file), model_id, row.get("of") or None)
