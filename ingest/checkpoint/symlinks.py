"""Symbolic links in a model's folder, which must not lead to files elsewhere: the folder may be somebody else's."""

from __future__ import annotations

import os
from pathlib import Path

HUB_PREFIX = "models--"
"""What the folder of a repository begins with in a hub cache."""
LEADS_OUT = "a link that leads out of the model's folder"


def leads_out(folder: Path, path: Path) -> bool:
    """Whether a path in a folder, or a folder on the way to it, is a symbolic link that ends outside; so does a link in a loop.

    In a hub cache, where files of a snapshot are links to blobs, the whole `models--*` folder counts as the folder.
    """
    if not _has_links(folder, path):
        return False
    try:
        target, home = path.resolve(), folder.resolve()
    except (OSError, RuntimeError):
        return True
    if target.is_symlink():  # a loop
        return True
    repository = next((parent for parent in (home, *home.parents) if parent.name.startswith(HUB_PREFIX)), home)
    return not target.is_relative_to(repository)


def _has_links(folder: Path, path: Path) -> bool:
    """Whether a path may leave a folder: it is not below it by its name, or a link is on the way."""
    while path != folder:
        if len(path.parts) <= len(folder.parts) or path.is_symlink() or path.name == "..":
            return True
        path = path.parent
    return False


def lead_out_text(path: Path) -> str:
    """The message on a link that leads out, for its path."""
    return f"{LEADS_OUT}, to {os.path.realpath(path)}: put the file there"
