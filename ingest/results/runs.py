"""How a run loaded its model: the arguments that a file states, and which of them make it another run than the plain one.

A plain run evaluates the model's weights as they are stored, by transformers, at the revision `main`. A run of another
revision, of an adapter, of one file of several, in another precision or by another engine is a variant, which has a text of its
own. Arguments that only say where and how fast it ran, such as a device or a batch size, make no variant. What a tool found out
while loading, such as the commit of the revision, is in every file of that tool: it tells runs of one model apart where it
differs.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from layerhouse.ingest.results.parsed import Row, without_password

MAX_TEXT = 300
"""Characters of an argument's value; a longer one ends with its hash."""
FIRST = ("revision", "adapter", "subfolder", "gguf_file", "load_in_8bit", "load_in_4bit", "dtype", "quantization", "backend")
"""The arguments that stand first in a variant's text, in this order; the others follow by name."""
SAME_NAMES = {
    "peft": "adapter",
    "peft_model": "adapter",
    "adapter_weights": "adapter",
    "lora_local_path": "adapter",
    "lora": "adapter",
    "delta": "delta_weights",
    "torch_dtype": "dtype",
    "precision": "dtype",
    "model_revision": "revision",
    "quantization_config": "quantization",
    "quant": "quantization",
}
"""Names of several tools for one argument."""
NAMES_OF_MODEL = frozenset({"pretrained", "model", "model_name", "model_name_or_path", "path", "engine", "served_model_name"})
WHERE_IT_RAN = frozenset(
    {
        *("batch_size", "max_batch_size", "max_num_seqs", "max_num_batched_tokens", "override_batch_size"),
        *("device", "device_map", "device_map_option", "parallelize", "model_parallel", "gpus", "num_gpus"),
        *("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "tp_size", "dp_size"),
        *("gpu_memory_utilization", "gpu_memory_utilisation", "swap_space", "mem_fraction_static", "max_memory"),
        *("max_memory_per_gpu", "max_cpu_memory", "offload_folder", "low_cpu_mem_usage", "cache_dir", "download_dir"),
        *("trust_remote_code", "use_fast_tokenizer", "use_cache", "use_fast", "tokenizer_backend", "tokenized_requests"),
        *("base_url", "num_concurrent", "concurrent_requests", "max_retries", "api_max_retry", "api_retry_sleep"),
        *("api_retry_multiplier", "timeout", "verbose", "verify_certificate", "enforce_eager", "compilation_config"),
        *("seed", "use_accelerate", "distributed_executor_backend", "escape", "with_kwargs", "local_files_only", "token"),
    }
)
"""Arguments that do not change what the model is."""
PLAIN_VALUES = {
    "revision": frozenset({"main"}),
    "dtype": frozenset({"auto", "default"}),
    "load_format": frozenset({"auto"}),
    "quantization": frozenset({"none"}),
    "backend": frozenset(
        {
            *("hf", "hf-auto", "hf-causal", "hf-causal-experimental", "hf-seq2seq", "hf-multimodal", "gpt2", "huggingface"),
            *("transformers", "hflm", "hfmultimodallm", "autocausallm", "autoseq2seqlm", "accelerate", "pytorch"),
        }
    ),
    "subfolder": frozenset({"."}),
}
"""Values by which an argument leaves the model as it is."""
NOT_GIVEN = frozenset({"", "none", "null", "false", "no"})
SECRET = re.compile(
    r"(?:^|_)(?:api_?keys?|keys?|pass(?:word|wd|phrase)?|secrets?|credentials?|authorization|bearer|headers?|cookies?)$"
    r"|(?:^|_)(?:hf|auth|access|api|use_auth|hub|secret|session|private)_?tokens?$|^tokens?$",
    re.IGNORECASE,
)
ARGUMENT = re.compile(r"[^\s={}\[\]\"']{1,100}")


def run_columns(stated: Mapping[str, Any], resolved: Mapping[str, Any] | None = None, **more: Any) -> Row:
    """The columns `variant`, `loaded_as`, `arguments`, `revision` and `adapter` of a run.

    `stated` are arguments as the file names them, `more` those that stand elsewhere in it, such as `backend`; null ones are not
    given. `resolved` is what the tool found out while loading: `sha`, `dtype`, `quantization`. Secrets are dropped by their
    names.
    """
    arguments: dict[str, str] = {}
    facts = {name: _without_prefix(name, text) for name, value in (resolved or {}).items() if (text := argument_text(value))}
    for name, value in [*stated.items(), *more.items()]:
        text = argument_text(value)
        known = SAME_NAMES.get(name.lower(), name)
        if text is not None and not SECRET.search(name) and is_argument(name):
            arguments.setdefault(known, _without_prefix(known, text))
    return {
        "variant": variant_of(arguments),
        "loaded_as": ", ".join(f"{name}={text}" for name, text in facts.items()) or None,
        "arguments": arguments,
        "revision": arguments.get("revision") or facts.get("sha"),
        "adapter": arguments.get("adapter") if _is_change("adapter", arguments.get("adapter", "")) else None,
    }


def variant_of(arguments: Mapping[str, str]) -> str | None:
    """What makes a run with these arguments another one than the plain run, as text; None for a plain run."""
    models = {text for name, text in arguments.items() if name in NAMES_OF_MODEL}
    changing = {name: text for name, text in arguments.items() if _is_change(name, text)}
    if changing.get("tokenizer") in models:
        del changing["tokenizer"]
    ordered = [name for name in FIRST if name in changing]
    ordered += sorted(changing.keys() - set(ordered))
    return ", ".join(name if changing[name].lower() == "true" else f"{name}={changing[name]}" for name in ordered) or None


def split_arguments(text: str) -> dict[str, str]:
    """Arguments as a command line has them, `pretrained=/m,dtype=float16`. A part without a name is the rest of the value
    before it, which has a comma."""
    arguments: dict[str, str] = {}
    last: str | None = None
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if equals and ARGUMENT.fullmatch(name.strip()):
            last = name.strip()
            arguments[last] = value.strip()
        elif last is not None:
            arguments[last] += f",{part}"
    return arguments


def short_hash(value: Any) -> str:
    """12 hex digits of the SHA-256 of a text, or of a JSON value as text."""
    return hashlib.sha256(str(value).encode("utf-8", "backslashreplace")).hexdigest()[:12]


def is_argument(name: str) -> bool:
    """Whether a name may be that of an argument of a program."""
    return 0 < len(name) <= 100 and name.isprintable()


def _is_change(name: str, text: str) -> bool:
    if name in NAMES_OF_MODEL or name in WHERE_IT_RAN or text.lower() in NOT_GIVEN:
        return False
    return text.lower() not in PLAIN_VALUES.get(name, frozenset())


def _without_prefix(name: str, text: str) -> str:
    return text.removeprefix("torch.") if name == "dtype" else text


def argument_text(value: Any) -> str | None:
    """The value of an argument as text, without the user and password of an address; None for what is not given. An object,
    such as the config of a quantisation, is its own arguments."""
    if isinstance(value, Mapping):
        inner = {name: argument_text(part) for name, part in value.items() if isinstance(name, str) and not SECRET.search(name)}
        text = " ".join(f"{name}={part}" for name, part in sorted(inner.items()) if part is not None)
    elif isinstance(value, list | tuple):
        text = " ".join(part for item in value if (part := argument_text(item)) is not None)
    elif isinstance(value, str | int | float):
        text = without_password(str(value).strip())
    else:
        return None
    return (text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 13]} {short_hash(text)}") if text else None
