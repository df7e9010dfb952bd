"""Walk roots: which folders are models, what each holds, what was passed over and why. Reads names, and JSON only to tell
whether a file of an unknown name is a result."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from layerhouse.ingest.analyses import ANALYSIS_NAMES, REMOVAL_NAME
from layerhouse.ingest.json_files import read_json
from layerhouse.ingest.results import recognise
from layerhouse.warehouse.errors import InputError, UsageError

MARKER = "layerhouse.json"
ANALYSIS, EVALUATION, WEIGHTS = "analysis", "evaluation", "pruned_model"
MODEL_PARTS = (ANALYSIS, EVALUATION, WEIGHTS)
MAX_DEPTH = 64
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".ckpt")
NO_WEIGHTS = re.compile(
    r"(training_args|optimizer|scheduler|scaler|rng_state|random_states|trainer_state|all_checkpoint)[^/]*",
    re.IGNORECASE,
)
# JSON that stands beside weights and is neither an analysis nor a result.
SIDECARS = re.compile(
    r"(.*config|.*\.index|tokenizer.*|vocab|.*vocab|special_tokens_map|added_tokens|merges|params|trainer_state|recipe"
    r"|chat_template|reserved_layers|layer_mapping|batch_analysis_results)\.json",
    re.IGNORECASE,
)
PER_SAMPLE = re.compile(r"samples_.*\.jsonl?|.*\.pytorch\.json", re.IGNORECASE)


@dataclass(frozen=True)
class FoundModel:
    """One model: its name, its real folder, and its files. `revision` is that of a hub cache folder."""

    model_id: str
    folder: Path
    analysis_files: tuple[Path, ...] = ()
    result_files: tuple[Path, ...] = ()
    weight_files: tuple[Path, ...] = ()
    revision: str | None = None


@dataclass(frozen=True)
class Remark:
    """Something that was not taken, and why; a failure is one that the user has to know by the exit code."""

    where: str
    what: str
    is_failure: bool


@dataclass
class Discovery:
    """What a walk found. Folders are known by their real path: each is visited once, under the name it is first met by."""

    models: list[FoundModel] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)
    folders_by_name: dict[str, Path] = field(default_factory=dict)
    names_by_visited: dict[str, str] = field(default_factory=dict)

    def fail(self, where: str, what: str) -> None:
        self.remarks.append(Remark(where, what, is_failure=True))

    def pass_over(self, where: str, what: str) -> None:
        self.remarks.append(Remark(where, what, is_failure=False))


def path_text(path: Path | str) -> str:
    """A path as text: POSIX separators, bytes that are no UTF-8 as visible escapes."""
    text = path.as_posix() if isinstance(path, Path) else path
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def discover(roots: Sequence[Path], *, excludes: Sequence[str] = (), name: str | None = None) -> Discovery:
    """Find every model below the roots. `excludes` are globs on the path from the root's parent, or on a part of it.

    `name` renames the one model that is found; raises UsageError if there is not exactly one.
    """
    discovery = Discovery()
    for root in roots:
        _Walk(discovery, Path(os.path.abspath(root)), tuple(excludes)).start()
    if name is not None:
        if len(discovery.models) != 1:
            found = ", ".join(model.model_id for model in discovery.models[:5])
            raise UsageError(f"--name names one model; found {len(discovery.models)}{f': {found}' if found else ''}")
        model = discovery.models[0]
        discovery.models = [replace(model, model_id=name)]
    return discovery


class _Walk:
    """The walk below one root. Paths are shown from the root's parent, as the model names are."""

    def __init__(self, discovery: Discovery, root: Path, excludes: tuple[str, ...]) -> None:
        if root.name in MODEL_PARTS and root.is_dir():
            root = root.parent
        self.discovery, self.root, self.excludes = discovery, root, excludes

    def shown(self, path: Path) -> str:
        return path_text(path.relative_to(self.root.parent)) or path_text(path)

    def start(self) -> None:
        if not os.path.lexists(self.root):
            self.discovery.fail(path_text(self.root), "no such file or folder")
        elif self.root.is_file():
            self._take_file(self.root)
        elif self.root.is_dir():
            if self.root.joinpath(MARKER).is_file():
                self.discovery.fail(self.shown(self.root), "a layerhouse warehouse; name folders of models")
            elif not self._visit(self.root, 0, inside_model=False):
                what = "no weights, no analysis, no results"
                self.discovery.fail(self.shown(self.root), what if any(self._entries(self.root)) else f"empty folder: {what}")
        else:
            self.discovery.fail(path_text(self.root), "neither a file nor a folder")

    def _take_file(self, path: Path) -> None:
        """A root that is a file: one result, one analysis, or a weight file as a model of its own."""
        shown = self.shown(path)
        if _is_weight_file(path.name):
            self._add(path, shown.removesuffix(path.suffix), FoundModel("", path, weight_files=(path,)))
            return
        folder = path.parent.parent if path.parent.name in MODEL_PARTS else path.parent
        name = path_text(folder.relative_to(folder.parent.parent))
        if path.name in ANALYSIS_NAMES:
            self._add(folder, name, FoundModel("", folder, analysis_files=(path,)))
        elif self._is_result(path, is_claimed=True):
            self._add(folder, name, FoundModel("", folder, result_files=(path,)))

    def _visit(self, folder: Path, depth: int, *, inside_model: bool) -> bool:
        """Take the folder if it is a model, then look below it; true if anything was found in it or below."""
        if depth > MAX_DEPTH:
            self.discovery.fail(self.shown(folder), f"limit exceeded: nested deeper than {MAX_DEPTH} folders")
            return True
        real = os.path.realpath(folder)
        if real in self.discovery.names_by_visited:
            earlier = self.discovery.names_by_visited[real]
            if earlier != self.shown(folder):
                self.discovery.pass_over(self.shown(folder), f"the same folder as {earlier}")
            return True
        self.discovery.names_by_visited[real] = self.shown(folder)
        entries = list(self._entries(folder))
        files = [Path(entry.path) for entry in entries if entry.is_file()]
        folders = [entry for entry in entries if entry.is_dir()]
        own, claimed = self._own_files(folder, files, folders)
        is_model = bool(own.analysis_files or own.result_files or own.weight_files)
        if is_model:
            self._add(folder, self.shown(folder), own)
        nothing: list[os.DirEntry[str]] = []
        found = is_model or claimed
        for entry in folders:
            if entry.name in MODEL_PARTS:
                continue
            path = Path(entry.path)
            if (path / MARKER).is_file() or self._visit(path, depth + 1, inside_model=inside_model or is_model):
                found = True
            else:
                nothing.append(entry)
        if found and not inside_model and not is_model:
            for entry in nothing:
                self._say_nothing_in(Path(entry.path))
        return found

    def _say_nothing_in(self, path: Path) -> None:
        if any(True for _, _, files in os.walk(path) if files):
            self.discovery.pass_over(self.shown(path), "no weights, no analysis, no results")
        else:
            self.discovery.fail(self.shown(path), "empty folder: no weights, no analysis, no results")

    def _own_files(self, folder: Path, files: list[Path], folders: list[os.DirEntry[str]]) -> tuple[FoundModel, bool]:
        """The files that belong to the folder as a model, and whether any of its files claims to be one but is not."""
        analyses = [path for path in files if path.name in ANALYSIS_NAMES]
        weights = [path for path in files if _is_weight_file(path.name)]
        results: list[Path] = []
        evaluated: list[Path] = []
        for entry in folders:
            if entry.name == ANALYSIS:
                analyses += self._analysis_files(Path(entry.path))
            elif entry.name == WEIGHTS:
                weights += [Path(part.path) for part in self._entries(Path(entry.path)) if _is_weight_file(part.name)]
            elif entry.name == EVALUATION:
                evaluated += self._files_below(Path(entry.path), ".json", 0)
        is_hub_folder = bool(weights) or any(path.name == "config.json" for path in files)
        failures = len(self.discovery.remarks)
        for path in files:
            if path.suffix.lower() == ".json" and path.name not in ANALYSIS_NAMES and not SIDECARS.fullmatch(path.name):
                is_alone = not (is_hub_folder or self._holds_folders(folders))
                if self._is_result(path, is_claimed=is_alone):
                    results.append(path)
        results += [path for path in evaluated if self._is_result(path, is_claimed=True)]
        if [path.name for path in analyses] == [REMOVAL_NAME]:
            self.discovery.pass_over(self.shown(analyses[0]), "alone it says nothing of the model's own layers")
            analyses = []
        model = FoundModel("", folder, tuple(analyses), tuple(results), tuple(weights))
        return model, any(remark.is_failure for remark in self.discovery.remarks[failures:])

    @staticmethod
    def _holds_folders(folders: list[os.DirEntry[str]]) -> bool:
        """Whether a folder holds others that are no parts of a model: then its loose files are nobody's results."""
        return any(entry.name not in MODEL_PARTS for entry in folders)

    def _analysis_files(self, folder: Path) -> Iterator[Path]:
        for path in self._files_below(folder, ".json", 0):
            if path.name in ANALYSIS_NAMES and path.parent == folder:
                yield path
            elif not SIDECARS.fullmatch(path.name):
                self.discovery.pass_over(self.shown(path), f"no analysis of a known name ({', '.join(ANALYSIS_NAMES)})")

    def _files_below(self, folder: Path, suffix: str, depth: int) -> list[Path]:
        if depth > MAX_DEPTH:
            return []
        found: list[Path] = []
        for entry in self._entries(folder):
            if entry.is_dir(follow_symlinks=False):
                found += self._files_below(Path(entry.path), suffix, depth + 1)
            elif entry.name.lower().endswith(suffix) and entry.is_file():
                found.append(Path(entry.path))
        return found

    def _is_result(self, path: Path, *, is_claimed: bool) -> bool:
        """Whether a JSON file is a result. What claims to be one (it lies in `evaluation/`, or a user named it) and is not, is
        a failure, and so is JSON that cannot be read; else it is passed over."""
        if PER_SAMPLE.fullmatch(path.name):
            return False
        try:
            if recognise(read_json(path, self.shown(path))[1], path) is not None:
                return True
        except InputError as error:
            self.discovery.fail(error.where, error.what)
            return False
        what = "not a result of a known form (no metrics of model_info, ppl, zeroshot or efficiency)"
        self.discovery.remarks.append(Remark(self.shown(path), what, is_failure=is_claimed))
        return False

    def _entries(self, folder: Path) -> list[os.DirEntry[str]]:
        """What a folder holds, real entries before links, in name order, without hidden and excluded ones."""
        try:
            with os.scandir(folder) as scan:
                entries = [entry for entry in scan if not entry.name.startswith(".") and entry.name != "__pycache__"]
        except OSError as error:
            self.discovery.fail(self.shown(folder), f"cannot be listed: {error.strerror or error}")
            return []
        kept = [entry for entry in entries if not self._is_excluded(Path(entry.path))]
        return sorted(kept, key=lambda entry: (entry.is_symlink(), entry.name))

    def _is_excluded(self, path: Path) -> bool:
        shown = self.shown(path)
        return any(
            fnmatch.fnmatchcase(shown, glob) or fnmatch.fnmatchcase(path_text(path.name), glob) for glob in self.excludes
        )

    def _add(self, folder: Path, name: str, model: FoundModel) -> None:
        name, revision = _hub_name(name)
        other = self.discovery.folders_by_name.get(name)
        real = Path(os.path.realpath(folder))
        if other is not None and other != real:
            self.discovery.fail(
                path_text(real),
                f"its name {name!r} is that of {path_text(other)}; take one of them alone, with --name NAME",
            )
        else:
            self.discovery.folders_by_name[name] = real
            self.discovery.models.append(replace(model, model_id=name, folder=real, revision=revision))


def _is_weight_file(name: str) -> bool:
    return name.lower().endswith(WEIGHT_SUFFIXES) and not NO_WEIGHTS.fullmatch(name)


def _hub_name(name: str) -> tuple[str, str | None]:
    """`.../models--org--name/snapshots/REVISION` is org/name at that revision; any other name is itself."""
    parts = name.split("/")
    if len(parts) >= 3 and parts[-2] == "snapshots" and parts[-3].startswith("models--"):
        return parts[-3].removeprefix("models--").replace("--", "/"), parts[-1]
    return name, None
