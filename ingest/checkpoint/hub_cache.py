"""What the snapshots of a hub cache are called: `models--ORG--NAME/snapshots/COMMIT` (huggingface_hub, "Understand caching").

The only snapshot of a repository that has weights is called ORG/NAME. Several are models of their own, ORG/NAME@COMMIT with the
first 8 digits of the commit: which of them `refs/main` names today may change tomorrow, so none of them has the bare name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

from layerhouse.file_door import read_regular
from layerhouse.ingest.checkpoint.file_names import is_weight_file

SNAPSHOT = re.compile(r"(.*/models--([^/]+))/snapshots/([^/]+)((?:/.*)?)", re.DOTALL)
SHORT = 8
MAX_REFS = 1000
MAX_REF_BYTES = 200
LEAST_PREFIX = 7
"""Digits of a commit that name it, as in the addresses of the hub."""


@dataclass(frozen=True)
class Snapshot:
    """A folder of a snapshot, or one below it: its repository, commit, and the path below the snapshot from a slash on."""

    cache: str
    repository: str
    commit: str
    below: str

    @property
    def plain_name(self) -> str:
        """The name that says nothing of the commit."""
        return self.repository + self.below

    def model_name(self, commits: Set[str]) -> str:
        """The name of a model beside the other commits of its repository."""
        if not commits - {self.commit}:
            return self.plain_name
        is_unclear = any(commit[:SHORT] == self.commit[:SHORT] for commit in commits - {self.commit})
        return f"{self.repository}@{self.commit if is_unclear else self.commit[:SHORT]}{self.below}"

    def is_revision(self, revision: str, refs: dict[str, str]) -> bool:
        """Whether a revision is this commit: in full, by its first digits, or by a branch or tag of `refs`."""
        is_prefix = len(revision) >= LEAST_PREFIX and self.commit.startswith(revision)
        return revision == self.commit or is_prefix or refs.get(revision) == self.commit


def read_snapshot(folder: str) -> Snapshot | None:
    """The snapshot that the path of a folder names; None for a folder that is in no hub cache."""
    match = SNAPSHOT.fullmatch(folder)
    return Snapshot(match[1], match[2].replace("--", "/"), match[3], match[4]) if match else None


def commits_with_weights(cache: str) -> set[str]:
    """The commits of a repository's folder whose snapshots hold weights; none where it cannot be listed."""
    snapshots = Path(cache) / "snapshots"
    return {
        path.name
        for path in _entries(snapshots)
        if any(is_weight_file(name) for _, _, names in os.walk(path) for name in names)
    }


def read_refs(cache: str) -> dict[str, str]:
    """The commits of branches and tags in a repository's folder, by name; those that cannot be read are left out."""
    refs, top = dict[str, str](), Path(cache) / "refs"
    for folder, _, names in os.walk(top):
        for name in names[: MAX_REFS - len(refs)]:
            path = Path(folder) / name
            try:
                refs[path.relative_to(top).as_posix()] = read_regular(path, MAX_REF_BYTES).decode().strip()
            except (OSError, UnicodeDecodeError):
                continue
    return refs


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        return []
