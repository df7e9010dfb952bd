"""Has a file changed? A hash over path, size and mtime, which costs no reading."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from layerhouse.ingest.discover import path_text


def fingerprint_of(paths: Sequence[Path]) -> str:
    """32 hex digits over path, size and mtime_ns of files; a file that is gone counts as such."""
    lines = []
    for path in sorted(paths):
        try:
            status = path.stat()
            lines.append(f"{path_text(path)}\0{status.st_size}\0{status.st_mtime_ns}")
        except OSError:
            lines.append(f"{path_text(path)}\0gone")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]
