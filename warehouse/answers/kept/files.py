"""The files of kept answers: Parquet files, and for each answer a record of their sizes, hashes and state, written last.

The rows of an answer are in one file; or in that of an earlier answer, except for those of some keys, and in a second file with
the rows of these keys, so that few rows are written where few changed. Part of a file's name is drawn by chance, so that no two
processes write one file. A session reads an answer only if the sizes and footers of its files are those of the record. What an
SQL script for other sessions names is pinned: a file lists it, and nothing deletes it while that file is there.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerhouse.errors import WarehouseError
from layerhouse.warehouse.answers.kept.states import Answer, State, key_of, order_of
from layerhouse.warehouse.answers.sql_text import quote_literal, spelled_literal
from layerhouse.warehouse.storage.data_files import OTHER_CONTENT, file_digest
from layerhouse.warehouse.storage.own_files import (
    MISSING_FILE,
    FaultyFileError,
    open_own_file,
    read_own_file,
    read_range,
    write_durably,
)
from layerhouse.warehouse.storage.sealing import sealed, unsealed

if TYPE_CHECKING:
    import duckdb

SECONDS_OF_AN_OLD_SESSION = 24 * 3600
"""How long the answers of earlier commits stay, for queries that read them; a session computes what is gone."""
ROWS_OF_A_GROUP = 32_768
"""Rows of a Parquet row group. Smaller ones make files larger and reading slower, larger ones make a model's rows cost more."""
OF_NOW = "what is kept is of the present: open the warehouse with --as-of to see an earlier time"
PIN = "pin"
EARLIER_RECORD = "record"
"""The name of a record of several answers, as earlier versions wrote it."""
OWN_NAME = re.compile(r"\.?(?P<view>[a-z_]+)-(?P<digest>[0-9a-f]{32})(\.[0-9a-f]{8})?\.(parquet|json)(\.[0-9a-f]{8}\.tmp)?")
MAX_RECORD_BYTES = 1 << 20


@dataclass(frozen=True)
class Part:
    """A Parquet file with rows of an answer, as a record describes it."""

    name: str
    bytes: int
    footer_bytes: int
    sha256: str
    footer_sha256: str


@dataclass(frozen=True)
class Kept:
    """Where the rows of an answer are: in `whole`, except for those of the keys `replaced`, and in `later`.

    `stands_on` names, by view, other answers that it was computed from, by the stems of their records.
    """

    view: str
    folder: Path
    whole: Part
    later: Part | None
    replaced: Sequence[str]
    stands_on: Mapping[str, str]

    @property
    def parts(self) -> Sequence[Part]:
        """The one or two files, the answer's own one last."""
        return [self.whole] if self.later is None else [self.whole, self.later]

    @property
    def paths(self) -> list[Path]:
        """Where the files are."""
        return [self.folder / part.name for part in self.parts]

    @property
    def select_later(self) -> str | None:
        """The SQL that reads the second file, if there is one."""
        return None if self.later is None else _select(self.folder / self.later.name)

    @property
    def select(self) -> str:
        """The SQL that reads all rows."""
        whole = _select(self.folder / self.whole.name)
        if self.later is None:
            return whole
        replaced = ", ".join(map(spelled_literal, self.replaced))
        others = f"\nWHERE {key_of(self.view)} NOT IN ({replaced})" if replaced else ""
        return f"{whole}{others}\nUNION ALL\n{self.select_later}"

    @property
    def statement(self) -> str:
        """The SQL that makes the view of the rows. It is an error where a session was set to an earlier time since."""
        return (
            f"CREATE OR REPLACE VIEW {self.view} AS\nSELECT * FROM (\n{self.select}\n)\n"
            f"WHERE CASE WHEN getvariable('as_of') IS NULL THEN TRUE ELSE error({quote_literal(OF_NOW)}) END;"
        )


@dataclass(frozen=True)
class Earlier:
    """An answer of the same SQL over the first of the same files, and the names of the files that came later, by table."""

    kept: Kept
    later: Mapping[str, Sequence[str]]


def find_kept(answer: Answer) -> Kept | None:
    """An answer that is there, if the sizes and footers of its files are those of its record."""
    with contextlib.suppress(FaultyFileError, WarehouseError, OSError):
        kept = _read_record(answer.record).kept
        if all(_has_footer(path, part) for path, part in zip(kept.paths, kept.parts, strict=True)):
            return kept
    return None


def _has_footer(path: Path, part: Part) -> bool:
    with open_own_file(path) as (handle, status):
        footer = read_range(handle, status.st_size - part.footer_bytes, part.footer_bytes)
    return status.st_size == part.bytes and _sha256(footer) == part.footer_sha256


def write_answer(
    connection: duckdb.DuckDBPyConnection,
    answer: Answer,
    select: str,
    *,
    is_ordered: bool = False,
    stands_on: Mapping[str, str],
    beside: tuple[Part, Collection[str]] | None = None,
) -> None:
    """Write the rows of a SELECT as an answer, in the order of its view unless they are in it already, all but a few.

    With `beside` they are those of some keys alone, beside a file of other rows. Raises OSError and DuckDB's errors; what is
    there is whole all the same.
    """
    answer.folder.mkdir(exist_ok=True)
    if answer.folder.is_symlink():
        raise OSError(f"{answer.folder}: a symbolic link")
    path = answer.record.with_suffix(f".{secrets.token_hex(4)}.parquet")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    order = "" if is_ordered else f" ORDER BY {order_of(answer.view)}"
    try:
        connection.execute(
            f"COPY (SELECT * FROM ({select}){order}) TO {quote_literal(str(temporary))} "
            f"(FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {ROWS_OF_A_GROUP})"
        )
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        written = asdict(_description(temporary, path.name))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    covered = {table: [len(files), _names_digest(files)] for table, files in answer.state.files.items()}
    written |= {"sql": answer.state.sql, "covers": covered, "stands_on": {**stands_on}}
    if beside is not None:
        part, replaced = beside
        written["beside"] = {**asdict(part), "replaced": sorted(replaced)}
        os.utime(answer.folder / part.name)  # it is as young as the youngest answer that it is part of
    write_durably(answer.record, sealed(written))


def find_earlier(answer: Answer) -> Earlier | None:
    """The newest answer of the same SQL over the first of the same files; all of its bytes are compared with its record."""
    records = [path for path in answer.folder.glob(f"{answer.view}-*.json") if path != answer.record]
    for path in sorted(records, key=_age):
        with contextlib.suppress(FaultyFileError, WarehouseError, OSError, ValueError, TypeError):
            record = _read_record(path)
            later = _later_files(answer.state, record.sql, record.covers)
            if later is not None and (kept := read_whole(path)):
                return Earlier(kept, later)
    return None


def read_whole(record: Path) -> Kept | None:
    """The answer of a record, if all bytes of its files are as they were written."""
    with contextlib.suppress(WarehouseError, OSError):
        if _fault(record, {}) is None:
            return _read_record(record).kept
    return None


def _later_files(state: State, sql: str, covered: Mapping[str, Any]) -> dict[str, list[str]] | None:
    """The files that an answer over `covered` lacks; None if it is one of other SQL, or of files that are not the first."""
    if sql != state.sql or not covered.keys() <= state.files.keys():
        return None
    later = {}
    for table, files in state.files.items():
        count, digest = covered.get(table, (0, _names_digest(())))
        if _names_digest(files[:count]) != digest:
            return None
        later[table] = [*files[count:]]
    return later


def pin(folder: Path, paths: Collection[Path]) -> None:
    """Note that somebody's script names some answers, so that they stay. Raises OSError."""
    text = "\n".join(sorted(path.name for path in paths))
    target = folder / f"{PIN}-{_sha256(text.encode())[:32]}.json"
    write_durably(target, sealed({"names": text.split("\n")}))


def remove_pins(folder: Path, seconds: float) -> None:
    """Let go of what scripts name that are older than so many seconds."""
    for path, view in own_files(folder):
        if view == PIN and _age(path) > seconds:
            path.unlink(missing_ok=True)


def remove_old(folder: Path, present: Collection[Path]) -> None:
    """Delete the answers of commits long past, and what interrupted runs left, unless a pin names them."""
    stays = {path.name for path in present}
    old = []
    for path, view in own_files(folder):
        if view == PIN and not path.name.startswith("."):
            with contextlib.suppress(FaultyFileError):
                stays |= {*_read_sealed(path).get("names", ())}
        elif _age(path) > SECONDS_OF_AN_OLD_SESSION:
            old.append(path)
    for path in old:
        if path.name not in stays:
            path.unlink(missing_ok=True)


def damaged_answers(folder: Path) -> Iterator[tuple[Path, str]]:
    """Kept answers that are not as they were written, and records that are not; each with what is wrong."""
    digests: dict[Path, str] = {}
    for record, view in own_files(folder):
        if record.suffix != ".json" or view in (PIN, EARLIER_RECORD) or record.name.startswith("."):
            continue
        fault = _fault(record, digests)
        if fault is not None and fault[1] != MISSING_FILE:  # an answer that is gone is computed
            yield fault


def _fault(record: Path, digests: dict[Path, str]) -> tuple[Path, str] | None:
    """What is wrong with a record or a file of its answer, and with which of them; reads all whose digest is not known."""
    path = record
    try:
        kept = _read_record(record).kept
        for path, part in zip(kept.paths, kept.parts, strict=True):
            if path not in digests:
                with open_own_file(path) as (handle, _):
                    digests[path] = file_digest(handle)
            if digests[path] != part.sha256:
                return path, OTHER_CONTENT
    except FaultyFileError as fault:
        return path, str(fault)
    return None


def own_files(folder: Path) -> Iterator[tuple[Path, str]]:
    """Answers, records and pins, of these commits and others, and temporary files of interrupted runs; each with its view."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name) if folder.is_dir() else ():
        if match := OWN_NAME.fullmatch(entry.name):
            yield Path(entry.path), match["view"]


def remove_answer(path: Path) -> None:
    """Delete a file of an answer, and the record of the same state; or a temporary file alone."""
    path.unlink(missing_ok=True)
    if not path.name.startswith("."):
        path.with_name(f"{path.name.partition('.')[0]}.json").unlink(missing_ok=True)


@dataclass(frozen=True)
class _Record:
    """What a record says: where the rows are, and of which state."""

    kept: Kept
    sql: str
    covers: Mapping[str, Any]


def _read_record(path: Path) -> _Record:
    """What a record says of its answer. Raises FaultyFileError for one that is not as it was written."""
    written = {"name": f"{path.stem}.parquet", "stands_on": {}} | _read_sealed(path)  # the first version wrote neither
    _require_kinds(written, {"sql": str, "covers": dict, "stands_on": dict})
    if not all(OWN_NAME.fullmatch(f"{stem}.json") for stem in written["stands_on"].values()):
        raise FaultyFileError("not a record of an answer")
    own, replaced = _part(written), []
    beside = written.get("beside")
    if beside is not None:
        _require_kinds(beside, {"replaced": list})
        replaced = [*map(str, beside["replaced"])]
    whole, later = (own, None) if beside is None else (_part(beside), own)
    view = path.name.partition("-")[0]
    return _Record(Kept(view, path.parent, whole, later, replaced, written["stands_on"]), written["sql"], written["covers"])


def _part(written: Mapping[str, Any]) -> Part:
    _require_kinds(written, {"name": str, "bytes": int, "footer_bytes": int, "sha256": str, "footer_sha256": str})
    if not OWN_NAME.fullmatch(written["name"]):
        raise FaultyFileError("not a record of an answer")
    return Part(*(written[name] for name in ("name", "bytes", "footer_bytes", "sha256", "footer_sha256")))


def _require_kinds(written: Any, kinds: Mapping[str, type]) -> None:
    if type(written) is not dict or any(type(written.get(key)) is not kind for key, kind in kinds.items()):
        raise FaultyFileError("not a record of an answer")


def _read_sealed(path: Path) -> dict[str, Any]:
    document, is_sealed = unsealed(read_own_file(path, MAX_RECORD_BYTES))
    if not is_sealed:
        raise FaultyFileError("it has no digest")
    return document


def _description(path: Path, name: str) -> Part:
    with path.open("rb") as file:
        sha256 = file_digest(file.fileno())
        size = path.stat().st_size
        tail = read_range(file.fileno(), size - 8, 8)
        footer_bytes = int.from_bytes(tail[:4], "little") + 8
        footer = read_range(file.fileno(), size - footer_bytes, footer_bytes)
    return Part(name, size, footer_bytes, sha256, _sha256(footer))


def _age(path: Path) -> float:
    """Seconds since a file was written; none for one that is gone."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _select(path: Path) -> str:
    return f"SELECT * FROM read_parquet({spelled_literal(str(path))}, hive_partitioning = false)"


def _names_digest(names: Collection[str]) -> str:
    return _sha256("\n".join(names).encode())[:32]


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
