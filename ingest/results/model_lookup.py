"""Which model a result file belongs to, by what it says of its model and by the names of the folders that it lies in."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

FOLDER, BY_HAND = "folder", "by_hand"
BY_NAME, BY_PATH, BY_LAST_NAME, BY_FLAT_NAME = "model_name", "model_path", "last_name", "flat_name"
DECLARED = "declared"
"""No model is known that the file could mean: its results stand alone, under the name that the file gives."""

UNSAFE = re.compile(r'["<>:/|\\?*\[\]]+')
"""What lm-evaluation-harness replaces by two underscores to name a folder after a model (lm_eval/utils.py)."""


@dataclass(frozen=True)
class Match:
    """The model that is meant and by which rule; or None and those that it could be."""

    model_id: str | None
    rule: str = DECLARED
    candidates: tuple[str, ...] = ()


class Models:
    """The models that results can be linked to, with their folders."""

    def __init__(self, folders: Iterable[tuple[str, str]]) -> None:
        self.folders = dict(folders)
        self.by_folder = {os.path.realpath(folder): model_id for model_id, folder in self.folders.items()}
        self.by_last_name: dict[str, list[str]] = {}
        self.by_flat_name: dict[str, list[str]] = {}
        for model_id, folder in sorted(self.folders.items()):
            self.by_last_name.setdefault(_last_name(model_id), []).append(model_id)
            for text in dict.fromkeys((model_id, folder)):
                self.by_flat_name.setdefault(flat_name(text), []).append(model_id)

    def find(self, declared: str | None, path: Path) -> Match:
        """By the name or path that the file declares, then by a folder above it that is named after a path, then by the last
        part of the declared name where one model alone has it."""
        said = (declared or "").strip().rstrip("/")
        if said in self.folders:
            return Match(said, BY_NAME)
        if said and (found := self._by_path(said)):
            return Match(found, BY_PATH)
        flat = {model for part in path.parts[:-1] for model in self.by_flat_name.get(part, ()) if "__" in part}
        if len(flat) == 1:
            return Match(flat.pop(), BY_FLAT_NAME)
        named = self.by_last_name.get(_last_name(said), []) if said else []
        if len(named) == 1:
            return Match(named[0], BY_LAST_NAME)
        return Match(None, candidates=tuple(named or sorted(flat)))

    def _by_path(self, said: str) -> str | None:
        """The model whose folder a path is, or whose weight file or inner folder."""
        if "/" not in said and not said.startswith("."):
            return None
        real = Path(os.path.realpath(said))
        return next((self.by_folder[text] for part in (real, real.parent) if (text := str(part)) in self.by_folder), None)


def flat_name(text: str) -> str:
    """A model's name or path as one folder name: `/mnt/models/a` is `__mnt__models__a`."""
    return UNSAFE.sub("__", text)


def name_alone(declared: str) -> str:
    """The name of a model that only results tell of: what the file says, of a path its last part."""
    said = declared.strip().rstrip("/")
    return _last_name(said) if said.startswith(("/", ".", "~")) or "\\" in said else said


def _last_name(text: str) -> str:
    return text.rstrip("/").rpartition("/")[2]
