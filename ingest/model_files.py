"""A model's files: which there are, how their paths are displayed, and whether they have changed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from layerhouse.errors import ChangedError
from layerhouse.file_door import Identity, identity_of


@dataclass(frozen=True)
class FoundModel:
    """One model: its name, its real folder, and its files. `revision` is that of a hub cache folder.

    A weight file that is a model of its own is its own `folder`. `sliced_name` is the stem of SliceGPT's pair of files.
    `shown` is the folder in messages: a path that leads there from where the user stands, as the root was given.
    """

    model_id: str
    folder: Path
    analysis_files: tuple[Path, ...] = ()
    result_files: tuple[Path, ...] = ()
    weight_files: tuple[Path, ...] = ()
    revision: str | None = None
    sliced_name: str | None = None
    shown: str = ""

    @property
    def source_uri(self) -> str:
        return path_text(self.folder)

    @property
    def home(self) -> Path:
        """The folder that no link of the model may lead out of."""
        return self.folder if os.path.isdir(self.folder) else self.folder.parent  # noqa: PTH112 - raises nothing

    def display_path(self, path: Path) -> str:
        """The path of one of the model's files in messages."""
        part = below(self.folder, path)
        return path_text(path if part is None else Path(self.shown) / part)


def below(folder: Path, path: Path) -> Path | None:
    """A path relative to a folder, which may be met by another path through links; None if it is not below it."""
    if not path.is_relative_to(folder):
        folder, path = Path(os.path.realpath(folder)), Path(os.path.realpath(path.parent)) / path.name
    return path.relative_to(folder) if path.is_relative_to(folder) else None


def path_text(path: Path | str) -> str:
    """A path as text: POSIX separators, bytes that are not UTF-8 as visible escapes."""
    text = path.as_posix() if isinstance(path, Path) else path
    return os.fsencode(text).decode("utf-8", "backslashreplace")


Identities = dict[Path, Identity | None]
"""The identities of files by path; None for a file that is not there."""


def identities_of(paths: Iterable[Path]) -> Identities:
    """The identities of files as they are now."""
    return {path: identity_of(path) for path in paths}


@contextmanager
def read_whole(list_files: Callable[[], Iterable[Path]], display_path: Callable[[Path], str]) -> Iterator[Identities]:
    """Read files within the block, which gets their identities. Raises ChangedError, whatever the block raises, if one of them
    was written, replaced, added or removed meanwhile.
    """
    before = identities_of(list_files())
    try:
        yield before
    except Exception as error:
        check_unchanged(before, list_files(), display_path, error)
        raise
    check_unchanged(before, list_files(), display_path)


def check_unchanged(
    before: Identities, paths: Iterable[Path], display_path: Callable[[Path], str], cause: Exception | None = None
) -> None:
    """Raise ChangedError unless just these files are there, each as it was."""
    now = identities_of(paths)
    if now != before:
        changed = next(path for path in (*before, *now) if before.get(path, ...) != now.get(path, ...))
        raise ChangedError(display_path(changed)) from cause


def fingerprint_of(paths: Iterable[Path]) -> str:
    """The fingerprint of files as they are now."""
    return fingerprint(identities_of(paths))


def fingerprint(identities: Identities) -> str:
    """32 hex digits over path, size and mtime_ns of files, to tell a change without reading; a missing file counts too."""
    lines = [
        f"{path_text(path)}\0gone" if identity is None else f"{path_text(path)}\0{identity.size}\0{identity.mtime_ns}"
        for path, identity in sorted(identities.items())
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]


def total_size(paths: Sequence[Path]) -> int:
    """Bytes of the files that exist."""
    return sum(identity.size for identity in identities_of(paths).values() if identity is not None)
