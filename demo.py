"""A small study as it lies on a disk: a base, models pruned from it in the ways that people prune, and evaluation results.

The checkpoints are real ones of a tiny Llama with seeded random weights, the same every time; the results are invented.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerhouse.errors import UsageError

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM

    State = dict[str, torch.Tensor]

BASE = "baselines/Tiny-Base"
SHOWN = "results/HeadPrune_2000"
"""The model whose layers the demo shows."""

HIDDEN, HEAD_DIM, HEADS, KV_HEADS, WIDTH, LAYERS, VOCAB = 128, 16, 8, 4, 352, 8, 1024
REMOVED = (4, 5)
HEAD_KEPT = ((4, 352), (4, 352), (3, 264), (2, 176), (2, 160), (3, 264), (4, 352), (4, 352))
"""KV groups and MLP neurons that each layer keeps."""
PRUNER_KEPT = ((4, 352), *((3, 248),) * 6, (4, 352))
TASKS = ("boolq", "piqa", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa")
NORMED_TASKS = ("piqa", "hellaswag", "arc_easy", "arc_challenge", "openbookqa")


@dataclass(frozen=True)
class Scores:
    """Invented results: perplexities, accuracies in the order of TASKS, tokens a second at batch size 1."""

    wikitext2: float
    ptb: float
    accuracies: tuple[float, ...]
    tokens_per_second: float


SCORES = {
    BASE: Scores(21.7, 35.9, (0.74, 0.76, 0.66, 0.68, 0.70, 0.42, 0.38), 102.4),
    "baselines/Magnitude_5000": Scores(64.0, 97.2, (0.60, 0.63, 0.44, 0.54, 0.48, 0.29, 0.29), 102.1),
    "baselines/Magnitude_2of4": Scores(71.5, 110.8, (0.58, 0.62, 0.42, 0.53, 0.47, 0.28, 0.28), 103.0),
    "baselines/ShortGPT_remove_2": Scores(52.9, 88.1, (0.61, 0.64, 0.47, 0.59, 0.50, 0.31, 0.30), 134.5),
    SHOWN: Scores(33.4, 58.6, (0.66, 0.70, 0.55, 0.60, 0.60, 0.34, 0.33), 126.3),
}


@contextmanager
def demo_study(keep: Path | None = None) -> Iterator[Path]:
    """The folder of a freshly made study: `keep`, which has to be new or empty, else a temporary one that goes away."""
    if keep is not None:
        if keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
            raise UsageError(f"{keep}: exists and is not an empty folder")
        write_study(keep)
        yield keep
        return
    with tempfile.TemporaryDirectory(prefix="layerhouse-demo-") as folder:
        write_study(Path(folder))
        yield Path(folder)


def write_study(folder: Path) -> None:
    """Write the study's checkpoints and results below a folder."""
    with _without_traces():
        model = _tiny_llama()
        model.save_pretrained(folder / BASE)
    state = model.state_dict()
    pruned = {
        "baselines/Magnitude_5000": _masked(state, _half_smallest),
        "baselines/Magnitude_2of4": _masked(state, _two_of_four),
        "baselines/ShortGPT_remove_2": _without_blocks(state),
        SHOWN: _narrowed(state, HEAD_KEPT),
    }
    for name, tensors in pruned.items():
        _save(folder / name, tensors, model)
    for name, scores in SCORES.items():
        tensors = pruned.get(name, state)
        layers = sum(key.endswith("input_layernorm.weight") for key in tensors)
        document = result_document(Path(name).name, sum(tensor.numel() for tensor in tensors.values()), layers, scores)
        write_json(folder / name / "evaluation/evaluation_results.json", document)
    _save_whole(folder / "results/LLM-Pruner_2000/pytorch_model.bin", model, _narrowed(state, PRUNER_KEPT))


def result_document(name: str, params: int, num_layers: int, scores: Scores) -> dict[str, Any]:
    """Evaluation results as the study scripts write them."""
    return {
        "model_path": f"models/{name}",
        "timestamp": "2026-01-15T12:00:00",
        "metrics": {
            "model_info": {"total_params": params, "num_layers": num_layers, "model_size_gb": params * 2 / 2**30},
            "ppl": {"wikitext2 (wikitext-2-raw-v1)": scores.wikitext2, "ptb": scores.ptb},
            "zeroshot": {
                task: {"accuracy": value, "full_results": {"alias": task, _metric(task): value}}
                for task, value in zip(TASKS, scores.accuracies, strict=True)
            },
            "avg_zeroshot_acc": sum(scores.accuracies) / len(TASKS),
            "efficiency": {
                "speed": {
                    f"batch_size_{size}": {
                        "throughput_tokens_per_sec": factor * scores.tokens_per_second,
                        "latency_ms_per_token": 1000 / (factor * scores.tokens_per_second),
                    }
                    for size, factor in ((1, 1.0), (4, 3.7))
                },
                "memory": {"model_memory_mb": params * 2 / 2**20},
            },
        },
    }


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2), "utf-8")


def _metric(task: str) -> str:
    return "acc_norm,none" if task in NORMED_TASKS else "acc,none"


def _tiny_llama() -> LlamaForCausalLM:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        intermediate_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=HEAD_DIM,
        max_position_embeddings=512,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(20)
        return LlamaForCausalLM(config).bfloat16()


@contextmanager
def _without_traces() -> Iterator[None]:
    """Without transformers' progress bars, and without the cache folder for compiled code that importing it leaves behind."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", folder)
        from transformers.utils import logging

        was_enabled = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        try:
            yield
        finally:
            if was_enabled:
                logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _save(folder: Path, state: State, model: LlamaForCausalLM) -> None:
    """Weights, and the base's config as it was: what pruning scripts often leave."""
    from safetensors.torch import save_file

    model.config.save_pretrained(folder)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def _save_whole(path: Path, model: LlamaForCausalLM, state: State) -> None:
    """The model itself, pickled with its classes, its modules narrowed; without what differs from one run to the next."""
    import torch

    for name, tensor in state.items():
        module = model.get_submodule(name.removesuffix(".weight"))
        module.weight = torch.nn.Parameter(tensor, requires_grad=False)
        if isinstance(module, torch.nn.Linear):
            module.out_features, module.in_features = tensor.shape
    model.generation_config = None  # type: ignore[assignment]
    del model.model.rotary_emb.original_inv_freq
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": model, "tokenizer": None}, path)


def _masked(state: State, mask: Callable[[torch.Tensor], torch.Tensor]) -> State:
    """Zeros where `mask` of a block's linear says so; shapes as they were."""
    return {
        name: tensor.masked_fill(mask(tensor), 0) if name.endswith("_proj.weight") else tensor for name, tensor in state.items()
    }


def _half_smallest(tensor: torch.Tensor) -> torch.Tensor:
    ranks = tensor.abs().flatten().argsort(stable=True).argsort()
    return (ranks < tensor.numel() // 2).view_as(tensor)


def _two_of_four(tensor: torch.Tensor) -> torch.Tensor:
    """The two smallest of every four inputs of an output."""
    ranks = tensor.abs().view(-1, 4).argsort(stable=True).argsort()
    return (ranks < 2).view_as(tensor)


def _without_blocks(state: State) -> State:
    """Without the blocks REMOVED, those after them renumbered."""
    kept = [index for index in range(LAYERS) if index not in REMOVED]
    names = {f"model.layers.{old}.": f"model.layers.{new}." for new, old in enumerate(kept)}
    answer = {}
    for name, tensor in state.items():
        prefix = next((prefix for prefix in names if name.startswith(prefix)), "")
        if prefix or not name.startswith("model.layers."):
            answer[names.get(prefix, "") + name.removeprefix(prefix)] = tensor
    return answer


def _narrowed(state: State, kept: Sequence[tuple[int, int]]) -> State:
    """Each layer with its KV groups and neurons of greatest norm, as many as `kept` says; a group's query heads go with it."""
    answer = dict(state)
    for index, (groups, neurons) in enumerate(kept):
        attention, mlp = f"model.layers.{index}.self_attn.", f"model.layers.{index}.mlp."
        pairs = _rows(state[f"{attention}k_proj.weight"], KV_HEADS, groups)
        queries = _rows(state[f"{attention}k_proj.weight"], KV_HEADS, groups, HEADS * HEAD_DIM)
        middle = _rows(state[f"{mlp}gate_proj.weight"], WIDTH, neurons)
        for name, rows in (("q_proj", queries), ("k_proj", pairs), ("v_proj", pairs)):
            answer[f"{attention}{name}.weight"] = state[f"{attention}{name}.weight"][rows]
        for name in ("gate_proj", "up_proj"):
            answer[f"{mlp}{name}.weight"] = state[f"{mlp}{name}.weight"][middle]
        for name, columns in ((f"{attention}o_proj.weight", queries), (f"{mlp}down_proj.weight", middle)):
            answer[name] = state[name][:, columns].contiguous()
    return answer


def _rows(tensor: torch.Tensor, units: int, kept: int, length: int | None = None) -> torch.Tensor:
    """Rows of the `kept` units of greatest norm, of `units` into which a tensor, or another of `length` rows, is divided."""
    import torch

    best = tensor.float().view(units, -1).norm(dim=1).topk(kept).indices.sort().values
    return torch.arange(length or len(tensor)).view(units, -1)[best].flatten()
