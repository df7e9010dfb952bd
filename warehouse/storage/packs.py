"""Commits that contain the rows of others again: which commits one may replace, its id, and how it becomes visible."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path

from layerhouse.errors import WarehouseError
from layerhouse.warehouse.storage.commit_file import MAX_COMMIT_BYTES, Commit, commit_json
from layerhouse.warehouse.storage.commits import CREATE, Snapshot
from layerhouse.warehouse.storage.heads import read_heads, write_head
from layerhouse.warehouse.storage.own_files import COMMITS, write_durably
from layerhouse.warehouse.storage.schema import schema_digest
from layerhouse.warehouse.storage.store import LAST_TIME_NS

PACK = "pack"
"""The operation of a commit that contains the rows of others again, each with the id and time of its own commit."""
MANY_COMMITS = 200
"""Commits from which on packing is advised: opening a warehouse then takes longer than most answers."""


def packable(snapshot: Snapshot) -> tuple[Commit, ...]:
    """The commits that a pack would replace, oldest first: all but those that made the tables with the present columns.

    What made them with the columns of earlier versions has no rows, and is needed no more once there are the present ones. A
    commit whose id is that of no time, which somebody else put there, stays: nothing sorts after it.
    """
    has_present = snapshot.has_present_schema()
    return tuple(
        commit
        for commit in snapshot.commits
        if int(commit.commit_id[:16], 16) < LAST_TIME_NS - 1
        and (commit.operation != CREATE or (has_present and commit.schema != schema_digest()))
    )


def is_worth_packing(snapshot: Snapshot) -> bool:
    """True if there are several commits, or one that an earlier version wrote with other columns."""
    commits = [commit for commit in packable(snapshot) if commit.operation != CREATE]
    return len(commits) > 1 or (len(commits) == 1 and bool(snapshot.tables_of_other_columns()))


def pack_id(commits: Sequence[Commit]) -> str:
    """The id of a commit that replaces these: it sorts just after them, and before whatever is committed later."""
    return f"{max(int(commit.commit_id[:16], 16) for commit in commits) + 1:016x}{secrets.token_hex(8)}"


def write_pack(root: Path, commit: Commit) -> None:
    """Make a pack visible, whose data files are there. The caller holds off writers. Raises WarehouseError."""
    document = commit_json(commit)
    if len(document) > MAX_COMMIT_BYTES:
        raise WarehouseError(f"{root}: limit exceeded: a pack of {len(commit.replaces)} commits; nothing was changed")
    followed = [head.commit_id for head in read_heads(root).records]
    write_durably(root / COMMITS / f"{commit.commit_id}.json", document)
    write_head(root, commit.commit_id, commit.parents, followed)
