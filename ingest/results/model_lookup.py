"""Which model a result file belongs to: by the model that it declares, and by the names of the folders that it lies in."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from layerhouse.vocabulary import LinkRule

UNSAFE = re.compile(r'["<>:/|\\?*\[\]]+')
"""What lm-evaluation-harness replaces by two underscores to name a folder after a model (lm_eval/utils.py)."""


@dataclass(frozen=True)
class Match:
    """The model that a file belongs to, and the rule that says so; or None, and the models that it could be.

    With the rule `declared` no single model fits: the results stand alone, under the name that the file gives.
    """

    model_id: str | None
    rule: str = LinkRule.DECLARED
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
        """The model of a file at `path` that declares a name or path.

        The first rule that gives one model counts: the declared name, the declared path, a folder above the file that is
        named after one model or its path, the last part of the declared name.
        """
        name = (declared or "").strip().rstrip("/")
        if name in self.folders:
            return Match(name, LinkRule.MODEL_NAME)
        if name and (model_id := self._by_path(name)):
            return Match(model_id, LinkRule.MODEL_PATH)
        by_flat_name = {model_id for part in path.parts[:-1] for model_id in self.by_flat_name.get(part, ()) if "__" in part}
        if len(by_flat_name) == 1:
            return Match(by_flat_name.pop(), LinkRule.FLAT_NAME)
        by_last_name = self.by_last_name.get(_last_name(name), []) if name else []
        if len(by_last_name) == 1:
            return Match(by_last_name[0], LinkRule.LAST_NAME)
        return Match(None, candidates=tuple(by_last_name or sorted(by_flat_name)))

    def _by_path(self, declared: str) -> str | None:
        """The model whose folder a path is, or whose weight file or inner folder; None for a text that is no path."""
        if "/" not in declared and not declared.startswith("."):
            return None
        try:
            real = Path(os.path.realpath(declared))
        except (OSError, ValueError):  # a path that the system refuses, such as one with a zero byte
            return None
        folders = (str(part) for part in (real, real.parent))
        return next((self.by_folder[folder] for folder in folders if folder in self.by_folder), None)


def flat_name(text: str) -> str:
    """A model's name or path as one folder name: `/mnt/models/a` becomes `__mnt__models__a`."""
    return UNSAFE.sub("__", text)


def name_alone(declared: str) -> str:
    """The name of a model that only result files name: the declared name, or the last part of a declared path."""
    name = declared.strip().rstrip("/")
    return _last_name(name) if name.startswith(("/", ".", "~")) or "\\" in name else name


def _last_name(text: str) -> str:
    return text.rstrip("/").rpartition("/")[2]
