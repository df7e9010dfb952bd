"""Notes on analysis files of one model that contradict each other or themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from layerhouse.ingest.checkpoint.notes import Note, note
from layerhouse.ingest.study.file_names import ORIGINAL_NAME
from layerhouse.ingest.study.same_layers import differing_layers
from layerhouse.ingest.study.structures import Comparison, Structure


def disagreement(text: str) -> Note:
    """A note on two statements of which only one can hold."""
    return note("disagreement", text)


def file_disagreements(files: Mapping[str, Structure] | Mapping[str, Comparison]) -> list[Note]:
    """Of several files that describe the same thing the first is taken; a note for each that differs in more than the name."""
    names = [*files]
    return [
        disagreement(f"{name} differs from {names[0]}, which is taken")
        for name in names[1:]
        if _without_names(files[name]) != _without_names(files[names[0]])
    ]


def comparison_disagreements(pruned: Structure, comparison: Comparison, original: Structure | None) -> list[Note]:
    """Where the comparison has other numbers of parameters than the analyses, or other layers."""
    notes = []
    if comparison.pruned.params != pruned.params:
        stated = f"the comparison says {comparison.pruned.params} parameters"
        notes.append(disagreement(f"{stated}, the analysis {pruned.params}, which is taken"))
    elif layers := differing_layers(pruned, comparison.pruned):
        notes.append(
            disagreement(f"the comparison has other numbers in {layers_text(layers)} than the analysis, which is taken")
        )
    if original is not None and comparison.original.params != original.params:
        stated = f"the comparison says {comparison.original.params} parameters of the base"
        notes.append(disagreement(f"{stated}, {ORIGINAL_NAME} {original.params}, which is taken"))
    elif original is not None and (layers := differing_layers(original, comparison.original)):
        of_base = f"{layers_text(layers)} of the base"
        notes.append(disagreement(f"the comparison has other numbers in {of_base} than {ORIGINAL_NAME}, which is taken"))
    return notes


def layers_text(layers: Sequence[int]) -> str:
    """Some layers, named as far as they are few."""
    if len(layers) == 1:
        return f"layer {layers[0]}"
    names = ", ".join(map(str, layers[:5]))
    return f"layers {names}" if len(layers) <= 5 else f"{len(layers)} layers ({names}, ...)"


def sum_disagreements(pruned: Structure) -> list[Note]:
    """Where the listed layers do not add up to what the analysis states beside them."""
    notes = []
    if pruned.stated_num_layers not in (None, pruned.num_layers):
        stated = f"layer_summary says {pruned.stated_num_layers} layers"
        notes.append(disagreement(f"{stated}, and {pruned.num_layers} are listed"))
    if pruned.stated_layer_params not in (None, pruned.layer_params):
        stated = f"layer_summary says {pruned.stated_layer_params} parameters of all layers"
        notes.append(disagreement(f"{stated}, and the listed ones add up to {pruned.layer_params}"))
    if pruned.layer_params is not None and pruned.layer_params > pruned.params:
        notes.append(disagreement(f"the layers add up to {pruned.layer_params} of {pruned.params} parameters"))
    wrong = [
        layer.index
        for layer in pruned.layers
        if layer.params is not None and layer.params < (layer.attention_params or 0) + (layer.mlp_params or 0)
    ]
    if wrong:
        notes.append(disagreement(f"layer {wrong[0]}: attention and MLP add up to more than its total"))
    return notes


def _without_names(item: Structure | Comparison) -> tuple[Structure, ...]:
    models = (item,) if isinstance(item, Structure) else (item.original, item.pruned)
    return tuple(replace(model, name=None) for model in models)
