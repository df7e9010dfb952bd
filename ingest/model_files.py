"""A model's files: which there are, how their paths are displayed, and whether they have changed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class FoundModel:
    """One model: its name, its real folder, and its files. `revision` is that of a hub cache folder.

    A weight file that is a model of its own is its own `folder`. `sliced_name` is the stem of SliceGPT's pair of files.
    """

    model_id: str
    folder: Path
    analysis_files: tuple[Path, ...] = ()
    result_files: tuple[Path, ...] = ()
    weight_files: tuple[Path, ...] = ()
    revision: str | None = None
    sliced_name: str | None = None

    @property
    def source_uri(self) -> str:
        return path_text(self.folder)

    def display_path(self, path: Path) -> str:
        """The path of one of the model's files, below the model's name."""
        return f"{self.model_id}/{path_text(path.relative_to(self.folder))}"


def path_text(path: Path | str) -> str:
    """A path as text: POSIX separators, bytes that are not UTF-8 as visible escapes."""
    text = path.as_posix() if isinstance(path, Path) else path
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def fingerprint_of(paths: Sequence[Path]) -> str:
    """32 hex digits over path, size and mtime_ns of files, to tell a change without reading; a missing file counts too."""
    lines = []
    for path in sorted(paths):
        try:
            status = path.stat()
            lines.append(f"{path_text(path)}\0{status.st_size}\0{status.st_mtime_ns}")
        except OSError:
            lines.append(f"{path_text(path)}\0gone")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]


def total_size(paths: Sequence[Path]) -> int:
    """Bytes of the files that exist."""
    return sum(path.stat().st_size for path in paths if path.is_file())
