"""Read the header of a GGUF file (ggml, docs/gguf.md, versions 2 and 3, little-endian).

The file has a magic number, a version and counts; keys with typed values; tensors with their dimensions, the fastest-varying
first, which is reversed here; then, from the next multiple of the alignment on, the tensors' bytes. A block-quantised tensor
has its own shape, by which its parameters are counted; its values are unknown.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.dtypes import byte_count
from layerhouse.ingest.checkpoint.file_names import GGUF_SUFFIX
from layerhouse.ingest.checkpoint.limits import MAX_TENSOR_NAME, check_limit
from layerhouse.ingest.checkpoint.regular_file import open_regular_file
from layerhouse.ingest.checkpoint.shapes import MAX_ELEMENTS, count_elements
from layerhouse.ingest.checkpoint.tensor_ref import CODES, NO_VALUES, Assembly, Contents, Layout, TensorRef

MAGIC = b"GGUF"
VERSIONS = (2, 3)
TOKENIZER = "tokenizer."
MAX_KEYS = 100_000
MAX_TENSORS = 100_000
MAX_TEXT_BYTES = 1 << 24
MAX_ITEMS = 1 << 24
MAX_TEXTS = 2_000_000
"""Limit on the texts in all arrays, each of which has to be read to find the next; a vocabulary with merges has a million."""
MAX_HEADER_BYTES = 1 << 28
MAX_DIMENSIONS = 8
MAX_KEPT = 4096
"""Limit on the items of an array and on the characters of a string that are kept; longer values, such as vocabularies, are
skipped."""
DEFAULT_ALIGNMENT = 32

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TEXT, ARRAY = 8, 9

PLAIN_TYPES = {0: "F32", 1: "F16", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 30: "BF16"}
BLOCK_TYPES: dict[int, tuple[str, int, int]] = {
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    29: ("IQ1_M", 256, 56),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
}
"""ggml's block-quantised types by number: name, elements and bytes of a block."""
COMPANIONS = {
    "mmproj": "the projector of a multimodal model (mmproj), not a model",
    "imatrix": "an importance matrix for quantising (imatrix), not a model",
}
"""What `general.type` says of files that belong to a model and are none."""
READ_TYPES = frozenset(
    ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "TQ1_0", "TQ2_0", "MXFP4")
)
"""Those whose zeros are counted, by measure.io.gguf_blocks."""


def read_gguf(path: Path, display_path: str) -> Contents:
    """Every tensor of the file, and the keys as a config. Raises InputError of one line that names the tensor at fault."""
    with open_regular_file(path, display_path) as (file, size):
        header = _Header(file, size, display_path)
        num_tensors, num_keys = header.read_counts()
        keys = dict(header.read_keys(num_keys))
        if (companion := _companion(keys)) is not None:
            header.refuse(f"{companion}; name the model's own file")
        infos = [header.read_info() for _ in range(num_tensors)]
        alignment = keys.get("general.alignment", DEFAULT_ALIGNMENT)
        if type(alignment) is not int or alignment <= 0 or alignment % 8:
            header.refuse(f"general.alignment is {str(alignment)[:40]}, no multiple of 8")
        data_offset = -(-header.position // alignment) * alignment
    ends = _ends_of_unknown(infos, size - data_offset)
    tensors = tuple(_reference(info, path, data_offset, alignment, display_path, ends.get(info.name, 0)) for info in infos)
    _check_layout(tensors, size, display_path)
    return Contents("gguf", tensors, config=_config(keys))


def companion_text(path: Path) -> str | None:
    """What a GGUF file beside a model is, by the keys in its header, if it is no model."""
    if path.suffix.lower() != GGUF_SUFFIX:
        return None
    try:
        with open_regular_file(path, path.name) as (file, size):
            if file.read(len(MAGIC)) != MAGIC:
                return None
            file.seek(0)
            header = _Header(file, size, path.name)
            keys = header.read_keys(header.read_counts()[1])
            return _companion(dict(takewhile(lambda item: not item[0].startswith(TOKENIZER), keys)))
    except InputError:
        return None  # its reader says why


def _companion(keys: Mapping[str, Any]) -> str | None:
    """What a file is that is no model, by its type; older projectors have none, and the architecture of their encoder."""
    kind = "mmproj" if keys.get("general.architecture") == "clip" else keys.get("general.type")
    return COMPANIONS.get(kind) if isinstance(kind, str) else None


@dataclass(frozen=True)
class _Info:
    """A tensor's entry in the header; `shape` is in row-major order, `offset` is from the begin of the data."""

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int


class _Header:
    """Reads the header's fields in order and keeps the position."""

    def __init__(self, file: BinaryIO, size: int, display_path: str) -> None:
        self.file, self.size, self.display_path = file, size, display_path
        self.position = self.texts = 0

    def refuse(self, what: str) -> NoReturn:
        """Raise InputError for the file."""
        raise InputError(self.display_path, what)

    def take(self, count: int) -> bytes:
        """The next bytes. Raises InputError if the file ends before."""
        check_limit(self.display_path, "bytes of a header", self.position + count, MAX_HEADER_BYTES)
        raw = self.file.read(count)
        if len(raw) < count:
            self.refuse(
                f"cut off in the header: expected at least {self.position + count} bytes, found {self.size}; fetch it again"
            )
        self.position += count
        return raw

    def number(self, form: str) -> Any:
        """The next number, of a format character of `struct`."""
        return struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}")))[0]

    def text(self) -> str:
        """The next string: its length in bytes, then UTF-8."""
        length = self.number("Q")
        check_limit(self.display_path, "bytes of one text in the header", length, MAX_TEXT_BYTES)
        return self.take(length).decode("utf-8", "backslashreplace")

    def read_counts(self) -> tuple[int, int]:
        """Skip the magic number and the version; returns the numbers of tensors and of keys."""
        self.take(4)
        version = self.number("I")
        if version not in VERSIONS:
            is_swapped = int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS
            what = "big-endian GGUF" if is_swapped else f"GGUF version {version}"
            self.refuse(f"{what} is not read; convert it to little-endian version {VERSIONS[-1]}")
        tensors, keys = self.number("Q"), self.number("Q")
        check_limit(self.display_path, "tensors", tensors, MAX_TENSORS)
        check_limit(self.display_path, "keys", keys, MAX_KEYS)
        return tensors, keys

    def read_keys(self, count: int) -> Iterator[tuple[str, Any]]:
        """The next keys with their values, without those whose value is not kept."""
        seen: set[str] = set()
        for _ in range(count):
            key = self.text()
            if key in seen:
                self.refuse(f"damaged header: duplicate key {key[:80]!r}")
            seen.add(key)
            value = self.value(self.number("I"), key)
            if value is not None:
                yield key, value

    def value(self, value_type: int, key: str) -> Any:
        """The next value, of one of GGUF's value types; None for one that is not kept: not finite, or too long."""
        if value_type in SCALARS:
            number = self.number(SCALARS[value_type])
            return number if math.isfinite(number) else None
        if value_type == TEXT:
            text = self.text()
            return text if len(text) <= MAX_KEPT else None
        if value_type != ARRAY:
            self.refuse(f"damaged header: key {key[:80]!r} has a value of unknown kind {value_type}")
        item_type, count = self.number("I"), self.number("Q")
        check_limit(self.display_path, f"items of key {key[:80]!r}", count, MAX_ITEMS)
        if item_type in SCALARS:
            width = struct.calcsize(f"<{SCALARS[item_type]}")
            raw = self.take(count * width)
            return list(struct.unpack(f"<{count}{SCALARS[item_type]}", raw)) if count <= MAX_KEPT else None
        if item_type != TEXT:
            self.refuse(f"damaged header: key {key[:80]!r} has items of kind {item_type}")
        self.texts += count
        check_limit(self.display_path, "texts in arrays", self.texts, MAX_TEXTS)
        for _ in range(count):
            self.text()
        return None

    def read_info(self) -> _Info:
        """The next tensor's entry."""
        name = self.text()
        if len(name) > MAX_TENSOR_NAME:
            self.refuse(f"limit exceeded: a tensor name of over {MAX_TENSOR_NAME} characters")
        dimensions = self.number("I")
        if dimensions > MAX_DIMENSIONS:
            self.refuse(f"tensor {name[:80]!r}: limit exceeded: {dimensions} dimensions, over {MAX_DIMENSIONS}")
        shape = tuple(self.number("Q") for _ in range(dimensions))[::-1]
        if count_elements(shape) is None:
            self.refuse(f"tensor {name[:80]!r}: limit exceeded: over {MAX_ELEMENTS} elements")
        return _Info(name, shape, self.number("I"), self.number("Q"))


def _ends_of_unknown(infos: Sequence[_Info], data_bytes: int) -> dict[str, int]:
    """Where the tensors of unknown types end, by name, if nothing lies between a tensor and the next."""
    unknown = [info for info in infos if info.type not in PLAIN_TYPES and info.type not in BLOCK_TYPES]
    starts = sorted({data_bytes, *(info.offset for info in infos)}) if unknown else []
    next_starts = dict(pairwise(starts))
    return {info.name: next_starts.get(info.offset, info.offset) for info in unknown}


def _reference(info: _Info, path: Path, data_offset: int, alignment: int, display_path: str, unknown_end: int) -> TensorRef:
    """The reference to a tensor; that of a block-quantised one has its own shape, and its blocks are U8 bytes.

    A tensor of a type that is not known has its shape, and no values.
    """

    def refuse(what: str) -> NoReturn:
        raise InputError(display_path, f"tensor {info.name[:80]!r}: {what}")

    elements, offset = math.prod(info.shape), data_offset + info.offset
    if info.offset % alignment:
        refuse(f"begins at {info.offset}, no multiple of the alignment {alignment}")
    if info.type in PLAIN_TYPES:
        code = PLAIN_TYPES[info.type]
        return TensorRef(info.name, code, info.shape, path, offset, byte_count(code, elements))
    if info.type not in BLOCK_TYPES:
        stored = max(0, unknown_end - info.offset)
        name = f"ggml type {info.type}"
        layout = Layout(info.name, "weight", f"gguf {name}", (stored,), NO_VALUES, type_name=name)
        return TensorRef(info.name, "U8", info.shape, path, offset, stored, layout=layout)
    type_name, block, block_bytes = BLOCK_TYPES[info.type]
    if not info.shape or info.shape[-1] % block:
        refuse(f"rows of {list(info.shape)[-1:]} elements do not fill blocks of {block}")
    stored = elements // block * block_bytes
    blocks = TensorRef(info.name, "U8", (stored,), path, offset, stored)
    layout = Layout(info.name, "weight", f"gguf {type_name}", (stored,), type_name=type_name)
    if type_name in READ_TYPES and len(info.shape) > 1 and elements:
        parameters = {"type": type_name, "block": block, "block_bytes": block_bytes}
        dtype = "F8_E4M3" if type_name == "MXFP4" else "U8"
        layout = replace(layout, values=CODES, unpacked=Assembly("gguf", (blocks,), info.shape, dtype, parameters))
        if len(info.shape) == 2:
            decoded = Assembly("gguf_values", (blocks,), info.shape, "F32", {**parameters, "parts": ("codes",)})
            layout = replace(layout, decoded=decoded)
    return replace(blocks, shape=info.shape, layout=layout)


def _check_layout(tensors: tuple[TensorRef, ...], size: int, display_path: str) -> None:
    """Raise InputError unless names are unique, and every tensor lies within the file and overlaps no other."""
    names: set[str] = set()
    for tensor in tensors:
        if tensor.name in names:
            raise InputError(display_path, f"damaged header: duplicate tensor name {tensor.name[:80]!r}")
        names.add(tensor.name)
    end, previous = 0, ""
    for tensor in sorted(tensors, key=lambda tensor: (tensor.offset, tensor.storage_bytes)):
        if tensor.offset < end and tensor.storage_bytes:
            raise InputError(display_path, f"tensor {tensor.name[:80]!r}: overlaps tensor {previous[:80]!r}")
        end, previous = tensor.offset + tensor.storage_bytes, tensor.name
        if end > size:
            what = f"ends at byte {end} of a file of {size} bytes; fetch it again"
            raise InputError(display_path, f"cut off: tensor {tensor.name[:80]!r} {what}")


def _config(keys: dict[str, Any]) -> dict[str, Any]:
    """The keys without those of the tokenizer; those of the architecture, such as `llama.block_count`, without its name."""
    architecture = keys.get("general.architecture")
    prefix = f"{architecture}."
    kept = {key.removeprefix(prefix): value for key, value in keys.items() if not key.startswith(TOKENIZER)}
    return {**kept, "model_type": "gguf"}
