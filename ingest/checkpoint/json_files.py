"""Read a JSON file strictly: one bounded read, no duplicate key, one line of reason for whatever is wrong."""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path
from typing import Any

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.limits import allowed, check_limit, exceeded

MAX_BYTES = 256 * 1024 * 1024
"""Default cap on the size of a JSON file, in bytes."""

MAX_CONTAINERS = 4_000_000
"""Opening brackets and braces of a document: what bounds the memory that its objects take."""

LITERALS = ("true", "false", "null", "NaN", "Infinity", "-Infinity")
UNFINISHED_NUMBER = re.compile(r"-|\.|[eE][-+]?")
UNFINISHED_ESCAPE = re.compile(r"\\?u?[0-9a-fA-F]{0,4}")
SPACED_COLON = re.compile(r'"\s+:')
SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


def read_json(path: Path, shown: str, *, max_bytes: int = MAX_BYTES) -> tuple[bytes, Any]:
    """The file's bytes, for hashing, and the document that they hold (RFC 8259).

    UTF-8 with or without a byte order mark. Beyond the RFC, the bare words NaN, Infinity and -Infinity are floats, as
    Python's own json writes them. `shown` is the path as the user knows it. Every failure is an InputError of one line.
    """
    raw = _read_bytes(path, shown, allowed(max_bytes))
    return raw, _parse(_decode(raw, shown), shown)


def _read_bytes(path: Path, shown: str, max_bytes: int) -> bytes:
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise InputError(shown, "is a directory, not a JSON file")
        if not stat.S_ISREG(mode):
            raise InputError(shown, "is not a regular file")
        with path.open("rb") as file:
            raw = file.read(max_bytes + 1)
    except FileNotFoundError as error:
        raise InputError(shown, "no such file") from error
    except OSError as error:
        raise InputError(shown, f"cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(shown, f"is no path: {error}") from error
    if len(raw) > max_bytes:
        raise InputError(shown, exceeded("bytes of a JSON file", max_bytes))
    check_limit(shown, "lists and objects", raw.count(b"[") + raw.count(b"{"), MAX_CONTAINERS)
    if not raw:
        raise InputError(shown, "empty file, 0 bytes")
    if not raw.strip(b"\0"):
        raise InputError(shown, f"not JSON: {len(raw)} bytes, all of them zero")
    return raw


def _decode(raw: bytes, shown: str) -> str:
    encoding = json.detect_encoding(raw)
    if not encoding.startswith("utf-8"):
        raise InputError(shown, f"not UTF-8: it looks like {encoding[:6].upper()}; save it as UTF-8")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data":
            raise InputError(shown, f"cut off: the file ends inside a character, at byte {error.start}") from error
        raise InputError(shown, f"not UTF-8: {error.reason} at byte {error.start}") from error


def _parse(text: str, shown: str) -> Any:
    if not text.strip():
        raise InputError(shown, "empty file, only white space")

    def refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) != len(pairs):
            raise InputError(shown, f"duplicate key {_first_duplicate(pairs)[:80]!r}")
        return members

    try:
        document = json.loads(text)
        if SPACED_COLON.search(text) or _count_members(document) != text.count('":'):
            document = json.loads(text, object_pairs_hook=refuse_duplicates)
        if SURROGATE_ESCAPE.search(text):
            json.dumps(document, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        verdict = "cut off" if _is_cut_off(error) else "invalid JSON"
        reason = error.msg.removesuffix(" starting at")
        raise InputError(shown, f"{verdict}: {reason} at line {error.lineno}, column {error.colno}") from error
    except UnicodeEncodeError as error:
        raise InputError(shown, "invalid JSON: a \\u escape is half of a surrogate pair, which is no character") from error
    except RecursionError as error:
        raise InputError(shown, "limit exceeded: nesting is too deep") from error
    except ValueError as error:
        raise InputError(shown, "limit exceeded: an integer has too many digits") from error
    return document


def _count_members(document: Any) -> int:
    """Members of all objects. Where no space parts quotes and colons, `":` is in the text once for each, twice for one that
    stands twice, and maybe in texts: equal counts mean that no key stands twice."""
    count, waiting = 0, [document]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            count += len(value)
            value = value.values()
        elif not isinstance(value, list):
            continue
        waiting += [item for item in value if type(item) is dict or type(item) is list]
    return count


def _first_duplicate(pairs: list[tuple[str, Any]]) -> str:
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            return key
        seen.add(key)
    raise ValueError("no duplicate")


def _is_cut_off(error: json.JSONDecodeError) -> bool:
    """Whether the text ends where the parser still waits for more: inside a string, a literal or an open bracket."""
    if error.msg.startswith("Unterminated string"):
        return True
    rest = error.doc[error.pos :].rstrip()
    if error.msg.startswith("Invalid \\uXXXX escape"):
        return UNFINISHED_ESCAPE.fullmatch(rest) is not None
    if UNFINISHED_NUMBER.fullmatch(rest):
        return True
    return not rest or any(literal.startswith(rest) and literal != rest for literal in LITERALS)
