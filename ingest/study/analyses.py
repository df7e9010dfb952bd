"""A model's analysis files -> the rows that weights would give: a checkpoint, its layers, its base, and which block is which.

The files come from older scripts (see `structures`). What they do not say stays null: which blocks were removed, if no
`layers_to_remove.json` names them; every value statistic.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.json_files import read_json
from layerhouse.ingest.study.structures import (
    MAX_LAYERS,
    Comparison,
    Layer,
    Reader,
    Structure,
    read_comparison,
    read_structure,
)
from layerhouse.version import __version__

Row = dict[str, Any]

STACK = "text"
STRUCTURE_NAMES = ("pruned_model_analysis.json", "model_structure.json")
COMPARISON_NAMES = ("model_comparison.json", "pruning_comparison.json")
ORIGINAL_NAME = "original_model_analysis.json"
REMOVAL_NAME = "layers_to_remove.json"
ANALYSIS_NAMES = (*STRUCTURE_NAMES, *COMPARISON_NAMES, ORIGINAL_NAME, REMOVAL_NAME)


@dataclass(frozen=True)
class Removal:
    """`layers_to_remove.json`: blocks of the base, sorted; `original_num_layers` where stated."""

    layers: tuple[int, ...]
    original_num_layers: int | None


@dataclass(frozen=True)
class Base:
    """The checkpoint that a model is compared with. `structure` is None where the warehouse has it already; `status` is
    partial where only a comparison tells of it."""

    checkpoint_id: str
    num_layers: int | None
    structure: Structure | None
    status: str = "ok"


@dataclass(frozen=True)
class AnalysisRows:
    """What one model's analysis files give, by table; the caller adds model_id, source, fingerprint and declarations."""

    checkpoint: Row
    layers: tuple[Row, ...]
    layer_matches: tuple[Row, ...]
    base_checkpoint: Row | None
    base_layers: tuple[Row, ...]


Parsed = Structure | Comparison | Removal
FindBase = Callable[[str | None, int], Base | None]


def read_file(path: Path, shown: str) -> Parsed:
    """What one analysis file says, by its name. Raises InputError that names the file and key."""
    document = read_json(path, shown)[1]
    if path.name in COMPARISON_NAMES:
        return read_comparison(document, shown)
    if path.name == REMOVAL_NAME:
        return _read_removal(document, shown)
    structure = read_structure(document, shown)
    if path.name == ORIGINAL_NAME:
        _refuse_blocks_outside(structure, shown)
    return structure


def combine(parsed: Mapping[str, Parsed], shown: str, find_base: FindBase) -> AnalysisRows:
    """The rows of a model whose analysis files say `parsed`, by file name; `shown` is the model as the user knows it.

    `find_base(name, params)` gives a base that another model's `original_model_analysis.json` describes. Raises InputError
    where the files say nothing of the model itself, or of blocks that its base cannot have.
    """
    structures = {name: found for name in STRUCTURE_NAMES if isinstance(found := parsed.get(name), Structure)}
    comparisons = {name: found for name in COMPARISON_NAMES if isinstance(found := parsed.get(name), Comparison)}
    comparison = next(iter(comparisons.values()), None)
    original, removal = parsed.get(ORIGINAL_NAME), parsed.get(REMOVAL_NAME)
    assert original is None or isinstance(original, Structure)
    assert removal is None or isinstance(removal, Removal)
    if structures:
        pruned = next(iter(structures.values()))
    elif comparison is not None:
        pruned = _pruned_of(comparison)
    else:
        raise InputError(shown, f"no structure of the model itself in {', '.join(sorted(parsed))}")

    notes = [*_differences(structures), *_differences(comparisons), *_disagreements(pruned, comparison, original)]
    base = _base(comparison, original, removal, find_base)
    if base is not None and base.structure is not None:
        _refuse_blocks_outside(base.structure, f"{shown}: {', '.join(comparisons)}")
    matches: tuple[Row, ...] = ()
    if base is not None:
        matches, match_notes = _match_layers(pruned, base, removal)
        notes += match_notes
    declared: Row = {}
    if comparison is not None:
        declared = {"original_name": comparison.original.name, "pruned_name": comparison.pruned.name}
    if removal is not None:
        declared["layers_to_remove"] = list(removal.layers)
        declared["original_num_layers"] = removal.original_num_layers
    checkpoint_id = pruned.structure_id if base is None else _checkpoint_id(pruned, base, declared)
    checkpoint = _checkpoint_row(pruned, checkpoint_id, notes)
    checkpoint["declared"] = json.dumps(declared, sort_keys=True) if declared else None
    checkpoint["declared_base"] = (comparison.original.name if comparison else None) or (original.name if original else None)
    return AnalysisRows(
        checkpoint=checkpoint,
        layers=tuple(_layer_row(layer, checkpoint_id) for layer in pruned.layers),
        layer_matches=tuple(
            {"checkpoint_id": checkpoint_id, "base_checkpoint_id": base.checkpoint_id if base else None, **match}
            for match in matches
        ),
        base_checkpoint={**_checkpoint_row(base.structure, base.checkpoint_id, []), "status": base.status}
        if base and base.structure
        else None,
        base_layers=tuple(_layer_row(layer, base.checkpoint_id) for layer in base.structure.layers)
        if base and base.structure
        else (),
    )


def _read_removal(document: Any, shown: str) -> Removal:
    top = Reader(shown, document)
    layers = [item.integer(MAX_LAYERS) for item in top.required("layers_to_remove").items()]
    if len(set(layers)) < len(layers):
        raise InputError(shown, "layers_to_remove: a layer stands twice")
    stated = top.optional_integer("n_remove")
    if stated is not None and stated != len(layers):
        raise InputError(shown, f"n_remove is {stated}, and layers_to_remove lists {len(layers)}")
    original_num_layers = top.optional_integer("original_num_layers", MAX_LAYERS)
    if original_num_layers is not None and layers and max(layers) >= original_num_layers:
        raise InputError(
            shown, f"layers_to_remove: layer {max(layers)} of a model of {original_num_layers} layers (0 is the first)"
        )
    return Removal(tuple(sorted(layers)), original_num_layers)


def _refuse_blocks_outside(base: Structure, shown: str) -> None:
    """A base's blocks count from 0: by their number, layers of other models are matched to them."""
    if base.num_layers is not None and base.layers and base.layers[-1].index >= base.num_layers:
        where = f"layer_idx {base.layers[-1].index} of a base of {base.num_layers} layers"
        raise InputError(shown, f"layers: {where} (0 is the first)")


def _differences(found: Mapping[str, Structure] | Mapping[str, Comparison]) -> list[Row]:
    """Of several files that describe the same thing, the first is taken; a difference in more than the name is a note."""
    names = [*found]
    return [
        _note("disagreement", f"{name} differs from {names[0]}, which is taken")
        for name in names[1:]
        if _nameless(found[name]) != _nameless(found[names[0]])
    ]


def _nameless(item: Structure | Comparison) -> tuple[Structure, ...]:
    sides = (item,) if isinstance(item, Structure) else (item.original, item.pruned)
    return tuple(replace(side, name=None) for side in sides)


def _pruned_of(comparison: Comparison) -> Structure:
    """The pruned side of a comparison. It lists every layer of it if the listed ones add up to its layer_params."""
    pruned = comparison.pruned
    listed = sum(layer.params or 0 for layer in pruned.layers)
    is_complete = pruned.layer_params is None or listed == pruned.layer_params
    return replace(pruned, num_layers=len(pruned.layers) if is_complete else None, layer_params=pruned.layer_params or listed)


def _disagreements(pruned: Structure, comparison: Comparison | None, original: Structure | None) -> list[Row]:
    notes = []
    if comparison is not None:
        if comparison.pruned.params != pruned.params:
            notes.append(
                _note(
                    "disagreement",
                    f"the comparison says {comparison.pruned.params} parameters, the analysis {pruned.params}, which is taken",
                )
            )
        if original is not None and comparison.original.params != original.params:
            notes.append(
                _note(
                    "disagreement",
                    f"the comparison says {comparison.original.params} parameters of the base, "
                    f"{ORIGINAL_NAME} {original.params}, which is taken",
                )
            )
    if pruned.stated_num_layers not in (None, pruned.num_layers):
        notes.append(
            _note("disagreement", f"layer_summary says {pruned.stated_num_layers} layers, and {pruned.num_layers} are listed")
        )
    if pruned.stated_layer_params not in (None, pruned.layer_params):
        said = f"layer_summary says {pruned.stated_layer_params} parameters of all layers"
        notes.append(_note("disagreement", f"{said}, and the listed ones add up to {pruned.layer_params}"))
    if pruned.layer_params is not None and pruned.layer_params > pruned.params:
        notes.append(_note("disagreement", f"the layers add up to {pruned.layer_params} of {pruned.params} parameters"))
    wrong = [
        layer.index
        for layer in pruned.layers
        if layer.params is not None and layer.params < (layer.attention_params or 0) + (layer.mlp_params or 0)
    ]
    if wrong:
        notes.append(_note("disagreement", f"layer {wrong[0]}: attention and MLP add up to more than its total"))
    return notes


def _base(
    comparison: Comparison | None,
    original: Structure | None,
    removal: Removal | None,
    find_base: FindBase,
) -> Base | None:
    """The base: its own analysis, else the same base as analysed for another model, else what the comparison lists of it."""
    if original is not None:
        return Base(original.structure_id, original.num_layers, original)
    if comparison is None:
        return None
    stated = comparison.original
    found = find_base(stated.name, stated.params)
    if found is not None:
        return found
    structure = _complete(stated, removal.original_num_layers if removal else None)
    return Base(structure.structure_id, structure.num_layers, structure, status="partial")


def _complete(stated: Structure, declared_num_layers: int | None) -> Structure:
    """The base as far as a comparison tells: it lists only as many layers as the pruned model has.

    Its layer count is the declared one, else layer_params over the size of a layer where all listed are alike and it divides.
    Unlisted layers get that size if the total then adds up, else they stand without one.
    """
    sizes = {layer.size for layer in stated.layers}
    single = stated.layers[0] if len(sizes) == 1 else None
    num_layers = declared_num_layers
    if num_layers is None and single is not None and single.params and stated.layer_params is not None:
        num_layers = stated.layer_params // single.params if stated.layer_params % single.params == 0 else None
    if num_layers is not None and num_layers > MAX_LAYERS:
        num_layers = None
    if num_layers is None and stated.layer_params == sum(layer.params or 0 for layer in stated.layers):
        num_layers = len(stated.layers)
    layers = list(stated.layers)
    if num_layers is not None and num_layers > len(layers):
        is_even = single is not None and single.params is not None and single.params * num_layers == stated.layer_params
        listed = {layer.index for layer in layers}
        layers += [
            replace(single, index=index) if is_even and single is not None else Layer(index, None, None, None)
            for index in range(num_layers)
            if index not in listed
        ]
    return replace(stated, num_layers=num_layers, layers=tuple(sorted(layers, key=lambda layer: layer.index)))


def _match_layers(pruned: Structure, base: Base, removal: Removal | None) -> tuple[tuple[Row, ...], list[Row]]:
    """Rows of layer_matches (without the two checkpoint ids): declared, positional where the counts agree, else none."""
    indices, notes = [layer.index for layer in pruned.layers], []
    if removal is not None and removal.original_num_layers not in (None, base.num_layers):
        said = f"{REMOVAL_NAME} says {removal.original_num_layers} layers of the base"
        notes.append(_note("disagreement", f"{said}, and it has {base.num_layers}"))
    if removal is not None and base.num_layers is not None:
        kept = [index for index in range(base.num_layers) if index not in set(removal.layers)]
        if len(kept) == len(indices) and (not removal.layers or removal.layers[-1] < base.num_layers):
            rows = [_match(index, base_index, "declared") for index, base_index in zip(indices, kept, strict=True)]
            return (*rows, *(_match(None, base_index, "declared") for base_index in removal.layers)), notes
    if removal is not None and len(indices) != base.num_layers:
        counts = f"{len(indices)} layers of {base.num_layers if base.num_layers is not None else 'an unknown number'}"
        notes.append(_note("disagreement", f"{REMOVAL_NAME} names {len(removal.layers)} layers, and the model has {counts}"))
    if base.num_layers == len(indices):
        return tuple(_match(index, position, "positional") for position, index in enumerate(indices)), notes
    unplaced = [_match(index, None, "none") for index in indices]
    return (*unplaced, *(_match(None, base_index, "none") for base_index in range(base.num_layers or 0))), notes


def _match(layer_index: int | None, base_layer_index: int | None, match: str) -> Row:
    return {"stack": STACK, "layer_index": layer_index, "base_layer_index": base_layer_index, "match": match}


def _checkpoint_id(pruned: Structure, base: Base, declared: Mapping[str, Any]) -> str:
    text = json.dumps([pruned.structure_id, base.checkpoint_id, declared], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _checkpoint_row(structure: Structure, checkpoint_id: str, notes: list[Row]) -> Row:
    return {
        "checkpoint_id": checkpoint_id,
        "source_kind": "analysis",
        "declared_name": structure.name,
        "params": structure.params,
        "embedding_params": structure.embedding_params,
        "lm_head_params": structure.lm_head_params,
        "layer_params": structure.layer_params,
        "num_layers": structure.num_layers,
        "stats_level": "none",
        "status": "ok",
        "notes": notes,
        "tool_version": __version__,
    }


def _layer_row(layer: Layer, checkpoint_id: str) -> Row:
    return {
        "checkpoint_id": checkpoint_id,
        "stack": STACK,
        "layer_index": layer.index,
        "params": layer.params,
        "attention_params": layer.attention_params,
        "mlp_params": layer.mlp_params,
        "norm_params": layer.norm_params,
        "other_params": layer.other_params,
        "role_params": dict(layer.role_params) or None,
        "num_heads": layer.num_heads,
        "num_kv_heads": layer.num_kv_heads,
        "head_dim": layer.head_dim,
        "intermediate_size": layer.intermediate_size,
        "attention_type": layer.attention_type,
        "mlp_type": layer.mlp_type,
        "is_zero_layer": layer.is_zero_layer,
    }


def _note(code: str, text: str) -> Row:
    return {"code": code, "text": text}
