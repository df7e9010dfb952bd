"""Which model a result file belongs to: by the model that it declares, and by the names of the folders that it lies in."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from layerhouse.ingest.checkpoint.hub_cache import read_refs, read_snapshot
from layerhouse.vocabulary import LinkRule

UNSAFE = re.compile(r'["<>:/|\\?*\[\]]+')
"""What lm-evaluation-harness replaces by two underscores to name a folder after a model (lm_eval/utils.py)."""
SAYS_NOTHING = re.compile(
    r"(checkpoint|ckpt|epoch|step|iter|global_step)[-_]?\d+|(pruned_|final_)?model|final|best|last|outputs?|merged"
)
"""Last parts of names that many models have; with one of these, the part before it is looked at, too."""
COMMIT = re.compile(r"[0-9a-f]{7,64}")


@dataclass(frozen=True)
class Match:
    """The model that a file belongs to, and the rule that says so; or None, and the models that it could be.

    With the rule `declared` no single model fits: the results stand alone, under the name that the file gives. `is_adapter` is
    true where the model is the adapter that the file names.
    """

    model_id: str | None
    rule: str = LinkRule.DECLARED
    candidates: tuple[str, ...] = ()
    is_adapter: bool = False


class Models:
    """The models that results can be linked to, with their folders."""

    def __init__(self, folders: Iterable[tuple[str, str]], former_names: Mapping[str, str] | None = None) -> None:
        """`former_names` are the names that models had before they were renamed, and those that they have."""
        self.folders = dict(folders)
        self.by_folder = {os.path.realpath(folder): model_id for model_id, folder in self.folders.items()}
        found = ((model_id, read_snapshot(folder)) for model_id, folder in self.folders.items())
        self._snapshots = {model_id: snapshot for model_id, snapshot in found if snapshot}
        self._refs: dict[str, dict[str, str]] = {}
        self._by_name: dict[str, list[str]] = {}
        self._by_last_name: dict[str, list[str]] = {}
        self._by_flat_name: dict[str, list[str]] = {}
        former: dict[str, list[str]] = {}
        for name, model_id in (former_names or {}).items():
            if name not in self.folders:
                former.setdefault(model_id, []).append(name)
        for model_id, folder in sorted(self.folders.items()):
            self._add(model_id, folder, former.get(model_id, ()))

    def _add(self, model_id: str, folder: str, former_names: Sequence[str]) -> None:
        snapshot = self._snapshots.get(model_id)
        names = dict.fromkeys((model_id, *([snapshot.plain_name] if snapshot else ()), *former_names))
        for index, texts in (
            (self._by_name, names),
            (self._by_last_name, dict.fromkeys(map(last_name, names))),
            (self._by_flat_name, dict.fromkeys(map(flat_name, (*names, folder)))),
        ):
            for text in texts:
                index.setdefault(text, []).append(model_id)

    def find(self, declared: str | None, path: Path, revision: str | None = None) -> Match:
        """The model of a file at `path` that declares a name or path, and maybe a revision.

        The first rule that gives one model counts: the declared name, the declared path, a folder above the file that is
        named after one model or its path, the last part of the declared name. Of snapshots of one repository that is the one
        of the revision; without a revision there is none.
        """
        name = (declared or "").strip().rstrip("/")
        by_name = self._of_revision(self._exact(name), revision)
        if len(by_name) == 1:
            return Match(by_name[0], LinkRule.MODEL_NAME)
        if self._exact(name):
            return Match(None, candidates=self._exact(name))
        if name and (model_id := self._by_path(name)):
            return Match(model_id, LinkRule.MODEL_PATH)
        named_folders = {model_id for part in path.parts[:-1] if "__" in part for model_id in self._by_flat_name.get(part, ())}
        by_flat_name = self._of_revision(tuple(sorted(named_folders)), revision)
        if len(by_flat_name) == 1:
            return Match(by_flat_name[0], LinkRule.FLAT_NAME)
        alike = tuple(self._by_last_name.get(last_name(name), ())) if name else ()
        by_last_name = self._of_revision(alike, revision)
        if len(by_last_name) == 1:
            return Match(by_last_name[0], LinkRule.LAST_NAME)
        return Match(None, candidates=alike or tuple(sorted(named_folders)))

    def free_name(self, name: str) -> str:
        """A name for results that belong to no model: this one, unless a model with a structure has it."""
        return f"{name} (unlinked)" if name in self.folders else name

    def _exact(self, name: str) -> tuple[str, ...]:
        """The models of a name; a snapshot of a repository stands beside the others of it, whatever its own name."""
        if name in self.folders and name not in self._snapshots:
            return (name,)
        return tuple(self._by_name.get(name, ()))

    def _of_revision(self, models: tuple[str, ...], revision: str | None) -> tuple[str, ...]:
        """The snapshots of a revision among models of one name; all of these, if no snapshot has it. But several snapshots, and
        one that has its commit in its name, are not another commit.
        """
        if revision is None:
            return models
        fitting = tuple(model_id for model_id in models if self._is_revision(model_id, revision))
        if fitting or not COMMIT.fullmatch(revision):
            return fitting or models
        others = {model_id for model_id in models if model_id in self._snapshots}
        if len(others) == 1:
            others = {model_id for model_id in others if self._has_commit_in_name(model_id)}
        return tuple(model_id for model_id in models if model_id not in others)

    def _is_revision(self, model_id: str, revision: str) -> bool:
        snapshot = self._snapshots.get(model_id)
        if snapshot is None:
            return False
        if snapshot.cache not in self._refs:
            self._refs[snapshot.cache] = read_refs(snapshot.cache)
        return snapshot.is_revision(revision, self._refs[snapshot.cache])

    def _has_commit_in_name(self, model_id: str) -> bool:
        return model_id.startswith(f"{self._snapshots[model_id].repository}@")

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
    return last_name(name) if name.startswith(("/", ".", "~")) or "\\" in name else name


def last_name(text: str) -> str:
    """The last part of a name or path; with the one before it, where many models have such a part."""
    above, _, last = text.rstrip("/").rpartition("/")
    before = above.rpartition("/")[2]
    return f"{before}/{last}" if before.strip(".~") and SAYS_NOTHING.fullmatch(last) else last
