"""Head records: the commits that no other commit has followed, each with all commits that it saw.

A commit that is lost, the newest too, is noticed because a head record or a later commit names it. A record is a file of its
own, `heads/COMMIT.json`. A writer adds its own, then deletes those of the commits that its commit followed. So writers at the
same time lose none, without renaming or locking, and a run that ends in between leaves a record too many, which does no harm.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from layerhouse.warehouse.storage.commit_file import FORMAT, commit_ids
from layerhouse.warehouse.storage.own_files import HEADS, FaultyFileError, read_own_file, unreadable, write_durably
from layerhouse.warehouse.storage.sealing import sealed, unsealed

HEAD_NAME = re.compile(r"([0-9a-f]{32})\.json")
MAX_HEAD_BYTES = 1 << 24


@dataclass(frozen=True)
class Head:
    """A commit without a successor, and the commits that it saw, except those whose rows another one contains again."""

    commit_id: str
    seen: tuple[str, ...]


@dataclass(frozen=True)
class Heads:
    """The head records that are readable, and why others are not, by the id of the commit in their names."""

    records: tuple[Head, ...]
    faults: dict[str, str]

    @property
    def named(self) -> set[str]:
        """All commits that the records name."""
        return {head.commit_id for head in self.records}.union(*(head.seen for head in self.records))


def read_heads(root: Path) -> Heads:
    """The head records of a warehouse; none for one of an earlier version. Raises WarehouseError if the system refuses."""
    records, faults = [], {}
    try:
        names = sorted(entry.name for entry in os.scandir(root / HEADS))
    except FileNotFoundError:
        return Heads((), {})
    except OSError as error:
        raise unreadable(root / HEADS, error) from None
    for name in names:
        if match := HEAD_NAME.fullmatch(name):
            try:
                records.append(_parse_head(read_own_file(root / HEADS / name, MAX_HEAD_BYTES), match[1]))
            except FaultyFileError as fault:
                if os.path.lexists(root / HEADS / name):  # else its commit has been followed meanwhile
                    faults[match[1]] = str(fault)
    return Heads(tuple(records), faults)


def write_head(root: Path, commit_id: str, seen: Collection[str], followed: Collection[str]) -> None:
    """Record a commit without a successor, and delete the records of those that it followed.

    A failure is passed over: the commit is there, and the next one names it.
    """
    with contextlib.suppress(OSError):
        (root / HEADS).mkdir(exist_ok=True)
        document = {"format": FORMAT, "commit": commit_id, "seen": sorted(seen)}
        write_durably(root / HEADS / f"{commit_id}.json", sealed(document))
        for earlier in followed:
            (root / HEADS / f"{earlier}.json").unlink(missing_ok=True)


def _parse_head(raw: bytes, commit_id: str) -> Head:
    document, is_sealed = unsealed(raw)
    if not is_sealed or document.get("commit") != commit_id:
        raise FaultyFileError("not a record of this commit" if is_sealed else "it has no digest")
    return Head(commit_id, commit_ids(document, "seen"))
