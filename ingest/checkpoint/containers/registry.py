"""Readers of weight files: one module a container, chosen by the file's content and never by its suffix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.containers.gguf import read_gguf
from layerhouse.ingest.checkpoint.containers.safetensors import read_safetensors
from layerhouse.ingest.checkpoint.containers.sniff import Kind, sniff
from layerhouse.ingest.checkpoint.containers.torch_legacy import read_torch_legacy
from layerhouse.ingest.checkpoint.containers.torch_zip import read_torch_zip
from layerhouse.ingest.checkpoint.containers.truncated_zip import least_size
from layerhouse.ingest.checkpoint.file_names import SAFETENSORS_SUFFIX, TORCH_SUFFIXES
from layerhouse.ingest.checkpoint.tensor_ref import Contents

READERS: dict[Kind, Callable[[Path, str], Contents]] = {
    Kind.SAFETENSORS: read_safetensors,
    Kind.TORCH_ZIP: read_torch_zip,
    Kind.TORCH_LEGACY: read_torch_legacy,
    Kind.GGUF: read_gguf,
}


def read_weight_file(path: Path, shown: str) -> Contents:
    """What one weight file holds; `shown` is its path as the user knows it. Raises InputError of one line.

    A file of another kind in the name of safetensors is refused: whoever wrote `.safetensors` promised that there is no pickle
    inside. Safetensors under a torch suffix is harmless, and read with a note.
    """
    sniffed = sniff(path, shown)
    suffix = path.suffix.lower()
    if sniffed.kind is Kind.UNKNOWN and suffix == SAFETENSORS_SUFFIX:
        return read_safetensors(path, shown)
    reader = READERS.get(sniffed.kind)
    if reader is None:
        least = least_size(path, shown) if sniffed.kind is Kind.TRUNCATED_ZIP else None
        raise InputError(shown, sniffed.diagnosis + (f" (its pickle tells of at least {least} bytes)" if least else ""))
    if suffix == SAFETENSORS_SUFFIX and sniffed.kind is not Kind.SAFETENSORS:
        what = f"{sniffed.diagnosis}; if that is what it should be, give it the suffix .bin, else fetch it again"
        raise InputError(shown, what)
    contents = reader(path, shown)
    if suffix in TORCH_SUFFIXES and sniffed.kind is Kind.SAFETENSORS:
        return replace(contents, skipped=(*contents.skipped, f"holds safetensors, though its name ends in {suffix}"))
    return contents
