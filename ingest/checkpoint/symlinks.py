"""Symbolic links in a model's folder, which must not lead to files elsewhere: the folder may be somebody else's."""

from __future__ import annotations

from pathlib import Path


def leads_out(folder: Path, path: Path) -> bool:
    """Whether a path is a symbolic link that ends outside of the folder; so does a link in a loop.

    In a hub cache, where files of a snapshot are links to blobs, the whole `models--*` folder counts as the folder.
    """
    if not path.is_symlink():
        return False
    try:
        target, home = path.resolve(), folder.resolve()
    except (OSError, RuntimeError):
        return True
    repository = next((parent for parent in (home, *home.parents) if parent.name.startswith("models--")), home)
    return not target.is_relative_to(repository)
