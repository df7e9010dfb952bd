"""The result files of one ingest: each is read and parsed once, by the walk that looks for results, and kept for the taking."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layerhouse.errors import ChangedError, InputError, UnexpectedError, UsageError
from layerhouse.file_door import Identity, identity_of
from layerhouse.ingest.model_files import path_text
from layerhouse.ingest.results.documents import parse_document, read_document_bytes
from layerhouse.ingest.results.parsed import ParsedResults, ResultFormat
from layerhouse.ingest.results.registry import recognise
from layerhouse.ingest.results.resemblance import resembles_results
from layerhouse.warehouse.storage.inventory import Inventory

MAX_KEPT_BYTES = 16 << 20
"""Bytes of the files whose documents are kept until they are taken. Those of further files are dropped and read again."""
NO_RESULT = "not a result of a known form, nor an analysis by its name; a table with model, task, metric and value is one"


@dataclass
class _ReadFile:
    """A result file as it was when `stamp` was taken. `document` is None once it is taken or dropped."""

    stamp: Identity | None
    file_id: str
    size: int = 0
    result_format: ResultFormat | None = None
    document: Any = None
    is_unchanged: bool = False
    resemblance: str | None = None


class ResultFiles:
    """Result files by path, which is the real path of the model's folder and the path below it."""

    def __init__(self, known: Inventory) -> None:
        self._known = known
        self._files: dict[Path, _ReadFile] = {}
        self._kept_bytes = 0

    def is_result(self, path: Path) -> bool:
        """Whether a file is a result of a known format. Raises InputError where it cannot be read."""
        file = self._files.get(path)
        if file is None or file.stamp != identity_of(path):
            file = self._read(path, path_text(path))
            self._keep(path, file)
        return file.is_unchanged or file.result_format is not None

    def resemblance(self, path: Path) -> str | None:
        """Of a file that `is_result` found to be none: why it looks like one, and what to do."""
        file = self._files.get(path)
        return file.resemblance if file is not None else None

    def take(self, path: Path, display_path: str) -> tuple[str, ParsedResults | None]:
        """The id of a file's contents and its results, or None where the warehouse has them. Raises InputError.

        What the walk read is used only if the file is still as it was, so that an id never stands for other contents.
        """
        file = self._files.get(path)
        if file is None or file.stamp != identity_of(path) or not (file.is_unchanged or file.document is not None):
            file = self._read(path, display_path)
        document = file.document
        self._drop(path)
        if file.is_unchanged:
            return file.file_id, None
        if file.result_format is None:
            raise InputError(display_path, file.resemblance or NO_RESULT)
        try:
            parsed = file.result_format.parse(document, path)
        except InputError as error:
            raise InputError(display_path, error.what) from error
        if not parsed.rows:
            raise InputError(display_path, f"no result in it: {'; '.join(parsed.left_out) or 'it is empty'}")
        return file.file_id, parsed

    def _read(self, path: Path, display_path: str) -> _ReadFile:
        """Read a file; parse it unless the warehouse has its contents."""
        stamp = identity_of(path)
        raw = read_document_bytes(path, display_path)
        if identity_of(path) != stamp:
            raise ChangedError(display_path)
        file_id = hashlib.sha256(path_text(path).encode() + b"\0" + raw).hexdigest()
        known = self._known
        is_open = file_id in known.unlinked_results or file_id in known.stale_results
        if file_id in known.models_by_result and not is_open:
            return _ReadFile(stamp, file_id, is_unchanged=True)
        document = parse_document(raw, path, display_path)
        try:
            result_format = recognise(document, path)
        except UsageError as error:  # a package adds a format that cannot be used
            raise UnexpectedError(display_path, str(error)) from error
        resemblance = resembles_results(document) if result_format is None else None
        return _ReadFile(stamp, file_id, len(raw), result_format, document, resemblance=resemblance)

    def _keep(self, path: Path, file: _ReadFile) -> None:
        """Remember a file; its document only where it is a result and there is room."""
        self._drop(path)
        self._files[path] = file
        if file.result_format is None or self._kept_bytes + file.size > MAX_KEPT_BYTES:
            file.document = None
        if file.document is not None:
            self._kept_bytes += file.size

    def _drop(self, path: Path) -> None:
        """Let go of a file's document; what the file is stays known."""
        file = self._files.get(path)
        if file is not None and file.document is not None:
            self._kept_bytes -= file.size
            file.document = None
