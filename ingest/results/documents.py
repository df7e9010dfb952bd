"""A result file as a document: a JSON value, the values of a JSON Lines file, or text, by the file's name."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import IO, Any

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.containers.sniff import reason_no_text
from layerhouse.ingest.checkpoint.json_files import (
    MAX_CONTAINERS,
    MAX_VALUES,
    SURROGATE_ESCAPE,
    check_depth,
    parse_json,
    read_json,
    read_json_bytes,
)
from layerhouse.ingest.checkpoint.limits import allowed, check_limit, exceeded
from layerhouse.ingest.checkpoint.regular_file import open_regular_file
from layerhouse.ingest.results.secret_texts import clean_document

JSON, JSON_LINES = ".json", ".jsonl"
INSPECT = ".eval"
TEXT_SUFFIXES = (".csv", ".tsv", ".log", ".txt", ".md", ".sql")
MAX_TEXT_BYTES = 32 << 20
BEGIN_BYTES, END_BYTES = 8 << 20, 1 << 20
"""Bytes of a text over the limit that are looked at, at its begin and at its end, where logs have their results."""
MAX_LINE = 8 << 20
"""Bytes of a line that is looked at to tell JSON Lines from JSON."""
NO_RESULTS = re.compile(
    r"(merges|vocab|requirements.*|readme.*|license.*|notice.*|description|.*tokens|special_.*"
    r"|model_?card|changelog|changes|security|contributing|code_of_conduct|use_policy)\.(txt|md)",
    re.IGNORECASE,
)
"""Text files that lie beside weights and hold no results."""
NO_SUFFIX = re.compile(r"eval_.+_\d+\.\d+[\w.]*(_.+)?|[^.]*(results?|eval|evaluation)[^.]*", re.IGNORECASE)
"""Names without a suffix that results have: `eval_MODEL_0.4.8_TASK` of mlx_lm, and `lm_eval_results`."""
LETTERS_SUFFIX = re.compile(r"\.[A-Za-z]\w*")
HARNESS_NAME = re.compile(r"results_\d{4}-\d\d-\d\dT\d\d[-:]\d\d[-:]\d\d(\.\d{1,9})?\.json")
"""Names that only lm-eval 0.4 and lighteval give to their result files."""
PER_SAMPLE = re.compile(r"samples_.*\.jsonl?|.*\.pytorch\.json|.*predictions?.*\.jsonl", re.IGNORECASE)
"""Files with the answers to single samples."""


class CutBytes(bytes):
    """Of a text over the limit, the bytes at its begin and end: enough to tell whether it looks like results."""


class CutText(str):
    """The text of CutBytes. A format that recognises it refuses it."""

    __slots__ = ()


class CutLines(list[Any]):
    """The value of the first of the JSON Lines in CutBytes. A format that recognises it refuses it."""


def may_be_result(path: Path) -> bool:
    """Whether a file's name is one that result files have."""
    suffix = path.suffix.lower()
    if PER_SAMPLE.fullmatch(path.name):
        return False
    return suffix in (JSON, JSON_LINES, INSPECT) or (is_text_file(path) and not NO_RESULTS.fullmatch(path.name))


def is_text_file(path: Path) -> bool:
    """Whether a file has a name that any text may have, so that only its content tells if it is a result."""
    return path.suffix.lower() in (*TEXT_SUFFIXES, JSON_LINES) or _has_no_suffix(path)


def _has_no_suffix(path: Path) -> bool:
    return LETTERS_SUFFIX.fullmatch(path.suffix) is None and NO_SUFFIX.fullmatch(path.name) is not None


def read_document(path: Path, display_path: str) -> tuple[bytes, Any]:
    """The file's bytes, for hashing, and its document: a JSON value, a list of them, or text. Raises InputError."""
    raw = read_document_bytes(path, display_path)
    return raw, parse_document(raw, path, display_path)


def read_document_bytes(path: Path, display_path: str) -> bytes:
    """The bytes of a result file; CutBytes of a text over the limit. Raises InputError, which says what a file is that is no
    text.
    """
    if path.suffix.lower() == INSPECT:
        what = "a log of Inspect as .eval: not read; write it as JSON with: inspect log dump FILE > log.json"
        raise InputError(display_path, what)
    reason = reason_no_text(path, display_path)
    if reason is not None:
        raise InputError(display_path, reason)
    if path.suffix.lower() == JSON:
        try:
            return read_json_bytes(path, display_path)
        except InputError:
            if not _is_file_of_lines(path):
                raise
    return _read_bytes(path, display_path)


def read_json_beside(path: Path) -> Any:
    """The JSON document of a file that lies beside a result and describes it, without secrets. Raises InputError."""
    return clean_document(read_json(path, path.name)[1])


def parse_document(raw: bytes, path: Path, display_path: str) -> Any:
    """The document that a result file's bytes hold: a JSON value, a list of them, or text. Of CutBytes, CutText or CutLines.
    It has no secrets, so that no format has to leave them out. Raises InputError.
    """
    return clean_document(_parse(raw, path, display_path))


def _parse(raw: bytes, path: Path, display_path: str) -> Any:
    suffix = path.suffix.lower()
    if suffix == JSON:
        try:
            return parse_json(raw, display_path)
        except InputError:
            if not _starts_as_lines(io.BytesIO(raw)):
                raise
        if len(raw) > allowed(MAX_TEXT_BYTES) or isinstance(raw, CutBytes):
            raise InputError(display_path, over_limit())
    if suffix in (JSON, JSON_LINES) and isinstance(raw, CutBytes):
        return _first_line(raw)
    if suffix in (JSON, JSON_LINES):
        return _json_lines(raw, display_path)
    if not isinstance(raw, CutBytes) and _has_no_suffix(path) and raw.lstrip()[:1] == b"{":
        return parse_json(raw, display_path)
    text = raw.decode("utf-8", "replace")
    return CutText(text) if isinstance(raw, CutBytes) else text


def over_limit() -> str:
    """The message for a text over the limit."""
    return exceeded("bytes of a text file", allowed(MAX_TEXT_BYTES))


def _is_file_of_lines(path: Path) -> bool:
    try:
        with open_regular_file(path, path.name) as (file, _):
            return _starts_as_lines(file)
    except InputError:
        return False


def _starts_as_lines(file: IO[bytes]) -> bool:
    """Whether the first two lines of a file are an object each, as tools write that append every run to one file."""
    lines = [file.readline(MAX_LINE).strip() for _ in range(2)]
    return all(line.startswith(b"{") and line.endswith(b"}") for line in lines)


def _json_lines(raw: bytes, display_path: str) -> list[Any]:
    check_limit(display_path, "lists and objects", raw.count(b"[") + raw.count(b"{"), MAX_CONTAINERS)
    check_limit(display_path, "commas in JSON", raw.count(b","), MAX_VALUES)
    values = []
    for number, line in enumerate(raw.decode("utf-8", "replace").splitlines(), 1):
        if line.strip():
            try:
                value = json.loads(line)
                check_depth(value)
                if SURROGATE_ESCAPE.search(line):
                    json.dumps(value, ensure_ascii=False).encode("utf-8")
            except (ValueError, RecursionError):
                raise InputError(display_path, f"line {number} is no JSON") from None
            values.append(value)
    return values


def _first_line(raw: bytes) -> CutLines:
    line = raw[:MAX_LINE].partition(b"\n")[0]
    try:
        return CutLines([json.loads(line)])
    except (ValueError, RecursionError):
        return CutLines()


def _read_bytes(path: Path, display_path: str) -> bytes:
    limit = allowed(MAX_TEXT_BYTES)
    with open_regular_file(path, display_path) as (file, size):
        if size <= limit:
            return file.read(limit)
        begin = file.read(min(limit, BEGIN_BYTES))
        file.seek(max(len(begin), size - END_BYTES))
        return CutBytes(begin + b"\n" + file.read(END_BYTES))
