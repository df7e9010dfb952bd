"""A model's weights -> the rows of one checkpoint: opened by headers alone, measured tensor by tensor, told apart by layer."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.containers.weight_set_reader import read_weight_set
from layerhouse.ingest.checkpoint.json_files import read_json
from layerhouse.ingest.checkpoint.layouts.registry import lay_out
from layerhouse.ingest.checkpoint.slicegpt import config_beside
from layerhouse.ingest.checkpoint.tensor_ref import CODES, PACKED
from layerhouse.ingest.checkpoint.weight_set import (
    WeightSet,
    WeightSetContents,
    find_weight_set,
)
from layerhouse.ingest.column_rows import ColumnRows
from layerhouse.ingest.model.inactive import inactive_tensors
from layerhouse.ingest.model.layer_rows import SIZE_WORDS, layer_rows
from layerhouse.ingest.model.parameters import Totals, count_parameters
from layerhouse.ingest.model.placement import (
    Placed,
    Placement,
    place_tensors,
)
from layerhouse.ingest.model.token_cost import model_kv_bytes, model_macs
from layerhouse.version import __version__
from layerhouse.vocabulary import Module

if TYPE_CHECKING:
    from layerhouse.ingest.measure.measurement import Measurement

Row = dict[str, Any]

CONFIG_NAME, ADAPTER_CONFIG_NAME = "config.json", "adapter_config.json"
FULL, HEADERS, SPECTRAL = "full", "none", "spectral"
MAX_DECLARED_TEXT = 1 << 20
DESCRIPTION_NAME, DESCRIPTION_HEAD, MAX_DESCRIPTION_BYTES = "description.txt", "- Training Parameters:", 1 << 16
DESCRIPTION_LINE = re.compile(r"^ {2}- (\w{1,80}): (.{1,500})$", re.MULTILINE)


@dataclass(frozen=True)
class OpenedWeights:
    """A checkpoint whose headers were read: every tensor's place in its file and in the model, and no weight bytes.

    `adapter_config` is what an adapter's own config declares, such as the base that it adds to.
    """

    shown: str
    weight_set: WeightSet
    contents: WeightSetContents
    config: Mapping[str, Any] | None
    adapter_config: Mapping[str, Any] | None
    placement: Placement
    totals: Totals
    notes: tuple[Row, ...]

    @property
    def measured(self) -> list[Placed]:
        """One tensor for every place in the files: a tensor that has two names is measured once."""
        return list({placed.ref.place: placed for placed in reversed(self.placement.placed)}.values())[::-1]

    @property
    def bytes(self) -> int:
        """Logical bytes that a full measurement reads."""
        return sum(placed.ref.logical_bytes for placed in self.measured)


def weight_files_of(files: Sequence[Path]) -> list[Path]:
    """The files that a change of makes another checkpoint: weights, their indices, and the config beside them."""
    folders = {path.parent for path in files}
    configs = (CONFIG_NAME, ADAPTER_CONFIG_NAME)
    beside = [
        path
        for folder in sorted(folders)
        for path in (*(folder / name for name in configs), *sorted(folder.glob("*.index.json")))
    ]
    slicings = [path for path in map(config_beside, files) if path is not None]
    return [*files, *(path for path in beside if path.is_file()), *slicings]


def open_weights(folder: Path, files: Sequence[Path], shown: str) -> OpenedWeights:
    """Read the headers of a model's one weight set and place its tensors. Raises InputError of one line."""
    home = _home(folder, files)
    weight_set = find_weight_set(home, files, shown)
    contents = read_weight_set(weight_set, shown)
    if not contents.tensors:
        raise InputError(shown, "no tensor in its weight files")
    folder = home if home.is_dir() else home.parent
    config, notes = _read_config(folder / CONFIG_NAME, shown)
    if config is None:
        config = contents.config
    laid = lay_out(contents.tensors, config, shown)
    placement = place_tensors(laid.tensors, config)
    notes += [{"code": "weight_set", "text": text} for text in contents.notes]
    notes += [{"code": "layout", "text": text} for text in laid.notes]
    notes += [{"code": "ignored", "text": f"{path.name}: {reason}"} for path, reason in weight_set.ignored]
    notes += [{"code": "skipped", "text": text} for text in contents.skipped]
    adapter = None
    if any(placed.module == Module.ADAPTER for placed in placement.placed):
        adapter, adapter_notes = _read_config(folder / ADAPTER_CONFIG_NAME, shown)
        notes += adapter_notes
    description = read_description(folder / DESCRIPTION_NAME)
    if description:
        contents = replace(contents, metadata=contents.metadata | {"description": description})
    totals = count_parameters(placement, config)
    declared_total = weight_set.declared_total_size
    if declared_total is not None and declared_total != totals.logical_bytes:
        text = f"the index declares {declared_total} bytes, the tensors have {totals.logical_bytes}"
        notes.append({"code": "declared", "text": text})
    return OpenedWeights(shown, weight_set, contents, config, adapter, placement, totals, tuple(notes))


def read_description(path: Path) -> dict[str, str]:
    """What LLM-Pruner's description.txt says of how a model was made: its lines `  - key: value`; nothing of any other text."""
    if path.is_symlink():
        return {}
    try:
        with path.open("rb") as file:
            text = file.read(MAX_DESCRIPTION_BYTES).decode("utf-8", "replace")
    except OSError:
        return {}
    return dict(DESCRIPTION_LINE.findall(text)) if text.startswith(DESCRIPTION_HEAD) else {}


def measure_weights(
    opened: OpenedWeights, *, threads: int, near_zero: float | None, on_bytes: Callable[[int], None], device: str = "cpu"
) -> dict[str, Measurement]:
    """Measure every tensor; by tensor name. Raises InputError naming the tensor whose bytes could not be read."""
    from layerhouse.ingest.measure.measurement import Job, known_of_codes
    from layerhouse.ingest.measure.scheduler import measure

    def job(placed: Placed) -> Job:
        layout = placed.ref.layout
        if layout is not None and layout.values == PACKED:
            return Job(placed.ref.as_stored, is_counted=False)
        return Job(placed.ref.as_stored, placed.input_axis, placed.residual_axis)

    tensors = opened.measured
    jobs = [job(placed) for placed in tensors]
    by_place: dict[tuple[Any, ...], Measurement] = {}
    for position, outcome in measure(jobs, threads=threads, near_zero=near_zero, device=device, on_bytes=on_bytes):
        if isinstance(outcome, InputError):
            raise InputError(f"{opened.shown}: {tensors[position].ref.name}", outcome.what)
        layout = tensors[position].ref.layout
        is_code = layout is not None and layout.values == CODES
        by_place[tensors[position].ref.place] = known_of_codes(outcome) if is_code else outcome
    return {placed.ref.name: by_place[placed.ref.place] for placed in opened.placement.placed}


def weight_rows(
    opened: OpenedWeights, measurements: Mapping[str, Measurement] | None, *, near_zero: float | None, fingerprint: str
) -> tuple[Row, ColumnRows, list[Row]]:
    """The checkpoint's row (without model_id, source and name declarations), its tensors' and its layers'.

    Without measurements the level is `none`: what headers say, and every value statistic null.
    """
    placed = opened.placement.placed
    hashes = {name: measured.content_hash for name, measured in (measurements or {}).items()}
    zeros = {name: measured.zeros for name, measured in (measurements or {}).items() if measured.zeros is not None}
    totals = count_parameters(opened.placement, opened.config, hashes) if measurements else opened.totals
    layers, layer_notes = layer_rows(opened.placement, opened.config, zeros if measurements else None)
    inactive, _ = inactive_tensors(opened.placement, opened.config)
    costs = (
        model_macs(opened.placement, opened.config, totals, layers),
        model_kv_bytes(opened.placement, opened.config, layers),
    )
    sizes = [[row[word] for word in (*SIZE_WORDS, "macs_per_token", "kv_values_per_token")] for row in layers]
    read_as = [opened.placement.family, totals.tied_embeddings, sizes, costs, sorted(inactive)]
    checkpoint_id = _content_id(placed, hashes, read_as) if measurements else _header_id(placed, fingerprint)
    counted = _counted_names(placed, totals, hashes)
    tensors = [*placed, *([totals.virtual] if totals.virtual else [])]
    tensor_rows = _tensor_rows(tensors, checkpoint_id, counted, inactive)
    num_layers = sum(row["stack"] == opened.placement.main_stack for row in layers)
    checkpoint = _checkpoint_row(opened, totals, checkpoint_id, num_layers, bool(measurements))
    checkpoint["macs_per_token"], checkpoint["kv_cache_bytes_per_token"] = costs
    checkpoint["notes"] = [*opened.placement.notes, *totals.notes, *layer_notes, *opened.notes]
    if measurements:
        _add_values(tensors, tensor_rows, measurements, near_zero)
        checkpoint |= _zero_counts(placed, counted, measurements, totals)
        checkpoint["notes"] += _value_notes(placed, measurements)
    return checkpoint, tensor_rows, [{**row, "checkpoint_id": checkpoint_id} for row in layers]


def _home(folder: Path, files: Sequence[Path]) -> Path:
    """The folder that the weights lie in: the model's own or `pruned_model/` inside it; a lone weight file is its own."""
    if not folder.is_dir():
        return folder
    own = [path for path in files if path.parent == folder]
    return folder if own else files[0].parent


def _read_config(path: Path, shown: str) -> tuple[dict[str, Any] | None, list[Row]]:
    if not path.is_file():
        return None, []
    try:
        document = read_json(path, f"{shown}/{path.name}", max_bytes=64 << 20)[1]
    except InputError as error:
        return None, [{"code": "config", "text": f"{path.name} cannot be read: {error.what}"}]
    if not isinstance(document, dict):
        return None, [{"code": "config", "text": f"{path.name} holds no object"}]
    return document, []


def _content_id(placed: Sequence[Placed], hashes: Mapping[str, str], read_as: Sequence[Any]) -> str:
    """A hash over every tensor and over what the config decides of its stored rows (family, tie, heads), so that the rows of a
    checkpoint do not depend on which of two folders with equal bytes and unlike configs was there first."""
    lines = sorted((one.ref.name, one.ref.dtype, list(one.ref.shape), hashes[one.ref.name]) for one in placed)
    return hashlib.sha256(json.dumps([read_as, lines]).encode()).hexdigest()[:32]


def _header_id(placed: Sequence[Placed], fingerprint: str) -> str:
    lines = sorted([(one.ref.name, one.ref.dtype, one.ref.shape, one.ref.offset) for one in placed])
    return hashlib.sha256(repr([fingerprint, lines]).encode()).hexdigest()[:32]


def _counted_names(placed: Sequence[Placed], totals: Totals, hashes: Mapping[str, str]) -> set[str]:
    """Names of the tensors that count: of several on one place the first, and not a head that repeats the embedding."""
    first: dict[tuple[Any, ...], str] = {}
    for one in placed:
        first.setdefault(one.ref.place, one.ref.name)
    names = set(first.values())
    if totals.tied_embeddings and totals.params < totals.params_stored:
        names -= {one.ref.name for one in placed if one.module == "lm_head" and one.part == "weight"}
    return names


def _tensor_rows(
    tensors: Sequence[Placed], checkpoint_id: str, counted: Collection[str], inactive: Collection[str]
) -> ColumnRows:
    """What headers say of each tensor."""
    refs = [one.ref for one in tensors]
    type_names = [ref.layout and ref.layout.type_name for ref in refs]
    shapes = [ref.shape if named else ref.stored_shape for ref, named in zip(refs, type_names, strict=True)]
    return ColumnRows(
        {
            "checkpoint_id": [checkpoint_id] * len(refs),
            "name": [ref.name for ref in refs],
            "canonical_name": [one.canonical_name for one in tensors],
            "stack": [one.stack for one in tensors],
            "module": [one.module for one in tensors],
            "role": [one.role for one in tensors],
            "part": [one.part for one in tensors],
            "layer_index": [one.layer_index for one in tensors],
            "expert_index": [one.expert_index for one in tensors],
            "dtype": [named or ref.dtype for ref, named in zip(refs, type_names, strict=True)],
            "shape": [list(shape) for shape in shapes],
            "weight_shape": [list(ref.shape) if ref.shape != shape else None for ref, shape in zip(refs, shapes, strict=True)],
            "params": [one.params if one.ref.name in counted else 0 for one in tensors],
            "is_parameter": [one.is_parameter for one in tensors],
            "is_active": [ref.name not in inactive for ref in refs],
            "logical_bytes": [0 if one.is_virtual else one.ref.logical_bytes for one in tensors],
            "stored_bytes": [0 if one.is_virtual else one.ref.storage_bytes for one in tensors],
        }
    )


def _add_values(
    tensors: Sequence[Placed], rows: ColumnRows, measurements: Mapping[str, Measurement], near_zero: float | None
) -> None:
    """Add the columns of what was measured; a head that no file has was not."""
    measured = [None if one.is_virtual else measurements.get(one.ref.name) for one in tensors]
    known = next((one for one in measured if one is not None), None)
    for field in () if known is None else fields(known):
        rows.columns[field.name] = [getattr(one, field.name, None) for one in measured]
    rows.columns["near_zero_threshold"] = [None if one is None else near_zero for one in measured]


def _checkpoint_row(opened: OpenedWeights, totals: Totals, checkpoint_id: str, num_layers: int, is_full: bool) -> Row:
    config = opened.config or {}
    architectures = config.get("architectures")
    architecture = architectures[0] if isinstance(architectures, list) and architectures else opened.contents.class_path
    adapter = opened.adapter_config or {}
    says = {"config": config or None, "adapter": adapter or None, "metadata": opened.contents.metadata or None}
    declared = json.dumps(says, sort_keys=True, default=str)
    return {
        "checkpoint_id": checkpoint_id,
        "source_kind": "weights",
        "container": " + ".join(opened.contents.containers),
        "family": opened.placement.family,
        "architecture": architecture if isinstance(architecture, str) else None,
        "declared": declared if len(declared) <= MAX_DECLARED_TEXT else None,
        "declared_name": _text_of(config, "_name_or_path"),
        "declared_base": _text_of(adapter, "base_model_name_or_path"),
        "params": totals.params,
        "params_stored": totals.params_stored,
        "embedding_params": totals.embedding_params,
        "lm_head_params": totals.lm_head_params,
        "layer_params": totals.layer_params,
        "prunable_params": totals.prunable_params,
        "logical_bytes": totals.logical_bytes,
        "stored_bytes": totals.stored_bytes,
        "file_bytes": sum(path.stat().st_size for path in opened.weight_set.files),
        "num_layers": num_layers,
        "tied_embeddings": totals.tied_embeddings,
        "tie_evidence": totals.tie_evidence,
        "stats_level": FULL if is_full else HEADERS,
        "device": "cpu" if is_full else None,
        "status": "ok",
        "tool_version": __version__,
    }


def _text_of(config: Mapping[str, Any], key: str) -> str | None:
    value = config.get(key)
    return value if isinstance(value, str) else None


def _zero_counts(placed: Sequence[Placed], counted: set[str], measurements: Mapping[str, Measurement], totals: Totals) -> Row:
    """Zeros over all parameters and over the prunable ones; null where a tensor's zeros are not known."""
    zeros: int | None = 0
    prunable: int | None = 0 if totals.prunable_params is not None else None
    for one in placed:
        if not one.is_parameter or one.ref.name not in counted:
            continue
        count = measurements[one.ref.name].zeros
        zeros = None if zeros is None or count is None else zeros + count
        if one.is_prunable:
            prunable = None if prunable is None or count is None else prunable + count
    return {
        "zeros": zeros,
        "prunable_zeros": prunable,
        "nonzero_params": None if zeros is None else totals.params - zeros,
    }


def _value_notes(placed: Sequence[Placed], measurements: Mapping[str, Measurement]) -> Iterator[Row]:
    for word, text in (("nans", "NaN"), ("infs", "infinite")):
        counts = [(one.ref.name, getattr(measurements[one.ref.name], word) or 0) for one in placed]
        total = sum(count for _, count in counts)
        if total:
            name = next(name for name, count in counts if count)
            yield {"code": word, "text": f"{total} {text} values, the first in {name}"}
