"""Weights that are stored as a product of two factors of low rank: `weight = left @ right`, of shapes (out, rank), (rank, in).

Names: SVD-LLM (https://github.com/AIoT-MLSys-Lab/SVD-LLM, component/svd_llama.py) stores `q_u_proj` and `q_v_proj` for
`q_proj`; ASVD (https://github.com/hahnyuan/ASVD4LLM, modules/svd_linear.py) stores `q_proj.ALinear` and `q_proj.BLinear`.
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


def factor_refs(tensors: Iterable[TensorRef]) -> dict[str, TensorRef]:
    """The factors by name, each with the weight that it is a factor of, and their biases.

    Two tensors are factors if both have two axes of plain numbers, and the left one has as many columns as the right one rows.
    """
    modules: dict[str, dict[tuple[str, str], TensorRef]] = defaultdict(dict)
    for tensor in tensors:
        match = NAME.fullmatch(tensor.name) if tensor.layout is None else None
        if match is None:
            continue
        is_left = (match["u"] or match["a"]) in ("u", "A")
        module = match["module"] or (match["stem"] if match["word"] in BARE_WORDS else f"{match['stem']}_proj")
        modules[module][LEFT if is_left else RIGHT, match["end"] or match["suffix"]] = tensor
    return {ref.name: ref for module, parts in modules.items() for ref in _factors(module, parts)}


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
