"""Heads and widths of one layer, from the shapes of its weights. A size that the shapes do not give is None, with a reason."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from layerhouse.ingest.checkpoint.config_json import Config
from layerhouse.ingest.checkpoint.notes import Note, note
from layerhouse.ingest.model.config import declared_key, declared_number
from layerhouse.ingest.model.family import INPUTS, Family
from layerhouse.ingest.model.placement import BLOCK_MODULES, Placed, join_factors
from layerhouse.vocabulary import FusedLayout, Module, Role, Stack

UP_ROLES = frozenset({Role.GATE_PROJ, Role.UP_PROJ})
WIDTH_ROLES = frozenset({Role.GATE_PROJ, Role.UP_PROJ, Role.GATE_UP_PROJ, Role.DOWN_PROJ})
MLP_MODULES = frozenset({Module.MLP, Module.EXPERT})
MAX_NUMBERS = 16
"""Numbers of experts that a note names."""
UNNAMED_MODULES = frozenset({Module.OTHER, Module.ADAPTER})


@dataclass(frozen=True)
class HeadDim:
    """Rows of a head, and where the number is from; if `value` is None, `source` says why.

    With compressed keys and values (MLA), the values of a head have a length of their own, `values`, and the weight that
    expands the compressed vector has `expanded` rows for each head.
    """

    value: int | None
    source: str
    values: int | None = None
    expanded: int | None = None


@dataclass(frozen=True)
class Sizes:
    """Measured sizes of a layer; 0 heads or neurons if it has no such weights. `notes` name contradictions between shapes."""

    num_heads: int | None = None
    num_kv_heads: int | None = None
    head_dim: int | None = None
    intermediate_size: int | None = None
    num_experts: int | None = None
    hidden_size: int | None = None
    notes: tuple[Note, ...] = ()


def declared_head_dim(config: Config | None, family: Family | None, stack: str = Stack.TEXT) -> HeadDim:
    """The config's head_dim, else its hidden size over its query heads."""
    declared = declared_number(config, family, "head_dim", stack)
    values, expanded = (declared_number(config, family, word, stack) for word in ("value_head_dim", "kv_up_head_dim"))
    if declared:
        return HeadDim(declared, f"the config's {declared_key(config, family, 'head_dim', stack)}", values, expanded)
    hidden, heads = (declared_number(config, family, word, stack) for word in ("hidden_size", "num_heads"))
    if not hidden or not heads:
        reason = (
            "there is no config" if config is None else "the config has neither head_dim nor one hidden size and head count"
        )
        return HeadDim(None, f"head_dim is not known: {reason}")
    if hidden % heads:
        return HeadDim(None, f"head_dim is not known: the config's hidden size {hidden} is no multiple of its {heads} heads")
    return HeadDim(hidden // heads, f"the config's hidden size {hidden} / {heads} heads")


def measure_layer(tensors: Sequence[Placed], head_dim: HeadDim) -> Sizes:
    """Sizes of one layer from all its tensors. The length of a norm over single heads takes precedence over `head_dim`, which
    is the declared one. A size that depends on a weight whose shape is not known is None.
    """
    if unread := unread_modules(tensors):
        return _measure_known(tensors, head_dim, unread)
    tensors = join_factors(tensors)
    weights = [tensor for tensor in tensors if tensor.part == "weight" and tensor.module in BLOCK_MODULES]
    by_module: dict[str, list[Placed]] = defaultdict(list)
    for tensor in weights:
        by_module[tensor.module].append(tensor)
    has_unnamed = has_unnamed_weights(tensors)
    notes = [note("shape", f"{t.role} has shape {list(t.ref.shape)}") for t in weights if _has_wrong_shape(t)]
    attention = [tensor for tensor in by_module[Module.ATTENTION] if tensor.role != Role.LINEAR_ATTN]
    sizes = _measure_heads(attention, _measured_head_dim(tensors) or head_dim, has_unnamed)
    experts = by_module[Module.EXPERT]
    num_experts, expert_notes = _count_experts(experts, tensors)
    width, width_notes = _measure_width(experts or by_module[Module.MLP], num_experts, has_unnamed)
    hidden_size, hidden_notes = _measure_hidden(tensors)
    return replace(
        sizes,
        intermediate_size=width,
        num_experts=num_experts,
        hidden_size=hidden_size,
        notes=(*notes, *sizes.notes, *width_notes, *expert_notes, *hidden_notes),
    )


def unread_modules(tensors: Iterable[Placed]) -> frozenset[str]:
    """The modules of a layer that have a weight whose shape is not known; module other may be any of them."""
    modules = {tensor.module for tensor in tensors if tensor.is_unread}
    return frozenset(modules | {*BLOCK_MODULES, Module.NORM} if Module.OTHER in modules else modules)


def _measure_known(tensors: Sequence[Placed], head_dim: HeadDim, unread: frozenset[str]) -> Sizes:
    """The sizes of a layer that do not depend on modules with unread weights."""
    sizes = measure_layer([tensor for tensor in tensors if tensor.module not in unread], head_dim)
    if Module.ATTENTION in unread:
        sizes = replace(sizes, num_heads=None, num_kv_heads=None, head_dim=None)
    if MLP_MODULES & unread:
        sizes = replace(sizes, intermediate_size=None, num_experts=None)
    return sizes


def has_unnamed_weights(tensors: Iterable[Placed]) -> bool:
    """Whether a layer has weights that no template describes, or an adapter's: these may be attention or MLP."""
    return any(t.module in UNNAMED_MODULES and t.is_parameter and len(t.ref.shape) >= 2 for t in tensors)


def _measured_head_dim(tensors: Sequence[Placed]) -> HeadDim | None:
    norms = [t for t in tensors if t.template is not None and t.template.per_head and t.part == "weight"]
    lengths = {t.ref.shape[-1] for t in norms if t.ref.elements and t.ref.shape}
    return HeadDim(lengths.pop(), f"the length of {norms[0].role}") if len(lengths) == 1 else None


def _has_wrong_shape(weight: Placed) -> bool:
    return weight.input_axis is None and (weight.template is None or weight.template.linear)


def _measure_heads(attention: Sequence[Placed], head_dim: HeadDim, has_unnamed: bool) -> Sizes:
    """Query and KV heads of a layer's attention weights, with notes on weights that contradict them."""
    if not attention:
        return Sizes() if has_unnamed else Sizes(num_heads=0, num_kv_heads=0)
    if head_dim.value is None:
        return Sizes(notes=(note("heads", head_dim.source),))
    by_role = {tensor.role: tensor for tensor in attention if tensor.input_axis is not None}
    notes: list[Note] = []
    num_heads, num_kv_heads = _count_heads(by_role, head_dim, head_dim.value, notes)
    keys, values, output = (by_role.get(role) for role in (Role.K_PROJ, Role.V_PROJ, Role.O_PROJ))
    width = head_dim.value
    if Role.QKV_PROJ not in by_role and Role.KV_B_PROJ in by_role:
        output, width = (output if head_dim.values else None), head_dim.values or width
    if keys is not None and values is not None and _outputs(keys) != _outputs(values):
        notes.append(note("heads", f"{_outputs(keys)} key rows, and {_outputs(values)} value rows"))
    if num_heads is not None and output is not None and _inputs(output) != num_heads * width:
        product = f"{num_heads} heads of {width} give {num_heads * width}"
        notes.append(note("heads", f"{output.role} has {_inputs(output)} inputs, and {product}"))
    if num_heads and num_kv_heads is not None and (num_kv_heads == 0 or num_heads % num_kv_heads):
        notes.append(note("heads", f"{num_heads} query heads do not share {num_kv_heads} KV heads evenly"))
    return Sizes(num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=head_dim.value, notes=tuple(notes))


def _count_heads(
    by_role: Mapping[str | None, Placed], head_dim: HeadDim, size: int, notes: list[Note]
) -> tuple[int | None, int | None]:
    """Query heads and KV heads by the rows of the projections; adds notes on rows that are no multiple of head_dim."""
    fused, expanded = by_role.get(Role.QKV_PROJ), by_role.get(Role.KV_B_PROJ)
    queries, keys = by_role.get(Role.Q_PROJ), by_role.get(Role.K_PROJ)
    if fused is not None:
        num_heads, num_kv_heads, problem = _split_fused(fused, by_role.get(Role.O_PROJ), size)
        notes += [note("heads", problem)] if problem else []
        return num_heads, num_kv_heads
    if expanded is not None:
        queries = by_role.get(Role.Q_B_PROJ, queries)
        num_heads = _divide(_outputs(queries), size, "query", notes) if queries is not None else None
        num_kv_heads = _divide(_outputs(expanded), head_dim.expanded, "key and value", notes) if head_dim.expanded else None
        return num_heads, num_kv_heads
    num_kv_heads = _divide(_outputs(keys), size, "key", notes) if keys is not None else None
    return (_query_heads(queries, by_role.get(Role.O_PROJ), size, notes) if queries is not None else None), num_kv_heads


def _query_heads(queries: Placed, output: Placed | None, size: int, notes: list[Note]) -> int | None:
    """Query heads by the rows of `q_proj`. An output gate has half of them, unless the output projection reads as many.

    Of twice as many rows as that has inputs, in a family without gates, nothing tells whether they are a gate's or more heads.
    """
    rows = _outputs(queries)
    has_gate = queries.template is not None and queries.template.fused == FusedLayout.Q_GATE
    if has_gate and (output is None or rows != _inputs(output)):
        heads = _divide(rows, size, "query and gate", notes)
        if heads is not None and heads % 2:
            notes.append(note("heads", f"{rows} query and gate rows are no multiple of 2 x head_dim {size}"))
        return None if heads is None or heads % 2 else heads // 2
    if output is not None and rows and rows == 2 * _inputs(output):
        text = f"{rows} rows, twice the {rows // 2} inputs of {output.role}: with an output gate, or of more heads"
        notes.append(note("heads", f"{queries.role} has {text}"))
        return None
    return _divide(rows, size, "query", notes)


def _split_fused(fused: Placed, output: Placed | None, size: int) -> tuple[int | None, int | None, str | None]:
    """Query heads and KV heads of one weight of queries, keys and values; and the reason if one is not known.

    If the parts may differ in size, the output projection's inputs give the query heads; the other rows are keys and values.
    """
    rows = _outputs(fused)
    assert fused.template is not None
    if fused.template.fused == FusedLayout.QKV_THIRDS:
        heads, rest = divmod(rows, 3 * size)
        if rest:
            return None, None, f"{rows} fused query, key and value rows are no multiple of 3 x head_dim {size}"
        return heads, heads, None
    if output is None:
        return None, None, f"{rows} fused query, key and value rows, and no output projection that gives the query heads"
    heads, rest = divmod(_inputs(output), size)
    if rest:
        return None, None, f"{_inputs(output)} inputs of {output.role} are no multiple of head_dim {size}"
    kv_heads, rest = divmod(rows - heads * size, 2 * size)
    if rest or kv_heads < 0:
        return heads, None, f"{rows} fused rows less {heads} query heads of {size} are no multiple of 2 x head_dim {size}"
    return heads, kv_heads, None


def _measure_width(weights: Sequence[Placed], num_experts: int | None, has_unnamed: bool) -> tuple[int | None, list[Note]]:
    """Neurons of the MLP, or of each expert: rows of gate and up, checked against the columns of down."""
    weights = [tensor for tensor in weights if tensor.role in WIDTH_ROLES or _has_wrong_shape(tensor)]
    if not weights or any(tensor.input_axis is None for tensor in weights):
        return (None if has_unnamed or weights else 0), []
    if all(_holds_experts_in_rows(tensor) for tensor in weights):
        return _split_expert_rows(weights, num_experts)
    rows: set[int] = set()
    columns = {_inputs(tensor) for tensor in weights if tensor.role == Role.DOWN_PROJ}
    for tensor in weights:
        if tensor.template is not None and tensor.template.fused == FusedLayout.GATE_UP:
            if _outputs(tensor) % 2:
                return None, [note("intermediate_size", f"{_outputs(tensor)} fused gate and up rows are odd")]
            rows.add(_outputs(tensor) // 2)
        elif tensor.role in UP_ROLES:
            rows.add(_outputs(tensor))
    widths = rows or columns
    if len(widths) > 1:
        return None, [note("intermediate_size", f"gate and up have {span(widths)} rows")]
    notes = []
    if columns - widths:
        notes.append(note("intermediate_size", f"gate and up have {span(widths)} rows, and down has {span(columns)} columns"))
    return next(iter(widths), None), notes


def _holds_experts_in_rows(tensor: Placed) -> bool:
    return tensor.template is not None and tensor.template.fused == FusedLayout.EXPERTS


def _split_expert_rows(weights: Sequence[Placed], num_experts: int | None) -> tuple[int | None, list[Note]]:
    """Neurons of each expert if one weight holds the rows of all experts."""
    lengths = {_inputs(tensor) if tensor.role == Role.DOWN_PROJ else _outputs(tensor) for tensor in weights}
    if num_experts and len(lengths) == 1 and min(lengths) % num_experts == 0:
        return min(lengths) // num_experts, []
    count = "an unknown number of" if num_experts is None else num_experts
    return None, [note("intermediate_size", f"{span(lengths)} rows do not divide into {count} experts")]


def _count_experts(experts: Sequence[Placed], tensors: Sequence[Placed]) -> tuple[int | None, list[Note]]:
    """Experts by their numbers in names, or by the first axis of a weight that holds all; None if there are none."""
    if not experts:
        return None, []
    numbered = {tensor.expert_index for tensor in experts if tensor.expert_index is not None}
    stacked = {tensor.ref.shape[0] for tensor in experts if tensor.expert_index is None and len(tensor.ref.shape) == 3}
    routed = {_outputs(t) for t in tensors if t.role == Role.ROUTER and t.part == "weight" and t.input_axis is not None}
    in_rows = any(_holds_experts_in_rows(tensor) for tensor in experts)
    counts = stacked | ({len(numbered)} if numbered else set()) | (routed if in_rows else set())
    if len(counts) != 1:
        return None, [note("experts", f"expert weights hold {span(counts)} experts")] if counts else []
    count = counts.pop()
    notes = [note("experts", f"{count} experts, and a router with {span(routed)} rows")] if routed - {count} else []
    missing = sorted(set(range(max(numbered, default=-1) + 1)) - numbered)
    if missing:
        notes.append(note("experts", f"{len(numbered)} experts up to number {max(numbered)}, without {_some(missing)}"))
    return count, notes


def _measure_hidden(tensors: Sequence[Placed]) -> tuple[int | None, list[Note]]:
    """Width of the residual stream as attention reads it, else the MLP, else any tensor; a note if others differ."""
    widths: dict[int, str | None] = {}
    for tensor in _readers_first(tensors):
        if tensor.residual_axis is not None:
            widths.setdefault(tensor.ref.shape[tensor.residual_axis], tensor.role)
    if not widths:
        return None, []
    parts = ", ".join(f"{role} {width}" for width, role in widths.items())
    return next(iter(widths)), [note("hidden_size", f"hidden sizes differ: {parts}")] if len(widths) > 1 else []


def _readers_first(tensors: Sequence[Placed]) -> Iterator[Placed]:
    """The weights that read the residual stream in attention, then those in MLP and experts, then all tensors."""
    readers = [tensor for tensor in tensors if tensor.template is not None and tensor.template.residual == INPUTS]
    yield from (tensor for tensor in readers if tensor.module == Module.ATTENTION)
    yield from (tensor for tensor in readers if tensor.module in MLP_MODULES)
    yield from tensors


def _outputs(tensor: Placed) -> int:
    assert tensor.output_axis is not None
    return tensor.ref.shape[tensor.output_axis]


def _inputs(tensor: Placed) -> int:
    assert tensor.input_axis is not None
    return tensor.ref.shape[tensor.input_axis]


def _divide(rows: int, size: int, kind: str, notes: list[Note]) -> int | None:
    if rows % size:
        notes.append(note("heads", f"{rows} {kind} rows are no multiple of head_dim {size}"))
        return None
    return rows // size


def _some(numbers: Sequence[int]) -> str:
    """The numbers with blanks between them; those beyond the first MAX_NUMBERS are counted."""
    rest = len(numbers) - MAX_NUMBERS
    return " ".join(map(str, numbers[:MAX_NUMBERS])) + (f" and {rest} more" if rest > 0 else "")


def span(counts: set[int]) -> str:
    """`5`, or `5 to 9` for the least and greatest of several."""
    return str(min(counts)) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
