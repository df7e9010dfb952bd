"""The registry of containers: file formats of weights, told apart by content, never by suffix.

A built-in container is a module here with a function that reads a header, and a line in BUILT_IN. Another package adds one by
an entry point of the group `layerhouse.containers` that names a Container. What its functions need is in
containers.sniff (SniffedFile), checkpoint.tensor_ref (Contents, TensorRef), checkpoint.dtypes and layerhouse.errors
(InputError). Such containers are asked about weight files (file_names.WEIGHT_SUFFIXES) that no built-in container reads, except
files named `.safetensors`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from layerhouse.errors import InputError, UsageError
from layerhouse.ingest.checkpoint.containers.gguf import read_gguf
from layerhouse.ingest.checkpoint.containers.safetensors import read_safetensors
from layerhouse.ingest.checkpoint.containers.sniff import Kind, SniffedFile, sniff
from layerhouse.ingest.checkpoint.containers.torch_legacy import read_torch_legacy
from layerhouse.ingest.checkpoint.containers.torch_zip import read_torch_zip
from layerhouse.ingest.checkpoint.containers.truncated_zip import least_size
from layerhouse.ingest.checkpoint.file_names import SAFETENSORS_SUFFIX, TORCH_SUFFIXES
from layerhouse.ingest.checkpoint.tensor_ref import Contents
from layerhouse.plugins import call_plugin, load_plugins

GROUP = "layerhouse.containers"


@dataclass(frozen=True)
class Container:
    """A file format of weights. Its `name` is unique.

    `sniff(file)` tells from a file's first bytes whether it is of this format. `read(path, display_path)` returns a reference
    to every tensor without reading weights, and raises InputError(display_path, reason) for a file that is damaged.
    """

    name: str
    sniff: Callable[[SniffedFile], bool]
    read: Callable[[Path, str], Contents]


def _is_kind(kind: Kind) -> Callable[[SniffedFile], bool]:
    return lambda file: file.kind is kind


SAFETENSORS = Container("safetensors", _is_kind(Kind.SAFETENSORS), read_safetensors)
BUILT_IN: tuple[Container, ...] = (
    SAFETENSORS,
    Container("torch zip", _is_kind(Kind.TORCH_ZIP), read_torch_zip),
    Container("torch legacy", _is_kind(Kind.TORCH_LEGACY), read_torch_legacy),
    Container("gguf", _is_kind(Kind.GGUF), read_gguf),
)


def read_weight_file(path: Path, display_path: str) -> Contents:
    """What one weight file holds. Raises InputError of one line.

    A file named `.safetensors` must be one: the name promises that no pickle is inside. Safetensors under a torch suffix is
    harmless, and is read with a note.
    """
    file = sniff(path, display_path)
    suffix = path.suffix.lower()
    is_named_safetensors = suffix == SAFETENSORS_SUFFIX
    if is_named_safetensors and file.kind is Kind.UNKNOWN:
        return read_safetensors(path, display_path)  # its errors are more precise
    container = next((container for container in BUILT_IN if container.sniff(file)), None)
    if container is None:
        contents = None if is_named_safetensors else _read_by_plugin(file, display_path)
        if contents is not None:
            return contents
        least = least_size(path, display_path) if file.kind is Kind.TRUNCATED_ZIP else None
        raise InputError(display_path, file.diagnosis + (f" (its pickle tells of at least {least} bytes)" if least else ""))
    if is_named_safetensors and container is not SAFETENSORS:
        what = f"{file.diagnosis}; if that is what it should be, give it the suffix .bin, else fetch it again"
        raise InputError(display_path, what)
    contents = container.read(path, display_path)
    if suffix in TORCH_SUFFIXES and container is SAFETENSORS:
        return replace(contents, skipped=(*contents.skipped, f"holds safetensors, though its name ends in {suffix}"))
    return contents


def _read_by_plugin(file: SniffedFile, display_path: str) -> Contents | None:
    """What a container of another package reads; None if none is of this format."""
    try:
        containers = load_plugins(GROUP, Container, BUILT_IN)
    except UsageError as error:
        raise InputError(display_path, f"{file.diagnosis}; {error}") from error
    for container in containers:
        name = f"container {container.name!r}"
        if call_plugin(display_path, name, container.sniff, file):
            contents = call_plugin(display_path, name, container.read, file.path, display_path)
            if not isinstance(contents, Contents):
                raise InputError(display_path, f"{name} of another package gives a {type(contents).__name__}, not Contents")
            return contents
    return None
