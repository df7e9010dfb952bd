"""Writes files into folders of the user. A file of another program is not overwritten unless asked for."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from pathlib import Path

from layerhouse.errors import UsageError
from layerhouse.file_door import read_regular

RECORD = ".layerhouse.json"
"""The file next to the written ones that records their names and SHA-256, so that a later run recognises its own files."""
MAX_BYTES = 256 << 20
"""Larger files are none that layerhouse wrote."""


def write_files(folder: Path, files: Mapping[str, str], *, force: bool = False) -> None:
    """Write texts by file name. Raises UsageError, and writes none, if one would overwrite a file of another program."""
    recorded = recorded_files(folder)
    for name, text in files.items():
        path = folder / name
        if force or not path.exists() or _holds(path, text) or is_recorded(path, recorded):
            continue
        raise UsageError(f"{path}: exists with content that layerhouse did not write; --force overwrites it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            _replace(folder / name, text)
        hashes = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items()}
        _replace(folder / RECORD, json.dumps({"files": recorded | hashes}, indent=2) + "\n")
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written: {error.strerror or error}") from None


def recorded_files(folder: Path) -> dict[str, str]:
    """Names and SHA-256 of the files that layerhouse wrote into a folder; empty without a readable record."""
    record = folder / RECORD
    try:
        document = None if record.is_symlink() else json.loads(read_regular(record, MAX_BYTES).decode("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    files = document.get("files") if isinstance(document, dict) else None
    return {str(name): str(digest) for name, digest in files.items()} if isinstance(files, dict) else {}


def is_recorded(path: Path, recorded: Mapping[str, str]) -> bool:
    """True if layerhouse wrote the file and it has not changed since."""
    try:
        return path.name in recorded and hashlib.sha256(read_regular(path, MAX_BYTES)).hexdigest() == recorded[path.name]
    except OSError:
        return False


def _holds(path: Path, text: str) -> bool:
    """Whether a file has just this text."""
    try:
        return read_regular(path, MAX_BYTES) == text.encode()
    except OSError:
        return False


def _replace(path: Path, text: str) -> None:
    """Put a text in the place of a file, by a new file of a name that nobody can have made a link of."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("x", encoding="utf-8") as file:
            file.write(text)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
