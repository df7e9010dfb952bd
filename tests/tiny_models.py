"""Tiny real models, built from their configs, and tensor references to them and to layouts of any size."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from layerhouse.ingest.checkpoint.dtypes import byte_count
from layerhouse.ingest.checkpoint.tensor_ref import TensorRef

VOCAB, HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, INTERMEDIATE, EXPERTS = 96, 64, 4, 4, 2, 16, 160, 4
COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": INTERMEDIATE,
}
GROUPED = {**COMMON, "num_key_value_heads": KV_HEADS}
EXPLICIT = {**GROUPED, "head_dim": HEAD_DIM}
GPT2 = {"vocab_size": VOCAB, "n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "n_inner": INTERMEDIATE, "n_positions": 32}
CAUSAL = "AutoModelForCausalLM"
SIZES: dict[str, int | None] = {
    "num_heads": HEADS,
    "num_kv_heads": KV_HEADS,
    "head_dim": HEAD_DIM,
    "intermediate_size": INTERMEDIATE,
    "hidden_size": HIDDEN,
    "num_experts": None,
}


@dataclass(frozen=True)
class TinyModel:
    """A model by its config's model_type and arguments, and what its layers are to be measured as.

    `sizes` are the differences from SIZES that all layers of `stack` share, `layers` those of single ones; `others` the number
    of layers and the sizes of other stacks.
    """

    model_type: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    sizes: Mapping[str, int | None] = field(default_factory=dict)
    layers: Mapping[int, Mapping[str, int | None]] = field(default_factory=dict)
    auto: str = CAUSAL
    stack: str = "text"
    num_layers: int = LAYERS
    others: Mapping[str, tuple[int, Mapping[str, int | None]]] = field(default_factory=dict)

    def expected(self) -> dict[tuple[str, int], dict[str, int | None]]:
        """Sizes by stack and layer."""
        main = {(self.stack, i): {**SIZES, **self.sizes, **self.layers.get(i, {})} for i in range(self.num_layers)}
        rest = {(stack, index): {**SIZES, **sizes} for stack, (count, sizes) in self.others.items() for index in range(count)}
        return main | rest


def build(tiny: TinyModel) -> Any:
    """The model with random weights, in float32."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(tiny.model_type, **tiny.arguments)
    return getattr(transformers, tiny.auto).from_config(config)


def save(model: Any, folder: Path) -> tuple[list[TensorRef], dict[str, Any]]:
    """Write the model as its users do; the tensors and the config that are then on disk."""
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    return [ref for path in sorted(folder.glob("*.safetensors")) for ref in header_refs(path)], config


def header_refs(path: Path) -> list[TensorRef]:
    """References to the tensors of a safetensors file."""
    with path.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    return [
        TensorRef(name, entry["dtype"], tuple(entry["shape"]), path, 8 + length + begin, end - begin)
        for name, entry in header.items()
        for begin, end in (entry["data_offsets"],)
    ]


def state_refs(state: Mapping[str, Any]) -> list[TensorRef]:
    """References to the tensors of a state dict as `torch.save` would keep them: shared storages stay shared."""
    codes = {
        "torch.float32": "F32",
        "torch.float16": "F16",
        "torch.bfloat16": "BF16",
        "torch.bool": "BOOL",
        "torch.int64": "I64",
    }
    return [
        TensorRef(
            name,
            codes[str(tensor.dtype)],
            tuple(tensor.shape),
            Path("state.pt"),
            tensor.untyped_storage().data_ptr(),
            tensor.untyped_storage().nbytes(),
            tensor.storage_offset(),
            tuple(tensor.stride()),
        )
        for name, tensor in state.items()
    ]


def shape_refs(shapes: Mapping[str, tuple[int, ...]], dtype: str = "BF16") -> list[TensorRef]:
    """References to tensors of these shapes that lie one after the other in a file which nobody wrote."""
    refs, offset = [], 0
    for name, shape in shapes.items():
        size = byte_count(dtype, math.prod(shape))
        refs.append(TensorRef(name, dtype, shape, Path("shapes.safetensors"), offset, size))
        offset += max(size, 1)
    return refs


@dataclass(frozen=True)
class Width:
    """Rows of q, of k and v, and of gate and up in one Llama layer."""

    queries: int = HEADS * HEAD_DIM
    keys: int = KV_HEADS * HEAD_DIM
    intermediate: int = INTERMEDIATE


def llama_shapes(
    layers: Mapping[int, Width], vocab: int = VOCAB, hidden: int = HIDDEN, head: bool = True
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a Llama model with these layers, by number."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, hidden)}
    for index, width in layers.items():
        prefix = f"model.layers.{index}"
        shapes |= {
            f"{prefix}.input_layernorm.weight": (hidden,),
            f"{prefix}.self_attn.q_proj.weight": (width.queries, hidden),
            f"{prefix}.self_attn.k_proj.weight": (width.keys, hidden),
            f"{prefix}.self_attn.v_proj.weight": (width.keys, hidden),
            f"{prefix}.self_attn.o_proj.weight": (hidden, width.queries),
            f"{prefix}.post_attention_layernorm.weight": (hidden,),
            f"{prefix}.mlp.gate_proj.weight": (width.intermediate, hidden),
            f"{prefix}.mlp.up_proj.weight": (width.intermediate, hidden),
            f"{prefix}.mlp.down_proj.weight": (hidden, width.intermediate),
        }
    return shapes | {"model.norm.weight": (hidden,)} | ({"lm_head.weight": (vocab, hidden)} if head else {})
