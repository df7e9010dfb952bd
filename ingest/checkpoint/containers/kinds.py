"""The one table of what files are: their kinds, the first bytes that tell them, and what to do about a file that nothing reads.

Sources are the formats' own descriptions and file(1)'s table. Formats without a signature of their own (ONNX, sentencepiece and
other protocol buffers, msgpack) are told by the first fields that every file of theirs begins with.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What a file's bytes are; the value is the phrase for messages."""

    SAFETENSORS = "safetensors"
    TORCH_ZIP = "torch zip"
    TORCH_LEGACY = "torch's old (non-zip) format"
    TORCHSCRIPT = "a TorchScript archive"
    TORCH_EXPORT = "a program of torch.export"
    PICKLE = "a plain pickle"
    TORCH_TAR = "a tar archive of torch before 0.1.10"
    TAR = "a tar archive"
    OTHER_ZIP = "a zip file without a folder that holds data.pkl"
    TRUNCATED_ZIP = "a truncated zip file"
    GGUF = "GGUF"
    GGML = "a file of GGML before GGUF"
    LFS_POINTER = "a Git LFS pointer"
    HTML = "an HTML page"
    XML = "an XML page"
    JSON = "JSON text"
    GZIP = "a gzip file"
    BZIP2 = "a bzip2 file"
    XZ = "an xz file"
    ZSTD = "a zstd file"
    LZ4 = "an lz4 file"
    SEVEN_ZIP = "a 7z archive"
    RAR = "a RAR archive"
    HDF5 = "an HDF5 file"
    KERAS = "a Keras model"
    ONNX = "an ONNX model"
    TFLITE = "a TensorFlow Lite model"
    TENSORFLOW = "a TensorFlow model or checkpoint"
    NUMPY = "a NumPy array"
    NUMPY_ZIP = "a NumPy archive"
    MSGPACK = "msgpack, as Flax saves weights"
    SENTENCEPIECE = "a sentencepiece tokenizer"
    PARQUET = "a Parquet file"
    ARROW = "an Arrow file"
    ORC = "an ORC file"
    AVRO = "an Avro file"
    SQLITE = "an SQLite database"
    DUCKDB = "a DuckDB database"
    WORKBOOK = "an Excel workbook"
    OLE = "an Office document"
    PDF = "a PDF document"
    IMAGE = "an image"
    MEDIA = "a sound or film"
    PROGRAM = "a compiled program or library"
    ZIM = "a ZIM archive"
    UTF16 = "text in UTF-16 or UTF-32"
    TRAINING_STATE = "state of a training run"
    EMPTY = "an empty file"
    ZEROS = "a file that begins with zero bytes only"
    BINARY = "a binary file of an unknown kind"
    UNKNOWN = "a file of an unknown kind"


NOT_READ = frozenset(
    {
        *(Kind.TORCHSCRIPT, Kind.TORCH_EXPORT, Kind.PICKLE, Kind.TORCH_TAR, Kind.GGML, Kind.HDF5, Kind.KERAS, Kind.ONNX),
        *(Kind.TAR, Kind.GZIP, Kind.BZIP2, Kind.XZ, Kind.ZSTD, Kind.LZ4, Kind.SEVEN_ZIP, Kind.RAR, Kind.TFLITE),
        *(Kind.TENSORFLOW, Kind.NUMPY, Kind.NUMPY_ZIP, Kind.MSGPACK, Kind.SENTENCEPIECE, Kind.PARQUET, Kind.ARROW),
        *(Kind.ORC, Kind.AVRO),
        *(Kind.SQLITE, Kind.DUCKDB, Kind.WORKBOOK, Kind.OLE, Kind.PDF, Kind.IMAGE, Kind.MEDIA, Kind.PROGRAM, Kind.ZIM),
    }
)
"""Formats of their own that no built-in container reads."""
READ_AS_WEIGHTS = {Kind.SAFETENSORS: ".safetensors", Kind.TORCH_ZIP: ".bin", Kind.TORCH_LEGACY: ".bin", Kind.GGUF: ".gguf"}
"""Kinds that are read as weights, under a name with this suffix."""
TEXTS = frozenset({Kind.JSON, Kind.EMPTY, Kind.ZEROS, Kind.UNKNOWN})
"""Kinds that a file of results may seem to be by its first bytes."""

FETCH = "fetch it again"
SAVE = "where it can be loaded, save its state_dict() as safetensors"
CONVERT = "convert it to safetensors"
UNPACK = "unpack it"
TO_CSV = "export results as csv"
OUT = "take it out of the folder"
ADVICE = {
    Kind.TORCHSCRIPT: f"it holds a program beside its weights: {SAVE}",
    Kind.TORCH_EXPORT: f"it holds a program beside its weights: {SAVE}",
    Kind.PICKLE: f"pickle wrote it, not torch.save: {SAVE}",
    Kind.TORCH_TAR: f"no torch of today reads it safely: {SAVE}",
    Kind.OTHER_ZIP: "unpack it, if it is an archive of a model; else fetch the weights again",
    Kind.TRUNCATED_ZIP: FETCH,
    Kind.GGML: "convert it to GGUF",
    Kind.HTML: f"{FETCH}: the server answered with a page, such as a login or an error",
    Kind.XML: f"{FETCH}: the server answered with a page, such as an error",
    Kind.JSON: f"{FETCH}, or {OUT}",
    **dict.fromkeys((Kind.TAR, Kind.GZIP, Kind.BZIP2, Kind.XZ, Kind.ZSTD, Kind.LZ4, Kind.SEVEN_ZIP, Kind.RAR), UNPACK),
    **dict.fromkeys((Kind.HDF5, Kind.KERAS, Kind.ONNX, Kind.TFLITE, Kind.TENSORFLOW), CONVERT),
    **dict.fromkeys((Kind.NUMPY, Kind.NUMPY_ZIP, Kind.MSGPACK), CONVERT),
    **dict.fromkeys((Kind.PARQUET, Kind.ARROW, Kind.ORC, Kind.AVRO, Kind.SQLITE, Kind.DUCKDB, Kind.WORKBOOK, Kind.OLE), TO_CSV),
    **dict.fromkeys((Kind.SENTENCEPIECE, Kind.PDF, Kind.IMAGE, Kind.MEDIA, Kind.PROGRAM, Kind.ZIM), OUT),
    Kind.TRAINING_STATE: "it holds no weights of a model: name the weights",
    Kind.UTF16: "save it as UTF-8",
    Kind.EMPTY: FETCH,
    Kind.ZEROS: f"{FETCH}: the disk or the download left out the rest",
    Kind.BINARY: f"{FETCH}, or {OUT}",
    Kind.UNKNOWN: f"{FETCH}, or {OUT}",
}
"""What to do about a file that cannot be read."""

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
"""The number, a pickle of its own, with which torch before 1.6 began every file."""
LEGACY_HEAD = re.compile(
    rb"(?:\x80[\x02-\x05](?:\x95.{8})?)?(?:\x8a\x0a"
    + re.escape(LEGACY_MAGIC.to_bytes(10, "little"))
    + rb"|L%dL\n)" % LEGACY_MAGIC,
    re.DOTALL,
)
LFS_POINTER = re.compile(rb"version https://git-lfs\.github\.com/spec/.*?\nsize (\d{1,19})\n", re.DOTALL)


LETTERS = bytes(range(32, 127))
NO_CONTROLS = bytes({*range(7, 14), 27, *LETTERS, *range(128, 256)})
"""All bytes but control characters; those for space, bells and colours of terminals stand in texts."""


@dataclass(frozen=True)
class Signature:
    """Bytes at a place in a file, and others at its begin, that only files of a kind have there."""

    kind: Kind
    magic: bytes
    offset: int = 0
    begin: bytes = b""

    def fits(self, head: bytes) -> bool:
        """Whether a file begins so. Where the bytes are letters, a text could as well: then the rest must not be text."""
        has_bytes = head.startswith(self.begin) and head.startswith(self.magic, self.offset)
        return has_bytes and (self.magic.translate(None, LETTERS) != b"" or self.kind is Kind.PDF or is_binary(head))


SIGNATURES = (
    *(Signature(Kind.TAR, magic, 257) for magic in (b"ustar\0", b"ustar  \0")),
    Signature(Kind.GGUF, b"GGUF"),
    *(Signature(Kind.GGML, magic) for magic in (b"lmgg", b"fmgg", b"tjgg", b"algg")),
    Signature(Kind.GZIP, b"\x1f\x8b"),
    *(Signature(Kind.BZIP2, b"BZh%d1AY&SY" % level) for level in range(1, 10)),
    Signature(Kind.XZ, b"\xfd7zXZ\0"),
    Signature(Kind.ZSTD, b"\x28\xb5\x2f\xfd"),
    Signature(Kind.LZ4, b"\x04\x22\x4d\x18"),
    Signature(Kind.SEVEN_ZIP, b"7z\xbc\xaf\x27\x1c"),
    Signature(Kind.RAR, b"Rar!\x1a\x07"),
    Signature(Kind.HDF5, b"\x89HDF\r\n\x1a\n"),
    Signature(Kind.TFLITE, b"TFL3", 4),
    Signature(Kind.NUMPY, b"\x93NUMPY"),
    Signature(Kind.PARQUET, b"PAR1"),
    Signature(Kind.ARROW, b"ARROW1\0\0"),
    Signature(Kind.ARROW, b"\0\0\x10\0\0\0", 6, begin=b"\xff\xff\xff\xff"),
    Signature(Kind.ARROW, b"FEA1"),
    Signature(Kind.ORC, b"ORC"),
    Signature(Kind.AVRO, b"Obj\x01"),
    Signature(Kind.SQLITE, b"SQLite format 3\0"),
    Signature(Kind.DUCKDB, b"DUCK", 8),
    Signature(Kind.OLE, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"),
    Signature(Kind.PDF, b"%PDF-"),
    *(Signature(Kind.IMAGE, magic) for magic in (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a")),
    *(Signature(Kind.IMAGE, magic) for magic in (b"II*\0", b"MM\0*")),
    Signature(Kind.IMAGE, b"WEBP", 8, begin=b"RIFF"),
    *(Signature(Kind.MEDIA, magic) for magic in (b"OggS\0", b"fLaC\0", b"ID3\x03", b"ID3\x04", b"\x1a\x45\xdf\xa3")),
    *(Signature(Kind.MEDIA, magic, 8, begin=b"RIFF") for magic in (b"WAVE", b"AVI ")),
    Signature(Kind.MEDIA, b"ftyp", 4, begin=b"\0\0\0"),
    *(Signature(Kind.PROGRAM, magic) for magic in (b"\x7fELF", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe", b"\0asm")),
    Signature(Kind.PROGRAM, b"\0\0", 10, begin=b"MZ"),
    Signature(Kind.ZIM, b"ZIM\x04"),
)


def kind_of_head(head: bytes) -> Kind:
    """What a file that is no zip is, by its first bytes."""
    if not head:
        return Kind.EMPTY
    if head[4:8] == b"\0\0\0\0" and head[8:9] == b"{":  # a header is at most 100 MB long: the upper half of its length is zero
        return Kind.SAFETENSORS
    if LEGACY_HEAD.match(head):
        return Kind.TORCH_LEGACY
    known = next((entry.kind for entry in SIGNATURES if entry.fits(head)), None)
    known = known or next((kind for kind, is_kind in FIRST_FIELDS if is_kind(head)), None)
    if known is None and not head.strip(b"\0"):
        known = Kind.ZEROS
    return known or _kind_of_text(head)


def kind_of_zip(names: Iterable[str]) -> Kind:
    """What a zip is, by the names of its members."""
    paths = [name.split("/") for name in names]
    inner = [path[1:] for path in paths]
    if ["archive_format"] in inner or ["serialized_exported_program.json"] in paths:
        return Kind.TORCH_EXPORT
    if any(path == ["constants.pkl"] or path[:1] == ["code"] for path in inner):
        return Kind.TORCHSCRIPT
    if ["data.pkl"] in inner:
        return Kind.TORCH_ZIP
    if ["model.weights.h5"] in paths:
        return Kind.KERAS
    if ["[Content_Types].xml"] in paths:
        return Kind.WORKBOOK if any(path[0] == "xl" for path in paths) else Kind.OLE
    is_of_arrays = bool(paths) and all(path[-1].endswith(".npy") for path in paths)
    return Kind.NUMPY_ZIP if is_of_arrays else Kind.OTHER_ZIP


def is_binary(head: bytes) -> bool:
    """Whether over a twentieth of the bytes are control characters that no text has; of random bytes a tenth is."""
    return 20 * len(head.translate(None, NO_CONTROLS)) > len(head)


def _is_pickle(head: bytes) -> bool:
    return len(head) > 2 and head[0] == 0x80 and 2 <= head[1] <= 5


def _is_onnx(head: bytes) -> bool:
    """ModelProto: field 1, the version; then the producer's name (2) or version (3), the graph (7) or operator sets (8)."""
    if len(head) < 8 or head[0] != 0x08 or not 1 <= head[1] <= 30:
        return False
    return head[2] in (0x1A, 0x3A, 0x42) or (head[2] == 0x12 and head[4 : 4 + head[3]].isascii() and 0 < head[3] < 80)


def _is_saved_model(head: bytes) -> bool:
    """SavedModel: field 1, the version 1; then the first graph (2), a message that begins with its description (1)."""
    return head.startswith(b"\x08\x01\x12") and re.match(rb"[\x80-\xff]{1,4}[\x00-\x7f]\x0a", head[3:]) is not None


def _is_msgpack(head: bytes) -> bool:
    """A map whose first key is a text. No text in UTF-8 begins with such a byte."""
    at = 1 if 0x81 <= head[0] <= 0x8F else 3 if head[0] == 0xDE else 0
    if not at or len(head) < at + 2:
        return False
    length, key = (
        (head[at] & 0x1F, at + 1) if 0xA0 < head[at] <= 0xBF else (head[at + 1], at + 2) if head[at] == 0xD9 else (0, 0)
    )
    return length > 0 and head[key : key + length].decode("ascii", "replace").isprintable()


def _is_sentencepiece(head: bytes) -> bool:
    """ModelProto: field 1, the first piece, a message of a text (1) and a float (2)."""
    if len(head) < 5 or head[0] != 0x0A or head[2] != 0x0A:
        return False
    end = 4 + head[3]
    return head[1] >= head[3] + 2 and head[end : end + 1] == b"\x15"


FIRST_FIELDS: tuple[tuple[Kind, Callable[[bytes], bool]], ...] = (
    (Kind.PICKLE, _is_pickle),
    (Kind.TENSORFLOW, _is_saved_model),
    (Kind.ONNX, _is_onnx),
    (Kind.MSGPACK, _is_msgpack),
    (Kind.SENTENCEPIECE, _is_sentencepiece),
)
"""Kinds without a signature."""


def _kind_of_text(head: bytes) -> Kind:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if LFS_POINTER.match(head):
        return Kind.LFS_POINTER
    if text.startswith((b"<!doctype html", b"<html", b"<head")):
        return Kind.HTML
    if text.startswith(b"<?xml"):
        return Kind.XML
    return Kind.JSON if text.startswith((b"{", b"[")) else Kind.UNKNOWN
