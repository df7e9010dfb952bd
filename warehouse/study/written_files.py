"""Files written into folders of a user's: one that something else wrote is never overwritten unasked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from layerhouse.errors import UsageError

RECORD = ".layerhouse.json"
"""Beside the files: what was written, by name and SHA-256, so that a later run knows its own."""


def write_files(folder: Path, files: Mapping[str, str], *, force: bool = False) -> None:
    """Write texts by file name, all or, where one of another writer is in the way, none. Raises UsageError."""
    ours = recorded_files(folder)
    for name, text in files.items():
        path = folder / name
        if force or not path.exists() or path.read_bytes() == text.encode() or is_recorded(path, ours):
            continue
        raise UsageError(f"{path}: another writer's file is there; --force overwrites it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            _replace(folder / name, text)
        hashes = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items()}
        _replace(folder / RECORD, json.dumps({"files": ours | hashes}, indent=2) + "\n")
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written: {error.strerror or error}") from None


def recorded_files(folder: Path) -> dict[str, str]:
    """Names and SHA-256 of the files that were written into a folder; empty where nothing says so."""
    try:
        document = json.loads((folder / RECORD).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    files = document.get("files") if isinstance(document, dict) else None
    return {str(name): str(digest) for name, digest in files.items()} if isinstance(files, dict) else {}


def is_recorded(path: Path, recorded: Mapping[str, str]) -> bool:
    """Whether a file is as it was written."""
    try:
        return path.name in recorded and hashlib.sha256(path.read_bytes()).hexdigest() == recorded[path.name]
    except OSError:
        return False


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, "utf-8")
    temporary.replace(path)
