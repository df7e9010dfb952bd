"""What an adapter's config declares of its base: the model_type, by the library that the base's class is from, or by its name.

An adapter has tensors for some modules alone, whose names are those of many families, so these do not tell the base's family.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from layerhouse.ingest.checkpoint.config_json import Config
from layerhouse.ingest.checkpoint.layouts.adapters import SCHEME as ADAPTER_SCHEME
from layerhouse.ingest.checkpoint.tensor_ref import TensorRef

MODELING = re.compile(r"transformers\.models\.(\w+)\.modeling_\w+")
"""A library of transformers, in the folder of its model_type."""

SIZE = r"\d+(?:\.\d+)?[bm]"
PUBLISHED = tuple(
    (model_type, re.compile(pattern))
    for model_type, pattern in (
        ("bloom", rf"bloomz?(-{SIZE}|-\d+b\d|-\d+m)?"),
        ("gemma", r"gemma-[27]b(-it)?"),
        ("gemma2", rf"gemma-2-{SIZE}(-it)?"),
        ("gpt2", r"(distil|openai-community-)?gpt2(-(medium|large|xl))?"),
        ("gpt_neox", rf"gpt-neox-20b|pythia-{SIZE}(-deduped)?"),
        ("gptj", r"gpt-j-6b"),
        (
            "llama",
            rf"(meta-)?llama-?[23]?(\.[123])?-{SIZE}(-(hf|chat|instruct|chat-hf))*|tinyllama[-.\w]*|codellama-{SIZE}[-\w]*",
        ),
        ("mistral", r"mistral-7b(-(instruct|v0\.[123]))*"),
        ("mixtral", r"mixtral-8x(7|22)b(-(instruct|v0\.1))*"),
        ("opt", rf"opt-{SIZE}"),
        ("phi3", r"phi-3(\.5)?-(mini|medium)-[-\w]+-instruct"),
        ("qwen2", rf"qwen2(\.5)?-(coder-|math-)?{SIZE}(-instruct)?"),
        ("qwen3", rf"qwen3-{SIZE}(-base)?"),
    )
)
"""Names of published models, in lower case, of which each is of one model_type."""

MAX_NAME = 1000


def holds_adapter_alone(refs: Iterable[TensorRef]) -> bool:
    """Whether every tensor adds to a weight of a base."""
    layouts = [ref.layout for ref in refs]
    return bool(layouts) and all(layout is not None and layout.scheme == ADAPTER_SCHEME for layout in layouts)


def base_config(adapter_config: Config | None) -> Config | None:
    """A config with the model_type that an adapter's config tells of its base; None if it tells none."""
    declared = adapter_config or {}
    mapping, name = declared.get("auto_mapping"), declared.get("base_model_name_or_path")
    library = mapping.get("parent_library") if isinstance(mapping, dict) else None
    match = MODELING.fullmatch(library) if isinstance(library, str) and len(library) <= MAX_NAME else None
    if match is not None:
        return {"model_type": match[1]}
    last = name.rstrip("/").rpartition("/")[2].lower() if isinstance(name, str) and len(name) <= MAX_NAME else ""
    return next(({"model_type": model_type} for model_type, pattern in PUBLISHED if pattern.fullmatch(last)), None)
