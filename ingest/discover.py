"""Walk roots: which folders are models, what they are called, and what was passed over and why."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath

from layerhouse.errors import UsageError
from layerhouse.ingest.folder_files import FileSorter, real_path
from layerhouse.ingest.model_files import FoundModel, path_text
from layerhouse.ingest.result_files import ResultFiles
from layerhouse.ingest.study.file_names import ANALYSIS_NAMES
from layerhouse.warehouse.storage.inventory import Inventory

MARKER = "layerhouse.json"
ANALYSIS, EVALUATION, WEIGHTS = "analysis", "evaluation", "pruned_model"
"""Folders whose files belong to the model that the folder lies in."""
MAX_DEPTH = 64
NOTHING = "no weights, no analysis, no results"
WEIGHTS_PROMISED = re.compile(r"config\.json|.+\.index\.json")
HUB_FOLDER = re.compile(r".*/models--([^/]+)/snapshots/([^/]+)((?:/.*)?)", re.DOTALL)

Listing = tuple[list[Path], list[Path]]
"""The files and the folders in a folder."""


@dataclass(frozen=True)
class Remark:
    """Something that was not taken, and why; `is_failure` if the exit code has to tell it."""

    where: str
    what: str
    is_failure: bool


@dataclass
class Discovery:
    """The models found below some roots, and remarks on what was passed over."""

    models: list[FoundModel] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)


def discover(
    roots: Sequence[Path], *, excludes: Sequence[str] = (), name: str | None = None, result_files: ResultFiles | None = None
) -> Discovery:
    """Find every model below the roots. A model is known by its real path, and has the name under which it is met first.

    `excludes` are globs that are matched from the right: on a name, or on a path such as `results/*_finetuned`. `name` renames
    the one model found; raises UsageError if there are more. `result_files` keeps the results that are read.
    """
    for glob in excludes:
        if not PurePath(glob).parts:
            raise UsageError(f"--exclude {glob!r}: an empty glob")
    if name is not None and not name.strip():
        raise UsageError("--name is empty")
    models, remarks = _walk_roots(roots, tuple(excludes), result_files or ResultFiles(Inventory()))
    if name is not None and len(models) > 1:
        names = ", ".join([model.model_id for model in models.values()][:5])
        raise UsageError(f"--name names one model; found {len(models)}: {names}")
    discovery = Discovery(remarks=remarks)
    folders: dict[str, Path] = {}
    for folder, model in models.items():
        model_id = model.model_id if name is None else name
        other = folders.setdefault(model_id, folder)
        if other == folder:
            discovery.models.append(replace(model, model_id=model_id))
        else:
            what = f"its name {model_id!r} is that of {path_text(other)}; take one of them alone, with --name NAME"
            discovery.remarks.append(Remark(path_text(folder), what, is_failure=True))
    return discovery


def _walk_roots(
    roots: Sequence[Path], excludes: tuple[str, ...], result_files: ResultFiles
) -> tuple[dict[Path, FoundModel], list[Remark]]:
    """The models by their real folders, and remarks."""
    models: dict[Path, FoundModel] = {}
    remarks: list[Remark] = []
    listed: dict[str, Path] = {}
    for root in map(Path, map(os.path.abspath, roots)):
        walk = _Walk(excludes, listed, result_files)
        top = walk.start(root)
        if top is None:
            kind = "neither a file nor a folder" if _kind(root) == "other" else "no such file or folder"
            remarks.append(Remark(path_text(root), kind, is_failure=True))
            continue
        remarks += [Remark(_path_below(path, top), what, is_failure) for path, what, is_failure in walk.remarks]
        for model in walk.models:
            folder = Path(os.path.realpath(model.folder))
            models[folder] = _joined(models.get(folder), model, folder, top)
    return models, remarks


class _Walk:
    """One walk below a root. A model's name is a path from the root's parent; from the parent of the folder above for a root
    that is itself a model. So names and displayed paths are made when the walk is over.
    """

    def __init__(self, excludes: tuple[str, ...], listed: dict[str, Path], result_files: ResultFiles) -> None:
        """`listed` are the folders that were walked before, by their real path."""
        self._excludes, self._listed = excludes, listed
        self._sorter = FileSorter(result_files, self._remark)
        self.models: list[FoundModel] = []
        self.remarks: list[tuple[Path, str, bool]] = []
        self._outcomes = 0
        """Models, failures and folders met again: where it does not grow, there is nothing in a folder."""

    def start(self, root: Path) -> Path | None:
        """Walk below a root. Returns the folder that names and displayed paths are relative to; None where there is no root."""
        kind = _kind(root)
        if kind == "file":
            return self._start_file(root)
        return self._start_folder(root) if kind == "folder" else None

    def _start_file(self, path: Path) -> Path:
        """A root that is a file: one result, one analysis, or a weight file as a model of its own."""
        model = self._sorter.single_file(path)
        if model is not None:
            self._add(model)
            return path.parent.parent
        folder = path.parent.parent if path.parent.name in (ANALYSIS, EVALUATION, WEIGHTS) else path.parent
        if path.name in ANALYSIS_NAMES:
            self._add(FoundModel("", folder, analysis_files=(path,)))
        elif self._sorter.is_result(folder, path, is_claimed=True, is_named=True):
            self._add(FoundModel("", folder, result_files=(path,)))
        return folder.parent.parent

    def _start_folder(self, root: Path) -> Path:
        """A root that is a folder; `analysis/`, `evaluation/` and `pruned_model/` stand for that part of their parent."""
        home = root.parent if root.name in (ANALYSIS, EVALUATION, WEIGHTS) else root
        before = self._outcomes
        if _kind(root / MARKER) == "file":
            self._remark(root, "a layerhouse warehouse; name folders of models", True)
        elif (listing := self._list(root, 0)) is not None:
            if root.name == EVALUATION:
                self._add(*self._sorter.models_of(home, [], [], self._files_below(listing, 0)))
            else:
                self._visit(home, listing, 0, inside_model=False)
            if self._outcomes == before:
                self._remark(root, _nothing_in(root)[0], True)
        return home.parent.parent if any(model.folder == home for model in self.models) else root.parent

    def _visit(self, folder: Path, listing: Listing, depth: int, *, inside_model: bool) -> None:
        """Take the folder if it is a model, then look below it. The files of its `analysis/` and `pruned_model/` count as its
        own; everything below `evaluation/` does.
        """
        before, empty = self._outcomes, []
        files, subfolders, evaluated = self._gather(listing, depth)
        own = self._sorter.models_of(folder, files, subfolders, evaluated)
        self._add(*own)
        promise = next((path.name for path in files if WEIGHTS_PROMISED.fullmatch(path.name)), None)
        if promise and not (own or inside_model or subfolders):
            self._remark(folder, f"{promise} without weights; fetch them, or take the folder out", True)
        for subfolder in subfolders:
            before_subfolder = self._outcomes
            if _kind(subfolder / MARKER) == "file":
                self._remark(subfolder, "a layerhouse warehouse", False)
            elif (below := self._list(subfolder, depth + 1)) is not None:
                self._visit(subfolder, below, depth + 1, inside_model=inside_model or bool(own))
                if self._outcomes == before_subfolder:
                    empty.append(subfolder)
        if self._outcomes > before and not inside_model and not own:
            for subfolder in empty:
                self._remark(subfolder, *_nothing_in(subfolder))

    def _gather(self, listing: Listing, depth: int) -> tuple[list[Path], list[Path], list[Path]]:
        """The files of a model's folder, the folders in it that are no parts of a model, and the files below `evaluation/`."""
        files, folders = [*listing[0]], []
        for entry in listing[1]:
            if entry.name in (ANALYSIS, WEIGHTS):
                part_files, part_folders = self._list(entry, depth + 1) or ([], [])
                files += part_files
                folders += part_folders
            else:
                folders.append(entry)
        evaluations = [self._list(entry, depth + 1) or ([], []) for entry in folders if entry.name == EVALUATION]
        evaluated = [path for part in evaluations for path in self._files_below(part, depth + 1)]
        return files, [entry for entry in folders if entry.name != EVALUATION], evaluated

    def _files_below(self, listing: Listing, depth: int) -> list[Path]:
        files, folders = listing
        return files + [
            path for folder in folders for path in self._files_below(self._list(folder, depth + 1) or ([], []), depth + 1)
        ]

    def _list(self, folder: Path, depth: int) -> Listing | None:
        """What a folder holds, real entries before links, in name order, without hidden and excluded ones.

        None where it was listed before or cannot be listed. That is reported, unless several roots lead to the same path.
        """
        if depth > MAX_DEPTH:
            self._remark(folder, f"limit exceeded: nested deeper than {MAX_DEPTH} folders", True)
            return None
        earlier = self._listed.setdefault(os.path.realpath(folder), folder)
        if earlier is not folder:
            self._outcomes += 1
            if earlier != folder:
                self._remark(folder, f"the same folder as {path_text(earlier)}", False)
            return None
        try:
            with os.scandir(folder) as scan:
                entries = [entry for entry in scan if not entry.name.startswith(".") and entry.name != "__pycache__"]
        except OSError as error:
            self._remark(folder, f"cannot be listed: {error.strerror or error}", True)
            return None
        return self._sorted_entries(entries)

    def _sorted_entries(self, entries: Sequence[os.DirEntry[str]]) -> Listing:
        files, folders = [], []
        for entry in sorted(entries, key=lambda entry: (entry.is_symlink(), entry.name)):
            path = Path(entry.path)
            if any(path.match(glob) for glob in self._excludes):
                continue
            kind = _kind(path)
            if kind == "folder":
                folders.append(path)
            elif kind == "file":
                files.append(path)
            elif kind == "none":
                self._remark(path, "a link that leads nowhere" if entry.is_symlink() else "cannot be read", True)
        return files, folders

    def _remark(self, path: Path, what: str, is_failure: bool) -> None:
        self.remarks.append((path, what, is_failure))
        self._outcomes += is_failure

    def _add(self, *models: FoundModel) -> None:
        self.models += models
        self._outcomes += len(models)


def _joined(earlier: FoundModel | None, model: FoundModel, folder: Path, top: Path) -> FoundModel:
    """A model with its real folder and its name, its files joined to those that an earlier root led to."""
    if earlier is None:
        name, revision = _hub_name(model.folder) or (_path_below(model.folder, top), None)
        if model.weight_files == (model.folder,):
            name = name.removesuffix(model.folder.suffix)
        earlier = FoundModel(name, folder, revision=revision)
    analyses = [real_path(model.folder, path) for path in model.analysis_files]
    results = [real_path(model.folder, path) for path in model.result_files]
    return replace(
        earlier,
        analysis_files=tuple(dict.fromkeys((*earlier.analysis_files, *analyses))),
        result_files=tuple(dict.fromkeys((*earlier.result_files, *results))),
        weight_files=tuple(dict.fromkeys((*earlier.weight_files, *model.weight_files))),
        sliced_name=earlier.sliced_name or model.sliced_name,
    )


def _path_below(path: Path, top: Path) -> str:
    return path_text(path if path == top else path.relative_to(top))


def _kind(path: Path) -> str:
    """file, folder, other, or none where there is nothing that can be looked at."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return "none"
    return "file" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else "other"


def _nothing_in(folder: Path) -> tuple[str, bool]:
    """The remark that a folder holds nothing to take, and whether that is a failure: it is for an empty folder."""
    is_empty = not any(files for _, _, files in os.walk(folder))
    return (f"empty folder: {NOTHING}" if is_empty else NOTHING), is_empty


def _hub_name(folder: Path) -> tuple[str, str] | None:
    """`org/name` and the revision of a folder of a hub cache, `models--org--name/snapshots/REVISION`; None for another one."""
    match = HUB_FOLDER.fullmatch(path_text(folder))
    return (match[1].replace("--", "/") + match[3], match[2]) if match else None
