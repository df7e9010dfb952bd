"""From a model's weights to the rows of one checkpoint: headers are read, values measured, and rows made of both."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerhouse.errors import ChangedError, InputError
from layerhouse.ingest.checkpoint.config_file import read_config, with_quantization_files
from layerhouse.ingest.checkpoint.file_names import (
    ADAPTER_CONFIG_NAME,
    CONFIG_NAME,
    DCP_METADATA,
    DCP_SUFFIX,
    INDEX_SUFFIX,
    QUANTIZATION_NAMES,
    ZERO3_PARTITION,
)
from layerhouse.ingest.checkpoint.layouts.adapters import SCHEME as ADAPTER_SCHEME
from layerhouse.ingest.checkpoint.layouts.registry import assign_layouts, unread_texts
from layerhouse.ingest.checkpoint.notes import Note, note
from layerhouse.ingest.checkpoint.regular_file import confined_to, open_regular_file
from layerhouse.ingest.checkpoint.slicegpt import slicing_config_path
from layerhouse.ingest.checkpoint.tensor_ref import CODES, NO_VALUES, PACKED, PLAIN
from layerhouse.ingest.checkpoint.weight_set import (
    WeightSet,
    WeightSetContents,
    find_weight_set,
    zero3_values,
)
from layerhouse.ingest.checkpoint.weight_set_reader import read_weight_set
from layerhouse.ingest.column_rows import ColumnRows
from layerhouse.ingest.model.adapter_base import base_config
from layerhouse.ingest.model.inactive import inactive_tensors
from layerhouse.ingest.model.layer_rows import SIZE_WORDS, layer_rows
from layerhouse.ingest.model.parameters import Totals, count_parameters
from layerhouse.ingest.model.placement import Placed, Placement, place_tensors
from layerhouse.ingest.model.token_cost import model_kv_bytes, model_macs
from layerhouse.ingest.model.unread import mark_unread
from layerhouse.ingest.model_files import below, path_text
from layerhouse.version import RULES_VERSION, __version__
from layerhouse.vocabulary import CheckpointStatus, Module, SourceKind, StatsLevel

if TYPE_CHECKING:
    from layerhouse.ingest.measure.measurement import Measurement

Row = dict[str, Any]

MAX_DECLARED_LENGTH = 1 << 20
DESCRIPTION_NAME, DESCRIPTION_HEAD, MAX_DESCRIPTION_BYTES = "description.txt", "- Training Parameters:", 1 << 16
STEP_FOLDER = re.compile(r"global_step\d+")
DESCRIPTION_LINE = re.compile(r"^ {2}- (\w{1,80}): (.{1,500})$", re.MULTILINE)


@dataclass(frozen=True)
class OpenedWeights:
    """A checkpoint whose headers were read: where each tensor lies in the files and in the model. No weight byte was read.

    `display_path` is the model's name or path in messages; `adapter_config` the config of an adapter, which may name its base.
    """

    display_path: str
    weight_set: WeightSet
    contents: WeightSetContents
    config: Mapping[str, Any] | None
    adapter_config: Mapping[str, Any] | None
    placement: Placement
    totals: Totals
    notes: tuple[Note, ...]

    @property
    def measured(self) -> list[Placed]:
        """The tensors to measure, one for each place in the files: a tensor that has two names is measured once."""
        return list({placed.ref.place: placed for placed in reversed(self.placement.placed)}.values())[::-1]


def weight_files_of(files: Sequence[Path]) -> list[Path]:
    """The files that a checkpoint is read from: weights, and beside them their indices and configs."""
    configs = (ADAPTER_CONFIG_NAME, *QUANTIZATION_NAMES)
    hidden = {path.parent / DCP_METADATA for path in files if path.suffix.lower() == DCP_SUFFIX}
    candidates = [
        path
        for folder in sorted({path.parent for path in files})
        for path in (config_path(folder), *(folder / name for name in configs), *sorted(folder.glob(f"*{INDEX_SUFFIX}")))
    ]
    partitioned = sorted({path.parent for path in files if ZERO3_PARTITION.fullmatch(path.name)})
    candidates += [path for folder in partitioned for path in zero3_values(folder)]
    slicing_configs = [path for path in map(slicing_config_path, files) if path is not None]
    return [*files, *(path for path in (*candidates, *sorted(hidden)) if path.is_file()), *slicing_configs]


def config_path(folder: Path) -> Path:
    """The config of the weights in a folder: beside them, else beside the folder if DeepSpeed has made it for one step."""
    path = folder / CONFIG_NAME
    is_step = STEP_FOLDER.fullmatch(folder.name) is not None and not path.exists()
    return folder.parent / CONFIG_NAME if is_step else path


def open_weights(folder: Path, files: Sequence[Path], display_path: str) -> OpenedWeights:
    """Read the headers of a model's one weight set and place its tensors. Raises InputError of one line."""
    home = _weights_home(folder, files)
    part = below(folder, home)
    if part is not None and part.parts:
        display_path = f"{display_path}/{path_text(part)}"
    with confined_to(folder if folder.is_dir() else folder.parent):
        return _open_weights(home, files, display_path)


def _open_weights(home: Path, files: Sequence[Path], display_path: str) -> OpenedWeights:
    weight_set = find_weight_set(home, files, display_path)
    contents = read_weight_set(weight_set, display_path)
    if not contents.tensors:
        raise InputError(display_path, "no tensor in its weight files")
    folder = home if home.is_dir() else home.parent
    config, notes = _read_config(folder, display_path)
    if config is None:
        config = contents.config
    quantized, quantization_notes = with_quantization_files(config, folder, display_path)
    laid_out = assign_layouts(contents.tensors, quantized, display_path, {**contents.metadata, **contents.descriptions})
    notes += quantization_notes
    has_adapter = any(ref.layout is not None and ref.layout.scheme == ADAPTER_SCHEME for ref in laid_out.tensors)
    adapter_config, adapter_notes = read_config(folder / ADAPTER_CONFIG_NAME, display_path) if has_adapter else (None, [])
    placing_config = config or base_config(adapter_config)
    placement = place_tensors(laid_out.tensors, placing_config)
    placement = mark_unread(placement, quantized, placing_config, unread_texts(contents.skipped))
    notes += [note("weight_set", text) for text in contents.notes]
    notes += laid_out.notes
    notes += [note("ignored", f"{path.name}: {reason}") for path, reason in weight_set.ignored]
    notes += [note("skipped", text) for text in contents.skipped]
    notes += adapter_notes
    if description := read_description(folder / DESCRIPTION_NAME):
        contents = replace(contents, metadata=contents.metadata | {"description": description})
    totals = count_parameters(placement, config)
    notes += [note("declared", text) for text in weight_set.declared_notes(totals.logical_bytes, totals.params)]
    return OpenedWeights(display_path, weight_set, contents, config, adapter_config, placement, totals, tuple(notes))


def _read_config(folder: Path, display_path: str) -> tuple[Mapping[str, Any] | None, list[Note]]:
    """The config of the weights in a folder, with a note if it is that of the run that made the folder."""
    path = config_path(folder)
    if path.parent == folder:
        return read_config(path, display_path)
    with confined_to(path.parent):
        config, notes = read_config(path, f"{display_path}/..")
    return config, notes if config is None else [note("config", f"{CONFIG_NAME} is that of the run's folder")]


def read_description(path: Path) -> dict[str, str]:
    """The lines `  - key: value` of LLM-Pruner's description.txt, which tell how a model was made; empty for other files."""
    if path.is_symlink() or not path.is_file():
        return {}
    try:
        with open_regular_file(path, path.name) as (file, _):
            text = file.read(MAX_DESCRIPTION_BYTES).decode("utf-8", "replace")
    except ChangedError:
        raise
    except InputError:
        return {}
    return dict(DESCRIPTION_LINE.findall(text)) if text.startswith(DESCRIPTION_HEAD) else {}


def measure_weights(
    opened: OpenedWeights, *, threads: int, near_zero: float | None, on_bytes: Callable[[int], None], device: str = "cpu"
) -> dict[str, Measurement]:
    """Measure every tensor that is read; by tensor name. `on_bytes` is called with numbers of bytes read. Raises InputError
    naming the tensor whose bytes could not be read.
    """
    from layerhouse.ingest.measure.measurement import NOTHING, Job
    from layerhouse.ingest.measure.scheduler import measure

    def job(placed: Placed) -> Job:
        ref, values = placed.ref.as_stored, placed.ref.as_values
        if values_kind(placed) == PACKED:
            return Job(ref, None, placed.residual_axis, is_counted=False, values_ref=values)
        axis = 1 if is_table(placed) else placed.input_axis
        return Job(ref, axis, None if values is None else placed.residual_axis, values_ref=values)

    tensors = [placed for placed in opened.measured if values_kind(placed) != NO_VALUES]
    jobs = [job(placed) for placed in tensors]
    by_place: dict[tuple[Any, ...], Measurement] = {}
    for position, outcome in measure(jobs, threads=threads, near_zero=near_zero, device=device, on_bytes=on_bytes):
        placed = tensors[position]
        if isinstance(outcome, InputError):
            raise InputError(f"{opened.display_path}: {placed.ref.name}", outcome.what)
        by_place[placed.ref.place] = _known_part(placed, outcome)
    return {placed.ref.name: by_place.get(placed.ref.place, NOTHING) for placed in opened.placement.placed}


def _known_part(placed: Placed, measured: Measurement) -> Measurement:
    """What was measured of a tensor that holds of its weight: of codes only where they are zero, and the profile of the values
    that they stand for, if these are known.
    """
    from layerhouse.ingest.measure.measurement import scale_free_part

    if is_table(placed):
        measured = replace(measured, nm_pattern=None)
    if values_kind(placed) != CODES:
        return measured
    known = scale_free_part(measured)
    return known if placed.ref.as_values is not None else replace(known, signature=None, sketch=None)


def weight_rows(
    opened: OpenedWeights, measurements: Mapping[str, Measurement] | None, *, near_zero: float | None, fingerprint: str
) -> tuple[Row, ColumnRows, list[Row]]:
    """The checkpoint's row (without model_id, source and what the name declares), and the rows of its tensors and layers.

    Without measurements the level is `none`: what headers tell, with every value statistic null.
    """
    placed = opened.placement.placed
    hashes = {name: measurement.content_hash for name, measurement in (measurements or {}).items() if measurement.content_hash}
    zeros = {name: measurement.zeros for name, measurement in (measurements or {}).items() if measurement.zeros is not None}
    totals = count_parameters(opened.placement, opened.config, hashes) if measurements else opened.totals
    layers, layer_notes = layer_rows(opened.placement, opened.config, zeros if measurements else None)
    inactive, _ = inactive_tensors(opened.placement, opened.config)
    costs = (
        model_macs(opened.placement, opened.config, totals, layers),
        model_kv_bytes(opened.placement, opened.config, layers),
    )
    sizes = [[row[column] for column in (*SIZE_WORDS, "macs_per_token", "kv_values_per_token")] for row in layers]
    counted = _counted_names(placed, totals, hashes)
    interpretation = [opened.placement.family, totals.tied_embeddings, sizes, costs, sorted(inactive)]
    interpretation += [[t.ref.layout.scheme, t.ref.name] for t in placed if t.is_unread and t.ref.layout]
    if measurements:
        if len(hashes) < len(measurements) or opened.placement.has_lost:
            interpretation.append(fingerprint)
        checkpoint_id = _content_id(placed, hashes, interpretation, counted)
    else:
        checkpoint_id = _header_id(placed, fingerprint)
    tensors = [*placed, *([totals.virtual] if totals.virtual else [])]
    tensor_rows = _tensor_rows(tensors, checkpoint_id, counted, inactive)
    num_layers = sum(row["stack"] == opened.placement.main_stack for row in layers)
    checkpoint = {
        **_checkpoint_row(opened, totals, checkpoint_id, is_full=bool(measurements)),
        "num_layers": num_layers,
        "macs_per_token": costs[0],
        "kv_cache_bytes_per_token": costs[1],
        "notes": [*opened.placement.notes, *totals.notes, *layer_notes, *opened.notes],
    }
    if measurements:
        _add_values(tensors, tensor_rows, measurements, near_zero)
        checkpoint |= _zero_counts(placed, counted, measurements, totals)
        checkpoint["notes"] += _value_notes(placed, measurements)
    return checkpoint, tensor_rows, [{**row, "checkpoint_id": checkpoint_id} for row in layers]


def is_table(placed: Placed) -> bool:
    """Whether it is an embedding table, whose rows and columns are those of the table; it has no inputs for a pattern."""
    return placed.module == Module.EMBEDDING and placed.input_axis is None and len(placed.ref.shape) == 2


def values_kind(placed: Placed) -> str:
    """PLAIN where the stored values are the weights, else CODES, PACKED or NO_VALUES."""
    layout = placed.ref.layout
    return PLAIN if layout is None else layout.values


def _weights_home(folder: Path, files: Sequence[Path]) -> Path:
    """The folder that the weights lie in: the model's own, or `pruned_model/` in it. A weight file that is a model of its own
    is its own home.
    """
    if not folder.is_dir() or any(path.parent == folder for path in files):
        return folder
    return files[0].parent


def _content_id(
    placed: Sequence[Placed], hashes: Mapping[str, str], interpretation: Sequence[Any], counted: Collection[str]
) -> str:
    """A hash over every tensor, and over what the config decides of the stored rows (family, tie, heads): of two folders with
    equal bytes and different configs, each has its own rows. So has each of two files that store equal tensors in other ways.

    Where tensors were not read, and have no hash, `interpretation` has the fingerprint of the files, so that it is never that
    of other files.
    """
    lines = sorted(
        (tensor.ref.name, tensor.ref.dtype, list(tensor.ref.shape), hashes.get(tensor.ref.name, ""), *_storage(tensor, counted))
        for tensor in placed
    )
    return hashlib.sha256(json.dumps([interpretation, lines]).encode()).hexdigest()[:32]


def _storage(tensor: Placed, counted: Collection[str]) -> Iterator[str]:
    """How a tensor is stored, where that is not as its bytes alone and as a parameter of its own."""
    ref = tensor.ref
    if ref.storage_bytes != ref.logical_bytes:
        yield f"{ref.storage_bytes} bytes"
    if ref.is_buffer:
        yield "buffer"
    if ref.name not in counted and tensor.module != Module.LM_HEAD:
        yield "shared"


def _header_id(placed: Sequence[Placed], fingerprint: str) -> str:
    lines = sorted([(tensor.ref.name, tensor.ref.dtype, tensor.ref.shape, tensor.ref.offset) for tensor in placed])
    return hashlib.sha256(repr([fingerprint, lines]).encode()).hexdigest()[:32]


def _counted_names(placed: Sequence[Placed], totals: Totals, hashes: Mapping[str, str]) -> set[str]:
    """The names of the tensors whose parameters count: the first at each place, and no head that repeats the embedding."""
    first: dict[tuple[Any, ...], str] = {}
    for tensor in placed:
        first.setdefault(tensor.ref.place, tensor.ref.name)
    names = set(first.values())
    if totals.has_copied_head:
        names -= {tensor.ref.name for tensor in placed if tensor.module == Module.LM_HEAD and tensor.part == "weight"}
    return names


def _tensor_rows(
    tensors: Sequence[Placed], checkpoint_id: str, counted: Collection[str], inactive: Collection[str]
) -> ColumnRows:
    """The columns that headers tell of each tensor."""
    refs = [tensor.ref for tensor in tensors]
    type_names = [ref.layout and ref.layout.type_name for ref in refs]
    shapes = [ref.shape if type_name else ref.stored_shape for ref, type_name in zip(refs, type_names, strict=True)]
    return ColumnRows(
        {
            "checkpoint_id": [checkpoint_id] * len(refs),
            "name": [ref.name for ref in refs],
            "canonical_name": [tensor.canonical_name for tensor in tensors],
            "stack": [tensor.stack for tensor in tensors],
            "module": [tensor.module for tensor in tensors],
            "role": [tensor.role for tensor in tensors],
            "part": [tensor.part for tensor in tensors],
            "layer_index": [tensor.layer_index for tensor in tensors],
            "expert_index": [tensor.expert_index for tensor in tensors],
            "dtype": [type_name or ref.dtype for ref, type_name in zip(refs, type_names, strict=True)],
            "shape": [list(shape) for shape in shapes],
            "weight_shape": [list(ref.shape) if ref.shape != shape else None for ref, shape in zip(refs, shapes, strict=True)],
            "params": [_params_of(tensor, counted) for tensor in tensors],
            "is_parameter": [tensor.is_parameter for tensor in tensors],
            "is_active": [ref.name not in inactive for ref in refs],
            "logical_bytes": [0 if tensor.is_virtual else tensor.ref.logical_bytes for tensor in tensors],
            "stored_bytes": [0 if tensor.is_virtual else tensor.ref.storage_bytes for tensor in tensors],
        }
    )


def _params_of(tensor: Placed, counted: Collection[str]) -> int | None:
    """The parameters that a tensor adds to the model; None if it is unread."""
    return None if tensor.is_unread else tensor.params if tensor.ref.name in counted else 0


def _add_values(
    tensors: Sequence[Placed], rows: ColumnRows, measurements: Mapping[str, Measurement], near_zero: float | None
) -> None:
    """Add the columns of what was measured, null for a head that is in no file."""
    measured = [None if tensor.is_virtual else measurements.get(tensor.ref.name) for tensor in tensors]
    first = next((measurement for measurement in measured if measurement is not None), None)
    for field in () if first is None else fields(first):
        rows.columns[field.name] = [getattr(measurement, field.name, None) for measurement in measured]
    rows.columns["near_zero_threshold"] = [None if measurement is None else near_zero for measurement in measured]


def _checkpoint_row(opened: OpenedWeights, totals: Totals, checkpoint_id: str, *, is_full: bool) -> Row:
    config = opened.config or {}
    architectures = config.get("architectures")
    architecture = architectures[0] if isinstance(architectures, list) and architectures else opened.contents.class_path
    adapter = opened.adapter_config or {}
    documents = {"config": config or None, "adapter": adapter or None, "metadata": opened.contents.metadata or None}
    if opened.weight_set.index_metadata:
        documents["index"] = opened.weight_set.index_metadata
    declared = json.dumps(documents, sort_keys=True, default=str)
    return {
        "checkpoint_id": checkpoint_id,
        "source_kind": SourceKind.WEIGHTS,
        "container": " + ".join(opened.contents.containers),
        "family": opened.placement.family,
        "architecture": architecture if isinstance(architecture, str) else None,
        "declared": declared if len(declared) <= MAX_DECLARED_LENGTH else None,
        "declared_name": _text_of(config, "_name_or_path"),
        "declared_base": _text_of(adapter, "base_model_name_or_path"),
        "params": totals.params,
        "params_stored": totals.params_stored,
        "embedding_params": totals.embedding_params,
        "lm_head_params": totals.lm_head_params,
        "layer_params": totals.layer_params,
        "prunable_params": totals.prunable_params,
        "logical_bytes": None if opened.placement.has_lost else totals.logical_bytes,
        "stored_bytes": totals.stored_bytes,
        "file_bytes": sum(path.stat().st_size for path in opened.weight_set.files),
        "tied_embeddings": totals.tied_embeddings,
        "tie_evidence": totals.tie_evidence,
        "stats_level": StatsLevel.FULL if is_full else StatsLevel.NONE,
        "device": "cpu" if is_full else None,
        "status": CheckpointStatus.OK,
        "tool_version": __version__,
        "rules_version": RULES_VERSION,
    }


def _text_of(config: Mapping[str, Any], key: str) -> str | None:
    value = config.get(key)
    return value if isinstance(value, str) else None


def _zero_counts(placed: Sequence[Placed], counted: set[str], measurements: Mapping[str, Measurement], totals: Totals) -> Row:
    """Zeros over all parameters and over the prunable ones; null where a tensor's zeros are unknown."""
    zeros: int | None = 0
    prunable: int | None = 0 if totals.prunable_params is not None else None
    for tensor in placed:
        if not tensor.is_parameter or tensor.ref.name not in counted:
            continue
        count = measurements[tensor.ref.name].zeros
        zeros = None if zeros is None or count is None else zeros + count
        if tensor.is_prunable:
            prunable = None if prunable is None or count is None else prunable + count
    if totals.params is None:
        return {"zeros": None, "prunable_zeros": None, "nonzero_params": None}
    return {
        "zeros": zeros,
        "prunable_zeros": prunable,
        "nonzero_params": None if zeros is None else totals.params - zeros,
    }


def _value_notes(placed: Sequence[Placed], measurements: Mapping[str, Measurement]) -> Iterator[Note]:
    for column, text in (("nans", "NaN"), ("infs", "infinite")):
        counts = [(tensor.ref.name, getattr(measurements[tensor.ref.name], column) or 0) for tensor in placed]
        total = sum(count for _, count in counts)
        if total:
            name = next(name for name, count in counts if count)
            yield note(column, f"{total} {text} values, the first in {name}")
