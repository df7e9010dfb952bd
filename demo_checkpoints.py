"""The checkpoints of the demo: a tiny Llama of seeded random weights, and models pruned from it in the ways that people prune.

They are written in the formats of safetensors and torch, and neither is needed for it. A tensor is a float32 array of values
that bfloat16 can hold; files hold them as bfloat16.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from layerhouse.demo_pickle import Call, Global, Instance, Persistent, write_torch_zip

Tensor = npt.NDArray[np.float32]
State = dict[str, Tensor]

HIDDEN, HEAD_DIM, HEADS, KV_HEADS, WIDTH, LAYERS, VOCAB = 128, 16, 8, 4, 352, 8, 1024
INITIALIZER_RANGE = 0.02
SEED = 7

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "dtype": "bfloat16",
    "eos_token_id": 2,
    "head_dim": HEAD_DIM,
    "hidden_act": "silu",
    "hidden_size": HIDDEN,
    "initializer_range": INITIALIZER_RANGE,
    "intermediate_size": WIDTH,
    "max_position_embeddings": 512,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": KV_HEADS,
    "pad_token_id": None,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-06,
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
    "tie_word_embeddings": False,
    "use_cache": True,
    "vocab_size": VOCAB,
}
GENERATION_CONFIG = {
    "_from_model_config": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "output_attentions": False,
    "output_hidden_states": False,
    "use_cache": True,
}

BLOCK_SHAPES = {
    "self_attn.q_proj": (HEADS * HEAD_DIM, HIDDEN),
    "self_attn.k_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
    "self_attn.v_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HEADS * HEAD_DIM),
    "mlp.gate_proj": (WIDTH, HIDDEN),
    "mlp.up_proj": (WIDTH, HIDDEN),
    "mlp.down_proj": (HIDDEN, WIDTH),
    "input_layernorm": (HIDDEN,),
    "post_attention_layernorm": (HIDDEN,),
}
"""Modules of a block and the shapes of their weights, in the order of a state dict."""

LLAMA = "transformers.models.llama.modeling_llama"
MODULE_CLASSES = {
    "": f"{LLAMA}.LlamaForCausalLM",
    "model": f"{LLAMA}.LlamaModel",
    "layers": "torch.nn.modules.container.ModuleList",
    "self_attn": f"{LLAMA}.LlamaAttention",
    "mlp": f"{LLAMA}.LlamaMLP",
    "norm": f"{LLAMA}.LlamaRMSNorm",
    "input_layernorm": f"{LLAMA}.LlamaRMSNorm",
    "post_attention_layernorm": f"{LLAMA}.LlamaRMSNorm",
    "embed_tokens": "torch.nn.modules.sparse.Embedding",
}
"""The class of a module by the last part of its name; a number is a LlamaDecoderLayer, any other module a Linear."""


def tiny_llama() -> State:
    """The base: normal weights of standard deviation INITIALIZER_RANGE, and norms of ones."""
    rng = np.random.default_rng(SEED)

    def weight(shape: tuple[int, ...]) -> Tensor:
        if len(shape) == 1:
            return np.ones(shape, np.float32)
        return rounded_to_bfloat16(rng.standard_normal(shape, np.float32) * np.float32(INITIALIZER_RANGE))

    state = {"model.embed_tokens.weight": weight((VOCAB, HIDDEN))}
    for index in range(LAYERS):
        state |= {f"model.layers.{index}.{name}.weight": weight(shape) for name, shape in BLOCK_SHAPES.items()}
    return state | {"model.norm.weight": weight((HIDDEN,)), "lm_head.weight": weight((VOCAB, HIDDEN))}


def rounded_to_bfloat16(values: Tensor) -> Tensor:
    """Each value rounded to the nearest bfloat16, ties to even."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def masked(state: State, mask: Callable[[Tensor], npt.NDArray[np.bool_]]) -> State:
    """Zeros where `mask` of a linear weight of a block is true; shapes are unchanged."""
    return {
        name: np.where(mask(tensor), np.float32(0), tensor) if name.endswith("_proj.weight") else tensor
        for name, tensor in state.items()
    }


def smallest_half(tensor: Tensor) -> npt.NDArray[np.bool_]:
    """True for the half of the values with the smallest magnitudes."""
    order = np.argsort(np.abs(tensor), axis=None, kind="stable")
    mask = np.zeros(tensor.size, np.bool_)
    mask[order[: tensor.size // 2]] = True
    return mask.reshape(tensor.shape)


def two_of_four(tensor: Tensor) -> npt.NDArray[np.bool_]:
    """True for the two smallest magnitudes of every four neighbouring inputs of an output."""
    ranks = np.abs(tensor).reshape(-1, 4).argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
    return (ranks < 2).reshape(tensor.shape)


def without_blocks(state: State, removed: Sequence[int]) -> State:
    """Without some blocks; those after them are renumbered."""
    kept = [index for index in range(LAYERS) if index not in removed]
    new_names = {f"model.layers.{old}.": f"model.layers.{new}." for new, old in enumerate(kept)}
    pruned = {}
    for name, tensor in state.items():
        prefix = next((prefix for prefix in new_names if name.startswith(prefix)), "")
        if prefix or not name.startswith("model.layers."):
            pruned[new_names.get(prefix, "") + name.removeprefix(prefix)] = tensor
    return pruned


def narrowed(state: State, kept: Sequence[tuple[int, int]]) -> State:
    """For each layer, only so many KV groups and MLP neurons, those of greatest norm; a group's query heads go with it."""
    pruned = dict(state)
    for index, (num_groups, num_neurons) in enumerate(kept):
        attention, mlp = f"model.layers.{index}.self_attn.", f"model.layers.{index}.mlp."
        groups = _greatest(state[f"{attention}k_proj.weight"], KV_HEADS, num_groups)
        keys, queries = _rows(groups, HEAD_DIM), _rows(groups, HEADS // KV_HEADS * HEAD_DIM)
        neurons = _greatest(state[f"{mlp}gate_proj.weight"], WIDTH, num_neurons)
        for name, rows in (("q_proj", queries), ("k_proj", keys), ("v_proj", keys)):
            pruned[f"{attention}{name}.weight"] = state[f"{attention}{name}.weight"][rows]
        for name in ("gate_proj", "up_proj"):
            pruned[f"{mlp}{name}.weight"] = state[f"{mlp}{name}.weight"][neurons]
        for name, columns in ((f"{attention}o_proj.weight", queries), (f"{mlp}down_proj.weight", neurons)):
            pruned[name] = state[name][:, columns]
    return pruned


def _greatest(tensor: Tensor, num_units: int, num_kept: int) -> npt.NDArray[np.intp]:
    """In rising order, the `num_kept` units of greatest norm of the `num_units` that the rows are divided into."""
    norms = np.square(tensor, dtype=np.float64).reshape(num_units, -1).sum(axis=1)
    return np.sort(np.argsort(-norms, kind="stable")[:num_kept])


def _rows(units: npt.NDArray[np.intp], rows_per_unit: int) -> npt.NDArray[np.intp]:
    return (units[:, None] * rows_per_unit + np.arange(rows_per_unit)).reshape(-1)


def save_safetensors(folder: Path, state: State) -> None:
    """Write weights and the base's config, which pruning scripts often leave as it was."""
    write_config(folder / "config.json", CONFIG)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in sorted(state):
        begin, end = end, end + 2 * state[name].size
        header[name] = {"dtype": "BF16", "shape": state[name].shape, "data_offsets": (begin, end)}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    data = b"".join(bfloat16_bytes(state[name]) for name in sorted(state))
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)


def save_whole_model(path: Path, state: State) -> None:
    """Write the model as `torch.save({"model": model, "tokenizer": None})` does: its modules, pickled with their classes."""
    storages = {str(number): bfloat16_bytes(tensor) for number, tensor in enumerate(state.values())}
    parameters = {name: _parameter(key, tensor.shape) for key, (name, tensor) in zip(storages, state.items(), strict=True)}
    model = _module("", parameters)
    config = {"_name_or_path": ""} | {key: value for key, value in CONFIG.items() if key != "model_type"}
    model.state["config"] = Instance(Global("transformers.models.llama.configuration_llama.LlamaConfig"), config)
    write_torch_zip(path, {"model": model, "tokenizer": None}, storages)


def _module(name: str, parameters: Mapping[str, Any]) -> Instance:
    """A module that holds the parameters, named as within the module. Of its state it has what torch needs for a state dict."""
    own = {key: parameter for key, parameter in parameters.items() if "." not in key}
    children: dict[str, dict[str, Any]] = {}
    for key, parameter in parameters.items():
        child, dot, rest = key.partition(".")
        if dot:
            children.setdefault(child, {})[rest] = parameter
    default = f"{LLAMA}.LlamaDecoderLayer" if name.isdecimal() else "torch.nn.modules.linear.Linear"
    modules = {child: _module(child, members) for child, members in children.items()}
    state = {"training": False, "_parameters": own, "_buffers": {}, "_modules": modules}
    return Instance(Global(MODULE_CLASSES.get(name, default)), state)


def _parameter(storage_key: str, shape: tuple[int, ...]) -> Call:
    """A contiguous bfloat16 parameter over a storage of its own."""
    elements = int(np.prod(shape))
    strides = tuple(int(np.prod(shape[axis + 1 :])) for axis in range(len(shape)))
    storage = Persistent(("storage", Global("torch.BFloat16Storage"), storage_key, "cpu", elements))
    no_hooks = Call(Global("collections.OrderedDict"), ())
    tensor = Call(Global("torch._utils._rebuild_tensor_v2"), (storage, 0, shape, strides, False, no_hooks))
    return Call(Global("torch._utils._rebuild_parameter"), (tensor, False, no_hooks))


def bfloat16_bytes(tensor: Tensor) -> bytes:
    """The values as bfloat16, little-endian, in C order: the upper halves of the float32 values."""
    return (np.ascontiguousarray(tensor).view(np.uint32) >> 16).astype("<u2").tobytes()


def write_config(path: Path, config: Mapping[str, Any]) -> None:
    """Write a config as transformers does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
