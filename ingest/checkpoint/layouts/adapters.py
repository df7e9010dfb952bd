"""PEFT adapters: low-rank and other additions to a module, `NAME.lora_A.weight`.

Key layout: peft, docs/source/developer_guides/checkpoint.md; checkpoints of a training run have the adapter's name in the key,
too. Each tensor counts as a parameter of its own, of module `adapter`.
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
"""Every name that PART matches contains one of these."""
SCHEME = "adapter"


def adapter_part(ref: TensorRef) -> TensorRef | None:
    """The tensor with its layout, as an addition to its module; None if its name is not that of an adapter's tensor."""
    match = PART.search(ref.name)
    if match is None:
        return None
    module, part = ref.name[: match.start()], match[1]
    return replace(ref, layout=Layout(f"{module}.weight" if module else part, part, SCHEME, ref.shape, PLAIN))
