"""The one table of the names of a checkpoint's files: weights, indices, configs, and other files next to them.

Names only select candidates; what a file is depends on its content (see containers.sniff).
"""

from __future__ import annotations

import re

SAFETENSORS_SUFFIX = ".safetensors"
TORCH_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
"""Suffixes in use for files of torch.save."""
GGUF_SUFFIX = ".gguf"
WEIGHT_SUFFIXES = (SAFETENSORS_SUFFIX, *TORCH_SUFFIXES, GGUF_SUFFIX)
"""Suffixes of weight files, the preferred ones first; compared in lower case."""
DCP_SUFFIX, DCP_METADATA = ".distcp", ".metadata"
"""The files of a checkpoint of torch.distributed.checkpoint, and the hidden one that says what they hold."""
SLICEGPT_SUFFIX = ".pt"
"""The suffix of the state dicts that SliceGPT saves, each with a JSON file of the same stem."""

CONFIG_NAME = "config.json"
ADAPTER_CONFIG_NAME = "adapter_config.json"
QUANTO_NAME = "quanto_qmap.json"
QUANTIZATION_NAMES = ("quantize_config.json", "quant_config.json", "hf_quant_config.json", QUANTO_NAME)
"""Files that tools write beside config.json to say how the weights are quantised."""
INDEX_SUFFIX = ".index.json"
INDEX_NAMES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
"""The index files that transformers writes, the preferred one first."""
PREFERRED_WEIGHT_NAMES = (
    "model.safetensors",
    "pruned_model.safetensors",
    "consolidated.safetensors",
    "pytorch_model.bin",
    "pruned_model.bin",
)
"""Names of a whole model in one file, the preferred one first."""

SHARD_NAME = re.compile(
    r"(?P<stem>.+)[-_.](?P<number>\d{1,9})[-_]?of[-_]?(?P<count>\d{1,9})(?P<suffix>(\.[a-z]\w{0,15}){0,2})", re.IGNORECASE
)
PARAMETER_FILES = frozenset(("fp32.pt", "exp_avg.pt"))
"""What the folder of every parameter holds in a universal checkpoint of DeepSpeed."""
ADAPTER_WEIGHTS = re.compile(r"adapter_model\b.*", re.IGNORECASE)
AVERAGED_WEIGHTS = re.compile(r"(.*[-_.])?ema([-_.].*)?", re.IGNORECASE)
"""Exponential moving averages (EMA) of a model's weights, which trainers keep beside it."""
TRAINING_STATE = re.compile(
    r"(training_args|optimizer|scheduler|scaler|rng_state|random_states|trainer_state|all_checkpoint)[^/]*"
    r"|.*_optim_states\.pt|(optim|extra_state)_world_size_\d+_rank_\d+\.pt",
    re.IGNORECASE,
)
"""State of a training run, in files with the suffix of weights."""
ZERO3_PARTITION = re.compile(r"zero_pp_rank_(?P<rank>\d{1,6})_mp_rank_(?P<part>\d{1,6})_model_states\.pt")
ZERO3_VALUES = re.compile(r"(bf16_|fp16_)?zero_pp_rank_(?P<rank>\d{1,6})_mp_rank_(?P<part>\d{1,6})_optim_states\.pt")
"""A rank's files of DeepSpeed's ZeRO-3: the shapes of all weights, and the values of its part of each."""
DEEPSPEED_STATES = re.compile(r".*mp_rank_\d+_model_states\.pt")
DEEPSPEED_TAG = re.compile(r"global_step\d+")
"""The folder of a step in that of a run, where the model's config lies."""
SIDECAR_JSON = re.compile(
    r"(.*config|.*\.index|tokenizer.*|vocab|.*vocab|special_tokens_map|quanto_qmap|added_tokens|merges|params|trainer_state|recipe"
    r"|chat_template|reserved_layers|layer_mapping|batch_analysis_results|run_spec|scenario_state|per_instance_stats|benchmark)\.json",
    re.IGNORECASE,
)
"""JSON files next to weights or results that are themselves neither an analysis nor a result."""


def is_weight_file(name: str) -> bool:
    """Whether a file of this name may hold weights of a model."""
    return name.lower().endswith((*WEIGHT_SUFFIXES, DCP_SUFFIX)) and not TRAINING_STATE.fullmatch(name)
