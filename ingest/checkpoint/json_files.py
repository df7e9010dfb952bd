"""Read a JSON file strictly: one bounded read, no duplicate keys, and an error of one line for whatever is wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.limits import allowed, check_limit, exceeded
from layerhouse.ingest.checkpoint.regular_file import open_regular_file

MAX_BYTES, MAX_OTHER_BYTES = 128 << 20, 48 << 20
"""Default limits on the bytes of a JSON file, with characters of ASCII alone, and with others: one of these makes Python store
every character in up to four bytes."""

MAX_CONTAINERS, MAX_VALUES = 1_500_000, 5_000_000
"""Limits on the opening brackets and braces of a document, and on its commas, which bound the memory of its objects."""
MAX_DEPTH = 200
"""Limit on the nesting of a document, so that whatever walks it later may do so by recursion."""

LITERALS = ("true", "false", "null", "NaN", "Infinity", "-Infinity")
UNFINISHED_NUMBER = re.compile(r"-|\.|[eE][-+]?")
UNFINISHED_ESCAPE = re.compile(r"\\?u?[0-9a-fA-F]{0,4}")
SPACED_COLON = re.compile(r'"\s+:')
SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


def read_json(path: Path, display_path: str, *, max_bytes: int = MAX_BYTES) -> tuple[bytes, Any]:
    """The file's bytes, for hashing, and the document that they hold (RFC 8259).

    UTF-8 with or without a byte order mark. Beyond the RFC, the bare words NaN, Infinity and -Infinity are floats, as Python's
    own json writes them. Raises InputError of one line, with `display_path` in front.
    """
    raw = read_json_bytes(path, display_path, max_bytes=max_bytes)
    return raw, parse_json(raw, display_path)


def read_json_bytes(path: Path, display_path: str, *, max_bytes: int = MAX_BYTES) -> bytes:
    """The bytes of a JSON file, not parsed yet, within the limits on bytes and on lists and objects."""
    return _read_bytes(path, display_path, allowed(max_bytes))


def parse_json(raw: bytes, display_path: str) -> Any:
    """The document that the bytes of a JSON file hold."""
    return _parse(_decode(raw, display_path), display_path)


def check_depth(document: Any) -> None:
    """Raise RecursionError for a document that is nested deeper than MAX_DEPTH."""
    _count_members(document)


def first_duplicate(pairs: list[tuple[str, Any]]) -> tuple[str, Any]:
    """The first of the pairs whose key an earlier one has. Raises ValueError if all keys differ."""
    seen: set[str] = set()
    for key, value in pairs:
        if key in seen:
            return key, value
        seen.add(key)
    raise ValueError("no duplicate key")


def _read_bytes(path: Path, display_path: str, max_bytes: int) -> bytes:
    with open_regular_file(path, display_path, expected="a JSON file") as (file, _):
        raw = file.read(max_bytes + 1)
    if len(raw) > max_bytes:
        raise InputError(display_path, exceeded("bytes of a JSON file", max_bytes))
    check_limit(display_path, "lists and objects", raw.count(b"[") + raw.count(b"{"), MAX_CONTAINERS)
    check_limit(display_path, "commas in JSON", raw.count(b","), MAX_VALUES)
    if not raw.isascii():
        check_limit(display_path, "bytes of a JSON file that is not ASCII alone", len(raw), MAX_OTHER_BYTES)
    if not raw:
        raise InputError(display_path, "empty file, 0 bytes")
    if not raw.strip(b"\0"):
        raise InputError(display_path, f"not JSON: {len(raw)} bytes, all of them zero")
    return raw


def _decode(raw: bytes, display_path: str) -> str:
    encoding = json.detect_encoding(raw)
    if not encoding.startswith("utf-8"):
        raise InputError(display_path, f"not UTF-8: it looks like {encoding[:6].upper()}; save it as UTF-8")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data":
            what = f"cut off: the file ends inside a character, at byte {error.start}"
        else:
            what = f"not UTF-8: {error.reason} at byte {error.start}"
        raise InputError(display_path, what) from error


def _parse(text: str, display_path: str) -> Any:
    if not text.strip():
        raise InputError(display_path, "empty file, only white space")

    def refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) != len(pairs):
            raise InputError(display_path, f"duplicate key {first_duplicate(pairs)[0][:80]!r}")
        return members

    try:
        document = json.loads(text)
        members = _count_members(document)
        if members != text.count('":') or SPACED_COLON.search(text):
            document = json.loads(text, object_pairs_hook=refuse_duplicates)
        if SURROGATE_ESCAPE.search(text):
            json.dumps(document, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        verdict = "cut off" if _is_cut_off(error) else "invalid JSON"
        reason = error.msg.removesuffix(" starting at")
        raise InputError(display_path, f"{verdict}: {reason} at line {error.lineno}, column {error.colno}") from error
    except UnicodeEncodeError as error:
        what = "invalid JSON: a \\u escape is half of a surrogate pair, which is no character"
        raise InputError(display_path, what) from error
    except RecursionError as error:
        raise InputError(display_path, "limit exceeded: nesting is too deep") from error
    except ValueError as error:
        raise InputError(display_path, "limit exceeded: an integer has too many digits") from error
    return document


def _count_members(document: Any) -> int:
    """Members of all objects, for a quick proof that no key is duplicated.

    Unless white space separates them, `":` occurs in the text once for each member, once more for each duplicate, and perhaps
    within strings. So if the counts are equal there is no duplicate; otherwise the text has to be parsed again with a hook.
    Raises RecursionError for a document that is nested deeper than MAX_DEPTH.
    """
    count, level = 0, [document]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for holder in level:
            is_object = isinstance(holder, dict)
            count += len(holder) if is_object else 0
            items = holder.values() if is_object else holder if isinstance(holder, list) else ()
            below += [item for item in items if type(item) is dict or type(item) is list]
        if not below:
            return count
        level = below
    raise RecursionError


def _is_cut_off(error: json.JSONDecodeError) -> bool:
    """Whether the text ends inside a string, a literal or an open bracket, where the parser expects more."""
    if error.msg.startswith("Unterminated string"):
        return True
    rest = error.doc[error.pos :].rstrip()
    if error.msg.startswith("Invalid \\uXXXX escape"):
        return UNFINISHED_ESCAPE.fullmatch(rest) is not None
    if UNFINISHED_NUMBER.fullmatch(rest):
        return True
    return not rest or any(literal.startswith(rest) and literal != rest for literal in LITERALS)
