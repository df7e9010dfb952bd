"""Weights that are stored in a form that is not read. Their shapes, and so their parameters, are not known.

Counted by the words that store them they would make a smaller model, which would pass for a pruned one. So their numbers, and
those of their layer and of the model, are null, with a note that names them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from layerhouse.ingest.checkpoint.config_json import Config, quantization_config
from layerhouse.ingest.checkpoint.dtypes import DTYPES
from layerhouse.ingest.checkpoint.layouts.adapters import SCHEME as ADAPTER_SCHEME
from layerhouse.ingest.checkpoint.layouts.module_tensors import split_name, unread_refs
from layerhouse.ingest.checkpoint.layouts.registry import MARKS, UNKNOWN_SCHEME
from layerhouse.ingest.checkpoint.notes import Note, note
from layerhouse.ingest.checkpoint.tensor_ref import CODES, PACKED, PLAIN, Layout, TensorRef
from layerhouse.ingest.model.placement import BLOCK_MODULES, Placed, Placement, place_tensors
from layerhouse.ingest.model.places import split_names
from layerhouse.vocabulary import Module

WEIGHT_MODULES = BLOCK_MODULES | {Module.ROUTER, Module.EMBEDDING, Module.LM_HEAD}
"""The modules whose weights are matrices of real numbers: integers in their place are words of a packed form."""
BUFFER_NAME = re.compile(r"(position_ids|attn\.bias|masked_bias|token_type_ids|num_batches_tracked|relative_position_index)$")
"""Integers that are no weights, by the names that transformers' models give them."""
FLOAT_TYPES = frozenset(code for code, dtype in DTYPES.items() if dtype.kind == "float")
IN_A_BLOCK = re.compile(r"\.[0-9]+\.")
COMPANIONS = MARKS - {"weight"}
"""Suffixes of scales, zero points, shapes and codes, by which packed weights are known."""
BESIDE_PLAIN = "plain"
"""The scheme of companions beside a weight that is stored plainly."""
NOT_WORDS = frozenset({"bias", "weight"})
MAX_NAMED = 3


@dataclass(frozen=True)
class Unread:
    """Why tensors are not read, by name. `scheme` is the quantisation method that the checkpoint declares, if it does."""

    scheme: str | None
    reasons: Mapping[str, str] = field(default_factory=dict)
    lost: Sequence[str] = ()
    """Tensors of which nothing was read, not even a shape, each with its form, as the container's reader says."""

    @property
    def note(self) -> Note:
        """The remark that names the packing and the tensors."""
        named = [*(f"{name} {reason}" for name, reason in self.reasons.items()), *(text[:300] for text in self.lost)]
        more = f" and {len(named) - MAX_NAMED} more" if len(named) > MAX_NAMED else ""
        by = f"by {self.scheme}" if self.scheme else "in an unknown form"
        what = "parameters, ratios, heads and widths that depend on them are not known"
        return note("unread", f"packed {by}, not read: {'; '.join(named[:MAX_NAMED])}{more}; {what}")


def mark_unread(placement: Placement, config: Config | None, model_config: Config | None, lost: Sequence[str]) -> Placement:
    """The placement with the weights marked whose logical shapes are not known, and with a note on them.

    Marked are, besides those without a shape already: (a) integers outside claimed modules, if `config` declares a
    quantisation; (b) integers in the place of a weight, and the words of a linear module that has no plain weight; (c) codes
    and packed weights that do not fit the hidden size of the norms, and plain ones if a quantisation is declared of which there
    is no other trace. `lost` are tensors that the file holds and of
    which nothing was read. `model_config` is the config that the tensors were placed by.
    """
    declared = quantization_config(config)
    if not lost and not declared.declared and all(_is_plain(tensor) for tensor in placement.placed):
        return placement
    placement = _with_companions(placement, model_config)
    reasons = {t.ref.name: t.ref.layout.unread_reason for t in placement.placed if t.ref.layout and t.ref.layout.unread_reason}
    reasons |= _words_in_modules(placement, is_declared=bool(declared.declared)) | _misfits(
        placement, is_declared=bool(declared.declared)
    )
    if not reasons and not lost:
        return placement
    unread = Unread(declared.method or (str(next(iter(declared.declared))) if declared.declared else None), reasons, lost)
    refs = [t.ref if t.ref.name not in reasons or t.is_unread else _unread_ref(t.ref, unread) for t in placement.placed]
    placed_again = place_tensors(refs, model_config)
    return replace(placed_again, notes=(*placed_again.notes, unread.note), has_lost=bool(lost))


def _is_plain(tensor: Placed) -> bool:
    """Whether a tensor is a plain one of a known role, or a buffer; a checkpoint of such tensors has no other form."""
    ref = tensor.ref
    is_known = tensor.module != Module.OTHER and (tensor.template is not None or ref.is_buffer)
    return ref.layout is None and is_known and (ref.dtype in FLOAT_TYPES or not tensor.is_parameter)


def _with_companions(placement: Placement, model_config: Config | None) -> Placement:
    """The placement with tensors of no known role in the modules of packed weights, and below, taken as scales and the like:
    no parameters. So are those beside a weight of 8 bits, and those with the name of such a companion beside a plain linear
    weight, as fake quantisation leaves them.
    """
    schemes = {}
    for tensor in placement.placed:
        layout = tensor.ref.layout
        if layout is not None and not layout.is_aux and layout.values in (CODES, PACKED) and layout.scheme != ADAPTER_SCHEME:
            schemes[layout.weight_name.rpartition(".")[0]] = layout.scheme
        elif layout is None and tensor.module in WEIGHT_MODULES and _is_plain_weight(tensor):
            is_narrow = DTYPES[tensor.ref.dtype].bits <= 8
            schemes.setdefault(split_name(tensor.ref.name)[0], BESIDE_PLAIN if is_narrow else "")
    refs, companions = [], []
    for tensor in placement.placed:
        module, suffix = split_name(tensor.ref.name)
        is_unknown = tensor.module == Module.OTHER and tensor.ref.layout is None and suffix not in NOT_WORDS
        home = next((name for name in _with_parents(module) if schemes.get(name)), module) if is_unknown else module
        scheme = schemes.get(home) if is_unknown else None
        if scheme or (scheme == "" and suffix in COMPANIONS):
            part = tensor.ref.name.removeprefix(f"{home}.")
            layout = Layout(f"{home}.weight", part, scheme or BESIDE_PLAIN, tensor.ref.shape, PLAIN, is_aux=True)
            companions.append(tensor.ref.name)
            refs.append(replace(tensor.ref, layout=layout))
        else:
            refs.append(tensor.ref)
    if not companions:
        return placement
    placed_again = place_tensors(refs, model_config)
    more = f" and {len(companions) - MAX_NAMED} more" if len(companions) > MAX_NAMED else ""
    text = f"taken as parts of the weights beside them, and as no parameters: {', '.join(companions[:MAX_NAMED])}{more}"
    return replace(placed_again, notes=(*placed_again.notes, note("layout", text)))


def _with_parents(module: str) -> Iterator[str]:
    """A module's name and those of the modules that it is in, up to two."""
    for _ in range(3):
        yield module
        module = module.rpartition(".")[0]


def _unread_ref(ref: TensorRef, unread: Unread) -> TensorRef:
    (marked,) = unread_refs([ref], unread.scheme or UNKNOWN_SCHEME, unread.reasons[ref.name])
    return marked


def _words_in_modules(placement: Placement, *, is_declared: bool) -> dict[str, str]:
    """The tensors of modules that hold words of an unknown form, each with its type and stored shape."""
    modules: dict[str, list[Placed]] = defaultdict(list)
    claimed = set()
    for tensor in placement.placed:
        modules[split_name(tensor.ref.name)[0]].append(tensor)
        if tensor.ref.layout is not None and not tensor.ref.layout.is_aux:
            claimed.add(tensor.ref.layout.weight_name.rpartition(".")[0])
    without_weight = _linear_modules_without_weight(placement, modules)
    return {
        tensor.ref.name: f"{tensor.ref.dtype} {list(tensor.ref.shape)}"
        for name, tensors in modules.items()
        if name not in claimed and not any(map(_is_plain_weight, tensors))
        if name in without_weight or any(_is_word(tensor, is_declared=is_declared) for tensor in tensors)
        for tensor in tensors
        if split_name(tensor.ref.name)[1] not in NOT_WORDS or _is_word(tensor, is_declared=is_declared)
        if tensor.module != Module.BUFFER and not tensor.ref.is_buffer and not BUFFER_NAME.search(tensor.ref.name)
    }


def _is_plain_weight(tensor: Placed) -> bool:
    return split_name(tensor.ref.name)[1] == "weight" and DTYPES[tensor.ref.dtype].kind == "float"


def _is_word(tensor: Placed, *, is_declared: bool) -> bool:
    """Whether a tensor holds integers in place of weights: any under a declared quantisation, else those in the place of a
    weight, or of no known role in a block. A row of 64 bits is an index.
    """
    ref = tensor.ref
    is_integer = DTYPES[ref.dtype].kind in ("int", "uint") and ref.elements > 1 and ref.layout is None
    if not is_integer or ref.is_buffer or tensor.module == Module.BUFFER or BUFFER_NAME.search(ref.name):
        return False
    if is_declared:
        return True
    if tensor.module in WEIGHT_MODULES:
        return tensor.is_parameter
    is_index = len(ref.shape) < 2 and DTYPES[ref.dtype].bits > 32
    return tensor.module == Module.OTHER and IN_A_BLOCK.search(ref.name) is not None and not is_index


def _linear_modules_without_weight(placement: Placement, modules: Mapping[str, Sequence[Placed]]) -> set[str]:
    """The modules of the family's linear weights that have other tensors than a bias, and no weight, plain or claimed."""
    family = placement.template_family
    if family is None:
        return set()
    candidates = [
        name
        for name, tensors in modules.items()
        if name and any(tensor.module == Module.OTHER and tensor.ref.layout is None for tensor in tensors)
        if all(split_name(tensor.ref.name)[1] != "weight" for tensor in tensors)
    ]
    parts = split_names([f"{name}.weight" for name in candidates])
    found = set()
    for name, key, numbers in zip(candidates, parts.keys, parts.numbers, strict=True):
        match = family.match_name(key, numbers)
        if match is not None and match[0].linear and match[0].module in WEIGHT_MODULES:
            found.add(name)
    return found


def _misfits(placement: Placement, *, is_declared: bool) -> dict[str, str]:
    """Codes and packed weights whose residual axis has another length than the norms of their stack, with the reason.

    With them are all that are packed by the same scheme: it was taken for another one. Plain weights beside companions are
    judged like a scheme, and so are those of the blocks if a quantisation is declared and nothing is packed.
    """
    is_all_plain = is_declared and all(tensor.ref.layout is None for tensor in placement.placed)
    with_companions = {
        split_name(t.ref.name)[0] for t in placement.placed if t.ref.layout is not None and t.ref.layout.scheme == BESIDE_PLAIN
    }
    lengths: dict[str | None, set[int]] = defaultdict(set)
    for tensor in placement.placed:
        if tensor.module == Module.NORM and tensor.residual_axis is not None and tensor.ref.layout is None:
            lengths[tensor.stack].add(tensor.ref.shape[tensor.residual_axis])
    by_scheme: dict[str, list[Placed]] = defaultdict(list)
    for tensor in placement.placed:
        layout = tensor.ref.layout
        if layout is not None and layout.values in (CODES, PACKED) and layout.scheme != ADAPTER_SCHEME and tensor.is_parameter:
            by_scheme[layout.scheme].append(tensor)
        elif (
            layout is None
            and _is_plain_weight(tensor)
            and (split_name(tensor.ref.name)[0] in with_companions or (is_all_plain and tensor.module in BLOCK_MODULES))
        ):
            by_scheme[BESIDE_PLAIN].append(tensor)
    misfits: dict[str, str] = {}
    for tensors in by_scheme.values():
        wrong = {tensor.ref.name: tensor for tensor in tensors if _is_misfit(tensor, lengths[tensor.stack])}
        for tensor in tensors if wrong else ():
            norms = _texts(lengths[tensor.stack])
            is_wrong = tensor.ref.name in wrong
            reason = (
                f"taken as {list(tensor.ref.shape)} does not fit norms of {norms}" if is_wrong else f"like {next(iter(wrong))}"
            )
            misfits[tensor.ref.name] = reason
    return misfits


def _is_misfit(tensor: Placed, lengths: set[int]) -> bool:
    axis = tensor.residual_axis
    return axis is not None and bool(lengths) and tensor.ref.shape[axis] not in lengths


def _texts(lengths: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(lengths)[:MAX_NAMED]))
