"""Walk roots: which folders are models, what they are called, and what was passed over and why."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath

from layerhouse.errors import InputError, UsageError
from layerhouse.file_door import kind_text
from layerhouse.ingest.checkpoint.containers.sniff import unread_weights
from layerhouse.ingest.checkpoint.file_names import DCP_METADATA, is_weight_file
from layerhouse.ingest.checkpoint.guard import NO_TRACEBACKS, Guard
from layerhouse.ingest.checkpoint.hub_cache import Snapshot, commits_with_weights, read_snapshot
from layerhouse.ingest.checkpoint.ranks import rank_sets, training_state
from layerhouse.ingest.checkpoint.symlinks import lead_out_text, leads_out
from layerhouse.ingest.folder_files import EVALUATION, FileSorter, is_needed, real_path
from layerhouse.ingest.model_files import FoundModel, path_text
from layerhouse.ingest.result_files import ResultFiles
from layerhouse.ingest.study.file_names import ANALYSIS_NAMES
from layerhouse.warehouse.storage.inventory import Inventory

MARKER = "layerhouse.json"
ANALYSIS, WEIGHTS = "analysis", "pruned_model"
"""Folders whose files belong to the model that the folder lies in, as do those of EVALUATION."""
MAX_DEPTH = 64
NOTHING = "no weights, no analysis, no results"
WEIGHTS_PROMISED = re.compile(r"config\.json|.+\.index\.json")
HUB_PREFIXES = ("models--", "datasets--", "spaces--")
HUB_STORES = ("blobs", "refs")
"""Folders beside the snapshots of a hub cache; what they hold is met in the snapshots."""


@dataclass(frozen=True)
class Listing:
    """The files and the folders in a folder, none of them if it is a warehouse."""

    files: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    is_warehouse: bool = False


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
    roots: Sequence[Path],
    *,
    excludes: Sequence[str] = (),
    name: str | None = None,
    result_files: ResultFiles | None = None,
    guard: Guard = NO_TRACEBACKS,
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
    models, remarks = _walk_roots(roots, tuple(excludes), result_files or ResultFiles(Inventory()), guard)
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
    roots: Sequence[Path], excludes: tuple[str, ...], result_files: ResultFiles, guard: Guard
) -> tuple[dict[Path, FoundModel], list[Remark]]:
    """The models by their real folders, and remarks."""
    models: dict[Path, FoundModel] = {}
    snapshots: dict[Path, Snapshot] = {}
    remarks: list[Remark] = []
    listed: dict[str, Path] = {}
    for given in map(_named, roots):
        root = Path(os.path.abspath(given))
        walk = _Walk(excludes, listed, result_files, guard)
        top = walk.start(root)
        remarks += [Remark(_shown(path, root, given), what, is_failure) for path, what, is_failure in walk.remarks]
        if top is None:
            continue
        for model in walk.models:
            folder = Path(os.path.realpath(model.folder))
            if folder not in models and (snapshot := read_snapshot(path_text(model.folder))):
                snapshots[folder] = replace(snapshot, below=_model_name(snapshot.below, model))
            name = _path_below(model.folder, top)
            models[folder] = _joined(models.get(folder), model, folder, name, _shown(model.folder, root, given))
    return models | _named_snapshots(models, snapshots), remarks


class _Walk:
    """One walk below a root. A model's name is a path from the root's parent; from the parent of the folder above for a root
    that is itself a model. So names and displayed paths are made when the walk is over.
    """

    def __init__(self, excludes: tuple[str, ...], listed: dict[str, Path], result_files: ResultFiles, guard: Guard) -> None:
        """`listed` are the folders that were walked before, by their real path."""
        self._excludes, self._listed, self._guard = excludes, listed, guard
        self._sorter = FileSorter(result_files, self._remark, guard)
        self.models: list[FoundModel] = []
        self.remarks: list[tuple[Path, str, bool]] = []
        self._outcomes = 0
        """Models, failures and folders met again: where it does not grow, there is nothing in a folder."""
        self._files = 0
        """Folders with files: where it does not grow, a folder is empty."""
        self._lost_weights: set[Path] = set()
        self._unread = dict[Path, str | None]()
        """Folders with weight files that are a failure."""
        self._reals: dict[Path, str] = {}
        self._links: set[Path] = set()
        """Folders that are links."""

    def start(self, root: Path) -> Path | None:
        """Walk below a root. Returns the folder that names are relative to; None where there is no root."""
        kind = _kind(root)
        if kind not in ("file", "folder"):
            self._remark(root, _no_root(root), True)
            return None
        with self._reading(root):
            return self._start_file(root) if kind == "file" else self._start_folder(root)
        return None

    def _start_file(self, path: Path) -> Path:
        """A root that is a file: one result, one analysis, or a weight file as a model of its own."""
        model = None
        if path.name == DCP_METADATA:
            raise InputError(path_text(path), "the index of a distributed checkpoint; name its folder instead")
        with self._reading(path):
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
        before, before_files = self._outcomes, self._files
        if _kind(root / MARKER) == "file":
            self._remark(root, "a layerhouse warehouse; name folders of models", True)
        elif (listing := self._list(root, 0)) is not None:
            if state := training_state(root.name, listing.files, listing.folders, is_in_model=False):
                self._remark(root, state, True)
            elif root.name == EVALUATION:
                with self._reading(root):
                    self._add(*self._sorter.models_of(home, [], [], self._files_below(home, listing, 0)))
            else:
                self._visit(home, listing, 0, inside_model=False)
            if self._outcomes == before:
                self._remark(root, self._unread.get(root) or _nothing_text(is_empty=self._files == before_files), True)
        return home.parent.parent if any(model.folder == home for model in self.models) else root.parent

    def _visit(self, folder: Path, listing: Listing, depth: int, *, inside_model: bool) -> None:
        """Take the folder if it is a model, then look below it. The files of its `analysis/` and `pruned_model/` count as its
        own; everything below `evaluation/` does.
        """
        before, nothing = self._outcomes, list[tuple[Path, bool]]()
        files, subfolders, evaluated = self._gather(folder, listing, depth)
        own: list[FoundModel] = []
        with self._reading(folder):
            own = self._sorter.models_of(folder, files, subfolders, evaluated)
        self._add(*own)
        promise = next((path.name for path in files if WEIGHTS_PROMISED.fullmatch(path.name)), None)
        if not (own or inside_model or subfolders):
            unread = self._unread[folder] = unread_weights(files, path_text(folder))
            if promise and folder not in self._lost_weights:
                self._remark(folder, unread or f"{promise} without weights; fetch them, or take the folder out", True)
        is_inside, has_weights = inside_model or bool(own), any(model.weight_files for model in own)
        for ranks in rank_sets(subfolders):
            subfolders = [subfolder for subfolder in subfolders if subfolder not in ranks.folders]
            self._remark(folder, ranks.text, not has_weights)
        for subfolder in subfolders:
            before_subfolder, before_files = self._outcomes, self._files
            if (below := self._list(subfolder, depth + 1, folder if is_inside else None)) is not None:
                if below.is_warehouse:
                    self._remark(subfolder, "a layerhouse warehouse", False)
                    continue
                if state := training_state(subfolder.name, below.files, below.folders, is_in_model=has_weights):
                    self._remark(subfolder, state, False)
                    self._files += 1
                    continue
                if below.files or below.folders:
                    self._visit(subfolder, below, depth + 1, inside_model=is_inside)
                if self._outcomes == before_subfolder:
                    nothing.append((subfolder, self._files == before_files))
        if self._outcomes > before and not is_inside:
            for subfolder, is_empty in nothing:
                self._remark(subfolder, self._unread.get(subfolder) or _nothing_text(is_empty=is_empty), is_empty)

    def _gather(self, folder: Path, listing: Listing, depth: int) -> tuple[list[Path], list[Path], list[Path]]:
        """The files of a model's folder, the folders in it that are no parts of a model, and the files below `evaluation/`."""
        files, folders, evaluated = [*listing.files], list[Path](), list[Path]()
        for entry in listing.folders:
            if entry.name not in (ANALYSIS, WEIGHTS, EVALUATION):
                folders.append(entry)
            elif (part := self._list(entry, depth + 1, folder)) is not None:
                if entry.name == EVALUATION:
                    evaluated += self._files_below(folder, part, depth + 1)
                else:
                    files += part.files
                    folders += part.folders
        return files, folders, evaluated

    def _files_below(self, home: Path, listing: Listing, depth: int) -> list[Path]:
        """The files in and below a folder of the model in `home`."""
        files = [*listing.files]
        for folder in listing.folders:
            if (below := self._list(folder, depth + 1, home)) is not None:
                files += self._files_below(home, below, depth + 1)
        return files

    def _list(self, folder: Path, depth: int, home: Path | None = None) -> Listing | None:
        """What a folder holds, real entries before links, in name order, without hidden and excluded ones.

        None where it was listed before or cannot be listed, and where it belongs to the model in `home` and is a link that
        leads out. That is reported, unless several roots lead to the same path.
        """
        if depth > MAX_DEPTH:
            self._remark(folder, f"limit exceeded: nested deeper than {MAX_DEPTH} folders", True)
            return None
        real = self._real(folder)
        earlier = self._listed.setdefault(real, folder)
        if earlier is not folder:
            self._outcomes += 1
            if earlier != folder:
                self._remark(folder, f"the same folder as {path_text(earlier)}", False)
            return None
        if home is not None and leads_out(home, folder):
            del self._listed[real]
            is_part = not {ANALYSIS, EVALUATION, WEIGHTS}.isdisjoint(folder.relative_to(home).parts)
            self._remark(folder, lead_out_text(folder), is_part)
            return None
        with self._reading(folder):
            try:
                with os.scandir(folder) as scan:
                    entries = list(scan)
            except OSError as error:
                raise InputError(path_text(folder), f"cannot be listed: {error.strerror or error}") from error
            return self._sorted_entries(folder, entries)
        return None

    def _sorted_entries(self, folder: Path, entries: Sequence[os.DirEntry[str]]) -> Listing:
        if any(entry.name == MARKER and _entry_kind(entry) == "file" for entry in entries):
            self._files += 1
            return Listing(is_warehouse=True)
        listing, left_out = Listing(), list[str]()
        is_repository = folder.name.startswith(HUB_PREFIXES)
        for entry in sorted(entries, key=lambda entry: (entry.is_symlink(), entry.name)):
            path = Path(entry.path)
            is_unseen = entry.name.startswith(".") or entry.name == "__pycache__"
            if is_unseen or (is_repository and entry.name in HUB_STORES) or any(path.match(glob) for glob in self._excludes):
                left_out.append(entry.path)
            elif (kind := _entry_kind(entry)) == "folder":
                listing.folders.append(path)
                if entry.is_symlink():
                    self._links.add(path)
            elif kind == "file":
                listing.files.append(path)
            else:
                self._remark(path, *_special(path))
        if any(_entry_kind(entry) != "folder" for entry in entries) or any(
            files for top in left_out for *_, files in os.walk(top)
        ):
            self._files += 1
        return listing

    def _reading(self, path: Path) -> AbstractContextManager[None]:
        """Whatever goes wrong within the block is a failure of this file or folder."""
        return self._guard.reading(path_text(path), lambda error: self._remark(path, error.what, True))

    def _remark(self, path: Path, what: str, is_failure: bool) -> None:
        self.remarks.append((path, what, is_failure))
        self._outcomes += is_failure
        if is_failure and is_weight_file(path.name):
            self._lost_weights.add(path.parent)

    def _real(self, folder: Path) -> str:
        """The real path of a folder; no link is looked up for one in a folder that was listed."""
        around = self._reals.get(folder.parent)
        is_known = around is not None and folder not in self._links
        real = f"{str(around).rstrip('/')}/{folder.name}" if is_known else os.path.realpath(folder)
        self._reals[folder] = real
        return real

    def _add(self, *models: FoundModel) -> None:
        self.models += models
        self._outcomes += len(models)


def _named_snapshots(models: Mapping[Path, FoundModel], snapshots: Mapping[Path, Snapshot]) -> dict[Path, FoundModel]:
    """The models of hub caches with their names and revisions. Snapshots that hold weights count, whether or not they are below
    the roots, so that a model's name does not depend on these.
    """
    commits: dict[str, set[str]] = {}
    for snapshot in snapshots.values():
        commits.setdefault(snapshot.cache, commits_with_weights(snapshot.cache)).add(snapshot.commit)
    named = {}
    for folder, snapshot in snapshots.items():
        name = snapshot.model_name(commits[snapshot.cache])
        named[folder] = replace(models[folder], model_id=name, revision=snapshot.commit)
    return named


def _joined(earlier: FoundModel | None, model: FoundModel, folder: Path, name: str, shown: str) -> FoundModel:
    """A model with its real folder and its name, its files joined to those that an earlier root led to."""
    if earlier is None:
        earlier = FoundModel(_model_name(name, model), folder, shown=shown)
    analyses = [real_path(model.folder, path) for path in model.analysis_files]
    results = [real_path(model.folder, path) for path in model.result_files]
    return replace(
        earlier,
        analysis_files=tuple(dict.fromkeys((*earlier.analysis_files, *analyses))),
        result_files=tuple(dict.fromkeys((*earlier.result_files, *results))),
        weight_files=tuple(dict.fromkeys((*earlier.weight_files, *model.weight_files))),
        sliced_name=earlier.sliced_name or model.sliced_name,
    )


def _model_name(name: str, model: FoundModel) -> str:
    """The name of a model by its path; that of a weight file without its suffix."""
    if model.weight_files != (model.folder,):
        return name
    return name.removesuffix(model.folder.suffix).removesuffix(".pth")  # of x.pth.tar


def _path_below(path: Path, top: Path) -> str:
    return path_text(path if path == top else path.relative_to(top))


def _named(root: Path) -> Path:
    """What the user names by a root: by a link to a result or an analysis, the file that it leads to."""
    is_result = _kind(root) == "file" and not is_weight_file(root.name)
    return Path(os.path.realpath(root)) if is_result and root.is_symlink() else root


def _shown(path: Path, root: Path, given: Path) -> str:
    """A path in messages: it leads there from where the user stands. `given` is how the user wrote the root."""
    if path.is_relative_to(root):
        return path_text(given / path.relative_to(root))
    for _ in range(len(root.parts) - len(path.parts)):
        if given.name in ("", ".."):
            return path_text(path)
        given = given.parent
    return path_text(given)


def _kind(path: Path) -> str:
    """file, folder, other, or none where there is nothing that can be looked at."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return "none"
    return "file" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else "other"


def _entry_kind(entry: os.DirEntry[str]) -> str:
    """As `_kind`, without another call of the system for most entries."""
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else "other"
    except OSError:
        return "none"


def _no_root(root: Path) -> str:
    """Why a root cannot be walked."""
    try:
        return f"neither a file nor a folder: it is {kind_text(root.stat().st_mode)}"
    except FileNotFoundError:
        return "no such file or folder"
    except (OSError, ValueError) as error:
        return f"cannot be read: {getattr(error, 'strerror', None) or error}"


def _special(path: Path) -> tuple[str, bool]:
    """The remark on what is neither a file nor a folder, and whether that is a failure: it is where a model needs the file."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return ("a link that leads nowhere" if path.is_symlink() else "cannot be read"), True
    return f"is {kind_text(mode)}, not a file, and is not opened", is_needed(path)


def _nothing_text(*, is_empty: bool) -> str:
    return f"empty folder: {NOTHING}" if is_empty else NOTHING
