"""A result file as a document: JSON, lines of JSON, or text, by its name."""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path
from typing import Any

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.json_files import MAX_CONTAINERS, read_json
from layerhouse.ingest.checkpoint.limits import allowed, check_limit, exceeded

JSON, JSON_LINES = ".json", ".jsonl"
TEXT_SUFFIXES = (".csv", ".tsv", ".log", ".txt")
MAX_TEXT_BYTES = 64 << 20
MAX_LINE = 8 << 20
# What stands beside weights as text and is no result.
NO_RESULTS = re.compile(
    r"(merges|vocab|requirements.*|readme.*|license.*|notice.*|description|.*tokens|special_.*)\.txt", re.IGNORECASE
)
HARNESS_NAME = re.compile(r"results_\d{4}-\d\d-\d\dT\d\d[-:]\d\d[-:]\d\d(\.\d{1,9})?\.json")
"""Of files that lm-eval 0.4 and lighteval write: theirs alone."""
PER_SAMPLE = re.compile(r"samples_.*\.jsonl?|.*\.pytorch\.json|.*predictions?.*\.jsonl", re.IGNORECASE)


def may_be_result(path: Path) -> bool:
    """Whether a file's name is one that results have; samples of single documents are none."""
    suffix = path.suffix.lower()
    if PER_SAMPLE.fullmatch(path.name):
        return False
    return suffix in (JSON, JSON_LINES) or (suffix in TEXT_SUFFIXES and not NO_RESULTS.fullmatch(path.name))


def is_text_file(path: Path) -> bool:
    """Whether only its content can tell if it is a result: any text may have this name."""
    return path.suffix.lower() in (*TEXT_SUFFIXES, JSON_LINES)


def read_document(path: Path, shown: str) -> tuple[bytes, Any]:
    """The file's bytes, for hashing, and what they hold: a JSON value, a list of them, or text. Raises InputError."""
    suffix = path.suffix.lower()
    if suffix == JSON:
        try:
            return read_json(path, shown)
        except InputError:
            if not _is_lines_of_objects(path):
                raise
        raw = _read_bytes(path, shown)
        return raw, _json_lines(raw.decode("utf-8", "replace"), shown)
    raw = _read_bytes(path, shown)
    text = raw.decode("utf-8", "replace")
    return raw, _json_lines(text, shown) if suffix == JSON_LINES else text


def _is_lines_of_objects(path: Path) -> bool:
    """Whether a file holds whole objects, a line each: tools that append a run to a file write it so."""
    if not path.is_file():  # such as a pipe, which would be waited for
        return False
    try:
        with path.open("rb") as file:
            first, second = file.readline(MAX_LINE).strip(), file.readline(MAX_LINE).strip()
    except OSError:
        return False
    return all(line.startswith(b"{") and line.endswith(b"}") for line in (first, second))


def _json_lines(text: str, shown: str) -> list[Any]:
    check_limit(shown, "lists and objects", text.count("[") + text.count("{"), MAX_CONTAINERS)
    values = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                values.append(json.loads(line))
            except (ValueError, RecursionError):
                raise InputError(shown, f"line {number} is no JSON") from None
    return values


def _read_bytes(path: Path, shown: str) -> bytes:
    limit = allowed(MAX_TEXT_BYTES)
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError(shown, "is not a regular file")
        with path.open("rb") as file:
            raw = file.read(limit + 1)
    except OSError as error:
        raise InputError(shown, f"cannot be read: {error.strerror}") from error
    if len(raw) > limit:
        raise InputError(shown, exceeded("bytes of a text file", limit))
    return raw
