"""Walk roots: which folders are models, what each holds, what was passed over and why. Reads names, and JSON only to tell
whether a file of an unknown name is a result."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath

from layerhouse.errors import InputError, UsageError
from layerhouse.ingest.checkpoint.file_names import SLICEGPT_SUFFIX
from layerhouse.ingest.checkpoint.slicegpt import is_pair
from layerhouse.ingest.checkpoint.symlinks import leads_out
from layerhouse.ingest.results.documents import (
    HARNESS_NAME,
    is_text_file,
    may_be_result,
    read_document,
)
from layerhouse.ingest.results.registry import recognise
from layerhouse.ingest.study.file_names import ANALYSIS_NAMES, REMOVAL_NAME
from layerhouse.warehouse.study.written_files import is_recorded, recorded_files

MARKER = "layerhouse.json"
ANALYSIS, EVALUATION, WEIGHTS = "analysis", "evaluation", "pruned_model"
MAX_DEPTH = 64
NOTHING = "no weights, no analysis, no results"
NO_RESULT = "not a result of a known form, nor an analysis by its name; a table with model, task, metric and value is one"
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".ckpt")
NO_WEIGHTS = re.compile(
    r"(training_args|optimizer|scheduler|scaler|rng_state|random_states|trainer_state|all_checkpoint)[^/]*",
    re.IGNORECASE,
)
# JSON that stands beside weights and is neither an analysis nor a result.
SIDECARS = re.compile(
    r"(.*config|.*\.index|tokenizer.*|vocab|.*vocab|special_tokens_map|added_tokens|merges|params|trainer_state|recipe"
    r"|chat_template|reserved_layers|layer_mapping|batch_analysis_results|run_spec|scenario_state|per_instance_stats|benchmark)\.json",
    re.IGNORECASE,
)
WEIGHTS_PROMISED = re.compile(r"config\.json|.+\.index\.json")
HUB_FOLDER = re.compile(r".*/models--([^/]+)/snapshots/([^/]+)((?:/.*)?)", re.DOTALL)

Listing = tuple[list[Path], list[Path]]
"""The files and the folders in a folder."""


@dataclass(frozen=True)
class FoundModel:
    """One model: its name, its real folder, and its files. `revision` is that of a hub cache folder.

    A weight file that is a model of its own is its own `folder`. `sliced_name` is the stem of SliceGPT's pair of files.
    """

    model_id: str
    folder: Path
    analysis_files: tuple[Path, ...] = ()
    result_files: tuple[Path, ...] = ()
    weight_files: tuple[Path, ...] = ()
    revision: str | None = None
    sliced_name: str | None = None


@dataclass(frozen=True)
class Remark:
    """Something that was not taken, and why; a failure is one that the user has to know by the exit code."""

    where: str
    what: str
    is_failure: bool


@dataclass
class Discovery:
    """What a walk found."""

    models: list[FoundModel] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)


def path_text(path: Path | str) -> str:
    """A path as text: POSIX separators, bytes that are no UTF-8 as visible escapes."""
    text = path.as_posix() if isinstance(path, Path) else path
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def discover(roots: Sequence[Path], *, excludes: Sequence[str] = (), name: str | None = None) -> Discovery:
    """Find every model below the roots, by its real path: each is taken once, under the name that it is first met by.

    `excludes` are globs that are matched from the right: on a name, or on a path such as `results/*_finetuned`. `name` renames
    the one model found; raises UsageError if there are more.
    """
    for glob in excludes:
        if not PurePath(glob).parts:
            raise UsageError(f"--exclude {glob!r}: an empty glob")
    if name is not None and not name.strip():
        raise UsageError("--name is empty")
    walk = _Walk(tuple(excludes))
    for root in roots:
        walk.start(Path(os.path.abspath(root)))
    discovery = Discovery(remarks=walk.remarks)
    if name is not None and len(walk.models) > 1:
        found = ", ".join([model.model_id for model in walk.models.values()][:5])
        raise UsageError(f"--name names one model; found {len(walk.models)}: {found}")
    folders: dict[str, Path] = {}
    for real, model in walk.models.items():
        model_id = model.model_id if name is None else name
        other = folders.setdefault(model_id, real)
        if other == real:
            discovery.models.append(replace(model, model_id=model_id))
        else:
            what = f"its name {model_id!r} is that of {path_text(other)}; take one of them alone, with --name NAME"
            discovery.remarks.append(Remark(path_text(real), what, is_failure=True))
    return discovery


class _Walk:
    """What the roots hold. A name is a path from the root's parent; from the parent of the folder above for a root that is
    itself a model."""

    def __init__(self, excludes: tuple[str, ...]) -> None:
        self.excludes = excludes
        self.models: dict[Path, FoundModel] = {}
        self.remarks: list[Remark] = []
        self.listed: dict[str, Path] = {}
        self.recorded: dict[Path, dict[str, str]] = {}
        self.found: list[tuple[Path, FoundModel]] = []
        self.said: list[tuple[Path, str, bool]] = []
        # Models found, failures said and folders met again: where it does not grow, there is nothing in a folder.
        self.outcomes = 0

    def start(self, root: Path) -> None:
        """Walk below one root; names are given at its end, when it is known whether the root is a model."""
        self.found, self.said = [], []
        kind = _kind(root)
        if kind == "file":
            top = self._start_file(root)
        elif kind == "folder":
            top = self._start_folder(root)
        else:
            what = "neither a file nor a folder" if kind == "other" else "no such file or folder"
            self.remarks.append(Remark(path_text(root), what, is_failure=True))
            return
        self.remarks += [Remark(_shown(path, top), what, is_failure) for path, what, is_failure in self.said]
        for folder, own in self.found:
            self._add(folder, own, top)

    def _start_file(self, path: Path) -> Path:
        """A root that is a file: one result, one analysis, or a weight file as a model of its own."""
        if _is_weight_file(path.name):
            stem = path.stem if is_pair(path) else None
            self._find(path, FoundModel("", path, weight_files=(path,), sliced_name=stem))
            return path.parent.parent
        folder = path.parent.parent if path.parent.name in (ANALYSIS, EVALUATION, WEIGHTS) else path.parent
        if path.name in ANALYSIS_NAMES:
            self._find(folder, FoundModel("", folder, analysis_files=(path,)))
        elif self._is_result(path, is_claimed=True, is_named=True):
            self._find(folder, FoundModel("", folder, result_files=(path,)))
        return folder.parent.parent

    def _start_folder(self, root: Path) -> Path:
        """A root that is a folder; `analysis/`, `evaluation/` and `pruned_model/` stand for that part of their parent."""
        home = root.parent if root.name in (ANALYSIS, EVALUATION, WEIGHTS) else root
        before = self.outcomes
        if _kind(root / MARKER) == "file":
            self._say(root, "a layerhouse warehouse; name folders of models", is_failure=True)
        elif (listing := self._list(root, 0)) is not None:
            if root.name == EVALUATION:
                self._take_own(home, [], [], self._files_below(listing, 0))
            else:
                self._visit(home, listing, 0, inside_model=False)
            if self.outcomes == before:
                self._say(root, _nothing_in(root)[0], is_failure=True)
        return home.parent.parent if any(folder == home for folder, _ in self.found) else root.parent

    def _visit(self, folder: Path, listing: Listing, depth: int, *, inside_model: bool) -> None:
        """Take the folder if it is a model, then look below it. What lies in its `analysis/` and `pruned_model/` counts as
        lying in itself; everything below `evaluation/` is its own."""
        before, nothing = self.outcomes, []
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
        others = [entry for entry in folders if entry.name != EVALUATION]
        is_model = self._take_own(folder, files, others, evaluated)
        promise = next((path.name for path in files if WEIGHTS_PROMISED.fullmatch(path.name)), None)
        if promise and not (is_model or inside_model or others):
            self._say(folder, f"{promise} without weights; fetch them, or take the folder out", is_failure=True)
        for entry in others:
            before_entry = self.outcomes
            if _kind(entry / MARKER) == "file":
                self._say(entry, "a layerhouse warehouse", is_failure=False)
            elif (below := self._list(entry, depth + 1)) is not None:
                self._visit(entry, below, depth + 1, inside_model=inside_model or is_model)
                if self.outcomes == before_entry:
                    nothing.append(entry)
        if self.outcomes > before and not inside_model and not is_model:
            for entry in nothing:
                self._say(entry, *_nothing_in(entry))

    def _take_own(self, folder: Path, files: list[Path], others: list[Path], evaluated: list[Path]) -> bool:
        """Take a folder as a model if it has files of one. `others` are folders in it that are no parts of a model."""
        files, evaluated = ([path for path in part if self._stays(folder, path)] for part in (files, evaluated))
        weights = [path for path in files if _is_weight_file(path.name)]
        pairs = [path for path in weights if is_pair(path)]
        singles = [path for path in weights if path.suffix.lower() == SLICEGPT_SUFFIX] if pairs else []
        if len(singles) > 1:  # SliceGPT saves into one folder: every file is a model
            weights = [path for path in weights if path not in singles]
            for path in singles:
                self._find(path, FoundModel("", path, weight_files=(path,), sliced_name=path.stem))
        analyses = {path.name: path for path in files if path.name in ANALYSIS_NAMES}
        if weights:  # What layerhouse wrote beside them says nothing that they do not.
            analyses = {name: path for name, path in analyses.items() if not self._is_own(path)}
        for path in files:
            if path != analyses.get(path.name, path):
                self._say(path, f"{_shown(analyses[path.name], folder)} is taken", is_failure=False)
        # A loose file claims to be a result where there is nothing else that it could belong to.
        is_alone = not (weights or pairs or others or any(path.name == "config.json" for path in files))
        slicings = {path.with_suffix(".json") for path in pairs}
        loose = [
            path
            for path in files
            if path.name not in ANALYSIS_NAMES and not SIDECARS.fullmatch(path.name) and path not in slicings
        ]
        results = [
            path
            for path in loose
            if may_be_result(path) and self._is_result(path, is_claimed=is_alone and path.parent == folder)
        ]
        results += [path for path in evaluated if may_be_result(path) and self._is_result(path, is_claimed=True)]
        if [*analyses] == [REMOVAL_NAME]:
            self._say(analyses.pop(REMOVAL_NAME), "alone it says nothing of the model's own layers", is_failure=False)
        if analyses or results or weights:
            stem = pairs[0].stem if len(pairs) == 1 and pairs[0] in weights else None
            own = FoundModel("", folder, tuple(analyses.values()), tuple(results), tuple(weights), sliced_name=stem)
            self._find(folder, own)
        return bool(analyses or results or weights or singles[1:])

    def _is_own(self, path: Path) -> bool:
        recorded = self.recorded.get(path.parent)
        if recorded is None:
            recorded = self.recorded[path.parent] = recorded_files(path.parent)
        return is_recorded(path, recorded)

    def _stays(self, folder: Path, path: Path) -> bool:
        """Whether a JSON file lies in the model's folder; a link that leads out of it is a failure."""
        if not (may_be_result(path) and leads_out(folder, path)):
            return True
        what = f"a link that leads out of the model's folder, to {os.path.realpath(path)}: put the file there"
        self._say(path, what, is_failure=True)
        return False

    def _is_result(self, path: Path, *, is_claimed: bool, is_named: bool = False) -> bool:
        """Whether a file is a result. JSON that claims to be one (it lies in `evaluation/`, or a user named it) and is not, is
        a failure, and so is JSON that cannot be read; else it is passed over. Of other text nothing is said, unless the
        user named it."""
        if HARNESS_NAME.fullmatch(path.name) and path.is_file():
            return True  # It claims to be one by its name, and is read when it is taken.
        is_text = is_text_file(path) and not is_named
        try:
            if recognise(read_document(path, path_text(path))[1], path) is not None:
                return True
        except InputError as error:
            if not is_text or is_claimed:
                self._say(path, error.what, is_failure=True)
        else:
            if not is_text:
                self._say(path, NO_RESULT, is_failure=is_claimed)
        return False

    def _files_below(self, listing: Listing, depth: int) -> list[Path]:
        files, folders = listing
        return files + [
            path for folder in folders for path in self._files_below(self._list(folder, depth + 1) or ([], []), depth + 1)
        ]

    def _list(self, folder: Path, depth: int) -> Listing | None:
        """What a folder holds, real entries before links, in name order, without hidden and excluded ones.

        None where it has been listed before or cannot be; that is said, but not of a folder that several roots lead to.
        """
        if depth > MAX_DEPTH:
            self._say(folder, f"limit exceeded: nested deeper than {MAX_DEPTH} folders", is_failure=True)
            return None
        earlier = self.listed.setdefault(os.path.realpath(folder), folder)
        if earlier is not folder:
            self.outcomes += 1
            if earlier != folder:
                self._say(folder, f"the same folder as {path_text(earlier)}", is_failure=False)
            return None
        try:
            with os.scandir(folder) as scan:
                entries = [entry for entry in scan if not entry.name.startswith(".") and entry.name != "__pycache__"]
        except OSError as error:
            self._say(folder, f"cannot be listed: {error.strerror or error}", is_failure=True)
            return None
        files, folders = [], []
        for entry in sorted(entries, key=lambda entry: (entry.is_symlink(), entry.name)):
            path = Path(entry.path)
            if any(path.match(glob) for glob in self.excludes):
                continue
            kind = _kind(path)
            if kind == "folder":
                folders.append(path)
            elif kind == "file":
                files.append(path)
            elif kind == "none":
                what = "a link that leads nowhere" if entry.is_symlink() else "cannot be read"
                self._say(path, what, is_failure=True)
        return files, folders

    def _say(self, path: Path, what: str, is_failure: bool) -> None:
        self.said.append((path, what, is_failure))
        self.outcomes += is_failure

    def _find(self, folder: Path, own: FoundModel) -> None:
        self.found.append((folder, own))
        self.outcomes += 1

    def _add(self, folder: Path, own: FoundModel, top: Path) -> None:
        """Keep what was found of a model, its files by the real path of its folder, beside what other roots gave of it."""
        real = Path(os.path.realpath(folder))
        name, revision = _hub_name(folder) or (_shown(folder, top), None)
        if own.weight_files == (folder,):
            name = name.removesuffix(folder.suffix)
        earlier = self.models.get(real, FoundModel(name, real, revision=revision))
        analyses = [real / path.relative_to(folder) for path in own.analysis_files]
        results = [real / path.relative_to(folder) for path in own.result_files]
        self.models[real] = replace(
            earlier,
            analysis_files=tuple(dict.fromkeys((*earlier.analysis_files, *analyses))),
            result_files=tuple(dict.fromkeys((*earlier.result_files, *results))),
            weight_files=tuple(dict.fromkeys((*earlier.weight_files, *own.weight_files))),
            sliced_name=earlier.sliced_name or own.sliced_name,
        )


def _shown(path: Path, top: Path) -> str:
    return path_text(path if path == top else path.relative_to(top))


def _kind(path: Path) -> str:
    """file, folder, other, or none where there is nothing that can be looked at."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return "none"
    return "file" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else "other"


def _nothing_in(folder: Path) -> tuple[str, bool]:
    """That a folder holds nothing of ours, and whether that is a failure: an empty one is."""
    is_empty = not any(files for _, _, files in os.walk(folder))
    return (f"empty folder: {NOTHING}" if is_empty else NOTHING), is_empty


def _is_weight_file(name: str) -> bool:
    return name.lower().endswith(WEIGHT_SUFFIXES) and not NO_WEIGHTS.fullmatch(name)


def _hub_name(folder: Path) -> tuple[str, str] | None:
    """A folder of a hub cache, `models--org--name/snapshots/REVISION`: `org/name` and the revision."""
    found = HUB_FOLDER.fullmatch(path_text(folder))
    return (found[1].replace("--", "/") + found[3], found[2]) if found else None
