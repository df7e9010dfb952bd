"""Read the header of a safetensors file; the bytes of its tensors stay where they are.

The format (huggingface/safetensors, README, "Format"): a u64 little-endian length, a JSON object of that many bytes, then the
tensors' bytes without a gap. The reader is as strict as the format's text, which also forbids duplicate keys.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.containers.shapes import MAX_DIMENSIONS, MAX_ELEMENTS, count_elements
from layerhouse.ingest.checkpoint.containers.sniff import opened
from layerhouse.ingest.checkpoint.dtypes import DTYPES
from layerhouse.ingest.checkpoint.limits import check_limit
from layerhouse.ingest.checkpoint.memory import Memory
from layerhouse.ingest.checkpoint.tensor_ref import Contents, TensorRef

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000
"""The format's own limit."""
MAX_ASCII_BYTES, MAX_OTHER_BYTES = 48 << 20, 16 << 20
"""Of a header that is parsed: one character beyond ASCII can make each of a text's take four bytes."""
MAX_TENSORS = 200_000
MAX_VALUES = 4_000_000
"""Brackets and commas in a header: what bounds the memory of its objects. A tensor takes about ten."""
METADATA = "__metadata__"
FIELDS = {"dtype", "shape", "data_offsets"}
SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")

MAX_KEPT_BYTES = 256 << 10
"""Of a header that is remembered: masks and fine-tuning leave a model's header as it is."""

_Entry = tuple[int, int, str, str, tuple[int, ...]]
"""Begin and end in the data, name, dtype, shape."""
_Header = tuple[tuple[_Entry, ...], dict[str, Any], int]
"""The tensors in the header's order, the metadata, and the bytes of data."""

_HEADERS: Memory[bytes, _Header] = Memory()


def read_safetensors(path: Path, shown: str) -> Contents:
    """Every tensor that the header names, in its order. Raises InputError of one line that names the tensor at fault."""
    with opened(path, shown) as (file, size):
        raw, data_offset = _read_header(file, size, shown)
    entries, metadata, data_bytes = _HEADERS.get(raw) or _parsed(raw, shown)
    check_limit(shown, "tensors", len(entries), MAX_TENSORS)
    _check_size(data_offset + data_bytes, size, shown)
    tensors = tuple(
        [TensorRef(name, dtype, shape, path, data_offset + begin, end - begin) for begin, end, name, dtype, shape in entries]
    )
    return Contents("safetensors", tensors, dict(metadata))


def _parsed(raw: bytes, shown: str) -> _Header:
    header, is_of_integers = _parse(raw, shown)
    metadata = _metadata(header.pop(METADATA, {}), shown)
    check_limit(shown, "tensors", len(header), MAX_TENSORS)
    plain = _plain_entries(header, shown) if is_of_integers else None
    entries = tuple([_entry(name, value, shown) for name, value in header.items()] if plain is None else plain)
    found = entries, metadata, _check_layout(entries, shown)
    return _HEADERS.keep(raw, found) if len(raw) <= MAX_KEPT_BYTES else found


def _read_header(file: BinaryIO, size: int, shown: str) -> tuple[bytes, int]:
    """The header's JSON, and the byte at which the data begins."""
    prefix = file.read(LENGTH_BYTES)
    if len(prefix) < LENGTH_BYTES:
        raise InputError(shown, f"cut off: a safetensors file has at least {LENGTH_BYTES} bytes, found {size}; fetch it again")
    length = int.from_bytes(prefix, "little")
    data_offset = LENGTH_BYTES + length
    check_limit(shown, "bytes of a header", length, MAX_HEADER_BYTES)
    if data_offset > size:
        raise InputError(shown, f"cut off in the header: expected at least {data_offset} bytes, found {size}; fetch it again")
    raw = file.read(length)
    if len(raw) < length:
        raise InputError(shown, f"cut off in the header: expected {length} bytes, found {len(raw)}")
    if not raw.startswith(b"{"):
        raise InputError(shown, f"damaged header: it begins with {raw[:16]!r}, not with {{")
    check_limit(shown, "tensors", raw.count(b'"data_offsets"'), MAX_TENSORS)
    check_limit(shown, "bytes of a header", length, MAX_ASCII_BYTES if raw.isascii() else MAX_OTHER_BYTES)
    check_limit(shown, "values in the header", raw.count(b"[") + raw.count(b"{") + raw.count(b","), MAX_VALUES)
    return raw, data_offset


def _parse(raw: bytes, shown: str) -> tuple[dict[str, Any], bool]:
    """The header, and whether its numbers are sure to be integers: 2.0 and true are equal to some."""
    floats: list[str] = []

    def keep_float(text: str) -> float:
        floats.append(text)
        return float(text)

    def refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) == len(pairs):
            return members
        seen: set[str] = set()
        for key, value in pairs:
            if key in seen:
                what = "tensor name" if isinstance(value, dict) else "key"
                raise InputError(shown, f"damaged header: duplicate {what} {key[:80]!r}")
            seen.add(key)
        return members

    def refuse_constant(word: str) -> NoReturn:
        raise InputError(shown, f"damaged header: {word} is not JSON")

    try:
        text = raw.decode()
        header = json.loads(text, parse_constant=refuse_constant, parse_float=keep_float)
        if _count_keys(header) != raw.count(b":"):  # a key twice, or a colon in a text: look closely
            header = json.loads(text, object_pairs_hook=refuse_duplicates, parse_constant=refuse_constant)
        if SURROGATE_ESCAPE.search(raw):
            json.dumps(header, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        what = error.msg.removesuffix(" starting at")
        raise InputError(shown, f"damaged header: {what} at byte {LENGTH_BYTES + error.pos}") from error
    except UnicodeDecodeError as error:
        raise InputError(shown, f"damaged header: not UTF-8 at byte {LENGTH_BYTES + error.start}") from error
    except UnicodeEncodeError as error:
        raise InputError(shown, "damaged header: a \\u escape is half of a surrogate pair, which is no character") from error
    except RecursionError as error:
        raise InputError(shown, "limit exceeded: nesting of the header") from error
    except ValueError as error:
        raise InputError(shown, "limit exceeded: an integer in the header has too many digits") from error
    if not isinstance(header, dict):
        raise InputError(shown, "damaged header: not a JSON object")
    return header, not floats and b"true" not in raw and b"false" not in raw


def _count_keys(header: Any) -> int:
    """Keys of an object and of the objects in it. Each has a colon of its own in the JSON, one that stands twice has two."""
    if not isinstance(header, dict):
        return -1
    return len(header) + sum([len(value) for value in header.values() if isinstance(value, dict)])


def _metadata(value: Any, shown: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(shown, f"{METADATA} is not an object of texts")
    for key, text in value.items():
        if not isinstance(text, str):
            raise InputError(shown, f"{METADATA} {key[:80]!r} is {json.dumps(text)[:40]}, not a text")
    return value


def _plain_entries(header: dict[str, Any], shown: str) -> list[_Entry] | None:
    """The tensors of a header of integers; None where one is not as it should be, for _entry to say of which and how."""
    sizes: dict[tuple[Any, ...], tuple[tuple[int, ...], int]] = {}
    entries: list[_Entry] = []
    try:
        for name, value in header.items():
            code, shape, (begin, end) = value["dtype"], value["shape"], value["data_offsets"]
            looks = (code, *shape)
            known = sizes.get(looks)  # most tensors look like others
            if known is None:
                known = sizes[looks] = _size(name, code, shape, shown)
            is_whole = len(value) == len(FIELDS) and type(shape) is list
            if not is_whole or not 0 <= begin <= end <= MAX_ELEMENTS or known[1] != end - begin:
                return None
            entries.append((begin, end, name, code, known[0]))
    except (KeyError, TypeError, ValueError):
        return None
    return entries


def _entry(name: str, value: Any, shown: str) -> _Entry:
    if not isinstance(value, dict) or value.keys() != FIELDS:
        found = ", ".join(sorted(value))[:120] if isinstance(value, dict) else type(value).__name__
        _refuse(name, f"expected dtype, shape and data_offsets, found {found or 'nothing'}", shown)
    code, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    known = _size(name, code, shape, shown)
    if not _is_whole_numbers(offsets) or len(offsets) != 2:
        _refuse(name, "data_offsets are not two whole numbers from 0 to 2^63 - 1", shown)
    begin, end = offsets
    if begin > end:
        _refuse(name, f"data_offsets run backwards, from {begin} to {end}", shown)
    if known[1] != end - begin:
        _refuse(name, f"{code} of shape {shape} takes {known[1]} bytes, data_offsets give {end - begin}", shown)
    return begin, end, name, code, known[0]


def _size(name: str, code: Any, shape: Any, shown: str) -> tuple[tuple[int, ...], int]:
    """The shape, and the bytes of so many elements."""
    if not isinstance(code, str) or code not in DTYPES:
        _refuse(name, f"unknown dtype {str(code)[:40]!r}", shown)
    if not _is_whole_numbers(shape):
        _refuse(name, "shape is not a list of whole numbers from 0 to 2^63 - 1", shown)
    elements = count_elements(tuple(shape))
    if elements is None:
        _refuse(name, f"limit exceeded: more than {MAX_DIMENSIONS} dimensions or {MAX_ELEMENTS} elements", shown)
    bits = elements * DTYPES[code].bits
    if bits % 8:
        _refuse(name, f"{elements} elements of {code} do not fill whole bytes", shown)
    return tuple(shape), bits // 8


def _is_whole_numbers(value: Any) -> bool:
    if not isinstance(value, list):
        return False
    return all(type(item) is int and 0 <= item <= MAX_ELEMENTS for item in value)


def _check_layout(entries: Sequence[_Entry], shown: str) -> int:
    """The tensors fill the data from its first byte to its last, each byte once; how many bytes they are."""
    position, previous = 0, ""
    for begin, end, name, _, _ in sorted(entries):
        if begin < position:
            _refuse(name, f"overlaps tensor {previous[:80]!r}: begins at {begin}, that one ends at {position}", shown)
        if begin > position:
            _refuse(name, f"begins at {begin}, leaving a gap of {begin - position} bytes before it", shown)
        position, previous = end, name
    return position


def _check_size(expected: int, size: int, shown: str) -> None:
    if expected > size:
        raise InputError(shown, f"cut off: expected {expected} bytes, found {size}; fetch it again")
    if expected < size:
        raise InputError(shown, f"{size - expected} trailing bytes: expected {expected} bytes, found {size}")


def _refuse(name: str, what: str, shown: str) -> NoReturn:
    raise InputError(shown, f"tensor {name[:80]!r}: {what}")
