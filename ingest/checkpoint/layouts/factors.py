"""Weights that are stored as a product of two factors of low rank: `weight = left @ right`, of shapes (out, rank), (rank, in).

Names: SVD-LLM (https://github.com/AIoT-MLSys-Lab/SVD-LLM, component/svd_llama.py) stores `q_u_proj` and `q_v_proj` for
`q_proj`; ASVD (https://github.com/hahnyuan/ASVD4LLM, modules/svd_linear.py) stores `q_proj.ALinear` and `q_proj.BLinear`.
Others put two modules in the place of one, under any names (`q_proj.0` and `q_proj.1`): their shapes tell which is which.
Unlike packed words, each factor is a parameter of its own, of its own shape.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace

from layerhouse.ingest.checkpoint.dtypes import DTYPES
from layerhouse.ingest.checkpoint.tensor_ref import PLAIN, Layout, TensorRef

SCHEME = "low_rank"
LEFT, RIGHT = "left_factor", "right_factor"
FACTOR_PARTS = frozenset({LEFT, RIGHT})

WORDS = ("_u_proj.", ".ALinear.")
"""Every name of a left factor has one of these."""

BARE_WORDS = frozenset({"fc1", "fc2"})
"""Modules whose names do not end in `_proj`, of whose factors SVD-LLM's do."""

NAME = re.compile(
    r"(?P<stem>(?:.*\.)?(?P<word>[a-z]+[0-9]?))_(?P<u>[uv])_proj\.(?P<end>weight|bias)"
    r"|(?P<module>.+)\.(?P<a>[AB])Linear\.(?P<suffix>weight|bias)"
)

MODULE = r"(?P<module>.+\.(?:(?:q|k|v|o|out|qkv|gate|up|down|gate_up|in)_proj|fc[12]))"
CHILD = re.compile(rf"{MODULE}\.(?P<child>[^.]+)\.(?P<suffix>weight|bias)|{MODULE.replace('module', 'bare')}\.(?P<matrix>[UV])")
"""A tensor of a module that stands in the place of a linear one, or of a factor that is a parameter by itself. The `c_proj` of
GPT-2 is left out, whose weights are stored the other way round."""
OF_ADAPTERS = re.compile("lora|loha|lokr|hada|vera|adapter", re.IGNORECASE)
"""Words in the names of modules that are added to a weight."""
HAS_CHILDREN = re.compile(r"(?:_proj|\.fc[12])\.(?:[^.\n]+\.weight|[UV])$", re.MULTILINE)
"""Where this is in no name, no checkpoint has factors under other names than those of WORDS."""


def factor_refs(tensors: Iterable[TensorRef]) -> dict[str, TensorRef]:
    """The factors by name, each with the weight that it is a factor of, and their biases.

    Two tensors are factors if both have two axes of plain numbers, and the left one has as many columns as the right one rows.
    """
    modules: dict[str, dict[tuple[str, str], TensorRef]] = defaultdict(dict)
    children: dict[str, dict[tuple[str, str], TensorRef]] = defaultdict(dict)
    for tensor in tensors:
        match = NAME.fullmatch(tensor.name) if tensor.layout is None else None
        if match is None:
            child = CHILD.fullmatch(tensor.name)
            module = tensor.name.rpartition(".")[0] if child is None else child["module"] or child["bare"]
            part = ("", tensor.name) if child is None else (child["child"] or child["matrix"], child["suffix"] or "weight")
            children[module][part] = tensor
            continue
        is_left = (match["u"] or match["a"]) in ("u", "A")
        module = match["module"] or (match["stem"] if match["word"] in BARE_WORDS else f"{match['stem']}_proj")
        modules[module][LEFT if is_left else RIGHT, match["end"] or match["suffix"]] = tensor
    for module, parts in children.items():
        if (named := _by_shape(parts)) is not None:
            modules[module] = named
    return {ref.name: ref for module, parts in modules.items() for ref in _factors(module, parts)}


def _by_shape(parts: Mapping[tuple[str, str], TensorRef]) -> dict[tuple[str, str], TensorRef] | None:
    """The tensors of two modules in the place of one, as those of factors; None if they are none or either can be the left."""
    names = sorted({name for name, _ in parts})
    weights = [parts.get((name, "weight")) for name in names]
    if len(names) != 2 or "" in names or any(OF_ADAPTERS.search(name) for name in names):
        return None
    first, second = weights
    if first is None or second is None or any(tensor.layout is not None for tensor in parts.values()):
        return None
    is_first_left, is_second_left = _is_low_rank(first, second), _is_low_rank(second, first)
    if is_first_left == is_second_left:
        return None
    left = names[0] if is_first_left else names[1]
    if any(suffix == "bias" and name != left for name, suffix in parts):
        return None
    return {(LEFT if name == left else RIGHT, suffix): tensor for (name, suffix), tensor in parts.items()}


def _is_low_rank(left: TensorRef, right: TensorRef) -> bool:
    """Whether two matrices can be multiplied, over a rank that is not above the sides of the product."""
    return _fit(left, right) and left.shape[1] <= min(left.shape[0], right.shape[1])


def _factors(module: str, parts: Mapping[tuple[str, str], TensorRef]) -> Iterable[TensorRef]:
    left, right = parts.get((LEFT, "weight")), parts.get((RIGHT, "weight"))
    if left is None or right is None or not _fit(left, right):
        return
    for (part, suffix), tensor in parts.items():
        layout = Layout(f"{module}.{suffix}", part if suffix == "weight" else suffix, SCHEME, tensor.shape, PLAIN)
        yield replace(tensor, layout=layout)


def _fit(left: TensorRef, right: TensorRef) -> bool:
    is_plain = all(DTYPES[tensor.dtype].kind == "float" and DTYPES[tensor.dtype].bits >= 16 for tensor in (left, right))
    return is_plain and len(left.shape) == 2 == len(right.shape) and left.shape[1] == right.shape[0]
