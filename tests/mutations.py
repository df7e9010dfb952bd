"""Mutations of files, and the loop that reads every one of them.

Three ways to change a file: its bytes, the values of its JSON document, the lines of its text. Everything follows from one
seed. `run` reads each mutation and notes what a reader must never do: raise another error than a LayerhouseError of one line,
take long, or answer otherwise than its target allows.
"""

from __future__ import annotations

import copy
import io
import json
import math
import random
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from layerhouse.errors import LayerhouseError

Change = Callable[[random.Random, bytes], bytes]
"""One way to change the bytes of a file."""
Answer = Any
"""What a reader says of a file, in a form that can be compared."""
REFUSED = None
"""The answer where a file was refused in one line."""

LONG = 140_000
"""Characters of a long line, more than the 131,072 that the csv module takes for one cell."""
DEEP = 200_000
RAW: dict[str, str] = {
    "@deep@": "[" * DEEP,
    "@deep and closed@": "[" * 3000 + "]" * 3000,
    "@deep objects@": '{"a":' * 3000 + "1" + "}" * 3000,
    "@digits@": "9" * 5000,
    "@negative digits@": "-" + "9" * 5000,
    "@large float@": "1e999",
    "@surrogate@": '"\\ud800"',
    "@duplicate keys@": '{"a": 1, "a": 2}',
    "@escapes@": '"\\u0000\\u001b[2J\\u202e"',
    "@nothing@": "",
}
"""Marks in a document, and the JSON text that stands there in the file: what json.dumps cannot write."""
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**31, 2**63, -(2**63) - 1, 10**19, 10**400, -(10**400)),
    *(0.5, -0.0, 1e-320, 1e308, 1e18, math.nan, math.inf, -math.inf),
    *(
        "",
        " ",
        "x",
        "NaN",
        "-inf",
        "1e999",
        "9" * 5000,
        "1,5",
        "\0",
        "a\nb\rc\u2028d",
        "\x1b[31mred",
        "../../x",
        "/",
        "~",
        "a" * 300,
    ),
    *("\u4e2d" * 300, "x" * LONG, "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2026-02-30", "re:(a+)+$", "=1+1"),
    *([], {}, [[]], [None], [1] * 100, ["x", 1, None], {"": None}, {"a": {"b": {"c": []}}}, {"x": math.inf}, [10**400]),
    *RAW,
)
KEYS = ("", "\0", "a\r\nb", "k" * 3000, "x,y", "|", "__metadata__", "results", "metrics", "a_stderr", "*")
TEXTS = (
    *("\r", "\n", "\r\n", "\0", '"', '""', "'", ",", "\t", ";", "\ufeff", "\u2028", "\x85", "\x1b[2J", "\udcff", "{", "}", "|"),
    *("nan", "inf", "1e999", "9" * 30, "9" * 5000, "-", "=1+1", "x" * LONG, "\u4e2d" * LONG, '"' + "x" * LONG, "," * 5000),
    *("{" * 1000, "(" * 1000, " " * LONG, "a " * (LONG // 2), "1," * (LONG // 2), ":" * LONG),
)


def changed_bytes(source: random.Random, whole: bytes) -> bytes:
    """Some bytes flipped, or a part cut off, removed, doubled, moved, overwritten or inserted."""
    raw = bytearray(whole)
    at, to = sorted(source.randrange(len(raw) + 1) for _ in range(2))
    match source.randrange(8):
        case 0:
            return bytes(raw[:at])
        case 1:
            return bytes(raw[:at] + raw[to:])
        case 2:
            return bytes(raw[:to] + raw[at:])
        case 3:
            return bytes(raw[:at] + source.randbytes(source.choice((1, 2, 8, 100))) + raw[at:])
        case 4:
            size = min(to - at, source.choice((1, 4, 64)))
            return bytes(raw[:at] + bytes([source.choice((0, 255))]) * size + raw[at + size :])
        case 5:
            size = min(to - at, 64)
            place = source.randrange(len(raw) - size + 1)
            raw[place : place + size] = raw[at : at + size]
            return bytes(raw)
    for _ in range(source.randint(1, 5)):
        if raw:
            raw[source.randrange(len(raw))] = source.choice((0, 255, source.randrange(256)))
    return bytes(raw)


def changed_pickle(source: random.Random, whole: bytes) -> bytes:
    """A torch zip whose pickle has other bytes, and a checksum that fits them."""
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, raw in members.items():
            member = zipfile.ZipInfo(name)
            archive.writestr(member, changed_bytes(source, raw) if name.endswith("/data.pkl") else raw)
    return buffer.getvalue()


def changed_json(source: random.Random, whole: bytes) -> bytes:
    """The JSON document with one or two of its values replaced, dropped, doubled, wrapped or renamed."""
    document = json.loads(whole)
    for _ in range(source.choice((1, 1, 2))):
        document = _changed_value(source, document)
    text = json.dumps(document, ensure_ascii=source.random() < 0.5, indent=source.choice((None, None, 1)))
    for mark, raw in RAW.items():
        text = text.replace(json.dumps(mark), raw)
    raw_text = text.encode("utf-8", "surrogatepass")
    match source.randrange(40):
        case 0:
            return b"\xef\xbb\xbf" + raw_text
        case 1:
            return text.encode("utf-16", "surrogatepass")
        case 2:
            return raw_text + b"\n" + raw_text
    return raw_text


def changed_lines(source: random.Random, whole: bytes) -> bytes:
    """A text with a piece of text put into it, or lines dropped, doubled, joined or swapped."""
    text = whole.decode("utf-8", "surrogateescape")
    lines = text.split("\n")
    at = source.randrange(len(lines))
    match source.randrange(8):
        case 0:
            del lines[at]
        case 1:
            lines.insert(source.randrange(len(lines) + 1), lines[at])
        case 2:
            return "\r".join(lines).encode("utf-8", "surrogateescape")
        case 3:
            return text.encode(source.choice(("utf-16", "utf-8-sig", "utf-32")), "replace")
        case 4:
            words = lines[at].split(source.choice((" ", ",", "\t")))
            words[source.randrange(len(words))] = source.choice(TEXTS)
            lines[at] = source.choice((" ", ",", "\t")).join(words)
        case _:
            place = source.randrange(len(lines[at]) + 1)
            lines[at] = lines[at][:place] + source.choice(TEXTS) + lines[at][place:]
    return "\n".join(lines).encode("utf-8", "surrogateescape")


def changed_header(source: random.Random, whole: bytes) -> bytes:
    """A safetensors file whose header has other values, or another file of tensors without elements and with huge lengths."""
    size = int.from_bytes(whole[:8], "little")
    header, data = whole[8 : 8 + size], whole[8 + size :]
    if source.random() < 0.7:
        header = changed_json(source, header)
    else:
        tensors = json.loads(header)
        for entry in tensors.values():
            if "shape" in entry:
                shape = [source.choice((length, 1, 2**31, 2**40, 2**62)) for length in entry["shape"]] or [1]
                shape[source.randrange(len(shape))] = 0
                entry |= {"shape": shape, "data_offsets": [0, 0]}
        header, data = json.dumps(tensors).encode(), b""
    return len(header).to_bytes(8, "little") + header + data


def changed_number(source: random.Random, whole: bytes) -> bytes:
    """The JSON document with one of its numbers replaced by a hostile value, but for null and blanks, which say that there is
    none."""
    document = json.loads(whole)
    places = [
        (holder, key)
        for holder in _holders(document)
        for key in ([*holder] if isinstance(holder, dict) else range(len(holder)))
        if isinstance(holder[key], int | float) and not isinstance(holder[key], bool)
    ]
    holder, key = source.choice(places)
    holder[key] = source.choice([value for value in VALUES if value is not None and not _is_mark_or_blank(value)])
    return json.dumps(document).encode("utf-8", "surrogatepass")


def _is_mark_or_blank(value: Any) -> bool:
    return isinstance(value, str) and (value in RAW or not value.strip())


def _changed_value(source: random.Random, document: Any) -> Any:
    """The document with one value or key of it changed."""
    holders = _holders(document)
    if not holders:
        return _value(source)
    holder = source.choice(holders)
    key = source.choice([*holder] if isinstance(holder, dict) else range(len(holder)))
    match source.randrange(8):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[source.choice(("", "\0", "a\r\nb", "k" * 3000, "x,y", "|", "__metadata__", *_some_keys(holders)))] = (
                holder.pop(key)
            )
        case 2:
            holder[key] = [holder[key], holder[key]]
        case 3:
            holder[key] = {"value": holder[key]}
        case 4 if isinstance(holder, list):
            holder.insert(key, _value(source))
        case _:
            holder[key] = _value(source)
    return document


def _value(source: random.Random) -> Any:
    """A hostile value, or a plain number, as a division may not expect it."""
    return source.randrange(200) if source.random() < 0.15 else copy.deepcopy(source.choice(VALUES))


def _holders(document: Any) -> list[Any]:
    """All objects and lists of a document that hold something."""
    found, waiting = [], [document]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict | list) and value:
            found.append(value)
            waiting += value.values() if isinstance(value, dict) else value
    return found


def _some_keys(holders: Sequence[Any]) -> list[str]:
    return [key for holder in holders if isinstance(holder, dict) for key in holder][:20]


@dataclass(frozen=True)
class Target:
    """A file to mutate. `write(folder)` makes it, with whatever belongs beside it, and returns its path. `read(path)` gives the
    answer. `check(before, after, whole, mutation)` says what is wrong with an answer to a mutation; None if nothing is.
    """

    name: str
    write: Callable[[Path], Path]
    read: Callable[[Path], Answer]
    changes: tuple[Change, ...] = (changed_bytes,)
    check: Callable[[Answer, Answer, bytes, bytes], str | None] = lambda before, after, whole, mutation: None


@dataclass
class Outcome:
    """What the mutations of one target came to: numbers of read and refused ones, the slowest one's CPU time, what is wrong."""

    read: int = 0
    refused: int = 0
    slowest: float = 0.0
    faults: list[str] = field(default_factory=list)


def run(target: Target, folder: Path, rounds: int, seed: int, keep: Path | None = None) -> Outcome:
    """Read so many mutations of a target's file. Mutations with a fault are kept in the folder `keep`, if there is one."""
    path = target.write(folder)
    whole = path.read_bytes()
    before, fault = answer_of(target, path)
    outcome = Outcome(faults=[f"{target.name}: unchanged: {fault or 'refused'}"] if before is REFUSED else [])
    source = random.Random(f"{seed} {target.name}")
    for number in range(rounds):
        mutation = source.choice(target.changes)(source, whole)
        path.write_bytes(mutation)
        started = time.process_time()
        after, fault = answer_of(target, path)
        seconds = time.process_time() - started
        outcome.slowest = max(outcome.slowest, seconds)
        outcome.read += after is not REFUSED
        outcome.refused += after is REFUSED
        if fault is None and after is not REFUSED:
            fault = target.check(before, after, whole, mutation)
        if fault is None and seconds > MAX_SECONDS:
            fault = f"{seconds:.1f} s of CPU"
        if fault is not None:
            outcome.faults.append(f"{target.name}: mutation {number} of seed {seed}: {fault}")
            if keep is not None:
                (keep / f"{target.name.replace('/', '_')}-{number}").write_bytes(mutation)
    path.write_bytes(whole)
    return outcome


MAX_SECONDS = 2.0
"""CPU time of one mutation. The slowest take about a tenth of it."""


def answer_of(target: Target, path: Path) -> tuple[Answer, str | None]:
    """The answer, REFUSED for an error of one line; and what is wrong with the error, if anything is."""
    try:
        return target.read(path), None
    except LayerhouseError as error:
        text = str(error)
        return REFUSED, f"an error of several lines: {text!r}" if "\n" in text or "\r" in text else None
    except Exception as error:
        import traceback

        place = traceback.extract_tb(error.__traceback__)[-1]
        return REFUSED, f"{type(error).__name__}: {str(error)[:200]} at {place.filename}:{place.lineno}"
