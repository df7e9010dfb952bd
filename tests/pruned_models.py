"""Models with units pruned away, written to a folder and ingested with their base."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import torch
from safetensors.torch import save_file

import layerhouse as lh
from layerhouse.tests.tiny_models import EXPERTS, HEAD_DIM, HEADS, INTERMEDIATE, KV_HEADS, build

RATIO = HEADS // KV_HEADS


@dataclass(frozen=True)
class Kept:
    """What one layer keeps: KV groups (with their query heads), neurons and experts, by the base's numbers."""

    groups: tuple[int, ...] = tuple(range(KV_HEADS))
    neurons: tuple[int, ...] = tuple(range(INTERMEDIATE))
    experts: tuple[int, ...] = tuple(range(EXPERTS))

    @property
    def heads(self):
        return tuple(group * RATIO + at for group in self.groups for at in range(RATIO))


def rows_of(units, size=HEAD_DIM):
    """Indices of the rows of some units that have `size` rows each."""
    return torch.tensor([unit * size + at for unit in units for at in range(size)], dtype=torch.long)


def state_of(tiny):
    """Weights and config of a model; norms and biases get random values, as in trained models."""
    model = build(tiny)
    generator = torch.Generator().manual_seed(5)
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    for name, tensor in state.items():
        if "norm" in name or "ln_" in name or name.endswith("bias"):
            state[name] = tensor + 0.1 * torch.randn(tensor.shape, generator=generator)
    return state, json.loads(model.config.to_json_string(use_diff=False))


def layer_of(name):
    """The layer number in a tensor name; None outside the layers."""
    pieces = name.split(".")
    at = next((at for at, piece in enumerate(pieces) if piece in ("layers", "h")), None)
    return None if at is None else int(pieces[at + 1])


def cut_llama(name, tensor, kept):
    """The pruned tensor of a Llama or Mixtral layer, separate or fused (phi3)."""
    role = name.split(".")[-2] if name.endswith((".weight", ".bias")) else name.split(".")[-1]
    queries, keys, neurons = rows_of(kept.heads), rows_of(kept.groups), torch.tensor(kept.neurons)
    if role in ("k_proj", "v_proj", "q_proj"):
        return tensor[queries if role == "q_proj" else keys]
    if role == "qkv_proj":
        starts = (0, HEADS * HEAD_DIM, (HEADS + KV_HEADS) * HEAD_DIM)
        return tensor[torch.cat([start + rows for start, rows in zip(starts, (queries, keys, keys), strict=True)])]
    if role == "o_proj":
        return tensor[:, queries] if tensor.dim() == 2 else tensor
    if role == "gate_up_proj" and tensor.dim() == 2:
        return tensor[torch.cat([neurons, INTERMEDIATE + neurons])]
    if role in ("gate_proj", "up_proj"):
        return tensor[neurons]
    return tensor[:, neurons] if role == "down_proj" and tensor.dim() == 2 else tensor


def cut_gpt2(name, tensor, kept):
    """Conv1D: inputs first, queries, keys and values in one."""
    heads = rows_of(kept.groups)
    if ".c_attn." in name:
        return tensor[..., torch.cat([third * HEADS * HEAD_DIM + heads for third in range(3)])]
    if ".attn.c_proj.weight" in name:
        return tensor[heads]
    if ".c_fc." in name:
        return tensor[..., torch.tensor(kept.neurons)]
    return tensor[torch.tensor(kept.neurons)] if ".mlp.c_proj.weight" in name else tensor


def cut_experts(name, tensor, kept):
    """The pruned tensor of a Mixtral layer, with one tensor for all experts."""
    experts = torch.tensor(kept.experts)
    return tensor[experts] if ".mlp.experts." in name or ".mlp.gate." in name else tensor


def prune(state, kept, cut):
    """Prune each layer by its entry of `kept`."""
    return {
        name: tensor if (index := layer_of(name)) is None or index not in kept else cut(name, tensor, kept[index]).contiguous()
        for name, tensor in state.items()
    }


def tuned(state, share=0.02):
    """The weights with noise of that share of each value."""
    generator = torch.Generator().manual_seed(9)
    return {name: tensor * (1 + share * torch.randn(tensor.shape, generator=generator)) for name, tensor in state.items()}


def write_model(folder, name, state, config):
    """Write a checkpoint to `models/NAME` in a folder."""
    path = folder / "models" / name
    path.mkdir(parents=True)
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(config))


def ingest_models(folder, *roots, **options):
    """Ingest roots in a folder, all models by default, into its warehouse `w`."""
    return lh.ingest([folder / root for root in roots or ("models",)], warehouse=folder / "w", threads=1, **options)


def choose(seed, count, total):
    """A random choice of numbers below a total, sorted."""
    return tuple(sorted(np.random.default_rng(seed).choice(total, count, replace=False).tolist()))


def kept_by_layer(num, groups_total=KV_HEADS):
    """Different groups and neurons for each layer; the last layer keeps all."""
    kept = {
        index: Kept(choose(index, groups_total - 1, groups_total), choose(10 + index, 40 + 30 * index, INTERMEDIATE))
        for index in range(num - 1)
    }
    return {**kept, num - 1: Kept(tuple(range(groups_total)))}


def unit_rows(folder, name):
    """(layer, kind) -> the row of unit_pruning of a model."""
    with lh.open(folder / "w") as wh:
        rows = wh.query("unit_pruning", models=[f"models/{name}"]).to_dicts()
    return {(row["layer_index"], row["kind"]): row for row in rows}


def passed_texts(report, name):
    """The texts of a model's `passed` events."""
    return [event.what for event in report.events if event.where == f"models/{name}" and event.kind == "passed"]
