"""Links in a model's folder: a folder that somebody else made must not lead to files that its reader has elsewhere."""

from __future__ import annotations

from pathlib import Path


def leads_out(folder: Path, path: Path) -> bool:
    """Whether a path is a link that ends neither in the folder nor in its `models--*` folder of a hub cache, where snapshots
    link to blobs. A link in a circle ends nowhere."""
    if not path.is_symlink():
        return False
    try:
        target, home = path.resolve(), folder.resolve()
    except (OSError, RuntimeError):
        return True
    repository = next((parent for parent in (home, *home.parents) if parent.name.startswith("models--")), home)
    return not target.is_relative_to(repository)
