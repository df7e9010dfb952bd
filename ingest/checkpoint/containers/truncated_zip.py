"""How large a truncated torch zip was: its pickle comes first and lists the storages that follow."""

from __future__ import annotations

from pathlib import Path

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.containers.zip_members import LOCAL, STORED
from layerhouse.ingest.checkpoint.dtypes import byte_count
from layerhouse.ingest.checkpoint.pickle.load import load_pickle
from layerhouse.ingest.checkpoint.regular_file import open_regular_file
from layerhouse.ingest.checkpoint.shapes import MAX_ELEMENTS

HEAD_BYTES = 8 << 20


def least_size(path: Path, display_path: str) -> int | None:
    """Bytes of the pickle and of all storages; None if the pickle is not the first member, or is cut off itself."""
    with open_regular_file(path, display_path) as (file, _):
        head = file.read(HEAD_BYTES)
    if len(head) < LOCAL.size:
        return None
    fields = LOCAL.unpack_from(head)
    begin = LOCAL.size + fields[9] + fields[10]
    if fields[3] != STORED or not head[LOCAL.size : LOCAL.size + fields[9]].endswith(b"/data.pkl"):
        return None
    try:
        unpickled = load_pickle(head, display_path, start=begin)
    except InputError:
        return None
    least = unpickled.end
    for storage in unpickled.storages.values():
        if storage.dtype is not None and 0 <= storage.elements <= MAX_ELEMENTS:
            least += byte_count(storage.dtype, storage.elements)
    return least
