"""The files that are mutated: a small one of every container, layout, config, analysis and result format."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from layerhouse.ingest.checkpoint.containers.dcp import read_dcp
from layerhouse.ingest.checkpoint.containers.registry import read_weight_file
from layerhouse.ingest.checkpoint.tensor_ref import NO_VALUES, Contents
from layerhouse.ingest.checkpoint_rows import measure_weights, open_weights, weight_rows
from layerhouse.ingest.measure.io.tensor_reader import TensorReader
from layerhouse.ingest.study.analyses import combine, read_file
from layerhouse.ingest.units import read_units
from layerhouse.tests import layouts, study_files, test_layouts
from layerhouse.tests.dcp_files import write_dcp
from layerhouse.tests.mutation_results import JSON_CHANGES, RESULTS
from layerhouse.tests.mutations import Answer, Target, changed_bytes, changed_header, changed_pickle
from layerhouse.tests.tiny_models import Width, llama_shapes
from layerhouse.tests.weight_files import save_vanished
from layerhouse.warehouse.storage.rows import rows_to_arrow

HEADER_CHANGES = (changed_bytes, changed_header)

# Weight files.


def tensors_of(path: Path) -> Answer:
    """Every tensor: its name, dtype and shape, and the hash of its bytes."""
    return digests(read_weight_file(path, "m"))


def digests(contents: Contents) -> Answer:
    """The tensors of what was read, as `tensors_of`."""
    answer = {}
    with TensorReader() as reader:
        for ref in contents.tensors:
            if ref.layout is not None and ref.layout.values == NO_VALUES:
                answer[ref.name] = (ref.dtype, ref.shape, None)
                continue
            digest = hashlib.sha256()
            size = 0
            for chunk in reader.chunks(ref):
                digest.update(chunk.tobytes())
                size += chunk.size
            assert size == ref.logical_bytes
            answer[ref.name] = (ref.dtype, ref.shape, digest.hexdigest())
    return answer


def torch_state() -> dict[str, Any]:
    import torch

    torch.manual_seed(3)
    weight = torch.randn(8, 12)
    return {
        "embed.weight": weight,
        "tied.weight": weight,
        "half": weight.bfloat16().t(),
        "small": (weight > 0).to(torch.int8),
        "coo": torch.sparse_coo_tensor(torch.tensor([[0, 3, 3], [1, 2, 2]]), torch.tensor([1.0, 2.0, 3.0]), (8, 12)),
        "csr": (weight * (weight > 1)).to_sparse_csr(),
    }


def write_zip(folder: Path) -> Path:
    import torch

    torch.save(torch_state(), folder / "m.bin")
    return folder / "m.bin"


def write_legacy(folder: Path) -> Path:
    import torch

    torch.save(torch_state(), folder / "m.pt", _use_new_zipfile_serialization=False)
    return folder / "m.pt"


def write_module(folder: Path) -> Path:
    save_vanished(folder / "m.pth", _use_new_zipfile_serialization=False)
    return folder / "m.pth"


def kinds_of_tensors() -> dict[str, Any]:
    """A state dict of torch's quantised tensors, tensors without values, and a quantised module."""
    import torch

    weight = torch.arange(96.0).reshape(8, 12)
    channels = torch.linspace(0.1, 0.8, 8)
    linear = torch.ao.quantization.quantize_dynamic(torch.nn.Sequential(torch.nn.Linear(12, 8)), dtype=torch.qint8)
    return {
        "embed.weight": weight,
        "a.weight": torch.quantize_per_tensor(weight, 0.5, 3, torch.qint8),
        "b.weight": torch.quantize_per_channel(weight, channels, torch.arange(8), 0, torch.quint8),
        "c.weight": torch.quantize_per_channel(weight, channels, channels, 0, torch.quint4x2),
        "d.weight": weight.to("meta"),
        **linear.state_dict(),
    }


def write_kinds(folder: Path) -> Path:
    import torch

    torch.save(kinds_of_tensors(), folder / "m.bin")
    return folder / "m.bin"


def write_kinds_of_old(folder: Path) -> Path:
    import torch

    torch.save(kinds_of_tensors(), folder / "m.bin", _use_new_zipfile_serialization=False)
    return folder / "m.bin"


def write_torchao(folder: Path) -> Path:
    from layerhouse.tests.test_pickled_kinds import torchao_file

    torchao_file(folder, "a.weight", (4, 6))
    return folder / "m.bin"


def write_hqq(folder: Path) -> Path:
    import torch

    from layerhouse.tests.test_pickled_kinds import hqq

    modules = {f"model.layers.0.mlp.{bits}": hqq((8, 32), bits, 1, 16, torch.float16)[0] for bits in (8, 4, 3, 1)}
    torch.save({"model.embed_tokens": {"weight": torch.ones(4, 8)}, **modules}, folder / "qmodel.pt")
    return folder / "qmodel.pt"


def write_zero3(name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        import torch

        from layerhouse.tests.test_zero3 import save, states

        trained = {"a.weight": torch.ones(4, 3), "b.weight": torch.zeros(7)}
        return save(folder, *states(trained, 2, frozen={"c.weight": torch.ones(5)}, groups=2), None) / name

    return write


def write_safetensors(folder: Path) -> Path:
    from safetensors.torch import save_file

    dense = {name: tensor.clone() for name, tensor in torch_state().items() if name not in ("coo", "csr", "tied.weight")}
    save_file({name: tensor.contiguous() for name, tensor in dense.items()}, folder / "m.safetensors", {"format": "pt"})
    return folder / "m.safetensors"


def write_gguf(folder: Path) -> Path:
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(folder / "m.gguf", "llama")
    writer.add_block_count(1)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length([256])
    writer.add_head_count(4)
    writer.add_token_list([f"token{i}" for i in range(96)])
    writer.add_tensor("token_embd.weight", np.ones((96, 64), np.float32))
    writer.add_tensor("blk.0.attn_q.weight", np.zeros((64, 64), np.float16))
    blocks = np.zeros((64, 34 * 2), np.uint8)
    writer.add_tensor("blk.0.attn_k.weight", blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder / "m.gguf"


def write_distributed(target: str) -> Callable[[Path], Path]:
    """Tensors of several chunks in two files, beside an optimizer's state."""

    def write(folder: Path) -> Path:
        import torch

        dense = {name: tensor.contiguous() for name, tensor in torch_state().items() if name not in ("coo", "csr")}
        nested = {f"model.{name}": tensor for name, tensor in dense.items()}
        tensors = {**nested, "optimizer.exp_avg": torch.ones(3), "optimizer.groups": [1]}
        paths = {name: tuple(name.split(".", 1)) for name in tensors}
        write_dcp(folder, tensors, {"model.embed.weight": ((3,), (5,)), "model.half": ((), (4,))}, files=2, paths=paths)
        return folder / target

    return write


def distributed_tensors_of(path: Path) -> Answer:
    """As `tensors_of`, of the checkpoint in a file's folder."""
    return digests(read_dcp(path.parent, "m"))


def as_the_library_reads(before: Answer, after: Answer, whole: bytes, mutation: bytes) -> str | None:
    """A header of safetensors has no checksum: a change that gives another valid header cannot be noticed. Then the format's
    own library reads the same names, types and shapes."""
    import safetensors

    try:
        tensors = safetensors.deserialize(mutation)
    except Exception as error:
        return f"read, and refused by safetensors: {error}"
    expected = {name: (tensor["dtype"], tuple(tensor["shape"])) for name, tensor in tensors}
    return None if {name: found[:2] for name, found in after.items()} == expected else "read otherwise than by safetensors"


def same_forms(before: Answer, after: Answer, whole: bytes, mutation: bytes) -> str | None:
    """The pickle in a torch zip has a checksum, and everything around it is said twice: if the file can be read, only bytes of
    tensors differ, which nothing protects."""
    forms = [{name: found[:2] for name, found in answer.items()} for answer in (before, after)]
    return None if forms[0] == forms[1] else "other names, types or shapes"


def same_tensors(before: Answer, after: Answer, whole: bytes, mutation: bytes) -> str | None:
    """No config changes the names, types, stored shapes and zeros of tensors, but that packed ones may not be read."""
    are_known = before.keys() == after.keys() and all(
        found == before[name] or found == (*before[name][:2], None) for name, found in after.items()
    )
    return None if are_known else "a config changed what the tensors are"


def some_tensors(before: Answer, after: Answer, whole: bytes, mutation: bytes) -> str | None:
    """An index may name fewer tensors, which is noted, and changes none."""
    return None if after.items() <= before.items() else "an index changed what the tensors are"


CONTAINERS = (
    Target("safetensors", write_safetensors, tensors_of, HEADER_CHANGES, as_the_library_reads),
    Target("torch zip", write_zip, tensors_of, check=same_forms),
    Target("torch legacy", write_legacy, tensors_of),
    Target("pickled module", write_module, tensors_of),
    Target("gguf", write_gguf, tensors_of),
    Target("torch zip of kinds", write_kinds, tensors_of, check=same_forms),
    Target("torch legacy of kinds", write_kinds_of_old, tensors_of),
    Target("distributed metadata", write_distributed(".metadata"), distributed_tensors_of),
    Target("distributed chunks", write_distributed("__0_0.distcp"), distributed_tensors_of, check=same_forms),
)


# Whole checkpoints: configs, indices, layouts.


def checkpoint_of(path: Path) -> Answer:
    """The rows of the checkpoint in the folder of a file, as Arrow takes them."""
    folder = path.parent
    files = sorted(file for file in folder.iterdir() if file.suffix in (".safetensors", ".pt", ".bin", ".gguf"))
    opened = open_weights(folder, files, "m")
    measured = measure_weights(opened, threads=1, near_zero=None, on_bytes=lambda count: None)
    checkpoint, tensors, layers = weight_rows(opened, measured, near_zero=None, fingerprint="f")
    rows_to_arrow("checkpoints", [{**checkpoint, "model_id": "m"}])
    rows_to_arrow("tensors", tensors.columns)
    rows_to_arrow("layers", layers)
    read_units(opened, "c", threads=1)
    return {row["name"]: (row["dtype"], tuple(row["shape"]), row["zeros"]) for row in tensors}


def small(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, test_layouts.Entry]:
    return {name: ("BF16", shape, bytes(2 * math.prod(shape))) for name, shape in shapes.items()}


LLAMA = llama_shapes({0: Width(), 1: Width(queries=48, keys=16, intermediate=96)})
LLAMA_CONFIG = {
    **test_layouts.CONFIG,
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 2,
    "intermediate_size": 128,
    "tie_word_embeddings": False,
    "drop_attn_list": [True, False],
    "drop_mlp_list": [0],
    "_name_or_path": "org/base",
    "rms_norm_eps": 1e-6,
    "text_config": {"hidden_size": 64},
}
QUANTIZATION = {
    "quant_method": "compressed-tensors",
    "bits": 4,
    "group_size": 16,
    "config_groups": {"group_0": {"targets": ["Linear", "re:.*q_proj$"], "weights": {"num_bits": 4, "group_size": 16}}},
}


def write_checkpoint(
    config: Mapping[str, Any], entries: Mapping[str, test_layouts.Entry], target: str
) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        test_layouts.write(folder, entries, config)
        return folder / target

    return write


def packed(packing: str) -> tuple[dict[str, Any], dict[str, test_layouts.Entry]]:
    """The config and tensors of a packed model of one layer."""
    pack, declared = test_layouts.PACKINGS[packing]
    entries: dict[str, test_layouts.Entry] = {}
    for name, shape in llama_shapes({0: Width()}).items():
        is_linear = "_proj." in name
        entries |= dict(pack(name.removesuffix(".weight"), *shape)) if is_linear else small({name: shape})
    return {**LLAMA_CONFIG, "quantization_config": QUANTIZATION, **declared}, entries


def write_sharded(folder: Path) -> Path:
    shapes = llama_shapes({0: Width()})
    names = list(shapes)
    halves = {f"model-{number:05}-of-00002": names[number - 1 :: 2] for number in (1, 2)}
    for shard, own in halves.items():
        test_layouts.write(folder, small({name: shapes[name] for name in own}), LLAMA_CONFIG, name=shard)
    weight_map = {name: f"{shard}.safetensors" for shard, own in halves.items() for name in own}
    total = sum(2 * math.prod(shape) for shape in shapes.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps(index))
    return path


def write_adapter(folder: Path) -> Path:
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    shapes = {f"{name}.lora_A.weight": (4, 64), f"{name}.lora_B.weight": (64, 4)}
    test_layouts.write(folder, small(shapes), None, name="adapter_model")
    config = {"base_model_name_or_path": "org/base", "peft_type": "LORA", "r": 4, "target_modules": ["q_proj"]}
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(config))
    return path


def write_sliced(folder: Path) -> Path:
    import torch

    state = {
        "model.embed_tokens.weight": torch.ones(32, 48),
        "model.layers.0.attn_shortcut_Q": torch.ones(48, 48),
        "model.layers.0.self_attn.q_proj.weight": torch.ones(64, 48),
    }
    torch.save(state, folder / "model_0.25.pt")
    slicing = {"hidden_size": 64, "attention_input_dimensions": {"0": 48}, "embedding_dimensions": {"0": 48}}
    path = folder / "model_0.25.json"
    path.write_text(json.dumps(slicing))
    return path


def config_target(name: str, config: Mapping[str, Any], entries: Mapping[str, test_layouts.Entry]) -> Target:
    return Target(name, write_checkpoint(config, entries, "config.json"), checkpoint_of, JSON_CHANGES, same_tensors)


def family_target(name: str, layout: layouts.Layout) -> Target:
    return config_target(name, layout.config, small(layout.shapes))


def layout_targets(packing: str) -> tuple[Target, Target]:
    """The config of a packed model, and its weight file."""
    write = lambda target: write_checkpoint(*packed(packing), target)  # noqa: E731
    return (
        Target(f"config of {packing}", write("config.json"), checkpoint_of, JSON_CHANGES, same_tensors),
        Target(f"weights of {packing}", write("model.safetensors"), checkpoint_of, HEADER_CHANGES),
    )


def masked_entries() -> dict[str, test_layouts.Entry]:
    """Masks of torch, a bitmask, 8-bit weights with scales, experts in MXFP4."""
    prefix = "model.layers.0."
    return {
        **small({"model.embed_tokens.weight": (32, 64)}),
        f"{prefix}self_attn.q_proj.weight_orig": ("F32", (64, 64), None),
        f"{prefix}self_attn.q_proj.weight_mask": ("F32", (64, 64), bytes(4 * 64 * 64)),
        f"{prefix}self_attn.k_proj.compressed": ("F16", (32, 32), None),
        f"{prefix}self_attn.k_proj.bitmask": ("U8", (32, 8), b"\x55" * 256),
        f"{prefix}self_attn.k_proj.shape": ("I64", (2,), (32).to_bytes(8, "little") + (64).to_bytes(8, "little")),
        f"{prefix}mlp.up_proj.weight": ("I8", (128, 64), None),
        f"{prefix}mlp.up_proj.weight_scale": ("F32", (128, 1), None),
        f"{prefix}mlp.experts.gate_up_proj_blocks": ("U8", (2, 8, 2, 16), None),
        f"{prefix}mlp.experts.gate_up_proj_scales": ("U8", (2, 8, 2), None),
        f"{prefix}mlp.down_proj.weight": ("I8", (64, 128), None),
        f"{prefix}mlp.down_proj.SCB": ("F32", (64,), None),
    }


PICKLES = (changed_bytes, changed_pickle, changed_pickle)
CHECKPOINTS = (
    Target("pickle of kinds", write_kinds, checkpoint_of, PICKLES),
    Target("pickle of torchao", write_torchao, checkpoint_of, PICKLES),
    Target("pickle of hqq", write_hqq, checkpoint_of, PICKLES),
    Target("weights of a ZeRO-3 rank", write_zero3("zero_pp_rank_1_mp_rank_00_model_states.pt"), checkpoint_of, PICKLES),
    Target("first rank of ZeRO-3", write_zero3("zero_pp_rank_0_mp_rank_00_model_states.pt"), checkpoint_of, PICKLES),
    Target("values of a ZeRO-3 rank", write_zero3("bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt"), checkpoint_of, PICKLES),
    config_target("config of llama", LLAMA_CONFIG, small(LLAMA)),
    *(family_target(f"config of {name} {at}", item) for name, some in layouts.LAYOUTS.items() for at, item in enumerate(some)),
    *(target for packing in test_layouts.PACKINGS for target in layout_targets(packing)),
    Target(
        "weights of masks", write_checkpoint(LLAMA_CONFIG, masked_entries(), "model.safetensors"), checkpoint_of, HEADER_CHANGES
    ),
    Target(
        "weights of llama", write_checkpoint(LLAMA_CONFIG, small(LLAMA), "model.safetensors"), checkpoint_of, HEADER_CHANGES
    ),
    Target("index", write_sharded, checkpoint_of, JSON_CHANGES, some_tensors),
    Target("adapter config", write_adapter, checkpoint_of, JSON_CHANGES, same_tensors),
    Target("slicing config", write_sliced, checkpoint_of, JSON_CHANGES, same_tensors),
)


# Analyses.


def analysis_of(path: Path) -> Answer:
    """The rows of the analysis files in a folder, as Arrow takes them."""
    parsed = {file.name: read_file(file, file.name) for file in sorted(path.parent.glob("*.json"))}
    rows = combine(parsed, "m", lambda structure: None)
    base = [] if rows.base_checkpoint is None else [rows.base_checkpoint]
    rows_to_arrow("checkpoints", [{**row, "model_id": "m"} for row in (rows.checkpoint, *base)])
    rows_to_arrow("layers", [*rows.layers, *rows.base_layers])
    rows_to_arrow("layer_matches", rows.layer_matches)
    return [(row["layer_index"], row["params"]) for row in rows.layers]


ANALYSES_OF_A_MODEL = {
    "pruned_model_analysis.json": study_files.structure(study_files.FULL, study_files.HALF, study_files.EMPTY),
    "original_model_analysis.json": study_files.base(),
    "model_comparison.json": study_files.comparison(
        study_files.base(), study_files.structure(study_files.FULL, study_files.HALF, study_files.EMPTY)
    ),
    "layers_to_remove.json": study_files.removal(2, of=4),
}


def analysis_target(name: str, others: tuple[str, ...]) -> Target:
    def write(folder: Path) -> Path:
        for other in (name, *others):
            (folder / other).write_text(json.dumps(ANALYSES_OF_A_MODEL[other]))
        return folder / name

    return Target(f"{name} with {len(others)} others", write, analysis_of, JSON_CHANGES)


ANALYSES = (
    *(analysis_target(name, tuple(other for other in ANALYSES_OF_A_MODEL if other != name)) for name in ANALYSES_OF_A_MODEL),
    analysis_target("model_comparison.json", ("layers_to_remove.json",)),
    analysis_target("pruned_model_analysis.json", ()),
)


TARGETS = (*CONTAINERS, *CHECKPOINTS, *ANALYSES, *RESULTS)
