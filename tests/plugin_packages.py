"""Installed packages with entry points, as pip leaves them: a module, and a dist-info folder that importlib.metadata reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Part:
    """An entry of a registry that a package of a test adds to."""

    name: str


def install_package(site: Path, name: str, source: str, entry_points: dict[str, dict[str, str]]) -> None:
    """Install a package of one module into a folder for sys.path. `entry_points` are objects by group and name."""
    site.mkdir(parents=True, exist_ok=True)
    (site / f"{name}.py").write_text(source)
    metadata = site / f"{name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = []
    for group, members in entry_points.items():
        lines += [f"[{group}]", *(f"{key} = {value}" for key, value in members.items()), ""]
    (metadata / "entry_points.txt").write_text("\n".join(lines))
