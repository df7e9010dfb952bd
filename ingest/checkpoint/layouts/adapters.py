"""PEFT adapters: low-rank and other additions to a module, `NAME.lora_A.weight`, with the adapter's name in training files.

Key layout: peft, docs/source/developer_guides/checkpoint.md. Each tensor is a parameter of its own, of module adapter.
"""

from __future__ import annotations

import re
from dataclasses import replace

from layerhouse.ingest.checkpoint.tensor_ref import PLAIN, Layout, TensorRef

PART = re.compile(
    r"(?:^|\.)(lora_[AB]|lora_embedding_[AB]|lora_magnitude_vector|ia3_l|prompt_embeddings|hada_[wt][12](?:_[ab])?"
    r"|lokr_[wt][12](?:_[ab])?|oft_r|boft_[RSs]|vera_lambda_[bd]|randlora_\w+)(?=$|\.)"
)
WORDS = ("lora_", "ia3_l", "prompt_embeddings", "hada_w", "lokr_w", "oft_", "vera_lambda_")
"""One of these is in the name of everything that PART finds."""
SCHEME = "adapter"


def adapter_part(ref: TensorRef) -> TensorRef | None:
    """The tensor as a part of the module that an adapter adds it to; None if its name shows no adapter."""
    found = PART.search(ref.name)
    if found is None:
        return None
    module = ref.name[: found.start()]
    return replace(ref, layout=Layout(f"{module}.weight" if module else found[1], found[1], SCHEME, ref.shape, PLAIN))
