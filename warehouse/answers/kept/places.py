"""In which files of the warehouse there may be rows of some checkpoints or results, so that the others need not be opened.

The 32-bit hashes of the ids of each file are noted in one file beside the kept answers. A file of the warehouse never changes,
so what is noted of it holds for good; of one that nothing is noted of, the ids are read.
"""

from __future__ import annotations

import base64
import contextlib
import zlib
from collections.abc import Collection, Sequence
from pathlib import Path

from layerhouse.errors import WarehouseError
from layerhouse.warehouse.storage.commits import Snapshot
from layerhouse.warehouse.storage.own_files import KEPT, FaultyFileError, read_own_file, write_durably
from layerhouse.warehouse.storage.schema import TABLES
from layerhouse.warehouse.storage.sealing import sealed, unsealed

PLACES = "places.json"
ID_COLUMNS = ("checkpoint_id", "base_checkpoint_id", "result_id")
MAX_BYTES = 1 << 28


class Places:
    """The hashes of the ids in the files of some tables, as far as they are noted or asked for."""

    def __init__(self, snapshot: Snapshot, tables: Collection[str]) -> None:
        self._path = snapshot.root / KEPT / PLACES
        files = snapshot.files_to_read()
        self._files = {table: files[table] for table in sorted({*tables} - snapshot.tables_of_other_columns())}
        names = {_name(path) for paths in self._files.values() for path in paths}
        self._hashes = {name: hashes for name, hashes in _read(self._path).items() if name in names}
        self._is_noted = self._hashes.keys() == names

    def files(self, table: str, ids: Collection[str]) -> list[str] | None:
        """The files that may have rows of some ids; None for a table whose files differ in their columns: all are to be read.

        Raises OSError for a file that cannot be read.
        """
        hashes = {*map(_hash, ids)}
        paths = self._files.get(table)
        return None if paths is None else [path for path in paths if not hashes.isdisjoint(self._hashes_of(table, path))]

    def note(self) -> None:
        """Write down what is known of all files, unless it is written already. Raises OSError."""
        if self._is_noted:
            return
        for table, paths in self._files.items():
            for path in paths:
                self._hashes_of(table, path)
        write_durably(self._path, sealed({name: _as_text(hashes) for name, hashes in sorted(self._hashes.items())}))
        self._is_noted = True

    def _hashes_of(self, table: str, path: str) -> Sequence[int]:
        name = _name(path)
        if name not in self._hashes:
            self._hashes[name] = sorted({_hash(value) for value in _ids(table, path)})
        return self._hashes[name]


def _read(path: Path) -> dict[str, Sequence[int]]:
    """What was noted; nothing if that is not as it was written."""
    with contextlib.suppress(FaultyFileError, WarehouseError, OSError, ValueError, TypeError):
        texts, is_sealed = unsealed(read_own_file(path, MAX_BYTES))
        if is_sealed:
            return {name: _as_hashes(text) for name, text in texts.items()}
    return {}


def _ids(table: str, path: str) -> set[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            rows = file.read([column for column in ID_COLUMNS if column in TABLES[table].column_names])
    except pa.ArrowException as error:
        raise OSError(f"{path}: {error}") from None
    return {value for column in rows.columns for value in column.unique().to_pylist() if value is not None}


def _as_text(hashes: Sequence[int]) -> str:
    import numpy as np

    return base64.b64encode(np.array(hashes, "<u4").tobytes()).decode()


def _as_hashes(text: str) -> Sequence[int]:
    """Raises ValueError and TypeError for what is no such text."""
    import numpy as np

    hashes: list[int] = np.frombuffer(base64.b64decode(text, validate=True), "<u4").tolist()
    return hashes


def _hash(text: str) -> int:
    return zlib.crc32(text.encode())


def _name(path: str) -> str:
    """TABLE/FILE, as the warehouse may be elsewhere tomorrow."""
    return "/".join(path.rsplit("/", 2)[1:])
