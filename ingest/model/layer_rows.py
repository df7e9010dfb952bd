"""Placed tensors -> one row a layer: parameters by module and role, and heads and widths as the shapes give them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from layerhouse.ingest.checkpoint.notes import Note, note
from layerhouse.ingest.model.config import (
    Config,
    declared_flag,
    declared_key,
    declared_number,
    declared_numbers,
)
from layerhouse.ingest.model.family import (
    ALWAYS,
    NEVER,
    OPTIONAL,
    STACKS,
    Family,
)
from layerhouse.ingest.model.inactive import inactive_tensors
from layerhouse.ingest.model.layer_sizes import (
    HeadDim,
    Sizes,
    declared_head_dim,
    has_unnamed_weights,
    measure_layer,
    span,
)
from layerhouse.ingest.model.placement import BLOCK_MODULES, MTP, OTHER, Placed, Placement, unique_tensors
from layerhouse.ingest.model.token_cost import layer_kv_values, layer_macs

Row = dict[str, Any]
Zeros = Mapping[str, int]

INT32_MAX = 2**31 - 1
DECLARED_WORDS = ("num_heads", "num_kv_heads", "head_dim", "intermediate_size", "expert_size", "num_experts", "hidden_size")
SIZE_WORDS = ("num_heads", "num_kv_heads", "head_dim", "intermediate_size", "num_experts", "hidden_size")
UNCOUNTED_ROLES = frozenset({"norm", "buffer", OTHER})
MAX_RUNS = 8
"""Runs of layers that a note names."""


def layer_rows(placement: Placement, config: Config | None, zeros: Zeros | None = None) -> tuple[list[Row], list[Note]]:
    """Rows of `layers` without checkpoint_id, by stack and number, and notes on what is unusual or disagrees with the config.

    `zeros` are zero elements by tensor name, where values were counted; they decide on layers that are there and all zero.
    """
    is_hollow = has_placeholders(placement.placed)
    inactive, notes = inactive_tensors(placement, config)
    notes = [note("placeholder", "placeholder shapes: incomplete export")] * is_hollow + notes
    found = {tensor.stack for tensor in placement.placed if tensor.layer_index is not None}
    rows: list[Row] = []
    for stack in STACKS:
        if stack in found:
            stack_rows, remarks = _stack_rows(stack, placement, config, zeros, inactive, is_hollow)
            rows += stack_rows
            is_main = stack == placement.main_stack
            notes += [remark if is_main else note(remark["code"], f"{stack}: {remark['text']}") for remark in remarks]
    return rows, notes


def _stack_rows(
    stack: str,
    placement: Placement,
    config: Config | None,
    zeros: Zeros | None,
    inactive: frozenset[str],
    is_hollow: bool,
) -> tuple[list[Row], list[Note]]:
    family = placement.template_family
    layers: dict[int, list[Placed]] = defaultdict(list)
    for tensor in placement.placed:
        if tensor.layer_index is not None and tensor.stack == stack:
            layers[tensor.layer_index].append(tensor)
    head_dim = declared_head_dim(config, family, stack)
    experts_per_token = declared_number(config, family, "experts_per_token", stack)
    rows: list[Row] = []
    sizes: dict[int, Sizes] = {}
    found: list[tuple[int, Note]] = []
    is_known = family is not None and not is_hollow
    alike: dict[tuple[Any, ...], tuple[Sizes, tuple[Note, ...], Row, int]] = {}
    is_apart = len(placement.unique) == len(placement.placed)
    for index in sorted(layers):
        unique = layers[index] if is_apart else unique_tensors(layers[index])
        is_plain = len(unique) == len(layers[index])
        looks = tuple([_looks(tensor, inactive) for tensor in layers[index]]) if is_plain else (index,)
        if looks not in alike:
            active = [tensor for tensor in unique if tensor.ref.name not in inactive]
            measured = measure_layer(layers[index], head_dim) if is_known else Sizes()
            row = _row(stack, unique, measured, family)
            row["macs_per_token"] = layer_macs(active, measured, experts_per_token) if is_known else None
            row["kv_values_per_token"] = layer_kv_values(active, measured, stack) if is_known else None
            work = sum(tensor.params for tensor in unique if tensor.module in BLOCK_MODULES)
            alike[looks] = (measured, (*measured.notes, *_additions(layers[index], config)), row, work)
        sizes[index], remarks, row, work = alike[looks]
        found += [(index, remark) for remark in remarks]
        is_split = not is_hollow and row["attention_params"] is not None and row["mlp_params"] is not None
        is_zero = _is_zero(unique, work, zeros) if is_split else None
        rows.append({**row, "layer_index": index, "zeros": _zeros(unique, zeros), "is_zero_layer": is_zero})
    notes = [] if stack == MTP else _number_notes(stack, sorted(layers), config, family)
    notes += _group(found)
    return rows, [*notes, *_declared_notes(stack, sizes, head_dim, config, family)]


def _looks(tensor: Placed, inactive: frozenset[str]) -> tuple[Any, ...]:
    """All that a layer's row depends on, but the values: layers of tensors that look alike have one row but for its number."""
    return (
        tensor.module,
        tensor.role,
        tensor.part,
        tensor.expert_index,
        tensor.is_parameter,
        tensor.ref.shape,
        tensor.input_axis,
        tensor.residual_axis,
        id(tensor.template),
        tensor.ref.name in inactive,
    )


def _row(stack: str, tensors: Sequence[Placed], sizes: Sizes, family: Family | None) -> Row:
    params: Counter[str] = Counter()
    roles: Counter[str] = Counter()
    for tensor in tensors:
        params[tensor.module] += tensor.params
        if tensor.role is not None and tensor.module not in UNCOUNTED_ROLES:
            roles[tensor.role] += tensor.params
    has_unnamed = has_unnamed_weights(tensors)
    attention, mlp = (
        None if family is None or (has_unnamed and count == 0) else count
        for count in (params["attention"], params["mlp"] + params["expert"])
    )
    norm = None if family is None else params["norm"]
    is_split = attention is not None and mlp is not None and norm is not None
    return {
        "stack": stack,
        "params": params.total(),
        "attention_params": attention,
        "mlp_params": mlp,
        "norm_params": norm,
        "other_params": params.total() - (attention or 0) - (mlp or 0) - (norm or 0) if is_split else None,
        "role_params": dict(roles) if family is not None else None,
        **{word: size if (size := getattr(sizes, word)) is None or size <= INT32_MAX else None for word in SIZE_WORDS},
    }


def _is_zero(tensors: Sequence[Placed], params: int, zeros: Zeros | None) -> bool:
    """No parameters of attention, MLP or a state-space mixer, or all of them zero-valued."""
    if params == 0 or zeros is None:
        return params == 0
    return _zeros([tensor for tensor in tensors if tensor.module in BLOCK_MODULES], zeros) == params


def _zeros(tensors: Iterable[Placed], zeros: Zeros | None) -> int | None:
    """Zero parameters of the tensors; None unless all were counted."""
    if zeros is None:
        return None
    counts = [zeros.get(tensor.ref.name) for tensor in tensors if tensor.params]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def has_placeholders(placed: Sequence[Placed]) -> bool:
    """Whether every weight of the blocks is the empty or one-element stand-in that partitioned training saves."""
    shapes = [t.ref.shape for t in placed if t.layer_index is not None and t.module in BLOCK_MODULES and t.part == "weight"]
    return bool(shapes) and all(shape in ((0,), (1,)) for shape in shapes)


def _number_notes(stack: str, indices: Sequence[int], config: Config | None, family: Family | None) -> list[Note]:
    """Layers that are missing by number, and a layer count that the config declares otherwise."""
    notes = []
    gaps = [(before + 1, after - 1) for before, after in pairwise((-1, *indices)) if after > before + 1]
    if gaps:
        notes.append(note("missing_layers", f"{_runs_text(gaps)} missing by number, of layers 0 to {indices[-1]}"))
    declared = declared_number(config, family, "num_layers", stack)
    if declared is not None and declared != len(indices):
        key = declared_key(config, family, "num_layers", stack)
        notes.append(note("declared", f"{key} is {declared} in the config, and {len(indices)} layers are there"))
    return notes


def _additions(tensors: Sequence[Placed], config: Config | None) -> Iterator[Note]:
    """Biases that the family's models do not have, such as those with which a pruner makes up for what it removed."""
    for tensor in tensors:
        bias = tensor.template.bias if tensor.template is not None and tensor.part == "bias" else ALWAYS
        if bias == OPTIONAL:
            continue
        if bias == NEVER or (bias != ALWAYS and config is not None and not declared_flag(config, bias)):
            what = "the family has none" if bias == NEVER else f"the config's {bias} is not true"
            yield note("added", f"{tensor.role}.bias of {tensor.params} parameters is added: {what}")


def _declared_notes(
    stack: str, sizes: Mapping[int, Sizes], head_dim: HeadDim, config: Config | None, family: Family | None
) -> Iterator[Note]:
    """One note for each size that the config declares and shapes contradict. Shapes win; the config is kept as declared."""
    if family is None:
        return
    has_expert_size = bool(family.keys("expert_size", stack))
    different = {id(measured): measured for measured in sizes.values()}  # layers that look alike share theirs
    for word in DECLARED_WORDS:
        declared = declared_numbers(config, family, word, stack)
        if declared is None:
            continue
        found_in = {key: _measured(measured, word, has_expert_size) for key, measured in different.items()}
        wrong: dict[int, tuple[int, int]] = {}
        for index, measured in sizes.items():
            stated = declared if not isinstance(declared, tuple) else declared[index] if index < len(declared) else None
            found = found_in[id(measured)]
            is_left_out = found == 0 and family.hybrid
            if stated is not None and found is not None and found != stated and not is_left_out:
                wrong[index] = (stated, found)
        if wrong:
            stated_text, found_text = (span({pair[side] for pair in wrong.values()}) for side in (0, 1))
            how = f", with head_dim {head_dim.value} by {head_dim.source}" if word in ("num_heads", "num_kv_heads") else ""
            key = declared_key(config, family, word, stack)
            text = f"{key} is {stated_text} in the config, and {found_text} in the shapes"
            yield note("declared", f"{text} of {_layers_text(wrong)}{how}")
    heads, kv_heads = (declared_number(config, family, word, stack) for word in ("num_heads", "num_kv_heads"))
    regrouped = [
        (
            index,
            note(
                "group_ratio",
                f"{found.num_heads} query heads to {found.num_kv_heads} KV heads, and {heads} to {kv_heads} in the config",
            ),
        )
        for index, found in sizes.items()
        if heads and kv_heads and found.num_heads and found.num_kv_heads
        if heads * found.num_kv_heads != kv_heads * found.num_heads
    ]
    yield from _group(regrouped)


def _measured(sizes: Sizes, word: str, has_expert_size: bool) -> int | None:
    """The size that a word of the config speaks of: one for the width of experts and one for that of a plain MLP, or one for
    both. No heads and no neurons are left out: the block has none, which its own rows say."""
    if word == "expert_size":
        return sizes.intermediate_size if sizes.num_experts else None
    if word == "intermediate_size" and has_expert_size and sizes.num_experts:
        return None
    found: int | None = getattr(sizes, word)
    return found


def _group(found: Iterable[tuple[int, Note]]) -> list[Note]:
    """Notes on layers, those that say the same once with all their layers: `layer 3: ...`, `layers 0 to 2, 5: ...`."""
    layers: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index, remark in found:
        layers[remark["code"], remark["text"]].append(index)
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
    """`layer 3`, `layers 0 to 2, 5`; a run of two is two numbers."""
    shown = [str(low) if low == high else f"{low}, {high}" if high == low + 1 else f"{low} to {high}" for low, high in runs]
    rest = len(shown) - MAX_RUNS
    text = ", ".join(shown[:MAX_RUNS]) + (f" and {rest} more runs" if rest > 0 else "")
    return f"layer {text}" if len(runs) == 1 and runs[0][0] == runs[0][1] else f"layers {text}"
