"""Tensors that are no parameters, by their names: statistics, caches, masks and scores that no template describes.

A name is listed if it is a buffer wherever it is used. Names that other models have for parameters are listed with the model
types in which they are buffers, or with the tensor beside which they are none.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

ALWAYS = re.compile(
    r"(?:^|\.)(?:"
    r"running_mean|running_var|num_batches_tracked"
    r"|(?:original_|local_|global_)?inv_freq|(?:cos|sin)_cached|cos_sin_cache|freqs_(?:cis|cos|sin)|rotary_(?:cos|sin)"
    r"|alibi_slopes|masked_bias|causal_mask|final_logits_bias|position_ids|token_type_ids|relative_position_index"
    r"|(?:gate|mlp|mixer|router|block_sparse_moe)\.e_score_correction_bias"
    r"|slope_rate|(?:query|key|diagonal)_decay"
    r"|act_scaling_factor|weight_scaling_factor|fc_scaling_factor|weight_integer|bias_integer"
    r"|(?:pixel|image)_(?:mean|std)"
    r")$"
    r"|(?:^|\.)(?:activation_post_process|\w+_fake_quant)(?:\.|_\d+\.)[\w.]+$"
    r"|(?:^|\.)l0_module\."
)
"""Batch statistics, caches of rotary positions, masks, position numbers, corrections of a router's scores, decay tables
of linear attention, I-BERT's copies and scales, the mean and deviation of pixels, observers of fake quantisation, and the masks
that LLM-Shearing learns."""

OF_TYPES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("apertus", re.compile(r"\.act_fn\.(?:beta|eps)$")),
    ("bailing", re.compile(r"\.gate\.expert_bias$")),
    ("deepseek_v4", re.compile(r"\.ffn\.gate\.bias$")),
    ("embedding_gemma2", re.compile(r"\.layer_scalar$")),
    ("gemma4", re.compile(r"\.(?:layer_scalar|(?:input|output)_(?:max|min))$")),
    ("hy_v", re.compile(r"\.expert_bias$")),
    ("ibert", re.compile(r"\.(?:x_min|x_max|shift)$")),
    ("kolibri", re.compile(r"\.expert_bias$")),
    ("phi4_multimodal", re.compile(r"\.global_(?:mean|invstd)$")),
    ("radio", re.compile(r"\.norm_(?:mean|std)$")),
    ("rt_detr", re.compile(r"(?:^|\.)backbone\.model\..*\.normalization\.(?:weight|bias)$|\.n_points_scale$")),
    ("sam3", re.compile(r"\.shared_(?:image_)?embedding\.positional_embedding$")),
    ("step3", re.compile(r"\.moe\.router_bias$")),
    ("videoprism", re.compile(r"text_model\.embeddings\.position_embedding$")),
    ("zaya", re.compile(r"\.balancing_biases$")),
)
"""What the model types that begin with a text have besides."""

CAUSAL_MASK = re.compile(r"(?:attn|attention)\.bias$")
"""A causal mask if it has four dimensions, as in GPT-2 and GPT-Neo; else a bias."""
BESIDE_WEIGHT = frozenset(
    ("mask", "weight_mask", "mask_score", "mask_scores", "score", "scores", "weight_score", "weight_scores")
)
"""Masks of a weight, and scores that a mask is made from, as in movement pruning: of the weight's shape, beside it."""
BESIDE_ZERO_POINT = frozenset(("scale", "zero_point"))
BESIDE_CLUSTER_SIZE = frozenset(("embed", "embed_avg", "cluster_size", "inited"))
"""A codebook that is a running mean, as in EnCodec."""


class BufferNames:
    """Tells which of the tensors that no template describes are buffers, by the names and dimensions of all of them."""

    def __init__(self, names: Sequence[str], dims: Sequence[int], types: Collection[str]) -> None:
        self._dims = dict(zip(names, dims, strict=True))
        self._patterns = [
            ALWAYS,
            *(pattern for prefix, pattern in OF_TYPES if any(name.startswith(prefix) for name in types)),
        ]

    def __contains__(self, name: str) -> bool:
        if any(pattern.search(name) for pattern in self._patterns):
            return True
        if CAUSAL_MASK.search(name):
            return self._dims[name] == 4
        module, _, last = name.rpartition(".")
        if last in BESIDE_ZERO_POINT:
            return f"{module}.zero_point" in self._dims and f"{module}.scale" in self._dims
        if last in BESIDE_CLUSTER_SIZE:
            return f"{module}.embed_avg" in self._dims and f"{module}.cluster_size" in self._dims
        return last in BESIDE_WEIGHT and self._dims.get(f"{module}.weight") == self._dims[name]
