"""A zoo of tiny models of known descent, each made from its parents by real training, pruning, merging or quantisation.

Every folder has a number for its name and no config names a parent, so that values alone can tell the descent.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoXConfig, LlamaConfig, MistralConfig, OPTConfig, Qwen2Config

VOCAB = 300
BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32
LINEAR = ("_proj", "dense", "query_key", "fc1", "fc2", "c_attn", "c_proj", "c_fc")
MLX_GROUP = 32
Model = Any


@dataclass(frozen=True)
class Origin:
    """What a model was made from: its parents by name, empty for a root or where they are absent, and how."""

    parents: tuple[str, ...]
    kind: str


@dataclass
class Zoo:
    """Models written to numbered folders below `folder`, and what each was made from."""

    folder: Path
    seed: int
    origins: dict[str, Origin] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._order = np.random.default_rng(self.seed).permutation(1000)
        self._texts = {name: _text(self.seed * 10 + index, self.seed) for index, name in enumerate(("a", "b", "c", "d"))}
        self._steps = 0

    def path(self, name: str, kind: str, parents: Sequence[str]) -> Path:
        """A new folder for a model."""
        self.origins[name] = Origin(tuple(parents), kind)
        self.numbers[name] = int(self._order[len(self.numbers)])
        path = self.folder / f"m{self.numbers[name]:03}"
        path.mkdir(parents=True)
        return path

    def model_names(self) -> dict[str, str]:
        """Name in the zoo by name in a warehouse."""
        return {f"{self.folder.name}/m{number:03}": name for name, number in self.numbers.items()}

    def train(self, model: Model, text: str, steps: int, rate: float, only: Callable[[str], bool] = lambda name: True) -> Model:
        """A copy of a model after some steps on a text; where weights are zero they stay zero in a pruned one."""
        self._steps += 1
        generator = torch.Generator().manual_seed(self.seed * 1000 + self._steps)
        model, data = copy.deepcopy(model).float(), self._texts[text]
        model.train()
        trained = [parameter.requires_grad_(only(name)) for name, parameter in model.named_parameters()]
        trained = [parameter for parameter in trained if parameter.requires_grad]
        masks = {id(parameter): (parameter != 0).float() for parameter in trained if 0.2 < (parameter == 0).float().mean() < 1}
        optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.1, betas=(0.9, 0.95))
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1, (step + 1) / 10) * (1 - 0.9 * step / steps)
            starts = torch.randint(0, len(data) - 33, (4,), generator=generator).tolist()
            tokens = torch.stack([data[start : start + 32] for start in starts])
            optimizer.zero_grad()
            model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            with torch.no_grad():
                for parameter in trained:
                    if id(parameter) in masks:
                        parameter.mul_(masks[id(parameter)])
        return model

    def save(self, name: str, model: Model, kind: str, parents: Sequence[str] = (), dtype: torch.dtype = BF16) -> Model:
        """Write a model; returns it as it was written, which is what others are made from."""
        model = copy.deepcopy(model).to(dtype)
        self.write(name, _state_of(model), _config_of(model, dtype), kind, parents)
        return model.float()

    def write(self, name: str, state: dict[str, Any], config: dict[str, Any], kind: str, parents: Sequence[str]) -> None:
        """Write tensors and a config as a model."""
        path = self.path(name, kind, parents)
        save_file(
            {key: value.contiguous().clone() for key, value in state.items()}, path / "model.safetensors", {"format": "pt"}
        )
        (path / "config.json").write_text(json.dumps(config, default=str))


def make(config: Any, seed: int) -> Model:
    """A model with random weights."""
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config).float()


def llama(
    kind: type = LlamaConfig,
    *,
    hidden: int = 96,
    layers: int = 6,
    heads: int = 6,
    kv: int = 3,
    inner: int = 256,
    tied: bool = False,
) -> Any:
    """The config of a small model of the kind of Llama."""
    return kind(
        vocab_size=VOCAB,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv,
        max_position_embeddings=256,
        tie_word_embeddings=tied,
        **({} if kind is Qwen2Config else {"head_dim": hidden // heads}),
    )


def masked(model: Model, share: float) -> Model:
    """The least weights of each matrix of the blocks set to zero."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for _, weight in _matrices(model):
            least = weight.abs().flatten().kthvalue(int(share * weight.numel())).values
            weight.mul_((weight.abs() > least).float())
    return model


def two_of_four(model: Model) -> Model:
    """Of every four weights the greatest two."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for _, weight in _matrices(model):
            groups = weight.view(-1, 4)
            kept = torch.zeros_like(groups).scatter_(1, groups.abs().topk(2, dim=1).indices, 1.0)
            groups.mul_(kept)
    return model


def with_layers(model: Model, kept: Sequence[int]) -> Model:
    """A model of these layers, of which some may come twice."""
    model = copy.deepcopy(model)
    body = model.base_model
    body = body.decoder if hasattr(body, "decoder") else body
    attribute = "layers" if hasattr(body, "layers") else "h"
    layers = getattr(body, attribute)
    setattr(body, attribute, torch.nn.ModuleList([copy.deepcopy(layers[index]) for index in kept]))
    count = "num_hidden_layers" if "num_hidden_layers" in model.config.to_dict() else "n_layer"
    setattr(model.config, count, len(kept))
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = model.config.layer_types[: len(kept)]
    return model


def narrowed(model: Model, groups: Sequence[int], neurons: int) -> Model:
    """A Llama with these KV groups and the largest neurons of each layer."""
    config, size = copy.deepcopy(model.config), model.config.head_dim
    ratio = config.num_attention_heads // config.num_key_value_heads
    config.num_key_value_heads, config.num_attention_heads = len(groups), ratio * len(groups)
    config.intermediate_size, config.head_dim = neurons, size
    keys = torch.cat([torch.arange(group * size, (group + 1) * size) for group in groups])
    queries = torch.cat([torch.arange(group * ratio * size, (group + 1) * ratio * size) for group in groups])
    state, cut = model.state_dict(), {}
    for name, value in state.items():
        kept = value
        if "q_proj" in name:
            kept = value[queries]
        elif "k_proj" in name or "v_proj" in name:
            kept = value[keys]
        elif "o_proj" in name:
            kept = value[:, queries]
        elif ".mlp." in name:
            start = name.rpartition(".mlp.")[0]
            gate, down = state[f"{start}.mlp.gate_proj.weight"], state[f"{start}.mlp.down_proj.weight"]
            largest = (gate.norm(dim=1) * down.norm(dim=0)).topk(neurons).indices.sort().values
            kept = value[:, largest] if "down" in name else value[largest]
        cut[name] = kept.clone()
    narrow = make(config, 0)
    narrow.load_state_dict(cut)
    return narrow


def merged(first: Model, second: Model, share: float) -> Model:
    """The line between two models, at a share of the way."""
    model = copy.deepcopy(first)
    with torch.no_grad():
        for (_, value), (_, other) in zip(model.named_parameters(), second.named_parameters(), strict=True):
            value.copy_((1 - share) * value + share * other)
    return model


def lora(zoo: Zoo, model: Model, text: str, rank: int = 4, scale: float = 2.0) -> tuple[Model, dict[str, Any]]:
    """A trained adapter of the query and value projections, merged and as its own tensors."""

    class Added(torch.nn.Module):
        def __init__(self, weight: Any) -> None:
            super().__init__()
            self.down = torch.nn.Parameter(torch.randn(rank, weight.shape[1]) * 0.05)
            self.up = torch.nn.Parameter(torch.zeros(weight.shape[0], rank))

        def forward(self, weight: Any) -> Any:
            return weight + scale * self.up @ self.down

    torch.manual_seed(zoo.seed)
    adapted, result = copy.deepcopy(model), copy.deepcopy(model)
    places = [(name, module) for name, module in adapted.named_modules() if name.endswith(("q_proj", "v_proj"))]
    for _, module in places:
        torch.nn.utils.parametrize.register_parametrization(module, "weight", Added(module.weight))
    adapted = zoo.train(adapted, text, 16, 2e-3, lambda name: name.endswith((".up", ".down")))
    adapter: dict[str, Any] = {}
    with torch.no_grad():
        for name, module in adapted.named_modules():
            if name.endswith(("q_proj", "v_proj")):
                added = module.parametrizations.weight[0]
                adapter[f"base_model.model.{name}.lora_A.weight"] = added.down.detach().clone()
                adapter[f"base_model.model.{name}.lora_B.weight"] = added.up.detach().clone()
                result.get_submodule(name).weight.add_(scale * added.up @ added.down)
    return result, adapter


def save_adapter(zoo: Zoo, name: str, adapter: dict[str, Any], parent: str, declared: str) -> None:
    """Write an adapter whose config declares its base."""
    path = zoo.path(name, "adapter", [parent])
    save_file(adapter, path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "base_model_name_or_path": declared, "r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM"}
    (path / "adapter_config.json").write_text(json.dumps(config | {"target_modules": ["q_proj", "v_proj"]}))


def save_gptq(zoo: Zoo, name: str, model: Model, parent: str) -> None:
    """Write a model with 4-bit words as GPTQ packs them, of the model in half precision."""
    state: dict[str, Any] = {}
    for key, weight in _state_of(model).items():
        if not key.endswith("_proj.weight"):
            state[key] = weight.half()
            continue
        rows, columns = weight.shape
        groups = weight.float().T.reshape(columns // MLX_GROUP, MLX_GROUP, rows)
        low, high = groups.amin(1).clamp(max=0), groups.amax(1).clamp(min=0)
        scales = ((high - low) / 15).clamp(min=1e-8)
        zeros = torch.round(-low / scales)
        codes = (torch.round(groups / scales[:, None]) + zeros[:, None]).clamp(0, 15).reshape(columns, rows).to(torch.int64)
        words = sum(codes[at::8] << (4 * at) for at in range(8))
        packed_zeros = (zeros.to(torch.int64) - 1) & 15
        zero_codes = sum(packed_zeros[:, at::8] << (4 * at) for at in range(8))
        place = key.removesuffix("weight")
        state[f"{place}qweight"], state[f"{place}qzeros"] = _int32(words), _int32(zero_codes)
        state[f"{place}scales"] = scales.half()
        state[f"{place}g_idx"] = (torch.arange(columns) // MLX_GROUP).to(torch.int32)
    packing = {"bits": 4, "group_size": MLX_GROUP, "desc_act": False, "sym": False, "quant_method": "gptq"}
    zoo.write(name, state, {**_config_of(model, F16), "quantization_config": packing}, "gptq", [parent])


def save_fp8(zoo: Zoo, name: str, model: Model, parent: str) -> None:
    """Write a model with its matrices as 8-bit floats under a scale."""
    state: dict[str, Any] = {}
    for key, weight in _state_of(model).items():
        if not key.endswith("_proj.weight"):
            state[key] = weight.to(BF16)
            continue
        scale = weight.abs().max().float() / 448
        state[key] = (weight.float() / scale).to(torch.float8_e4m3fn)
        state[key.replace(".weight", ".weight_scale")] = scale.reshape(1)
    scheme = {"quant_method": "fp8", "activation_scheme": "dynamic"}
    zoo.write(name, state, {**_config_of(model, BF16), "quantization_config": scheme}, "fp8", [parent])


def save_gguf(zoo: Zoo, name: str, model: Model, parent: str) -> None:
    """Write a Llama as GGUF, its matrices as Q8_0."""
    import gguf

    config = model.config
    path = zoo.path(name, "gguf", [parent])
    writer = gguf.GGUFWriter(path / "model-q8_0.gguf", "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(256)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(VOCAB)
    for key, weight in _state_of(model).items():
        array = weight.float().numpy()
        if ".q_proj" in key or ".k_proj" in key:
            heads = config.num_attention_heads if ".q_proj" in key else config.num_key_value_heads
            array = array.reshape(heads, 2, array.shape[0] // heads // 2, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        if array.ndim == 2:
            quantized = gguf.quants.quantize(array, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(_gguf_name(key), quantized, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(_gguf_name(key), array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _gguf_name(name: str) -> str:
    whole = {"model.embed_tokens.weight": "token_embd", "model.norm.weight": "output_norm", "lm_head.weight": "output"}
    if name in whole:
        return f"{whole[name]}.weight"
    parts = {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{parts[rest.removesuffix('.weight')]}.weight"


def _int32(words: Any) -> Any:
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


def _matrices(model: Model) -> list[tuple[str, Any]]:
    return [(n, p) for n, p in model.named_parameters() if p.ndim == 2 and any(part in n for part in LINEAR)]


def _state_of(model: Model) -> dict[str, Any]:
    """The tensors of a model; a tied head is stored once."""
    state = dict(model.state_dict())
    if model.config.tie_word_embeddings:
        for head in ("lm_head.weight", "embed_out.weight"):
            state.pop(head, None)
    return state


def _config_of(model: Model, dtype: torch.dtype) -> dict[str, Any]:
    config = model.config.to_dict() | {
        "architectures": [type(model).__name__],
        "torch_dtype": str(dtype).removeprefix("torch."),
    }
    return {key: value for key, value in config.items() if key not in ("_name_or_path", "dtype")}


def _text(seed: int, language: int, length: int = 60_000) -> Any:
    """A text in which each token has eight successors, some often: what a model can learn of it in a few steps.

    Texts of one language share the successors of three tokens in four.
    """
    common, generator = np.random.default_rng(language), np.random.default_rng(seed)
    successors, own = (one.integers(0, VOCAB, (VOCAB, 8)) for one in (common, generator))
    successors = np.where(generator.random((VOCAB, 1)) < 0.25, own, successors)
    choices = generator.choice(8, length, p=np.array([30, 20, 15, 12, 9, 6, 5, 3]) / 100)
    tokens = np.empty(length, np.int64)
    token = 0
    for at, choice in enumerate(choices.tolist()):
        tokens[at] = token = int(successors[token, choice])
    return torch.from_numpy(tokens)


@contextmanager
def one_thread() -> Iterator[None]:
    """A context in which torch has one thread: for such small models more of them cost more than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@one_thread()
def build_small_zoo(folder: Path, seed: int) -> Zoo:
    """Two bases of one config with children of several kinds: 13 models."""
    zoo = Zoo(folder, seed)
    shape = llama(hidden=64, layers=4, heads=4, kv=2, inner=160)
    base = zoo.save("base", zoo.train(make(shape, seed), "a", 40, 3e-3), "root")
    tuned = zoo.save("tuned", zoo.train(base, "b", 12, 3e-4), "tuned", ["base"])
    other = zoo.save("tuned too", zoo.train(base, "c", 12, 3e-4), "tuned", ["base"])
    zoo.save("tuned twice", zoo.train(tuned, "d", 12, 3e-4), "tuned", ["tuned"])
    zoo.save("masked", masked(base, 0.5), "masked", ["base"])
    zoo.save("shorter", with_layers(base, [0, 1, 3]), "shorter", ["base"])
    zoo.save("narrower", narrowed(base, [1], 96), "narrower", ["base"])
    zoo.save("cast", base, "cast", ["base"], F16)
    zoo.save("merged", merged(tuned, other, 0.5), "merged", ["tuned", "tuned too"])
    save_gptq(zoo, "packed", tuned, "tuned")
    second = zoo.save("second base", zoo.train(make(shape, seed + 500), "a", 40, 3e-3), "root")
    zoo.save("second tuned", zoo.train(second, "b", 12, 3e-4), "tuned", ["second base"])
    zoo.save("second masked", masked(second, 0.6), "masked", ["second base"])
    return zoo


@one_thread()
def build_zoo(folder: Path, seed: int) -> Zoo:
    """Eight bases and models of no kin, in five families, with descendants of up to four generations: 60 models."""
    zoo = Zoo(folder, seed)
    _llama_clan(zoo)
    _second_clan(zoo)
    _pretraining_clan(zoo)
    _absent_bases(zoo)
    _mistral_clan(zoo)
    _opt_and_gpt2(zoo)
    return zoo


def _llama_clan(zoo: Zoo) -> None:
    base = zoo.save("L", zoo.train(make(llama(), zoo.seed), "a", 100, 3e-3), "root")
    first = zoo.save("L-tuned1", zoo.train(base, "b", 16, 3e-4), "tuned", ["L"])
    second = zoo.save("L-tuned2", zoo.train(base, "d", 16, 3e-4), "tuned", ["L"])
    zoo.save("L-tuned3-lightly", zoo.train(base, "c", 6, 1e-4), "tuned lightly", ["L"])
    twice = zoo.save("L-tuned1-tuned", zoo.train(first, "d", 12, 3e-4), "tuned", ["L-tuned1"])
    zoo.save("L-tuned1-tuned-tuned", zoo.train(twice, "c", 12, 2e-4), "tuned", ["L-tuned1-tuned"])
    with_adapter, adapter = lora(zoo, base, "b")
    zoo.save("L-lora", with_adapter, "lora merged", ["L"])
    save_adapter(zoo, "L-adapter", adapter, "L", f"{zoo.folder.name}/m{zoo.numbers['L']:03}")
    last = zoo.train(base, "b", 12, 5e-4, lambda name: "layers.5." in name or "lm_head" in name)
    zoo.save("L-tuned-in-part", last, "tuned in part", ["L"])
    half = zoo.save("L-half", masked(base, 0.5), "masked", ["L"])
    half_tuned = zoo.save("L-half-tuned", zoo.train(half, "a", 12, 3e-4), "tuned sparse", ["L-half"])
    save_gptq(zoo, "L-half-tuned-gptq", half_tuned, "L-half-tuned")
    zoo.save("L-2of4", two_of_four(base), "masked", ["L"])
    zoo.save("L-tuned1-half", masked(first, 0.5), "masked", ["L-tuned1"])
    shorter = zoo.save("L-shorter", with_layers(base, [0, 1, 4, 5]), "shorter", ["L"])
    zoo.save("L-shorter-tuned", zoo.train(shorter, "a", 16, 5e-4), "tuned", ["L-shorter"])
    narrow = zoo.save("L-narrower", narrowed(base, [0, 2], 192), "narrower", ["L"])
    narrow = zoo.save("L-narrower-tuned", zoo.train(narrow, "a", 16, 5e-4), "tuned", ["L-narrower"])
    save_gguf(zoo, "L-narrower-tuned-gguf", narrow, "L-narrower-tuned")
    zoo.save("L-f16", base, "cast", ["L"], F16)
    zoo.save("L-f32", base, "cast", ["L"], F32)
    save_gptq(zoo, "L-gptq", base, "L")
    save_fp8(zoo, "L-fp8", base, "L")
    save_gguf(zoo, "L-gguf", base, "L")
    save_gguf(zoo, "L-tuned1-gguf", first, "L-tuned1")
    zoo.save("L-merged", merged(first, second, 0.5), "merged", ["L-tuned1", "L-tuned2"])
    zoo.save("L-merged30", merged(second, first, 0.3), "merged", ["L-tuned1", "L-tuned2"])
    zoo.save("L-stacked", with_layers(base, [0, 1, 2, 3, 2, 3, 4, 5]), "stacked", ["L"])
    zoo.save("L-trained-on", zoo.train(base, "d", 80, 2e-3), "trained on", ["L"])
    wider = copy.deepcopy(base)
    wider.resize_token_embeddings(VOCAB + 8)
    zoo.save("L-more-tokens", zoo.train(wider, "b", 8, 2e-4), "tokens added", ["L"])


def _second_clan(zoo: Zoo) -> None:
    """A base of the same config, one of the same start trained on other text, and two that were not trained."""
    start = make(llama(), zoo.seed + 501)
    base = zoo.save("K", zoo.train(start, "a", 100, 3e-3), "root")
    zoo.save("K-tuned", zoo.train(base, "b", 16, 3e-4), "tuned", ["K"])
    zoo.save("K-masked", masked(base, 0.6), "masked", ["K"])
    zoo.save("K-twin", zoo.train(start, "b", 100, 3e-3), "root of the same start")
    zoo.save("random1", make(llama(), zoo.seed + 509), "root")
    zoo.save("random2", make(llama(), zoo.seed + 510), "root")


def _pretraining_clan(zoo: Zoo) -> None:
    """Checkpoints of one training, and what was made of the last."""
    sizes = {"vocab_size": VOCAB, "hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 5, "num_attention_heads": 6}
    model = make(GPTNeoXConfig(**sizes, max_position_embeddings=256, tie_word_embeddings=False), zoo.seed + 3)
    model, last = zoo.save("P-0", model, "root", dtype=F16), "P-0"
    for done, steps in ((16, 16), (48, 32), (100, 52)):
        model = zoo.save(f"P-{done}", zoo.train(model, "a", steps, 2e-3), "trained on", [last], F16)
        last = f"P-{done}"
    zoo.save("P-tuned", zoo.train(model, "b", 16, 3e-4), "tuned", [last], F16)
    zoo.save("P-half", masked(model, 0.5), "masked", [last], F16)


def _absent_bases(zoo: Zoo) -> None:
    """Children of bases that are not there: four of one, two of another."""
    base = zoo.train(make(llama(Qwen2Config, tied=True), zoo.seed + 4), "a", 100, 3e-3).to(BF16).float()
    for text in ("b", "c", "d"):
        zoo.save(f"Q-{text}", zoo.train(base, text, 40, 3e-4), "sibling")
    zoo.save("Q-half", masked(base, 0.5), "sibling")
    base = zoo.train(make(llama(hidden=80, heads=5, kv=5, inner=224), zoo.seed + 5), "a", 60, 3e-3).to(BF16).float()
    for text in ("b", "c"):
        zoo.save(f"R-{text}", zoo.train(base, text, 40, 3e-4), "sibling")


def _mistral_clan(zoo: Zoo) -> None:
    base = zoo.save("M", zoo.train(make(llama(MistralConfig), zoo.seed + 6), "a", 100, 3e-3), "root", dtype=F32)
    rounded = zoo.save("M-bf16", base, "cast", ["M"])
    zoo.save("M-bf16-tuned", zoo.train(rounded, "b", 16, 3e-4), "tuned", ["M-bf16"])
    shorter = zoo.save("M-shorter", with_layers(base, [0, 1, 2, 4, 5]), "shorter", ["M"], F32)
    tuned = zoo.save("M-shorter-tuned", zoo.train(shorter, "a", 16, 5e-4), "tuned", ["M-shorter"])
    save_gptq(zoo, "M-shorter-tuned-gptq", tuned, "M-shorter-tuned")


def _opt_and_gpt2(zoo: Zoo) -> None:
    sizes = {"vocab_size": VOCAB, "hidden_size": 96, "num_hidden_layers": 5, "num_attention_heads": 6}
    config = OPTConfig(**sizes, ffn_dim=256, max_position_embeddings=256, word_embed_proj_dim=96)
    base = zoo.save("O", zoo.train(make(config, zoo.seed + 7), "a", 100, 2e-3), "root", dtype=F16)
    tuned = zoo.save("O-tuned", zoo.train(base, "d", 16, 3e-4), "tuned", ["O"], F16)
    zoo.save("O-2of4", two_of_four(base), "masked", ["O"], F16)
    zoo.save("O-tuned-shorter", with_layers(tuned, [0, 1, 3, 4]), "shorter", ["O-tuned"], F16)
    config = GPT2Config(vocab_size=VOCAB, n_embd=96, n_layer=5, n_head=6, n_positions=256)
    base = zoo.save("G", zoo.train(make(config, zoo.seed + 8), "a", 100, 2e-3), "root", dtype=F32)
    tuned = zoo.save("G-tuned", zoo.train(base, "b", 16, 3e-4), "tuned", ["G"], F32)
    zoo.save("G-tuned-half", masked(tuned, 0.5), "masked", ["G-tuned"], F32)
