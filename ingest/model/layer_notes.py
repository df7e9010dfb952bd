"""Notes on the layers of a stack: missing numbers, added biases, and sizes that contradict the config."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

from layerhouse.ingest.checkpoint.config_json import Config
from layerhouse.ingest.checkpoint.notes import Note, note
from layerhouse.ingest.model.config import declared_flag, declared_key, declared_number, declared_numbers, model_types
from layerhouse.ingest.model.family import ALWAYS, NEVER, OPTIONAL, Family
from layerhouse.ingest.model.layer_sizes import HeadDim, Sizes, span
from layerhouse.ingest.model.placement import Placed, Placement
from layerhouse.vocabulary import Module, Role, Stack

DECLARED_WORDS = ("num_heads", "num_kv_heads", "head_dim", "intermediate_size", "expert_size", "num_experts", "hidden_size")
HEAD_WORDS = ("num_heads", "num_kv_heads")
MAX_RUNS = 8
"""Runs of layers that a note names."""


def number_notes(stack: str, indices: Sequence[int], config: Config | None, family: Family | None) -> list[Note]:
    """Notes on missing layer numbers, and on a layer count that differs from the config's. `indices` are sorted."""
    notes = []
    gaps = [(before + 1, after - 1) for before, after in pairwise((-1, *indices)) if after > before + 1]
    if gaps:
        notes.append(note("missing_layers", f"{_runs_text(gaps)} missing by number, of layers 0 to {indices[-1]}"))
    declared = declared_number(config, family, "num_layers", stack)
    if declared is not None and declared != len(indices):
        key = declared_key(config, family, "num_layers", stack)
        notes.append(note("declared", f"{key} is {declared} in the config, and {len(indices)} layers are there"))
    return notes


def absent_layers_note(placement: Placement, config: Config | None) -> Iterator[Note]:
    """A note on a model of which no layer is there although its config declares some."""
    family = placement.template_family
    is_of_model = family is not None and any(tensor.role == Role.EMBED_TOKENS for tensor in placement.placed)
    declared = declared_number(config, family, "num_layers", Stack.TEXT) if is_of_model else None
    if declared:
        yield note("declared", f"no layer found, the config declares {declared}")


def incomplete_notes(placement: Placement, config: Config | None) -> Iterator[Note]:
    """Notes on the embedding and the final norm, where one of them is there, with layers, and the other one is missing.

    Only of models whose config declares the family. Models whose layers have no norms, which SliceGPT moves into the weights,
    have no final norm either.
    """
    family = placement.template_family
    roles = {tensor.role for tensor in placement.placed if tensor.stack == placement.main_stack}
    has_norms = any(tensor.module == Module.NORM and tensor.layer_index is not None for tensor in placement.placed)
    is_declared = family is not None and not set(family.model_types).isdisjoint(model_types(config))
    if family is None or not is_declared or not has_norms or placement.has_lost:
        return
    for missing, other in ((Role.FINAL_NORM, Role.EMBED_TOKENS), (Role.EMBED_TOKENS, Role.FINAL_NORM)):
        name = next((t.name for t in family.templates if t.role == missing and t.stack == placement.main_stack), None)
        is_optional = all(t.optional for t in family.templates if t.role == missing)
        if other in roles and missing not in roles and name is not None and not is_optional:
            yield note("incomplete", f"incomplete: {name}.weight is missing")


def added_biases(tensors: Sequence[Placed], config: Config | None) -> Iterator[Note]:
    """Notes on biases that models of the family do not have, such as those with which a pruner compensates for its cuts."""
    for tensor in tensors:
        bias = tensor.template.bias if tensor.template is not None and tensor.part == "bias" else ALWAYS
        if bias == OPTIONAL:
            continue
        if bias == NEVER or (bias != ALWAYS and config is not None and not declared_flag(config, bias)):
            reason = "the family has none" if bias == NEVER else f"the config's {bias} is not true"
            yield note("added", f"{tensor.role}.bias of {tensor.params} parameters is added: {reason}")


def declared_notes(
    stack: str, sizes: Mapping[int, Sizes], head_dim: HeadDim, config: Config | None, family: Family | None
) -> Iterator[Note]:
    """A note for each size of CONFIG_WORDS that contradicts the shapes. Rows have what the shapes give.

    `sizes` are the measured ones by layer; equal layers share one object.
    """
    if family is None:
        return
    for word in DECLARED_WORDS:
        declared = declared_numbers(config, family, word, stack)
        wrong = {} if declared is None else _contradictions(word, declared, sizes, family, stack)
        if wrong:
            declared_text, measured_text = (span({pair[at] for pair in wrong.values()}) for at in (0, 1))
            source = f", with head_dim {head_dim.value} by {head_dim.source}" if word in HEAD_WORDS else ""
            key = declared_key(config, family, word, stack)
            text = f"{key} is {declared_text} in the config, and {measured_text} in the shapes"
            yield note("declared", f"{text} of {_layers_text(wrong)}{source}")
    heads, kv_heads = (declared_number(config, family, word, stack) for word in HEAD_WORDS)
    yield from group_notes(
        (index, note("group_ratio", _ratio_text(measured, heads, kv_heads)))
        for index, measured in sizes.items()
        if heads and kv_heads and measured.num_heads and measured.num_kv_heads
        if heads * measured.num_kv_heads != kv_heads * measured.num_heads
    )


def _contradictions(
    word: str, declared: tuple[int | None, ...] | int, sizes: Mapping[int, Sizes], family: Family, stack: str
) -> dict[int, tuple[int, int]]:
    """Layer -> the declared and the measured size, where they differ."""
    has_expert_size = bool(family.config_paths("expert_size", stack))
    distinct = {id(layer): layer for layer in sizes.values()}
    measured_by_id = {key: _measured_size(layer, word, has_expert_size) for key, layer in distinct.items()}
    wrong: dict[int, tuple[int, int]] = {}
    for index, layer in sizes.items():
        expected = declared if not isinstance(declared, tuple) else declared[index] if index < len(declared) else None
        measured = measured_by_id[id(layer)]
        is_left_out = measured == 0 and family.hybrid
        if expected is not None and measured is not None and measured != expected and not is_left_out:
            wrong[index] = (expected, measured)
    return wrong


def _measured_size(sizes: Sizes, word: str, has_expert_size: bool) -> int | None:
    """The measured size that a config word is compared with; None for nothing to compare.

    Some configs have one word for the width of experts and one for that of a plain MLP, others one for both.
    """
    if word == "expert_size":
        return sizes.intermediate_size if sizes.num_experts else None
    if word == "intermediate_size" and has_expert_size and sizes.num_experts:
        return None
    size: int | None = getattr(sizes, word)
    return size


def _ratio_text(measured: Sizes, heads: int | None, kv_heads: int | None) -> str:
    return f"{measured.num_heads} query heads to {measured.num_kv_heads} KV heads, and {heads} to {kv_heads} in the config"


def group_notes(notes: Iterable[tuple[int, Note]]) -> list[Note]:
    """Notes on single layers, equal ones joined: `layer 3: ...`, `layers 0 to 2, 5: ...`."""
    layers: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index, layer_note in notes:
        layers[layer_note["code"], layer_note["text"]].append(index)
    return [note(code, f"{_layers_text(indices)}: {text}") for (code, text), indices in layers.items()]


def _layers_text(indices: Iterable[int]) -> str:
    runs: list[tuple[int, int]] = []
    for index in sorted(set(indices)):
        if runs and index == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], index)
        else:
            runs.append((index, index))
    return _runs_text(runs)


def _runs_text(runs: Sequence[tuple[int, int]]) -> str:
    """`layer 3`, `layers 0 to 2, 5`; a run of two is written as two numbers."""
    texts = [str(low) if low == high else f"{low}, {high}" if high == low + 1 else f"{low} to {high}" for low, high in runs]
    rest = len(texts) - MAX_RUNS
    text = ", ".join(texts[:MAX_RUNS]) + (f" and {rest} more runs" if rest > 0 else "")
    return f"layer {text}" if len(runs) == 1 and runs[0][0] == runs[0][1] else f"layers {text}"
