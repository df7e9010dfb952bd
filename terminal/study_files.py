"""Files in the form of the study scripts, each reported on stderr."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from layerhouse.errors import UsageError
from layerhouse.terminal.messages import talk
from layerhouse.terminal.tables import opened_warehouse

if TYPE_CHECKING:
    from layerhouse.terminal.options import ReadingOptions
    from layerhouse.warehouse.answers.handle import Warehouse


def write_summary_files(wh: Warehouse, models: Sequence[str], prefix: Path, *, by: str | None) -> None:
    """Write PREFIX.txt and PREFIX.json of the models that match one of the globs. Raises UsageError for a measure `by`."""
    from layerhouse.warehouse.answers.query import STUDY_SQL, study_rows
    from layerhouse.warehouse.render.target import write_file
    from layerhouse.warehouse.study.summary_form import study_document, study_json, study_text

    if by is not None:
        raise UsageError("--by is not for the form of the study scripts, which counts parameters")
    document = study_document(*study_rows(wh.connection_for(STUDY_SQL), models))
    for suffix, text in ((".txt", study_text(document)), (".json", study_json(document))):
        path = prefix.with_name(prefix.name + suffix)
        write_file(path, text.encode())
        talk(f"wrote {path}")


def model_files(warehouse: Path, reading: ReadingOptions, model: str) -> dict[str, str]:
    """The analysis files of one model: their texts by name."""
    from layerhouse.warehouse.study.analysis_files import ASKED, analysis_files

    with opened_warehouse(warehouse, reading) as wh:
        return analysis_files(wh.connection_for(ASKED), model)


def write_model_files(files: Mapping[str, str], folder: Path, *, force: bool) -> None:
    """Write analysis files into a folder. `force` overwrites files that layerhouse did not write."""
    from layerhouse.warehouse.study.written_files import write_files

    write_files(folder, files, force=force)
    for name in sorted(files):
        talk(f"wrote {folder / name}")


def write_batch_files(warehouse: Path, models: Sequence[str], folder: Path, *, force: bool) -> bool:
    """Write analysis files beside each model, and their summary into a folder; return whether all could be written."""
    from layerhouse.warehouse.study.analysis_files import ASKED, write_analyses

    with opened_warehouse(warehouse) as wh:
        failures = write_analyses(wh.connection_for(ASKED), models, folder, force=force)
    for model, reason in failures.items():
        talk(f"FAILED      {model}: {reason}")
    return not failures
