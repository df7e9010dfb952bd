"""Every architecture of transformers that can be built small: its parameters as torch counts them and as they are read.

`make architectures` (NAMES="llama bert" for some alone) walks the auto classes, shrinks each config, builds the model, saves it
as safetensors and reads the headers. The count has to be that of torch's `parameters()`, and heads and widths, where they are
known, those of the config. Prints a line for each architecture that differs or cannot be built, and the counts; exits with 1 if
any differs.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from transformers.models.auto import configuration_auto, modeling_auto

from layerhouse.errors import LayerhouseError
from layerhouse.ingest.checkpoint_rows import OpenedWeights, open_weights
from layerhouse.ingest.model.layer_rows import layer_rows

HEADS = (
    "SEQ_TO_SEQ_CAUSAL_LM",
    "IMAGE_TEXT_TO_TEXT",
    "MULTIMODAL_LM",
    "SPEECH_SEQ_2_SEQ",
    "CAUSAL_LM",
    "MASKED_LM",
    "PRETRAINING",
    "CTC",
    "IMAGE_CLASSIFICATION",
)
"""The auto classes whose architectures are taken, in the order in which one of a model type is chosen; then the bare models."""

SECONDS = 20
MAX_PARAMS = 16_000_000
MAX_SHOWN = 3

SMALL: dict[str, Any] = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input", "input_vocab_size", "output_vocab_size"), 96),
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "embed_dim", "embedding_size", "emb_dim", "out_hidden_size"), 64),
    **dict.fromkeys(("hidden_dim", "embedding_dim", "dim", "encoder_hidden_size", "decoder_hidden_size", "projection_dim"), 64),
    **dict.fromkeys(("text_hidden_size", "output_hidden_size", "attention_hidden_size", "lru_width", "rnn_hidden_size"), 64),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "decoder_num_attention_heads", "encoder_num_attention_heads"), 4),
    **dict.fromkeys(("swa_num_attention_heads", "index_n_heads", "linear_num_value_heads", "mamba_n_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "swa_num_key_value_heads", "linear_num_key_heads"), 2),
    **dict.fromkeys(("head_dim", "d_kv", "linear_key_head_dim", "linear_value_head_dim", "index_head_dim", "swa_head_dim"), 16),
    **dict.fromkeys(("qk_nope_head_dim", "v_head_dim", "kv_channels", "attention_head_size", "head_size"), 16),
    **dict.fromkeys(("qk_rope_head_dim", "rotary_dim", "qk_head_dim_rope"), 8),
    "qk_head_dim": 24,
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank"), 24),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "d_ff", "d_inner", "mlp_dim", "encoder_ffn_dim"), 160),
    **dict.fromkeys(("decoder_ffn_dim", "ffn_hidden_size", "dense_intermediate_size", "decoder_intermediate_size"), 160),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size"), 48),
    **dict.fromkeys(("intermediate_size_mlp", "expert_ffn_hidden_size"), 160),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "n_layers", "depth", "encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_decoder_layers", "num_encoder_layers", "decoder_num_layers", "decoder_num_hidden_layers"), 2),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "num_experts_per_layer"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k", "topk", "num_selected_experts", "moe_top_k"), 2),
    **dict.fromkeys(("n_group", "topk_group", "n_groups", "mamba_n_groups"), 1),
    **dict.fromkeys(("first_k_dense_replace", "num_nextn_predict_layers", "num_kv_shared_layers"), 1),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_source_positions", "max_target_positions"), 64),
    **dict.fromkeys(("max_seq_len", "n_ctx", "max_2d_position_embeddings", "context_length", "num_position_embeddings"), 64),
    **dict.fromkeys(("state_size", "mamba_d_state", "ssm_state_size"), 8),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim"), 32),
    "mamba_num_heads": 4,
    "time_step_rank": 4,
    **dict.fromkeys(("pad_token_id", "bos_token_id"), 0),
    "eos_token_id": 1,
    "num_mel_bins": 16,
    "codebook_size": 32,
    "codebook_dim": 16,
    "hidden_size_per_layer_input": 16,
    "laurel_rank": 8,
    "query_pre_attn_scalar": 16,
}
FILLED = ("head_dim", "num_key_value_heads", "vocab_size", "n_routed_experts")
"""Sizes that some configs leave to be given."""
SMALL_LISTS: dict[str, Any] = {
    "depths": 1,
    "hidden_sizes": 32,
    "conv_dim": 32,
    "num_attention_heads": 4,
    "num_heads": 4,
    "intermediate_size": 96,
    "embed_dims": 32,
}
"""The value of every element of a list."""

OWN: dict[str, dict[str, Any]] = {
    "mamba2": {"head_dim": 32},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "reformer": {"is_decoder": True},
    "informer": {"prediction_length": 8},
    "autoformer": {"prediction_length": 8},
    "time_series_transformer": {"prediction_length": 8},
    "dbrx": {"attn_config.rope_theta": 1e4},
}
"""What single model types need besides."""

SIZE_KEYS = {
    "num_heads": ("num_attention_heads", "num_attention_heads_per_layer", "n_head", "n_heads", "num_heads"),
    "num_kv_heads": ("num_key_value_heads",),
    "intermediate_size": ("intermediate_size", "ffn_dim", "d_ff", "n_inner", "moe_intermediate_size", "ffn_hidden_size"),
    "hidden_size": ("hidden_size", "d_model", "n_embd"),
}


@dataclass(frozen=True)
class Outcome:
    """What came of one architecture: `why` it was not built, or the parameters of torch and ours, and what is wrong."""

    model_type: str
    architecture: str
    why: str = ""
    torch_params: int = 0
    params: int = 0
    family: str | None = None
    sizes: tuple[Any, ...] = ()
    wrong: tuple[str, ...] = ()


TABLES = (*(getattr(modeling_auto, f"MODEL_FOR_{head}_MAPPING_NAMES") for head in HEADS), modeling_auto.MODEL_MAPPING_NAMES)


def model_types() -> list[str]:
    """The model types of all auto classes."""
    return sorted({model_type for table in TABLES for model_type in table})


def architecture_of(model_type: str) -> str | None:
    """The class that is taken of a model type; None if there is none that can be imported."""
    candidates = [table[model_type] for table in TABLES if model_type in table]
    names = (names if isinstance(names, str) else names[0] for names in candidates)
    return next((name for name in names if takes_config(name, model_type)), None)


def takes_config(name: str, model_type: str) -> bool:
    """Whether a class exists and takes the config of the model type itself, not that of a part of it."""
    try:
        return getattr(transformers, name).config_class is configuration_auto.CONFIG_MAPPING[model_type]
    except (AttributeError, ImportError, KeyError):
        return False


def shrink(config: Any) -> None:
    """Make every size of a config and of the configs inside it small, whatever the architecture calls it."""
    layers = [config.__dict__.get(key) for key in ("num_hidden_layers", "n_layer", "num_layers")]
    for key, value in list(config.__dict__.items()):
        if isinstance(value, transformers.PreTrainedConfig):
            shrink(value)
        elif key in SMALL_LISTS and isinstance(value, list | tuple) and value and isinstance(value[0], int):
            set_value(config, key, type(value)([SMALL_LISTS[key]] * len(value)))
        elif isinstance(value, list) and value and len(value) in layers and len(value) > 4:
            set_value(config, key, [value[0], value[-1]])
        elif key in SMALL and type(value) is int and value > 0:
            set_value(config, key, min(value, SMALL[key]))
        elif key in FILLED and value is None:
            set_value(config, key, SMALL[key])


def set_value(config: Any, key: str, value: Any) -> None:
    """Set a value of a config, unless the config refuses it."""
    try:
        setattr(config, key, value)
    except Exception:
        return


def small_config(model_type: str) -> Any:
    config = configuration_auto.CONFIG_MAPPING[model_type]()
    shrink(config)
    for key, value in OWN.get(model_type, {}).items():
        owner = config
        *path, last = key.split(".")
        for part in path:
            owner = getattr(owner, part)
        setattr(owner, last, value)
    return config


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise TimeoutError after so many seconds."""

    def on_alarm(*_: object) -> None:
        raise TimeoutError(f"more than {seconds} s")

    signal.signal(signal.SIGALRM, on_alarm)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def build(model_type: str, architecture: str) -> Any:
    """The small model. Raises whatever transformers raises, and ValueError for a model that is still large."""
    model_class = getattr(transformers, architecture)
    config = small_config(model_type)
    try:
        with torch.device("meta"):
            elements = sum(parameter.numel() for parameter in model_class(config).parameters())
    except Exception:
        elements = 0
    if elements > MAX_PARAMS:
        raise ValueError(f"{elements:,} parameters when shrunk")
    torch.manual_seed(0)
    return model_class(small_config(model_type))


def count_saved(model: Any) -> int:
    """Elements of torch's parameters, without those that transformers leaves out of files as they can be computed."""
    ignored = getattr(model, "_keys_to_ignore_on_save", None) or ()
    return sum(p.numel() for name, p in model.named_parameters() if not any(re.search(key, name) for key in ignored))


def examine(model_type: str, architecture: str, folder: Path) -> Outcome:
    """Build, save, read and compare one architecture."""
    try:
        with limited(SECONDS), torch.no_grad():
            model = build(model_type, architecture)
            model.save_pretrained(folder)
    except Exception as error:
        return Outcome(model_type, architecture, why=" ".join(f"{type(error).__name__}: {error}".split())[:200])
    count = count_saved(model)
    files = sorted(folder.glob("*.safetensors"))
    if not files or count == 0:
        return Outcome(model_type, architecture, why="has no parameters")
    try:
        opened = open_weights(folder, files, model_type)
    except LayerhouseError as error:
        return Outcome(model_type, architecture, torch_params=count, wrong=(f"refused: {error}",))
    rows, _ = layer_rows(opened.placement, opened.config)
    main = [row for row in rows if row["stack"] == opened.placement.main_stack]
    sizes = tuple(main[0][word] for word in ("num_heads", "num_kv_heads", "head_dim", "intermediate_size")) if main else ()
    wrong_sizes = dict.fromkeys(text for row in main for text in _wrong_sizes(opened, row))
    wrong = (*_wrong_counts(opened, model, count), *wrong_sizes)
    return Outcome(model_type, architecture, "", count, opened.totals.params, opened.placement.family, sizes, wrong)


def _wrong_counts(opened: OpenedWeights, model: Any, count: int) -> Iterator[str]:
    """What differs in the number of parameters, with the names of tensors that count on one side alone.

    A head that is stored beside the embedding and declared tied counts once by the headers; the values tell that it is not.
    """
    if opened.totals.params == count or (opened.totals.tie_evidence == "config" and opened.totals.params_stored == count):
        return
    parameters = {name: tuple(parameter.shape) for name, parameter in model.named_parameters(remove_duplicate=False)}
    counted = {tensor.ref.name: tensor.ref.shape for tensor in opened.placement.placed if tensor.is_parameter}
    ours = [f"{name} {list(shape)}" for name, shape in counted.items() if name not in parameters]
    theirs = [f"{name} {list(shape)}" for name, shape in parameters.items() if name not in counted]
    text = f"{opened.totals.params - count:+,} parameters"
    yield f"{text}; only ours: {_first(ours)}; only torch's: {_first(theirs)}"


def _wrong_sizes(opened: OpenedWeights, row: Mapping[str, Any]) -> Iterator[str]:
    """Sizes of a layer that are none of the config's. With compressed keys and values, all heads are KV heads."""
    config = opened.config or {}
    scopes = [config, *(value for value in config.values() if isinstance(value, Mapping))]
    for word, keys in SIZE_KEYS.items():
        if word == "num_kv_heads" and "kv_b_proj" in (row.get("role_params") or {}):
            continue
        declared = {number for scope in scopes for key in keys for number in _numbers(scope.get(key))}
        if row.get(word) and declared and row[word] not in declared:
            yield f"{word} {row[word]}, and {sorted(declared)} in the config"


def _numbers(value: Any) -> list[int]:
    """The integers of a config's value, which may have one for each layer."""
    return [number for number in (value if isinstance(value, list) else [value]) if type(number) is int]


def _first(names: Sequence[str]) -> str:
    rest = len(names) - MAX_SHOWN
    return ", ".join(names[:MAX_SHOWN]) + (f" and {rest} more" if rest > 0 else "") or "-"


def examine_all(names: Sequence[str]) -> Iterator[Outcome]:
    for model_type in names or model_types():
        architecture = architecture_of(model_type)
        if architecture is None:
            yield Outcome(model_type, "", why="no class that can be imported takes its config")
            continue
        with tempfile.TemporaryDirectory() as folder:
            yield examine(model_type, architecture, Path(folder))


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings and progress bars of transformers, on one thread."""
    threads, verbosity = torch.get_num_threads(), transformers.logging.get_verbosity()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads(threads)
        transformers.logging.set_verbosity(verbosity)
        transformers.logging.enable_progress_bar()


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="model types; all if none")
    parser.add_argument("--all", action="store_true", help="print a line for every architecture")
    options = parser.parse_args(arguments)
    counts: Counter[str] = Counter()
    with quiet():
        for outcome in examine_all(options.names):
            counts["not built" if outcome.why else "differ" if outcome.wrong else "equal"] += 1
            counts["known"] += outcome.family is not None
            if outcome.why:
                print(f"{outcome.model_type:32} not built: {outcome.why}", flush=True)
            elif outcome.wrong or options.all:
                known = f"{outcome.family or '-':18} {outcome.torch_params:>10,} {outcome.sizes}"
                print(f"{outcome.model_type:32} {known} {'; '.join(outcome.wrong) or 'equal'}", flush=True)
    compared = f"{counts['equal'] + counts['differ']} architectures compared"
    print(f"{compared}: {counts['equal']} equal, {counts['differ']} differ; {counts['known']} of a known family;", end=" ")
    print(f"{counts['not built']} not built")
    return 1 if counts["differ"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
