"""Which files of a folder are weights, analyses and results of a model."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from layerhouse.errors import ChangedError, InputError, UnexpectedError
from layerhouse.ingest.checkpoint.containers.gguf import companion_text
from layerhouse.ingest.checkpoint.containers.sniff import holds_weights
from layerhouse.ingest.checkpoint.file_names import CONFIG_NAME, INDEX_SUFFIX, SIDECAR_JSON, SLICEGPT_SUFFIX, is_weight_file
from layerhouse.ingest.checkpoint.guard import Guard
from layerhouse.ingest.checkpoint.regular_file import confined_to
from layerhouse.ingest.checkpoint.slicegpt import is_slicegpt_pair
from layerhouse.ingest.checkpoint.symlinks import lead_out_text, leads_out
from layerhouse.ingest.model_files import FoundModel, path_text
from layerhouse.ingest.result_files import NO_RESULT, ResultFiles
from layerhouse.ingest.results.documents import HARNESS_NAME, is_text_file, may_be_result
from layerhouse.ingest.study.file_names import ANALYSIS_NAMES, REMOVAL_NAME
from layerhouse.warehouse.study.written_files import is_recorded, recorded_files

EVALUATION = "evaluation"
"""The folder of a model's results."""
ReportRemark = Callable[[Path, str, bool], None]
"""A callback for a remark: on which file or folder, what, and whether it is a failure."""


class FileSorter:
    """Sorts the files of folders into models. Models have no names yet; their paths are those of the walk."""

    def __init__(self, result_files: ResultFiles, report_remark: ReportRemark, guard: Guard) -> None:
        self._result_files, self._report_remark, self._guard = result_files, report_remark, guard
        self._recorded: dict[Path, dict[str, str]] = {}
        self._real_folders: dict[Path, Path] = {}

    def single_file(self, path: Path) -> FoundModel | None:
        """The model of a weight file that stands for itself, whatever its suffix."""
        if not is_weight_file(path.name) and not holds_weights(path):
            return None
        return FoundModel("", path, weight_files=(path,), sliced_name=path.stem if is_slicegpt_pair(path) else None)

    def models_of(self, folder: Path, files: list[Path], subfolders: Sequence[Path], evaluated: list[Path]) -> list[FoundModel]:
        """The models that lie in a folder itself: none, its own, and one for each of several files of SliceGPT.

        `evaluated` are the files below `evaluation/`; `subfolders` are those that are no parts of a model.
        """
        files, evaluated = ([path for path in part if self._stays_inside(folder, path)] for part in (files, evaluated))
        weights = [path for path in files if is_weight_file(path.name)] or self._weights_by_content(folder, files)
        weights = self._without_companions(weights)
        pairs = [path for path in weights if is_slicegpt_pair(path)]
        sliced = [path for path in weights if path.suffix.lower() == SLICEGPT_SUFFIX] if pairs else []
        models = []
        if len(sliced) > 1:  # SliceGPT saves all models into one folder
            weights = [path for path in weights if path not in sliced]
            models = [FoundModel("", path, weight_files=(path,), sliced_name=path.stem) for path in sliced]
        analyses = self._analyses(folder, files, has_weights=bool(weights))
        is_alone = not (weights or pairs or subfolders or any(path.name == CONFIG_NAME for path in files))
        results = self._results(folder, files, {path.with_suffix(".json") for path in pairs}, is_alone=is_alone)
        results += [path for path in evaluated if may_be_result(path) and self.is_result(folder, path, is_claimed=True)]
        if [*analyses] == [REMOVAL_NAME]:
            self._report_remark(analyses.pop(REMOVAL_NAME), "alone it says nothing of the model's own layers", False)
        if analyses or results or weights:
            stem = pairs[0].stem if len(pairs) == 1 and pairs[0] in weights else None
            models.append(FoundModel("", folder, tuple(analyses.values()), tuple(results), tuple(weights), sliced_name=stem))
        return models

    def _weights_by_content(self, folder: Path, files: Sequence[Path]) -> list[Path]:
        """The weights among files without a suffix of weights, in a folder where no file has one."""
        return [path for path in files if not leads_out(folder, path) and holds_weights(path)]

    def _without_companions(self, weights: list[Path]) -> list[Path]:
        """Weights without GGUF files that belong to a model and are none; these are reported, unless there is nothing else."""
        companions = {path: text for path in weights if (text := companion_text(path))} if len(weights) > 1 else {}
        if len(companions) == len(weights):
            return weights
        for path, text in companions.items():
            self._report_remark(path, text, False)
        return [path for path in weights if path not in companions]

    def is_result(self, folder: Path, path: Path, *, is_claimed: bool, is_named: bool = False) -> bool:
        """Whether a file of a model's folder is a result.

        A JSON file that is none is reported, and so is a text file that is none if the user named it. It is a failure if the
        file claims to be a result: it lies in `evaluation/`, or the user named it.
        """
        if HARNESS_NAME.fullmatch(path.name) and path.is_file():
            return True  # by its name; it is read when it is taken
        is_any_text = is_text_file(path) and not is_named

        def fail(error: InputError) -> None:
            if not is_any_text or is_claimed or isinstance(error, UnexpectedError | ChangedError):
                self._report_remark(path, error.what, True)

        with self._guard.reading(path_text(path), fail), confined_to(folder):
            if self._result_files.is_result(self._real_folder(folder) / path.relative_to(folder)):
                return True
            resemblance = self._result_files.resemblance(self._real_folder(folder) / path.relative_to(folder))
            if resemblance or not is_any_text:
                self._report_remark(path, resemblance or NO_RESULT, is_claimed)
        return False

    def _analyses(self, folder: Path, files: Sequence[Path], *, has_weights: bool) -> dict[str, Path]:
        """Analysis files by name, the last of each; beside weights none that layerhouse wrote, which adds nothing to them."""
        analyses = {path.name: path for path in files if path.name in ANALYSIS_NAMES}
        if has_weights:
            analyses = {name: path for name, path in analyses.items() if not self._is_own(path)}
        for path in files:
            if path != analyses.get(path.name, path):
                self._report_remark(path, f"{path_text(analyses[path.name].relative_to(folder))} is taken", False)
        return analyses

    def _results(self, folder: Path, files: Sequence[Path], slicing_configs: set[Path], *, is_alone: bool) -> list[Path]:
        """The results among the loose files of a folder. One straight in the folder claims to be a result if it is alone there:
        it can belong to nothing else.
        """
        return [
            path
            for path in files
            if path.name not in ANALYSIS_NAMES
            and not SIDECAR_JSON.fullmatch(path.name)
            and path not in slicing_configs
            and may_be_result(path)
            and self.is_result(folder, path, is_claimed=is_alone and path.parent == folder)
        ]

    def _real_folder(self, folder: Path) -> Path:
        """The real path of a folder, looked up once for all of its files."""
        if folder not in self._real_folders:
            self._real_folders = {folder: Path(os.path.realpath(folder))}
        return self._real_folders[folder]

    def _is_own(self, path: Path) -> bool:
        """Whether layerhouse wrote a file, and it is unchanged."""
        recorded = self._recorded.get(path.parent)
        if recorded is None:
            recorded = self._recorded[path.parent] = recorded_files(path.parent)
        return is_recorded(path, recorded)

    def _stays_inside(self, folder: Path, path: Path) -> bool:
        """Whether a file that would be read lies in the model's folder.

        A link that leads out is a failure if the file is needed, or may be a result; else it is passed over. Of an index it is
        a failure of the weights.
        """
        name = path.name
        is_read = may_be_result(path) or is_weight_file(name)
        if not is_read or name.endswith(INDEX_SUFFIX) or not leads_out(folder, path):
            return True
        self._report_remark(path, lead_out_text(path), is_needed(path) or not SIDECAR_JSON.fullmatch(name))
        return False


def is_needed(path: Path) -> bool:
    """Whether a file is by its name and place what is to be taken: weights, an analysis, or a result in `evaluation/`."""
    return is_weight_file(path.name) or path.name in ANALYSIS_NAMES or (EVALUATION in path.parts and may_be_result(path))


def real_path(folder: Path, path: Path) -> Path:
    """The path of a model's file below the real path of the model's folder."""
    return Path(os.path.realpath(folder)) / path.relative_to(folder)
