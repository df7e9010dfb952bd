"""Read the header of a safetensors file; the bytes of its tensors are not read.

The format (huggingface/safetensors, README, "Format"): a u64 little-endian length, a JSON object of that many bytes, then the
tensors' bytes without a gap. This reader accepts only what the format's text allows; duplicate keys are refused, too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.dtypes import DTYPES
from layerhouse.ingest.checkpoint.json_files import SURROGATE_ESCAPE, first_duplicate
from layerhouse.ingest.checkpoint.limits import MAX_TENSOR_NAME, allowed, check_limit, exceeded
from layerhouse.ingest.checkpoint.regular_file import check_file_size, open_regular_file
from layerhouse.ingest.checkpoint.shapes import MAX_DIMENSIONS, MAX_ELEMENTS, count_elements
from layerhouse.ingest.checkpoint.tensor_ref import Contents, TensorRef

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000
"""The format's own limit."""
MAX_ASCII_BYTES, MAX_OTHER_BYTES = 48 << 20, 16 << 20
"""Limits of a header that is parsed, with and without characters beyond ASCII: one of these makes Python store every character
of its string in up to four bytes."""
MAX_TENSORS = 200_000
MAX_VALUES = 4_000_000
"""Brackets and commas in a header, which bound the memory of its objects. A tensor takes about ten."""
METADATA = "__metadata__"
FORMAT = "format"
"""Key of the metadata that names the library that wrote the file."""
FIELDS = {"dtype", "shape", "data_offsets"}

REMEMBERED_HEADERS = 8
MAX_REMEMBERED_BYTES = 256 << 10
"""Size limit of a header that is remembered. Masked and fine-tuned copies of a model have the header of the original."""

_Entry = tuple[int, int, str, str, tuple[int, ...]]
"""Begin and end in the data, name, dtype, shape."""


SHARDING = "DCP_SHARDING_INFO"
"""What torch.distributed.checkpoint writes of the places at which a file's tensors begin in the whole tensors."""
LATER_PART = re.compile(r'"saved_offsets":\s*\[[0,\s]*[1-9]')
CONSOLIDATE = "merge the ranks first, with torch's consolidate_safetensors_files"


@dataclass(frozen=True)
class _Header:
    """A parsed header: its tensors in their order, its metadata, and the size of the data behind it."""

    entries: tuple[_Entry, ...]
    metadata: dict[str, Any]
    data_bytes: int


class _HeaderError(Exception):
    """What is wrong with a header. It does not name the file, as headers are remembered across files."""


def read_safetensors(path: Path, display_path: str) -> Contents:
    """Every tensor that the header names, in its order. Raises InputError of one line that names the tensor at fault."""
    with open_regular_file(path, display_path) as (file, size):
        raw, data_offset = _read_header(file, size, display_path)
    parse = _parse_header if len(raw) <= MAX_REMEMBERED_BYTES else _parse_header.__wrapped__
    try:
        header = parse(raw)
    except _HeaderError as error:
        raise InputError(display_path, str(error)) from error
    check_limit(display_path, "tensors", len(header.entries), MAX_TENSORS)
    check_file_size(display_path, size, data_offset + header.data_bytes)
    if LATER_PART.search(header.metadata.get(SHARDING, "")):
        raise InputError(display_path, f"one rank of a distributed checkpoint; {CONSOLIDATE}")
    tensors = tuple(
        [
            TensorRef(name, dtype, shape, path, data_offset + begin, end - begin)
            for begin, end, name, dtype, shape in header.entries
        ]
    )
    return Contents("safetensors", (*tensors, *_shared_tensors(tensors, header.metadata)), dict(header.metadata))


def _shared_tensors(tensors: Sequence[TensorRef], metadata: Mapping[str, Any]) -> Iterator[TensorRef]:
    """The tensors that share the bytes of another one and were left out for that.

    `safetensors.torch.save_model` writes them into the metadata: the name that it left out, and the one that it kept
    (safetensors, bindings/python/py_src/safetensors/torch.py).
    """
    by_name = {tensor.name: tensor for tensor in tensors} if len(metadata) > 1 else {}
    for name, kept in metadata.items():
        if name != FORMAT and name not in by_name and kept in by_name:
            yield replace(by_name[kept], name=name)


def _read_header(file: BinaryIO, size: int, display_path: str) -> tuple[bytes, int]:
    """The header's JSON, and the byte at which the data begins."""

    def refuse(what: str) -> NoReturn:
        raise InputError(display_path, what)

    prefix = file.read(LENGTH_BYTES)
    if len(prefix) < LENGTH_BYTES:
        refuse(f"cut off: a safetensors file has at least {LENGTH_BYTES} bytes, found {size}; fetch it again")
    length = int.from_bytes(prefix, "little")
    data_offset = LENGTH_BYTES + length
    check_limit(display_path, "bytes of a header", length, MAX_HEADER_BYTES)
    if data_offset > size:
        refuse(f"cut off in the header: expected at least {data_offset} bytes, found {size}; fetch it again")
    raw = file.read(length)
    if len(raw) < length:
        refuse(f"cut off in the header: expected {length} bytes, found {len(raw)}")
    if not raw.startswith(b"{"):
        refuse(f"damaged header: it begins with {raw[:16]!r}, not with {{")
    check_limit(display_path, "tensors", raw.count(b'"data_offsets"'), MAX_TENSORS)
    check_limit(display_path, "bytes of a header", length, MAX_ASCII_BYTES if raw.isascii() else MAX_OTHER_BYTES)
    check_limit(display_path, "values in the header", raw.count(b"[") + raw.count(b"{") + raw.count(b","), MAX_VALUES)
    return raw, data_offset


@lru_cache(REMEMBERED_HEADERS)
def _parse_header(raw: bytes) -> _Header:
    """The header that some JSON spells. Raises _HeaderError."""
    header, is_of_integers = _parse_json(raw)
    metadata = _check_metadata(header.pop(METADATA, {}))
    if len(header) > allowed(MAX_TENSORS):
        raise _HeaderError(exceeded(f"{len(header)} tensors", allowed(MAX_TENSORS)))
    if len(max(header, key=len, default="")) > MAX_TENSOR_NAME:
        raise _HeaderError(f"limit exceeded: a tensor name of over {MAX_TENSOR_NAME} characters")
    entries = _plain_entries(header) if is_of_integers else None
    if entries is None:
        entries = [_entry(name, value) for name, value in header.items()]
    return _Header(tuple(entries), metadata, _check_layout(entries))


def _parse_json(raw: bytes) -> tuple[dict[str, Any], bool]:
    """The header's object, and whether all of its numbers are integers: 2.0 and true would compare equal to some."""
    floats: list[str] = []

    def keep_float(text: str) -> float:
        floats.append(text)
        return float(text)

    def refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) != len(pairs):
            key, value = first_duplicate(pairs)
            what = "tensor name" if isinstance(value, dict) else "key"
            raise _HeaderError(f"damaged header: duplicate {what} {key[:80]!r}")
        return members

    def refuse_constant(word: str) -> NoReturn:
        raise _HeaderError(f"damaged header: {word} is not JSON")

    try:
        text = raw.decode()
        header = json.loads(text, parse_constant=refuse_constant, parse_float=keep_float)
        if _count_keys(header) != raw.count(b":"):  # a duplicate key, or a colon within a string: parse again, slowly
            header = json.loads(text, object_pairs_hook=refuse_duplicates, parse_constant=refuse_constant)
        if SURROGATE_ESCAPE.search(text):
            json.dumps(header, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        what = error.msg.removesuffix(" starting at")
        raise _HeaderError(f"damaged header: {what} at byte {LENGTH_BYTES + error.pos}") from error
    except UnicodeDecodeError as error:
        raise _HeaderError(f"damaged header: not UTF-8 at byte {LENGTH_BYTES + error.start}") from error
    except UnicodeEncodeError as error:
        raise _HeaderError("damaged header: a \\u escape is half of a surrogate pair, which is no character") from error
    except RecursionError as error:
        raise _HeaderError("limit exceeded: nesting of the header") from error
    except ValueError as error:
        raise _HeaderError("limit exceeded: an integer in the header has too many digits") from error
    if not isinstance(header, dict):
        raise _HeaderError("damaged header: not a JSON object")
    return header, not floats and b"true" not in raw and b"false" not in raw


def _count_keys(header: Any) -> int:
    """Keys of an object and of the objects in it. In the JSON each has one colon, and a duplicate key a further one."""
    if not isinstance(header, dict):
        return -1
    return len(header) + sum([len(value) for value in header.values() if isinstance(value, dict)])


def _check_metadata(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _HeaderError(f"{METADATA} is not an object of texts")
    for key, text in value.items():
        if not isinstance(text, str):
            raise _HeaderError(f"{METADATA} {key[:80]!r} is {json.dumps(text)[:40]}, not a text")
    return value


def _plain_entries(header: dict[str, Any]) -> list[_Entry] | None:
    """The tensors of a header of integers, quickly; None if one is wrong, in which case `_entry` says which and how."""
    sizes: dict[tuple[Any, ...], tuple[tuple[int, ...], int]] = {}
    entries: list[_Entry] = []
    try:
        for name, value in header.items():
            code, shape, (begin, end) = value["dtype"], value["shape"], value["data_offsets"]
            key = (code, *shape)
            size = sizes.get(key)  # most tensors have the dtype and shape of others
            if size is None:
                size = sizes[key] = _checked_size(name, code, shape)
            has_fields = len(value) == len(FIELDS) and type(shape) is list
            if not has_fields or not 0 <= begin <= end <= MAX_ELEMENTS or size[1] != end - begin:
                return None
            entries.append((begin, end, name, code, size[0]))
    except (KeyError, TypeError, ValueError):
        return None
    return entries


def _entry(name: str, value: Any) -> _Entry:
    if not isinstance(value, dict) or value.keys() != FIELDS:
        keys = [key[:80] if key.isprintable() else repr(key[:80]) for key in sorted(value)] if isinstance(value, dict) else None
        members = type(value).__name__ if keys is None else ", ".join(keys)[:120]
        _refuse(name, f"expected dtype, shape and data_offsets, found {members or 'nothing'}")
    code, json_shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    shape, size_bytes = _checked_size(name, code, json_shape)
    if not _are_counts(offsets) or len(offsets) != 2:
        _refuse(name, "data_offsets are not two whole numbers from 0 to 2^63 - 1")
    begin, end = offsets
    if begin > end:
        _refuse(name, f"data_offsets run backwards, from {begin} to {end}")
    if size_bytes != end - begin:
        _refuse(name, f"{code} of shape {json_shape} takes {size_bytes} bytes, data_offsets give {end - begin}")
    return begin, end, name, code, shape


def _checked_size(name: str, code: Any, shape: Any) -> tuple[tuple[int, ...], int]:
    """The shape as a tuple, and the bytes of its elements."""
    if not isinstance(code, str) or code not in DTYPES:
        _refuse(name, f"unknown dtype {str(code)[:40]!r}")
    if not _are_counts(shape):
        _refuse(name, "shape is not a list of whole numbers from 0 to 2^63 - 1")
    elements = count_elements(tuple(shape))
    if elements is None:
        _refuse(name, f"limit exceeded: more than {MAX_DIMENSIONS} dimensions or {MAX_ELEMENTS} elements")
    bits = elements * DTYPES[code].bits
    if bits % 8:
        _refuse(name, f"{elements} elements of {code} do not fill whole bytes")
    return tuple(shape), bits // 8


def _are_counts(value: Any) -> bool:
    """Whether this is a list of integers from 0 to 2^63 - 1."""
    return isinstance(value, list) and all(type(item) is int and 0 <= item <= MAX_ELEMENTS for item in value)


def _check_layout(entries: Sequence[_Entry]) -> int:
    """Check that the tensors cover the data without gap or overlap; returns its size in bytes."""
    position, previous = 0, ""
    for begin, end, name, _, _ in sorted(entries):
        if begin < position:
            _refuse(name, f"overlaps tensor {previous[:80]!r}: begins at {begin}, that one ends at {position}")
        if begin > position:
            _refuse(name, f"begins at {begin}, leaving a gap of {begin - position} bytes before it")
        position, previous = end, name
    return position


def _refuse(name: str, what: str) -> NoReturn:
    raise _HeaderError(f"tensor {name[:80]!r}: {what}")
