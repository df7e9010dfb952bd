"""The tensors of one module, from which layouts build their references."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.dtypes import DTYPES
from layerhouse.ingest.checkpoint.regular_file import open_regular_file
from layerhouse.ingest.checkpoint.shapes import MAX_ELEMENTS, count_elements
from layerhouse.ingest.checkpoint.tensor_ref import CODES, PACKED, Assembly, Layout, TensorRef

MAX_SMALL_BYTES = 1 << 16
"""Size limit of a tensor that describes others, such as a shape or a description in JSON."""

OF_WEIGHT = ".weight."
SUFFIX_OF_SEVERAL_PARTS = re.compile(r"(?<!\.weight)(_blocks|_scales)$|(?<=\.)((?:res_|outlier_)?centroids\.weight)$")


class LayoutError(InputError):
    """The tensors of a module contradict each other, or do not tell what they store."""


FUSED_EXPERTS = re.compile(
    r"(?P<weight>.*\bexperts\.(?:gate_up_proj|down_proj|gate_proj|up_proj))"
    r"(?P<part>_weight|_input_scale|"
    r"(?:_weight)?_(?:packed|shape|zero_point|g_idx|global_scale|scale(?:_inv|_2)?)|"
    r"\.(?:absmax|quant_map|nested_\w+|quant_state\.\w+))?",
    re.DOTALL,
)
"""The weight of all experts of a layer, which is no module of its own, and the parts of its packed forms."""


def fused_part(name: str) -> tuple[str, str] | None:
    """The weight of all experts that a tensor is or serves, and the suffix that it would have in a module of the weight alone:
    `weight`, `weight_packed`, `weight_scale_inv`, `weight.absmax`, ...; None for other tensors.
    """
    match = FUSED_EXPERTS.fullmatch(name)
    if match is None:
        return None
    part = match["part"] or ""
    return match["weight"], part[1:] if part == "_input_scale" else f"weight{part.removeprefix('_weight')}"


@dataclass(frozen=True)
class ModuleTensors:
    """A module's name and its tensors by suffix. `display_path` is the model's, for messages.

    `metadata` is that of the checkpoint's files, as declared.
    """

    name: str
    parts: Mapping[str, TensorRef]
    display_path: str
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def refuse(self, what: str) -> NoReturn:
        """Raise LayoutError, an InputError that names the module: its weight is in a form that is not read, or damaged."""
        raise LayoutError(f"{self.display_path}: {self.name[:80]}", what)

    def has_column_scales(self, suffix: str, inputs: int) -> bool:
        """Whether a tensor of scales of the inputs is missing, or has one for each of them."""
        return suffix not in self.parts or self.parts[suffix].elements == inputs

    def read_integers(self, suffix: str) -> list[int]:
        """The values of a small tensor of 32- or 64-bit integers."""
        ref = self.parts[suffix]
        if ref.dtype not in ("I32", "I64", "U32", "U64"):
            self.refuse(f"{suffix} is {ref.dtype}, integers were expected")
        size = 4 if ref.dtype.endswith("32") else 8
        raw = self.read_bytes(suffix)
        return [int.from_bytes(raw[at : at + size], "little", signed=ref.dtype[0] == "I") for at in range(0, len(raw), size)]

    def read_json(self, suffix: str) -> Any:
        """The value of the JSON text in a small tensor of bytes."""
        try:
            return json.loads(self.read_bytes(suffix))
        except (ValueError, RecursionError):
            self.refuse(f"{suffix} holds no JSON")

    def read_bytes(self, suffix: str) -> bytes:
        """The bytes of a small tensor in C order."""
        ref = self.parts[suffix]
        if ref.assembly is not None or ref.sparse is not None:
            self.refuse(f"{suffix} is kept in several parts, and what it says of the weight is not read")
        if ref.logical_bytes > MAX_SMALL_BYTES or ref.strides is not None:
            self.refuse(f"limit exceeded: {suffix} of {ref.logical_bytes} bytes, over {MAX_SMALL_BYTES}, or not in C order")
        with open_regular_file(ref.path, self.display_path) as (file, _):
            file.seek(ref.offset + ref.storage_offset * (ref.logical_bytes // max(1, ref.elements)))
            raw = file.read(ref.logical_bytes)
        if len(raw) < ref.logical_bytes:
            self.refuse(f"cut off: {suffix} has {ref.logical_bytes} bytes, found {len(raw)}")
        return raw


def split_name(name: str) -> tuple[str, str]:
    """Module and suffix of a tensor's name: `a.q_proj`, `qweight`; `a.q_proj`, `weight.absmax`; `a.up_proj`, `_blocks`."""
    match = SUFFIX_OF_SEVERAL_PARTS.search(name)
    if match is not None:
        return name[: match.start()].removesuffix("."), match[0]
    module, separator, rest = name.partition(OF_WEIGHT)
    if separator:
        return module, f"weight.{rest}"
    module, _, suffix = name.rpartition(".")
    return module, suffix


def weight_ref(
    module: ModuleTensors,
    suffix: str,
    scheme: str,
    shape: tuple[int, ...],
    *,
    values: str = PACKED,
    bits: int | None = None,
    weight: str = "weight",
) -> TensorRef:
    """The tensor that holds a weight, as one of the weight's own shape, which counts as the parameter.

    `weight` is the suffix that the weight would have if it were stored plainly, "" for none. Raises InputError for a shape that
    no tensor can have.
    """
    if any(extent < 0 for extent in shape) or count_elements(shape) is None:
        module.refuse(f"{suffix} stands for shape {list(shape)[:8]}, over {MAX_ELEMENTS} elements or negative")
    ref = module.parts[suffix]
    if not ref.elements and 0 not in shape:
        module.refuse(f"{suffix} {list(ref.shape)} is empty and stands for shape {list(shape)}")
    layout = Layout(_join(module.name, weight), suffix.strip("_"), scheme, ref.shape, values, bits=bits)
    return replace(ref, shape=shape, layout=layout)


def unpacked_ref(
    ref: TensorRef,
    kind: str,
    sources: Sequence[TensorRef | None],
    *,
    dtype: str = "U8",
    shape: tuple[int, ...] | None = None,
    **parameters: Any,
) -> TensorRef:
    """A packed weight with how its values are read as codes; see measure.io.unpacked. Missing sources are left out.

    `shape` is that of the codes, if they are in another order than the weight. A weight of other than two dimensions stays
    packed, but in FP4.
    """
    present = tuple(source for source in sources if source is not None)
    assert ref.layout is not None
    if (len(ref.shape) != 2 and kind != "fp4_pairs") or not ref.elements:
        return ref
    unpacked = Assembly(kind, present, shape or ref.shape, dtype, parameters)
    return replace(ref, layout=replace(ref.layout, values=CODES, unpacked=unpacked))


def as_integers(codes: TensorRef, dtype: str) -> TensorRef | None:
    """The codes of a matrix as the integers that they are, where the file keeps them as the bytes of floats, as HQQ and
    bitsandbytes can (quant_storage); None if that is not possible.
    """
    if codes.dtype == dtype:
        return codes
    times, rest = divmod(DTYPES[codes.dtype].bits, DTYPES[dtype].bits)
    if rest or not times or len(codes.shape) != 2 or DTYPES[codes.dtype].kind != "float" or codes.strides is not None:
        return None
    shape = (codes.shape[0], codes.shape[1] * times)
    return replace(codes, dtype=dtype, shape=shape, storage_offset=codes.storage_offset * times)


def turned(ref: TensorRef) -> TensorRef:
    """A stored matrix as its transpose, which is read in tiles."""
    return replace(ref, shape=ref.shape[::-1], strides=(ref.strides or (ref.shape[1], 1))[::-1])


def auxiliary_ref(module: ModuleTensors, suffix: str, scheme: str, *, weight: str = "weight") -> TensorRef:
    """A tensor that belongs to a weight and is not a parameter, such as its scales."""
    ref = module.parts[suffix]
    part = suffix.strip("_").removeprefix("weight.")
    return replace(ref, layout=Layout(_join(module.name, weight), part, scheme, ref.shape, values="plain", is_aux=True))


def auxiliary_refs(module: ModuleTensors, suffixes: Iterable[str], scheme: str, *, weight: str = "weight") -> list[TensorRef]:
    """`auxiliary_ref` of every suffix that the module has."""
    return [auxiliary_ref(module, suffix, scheme, weight=weight) for suffix in suffixes if suffix in module.parts]


def unread_refs(refs: Iterable[TensorRef], scheme: str, reason: str) -> Iterator[TensorRef]:
    """Tensors as parts of a weight whose shape is not known, all of one module; a plain bias is left out."""
    for ref in refs:
        module, suffix = split_name(ref.name)
        if suffix != "bias":
            stored = ref.stored_shape
            layout = Layout(_join(module, "weight"), suffix, scheme, stored, PACKED, unread_reason=reason)
            yield replace(ref, shape=stored, layout=layout)


def _join(module: str, suffix: str) -> str:
    return f"{module}.{suffix}" if suffix and module else module or suffix
