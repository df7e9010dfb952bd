"""Sub-layers that a config drops while their weights stay in the file (LLM-Drop): which tensors are not used."""

from __future__ import annotations

from layerhouse.ingest.checkpoint.notes import Note, note
from layerhouse.ingest.model.config import Config, dropped_layers
from layerhouse.ingest.model.placement import Placement

DROPPED = (
    ("drop_attn_list", frozenset({"attention"}), "attention_norm"),
    ("drop_mlp_list", frozenset({"mlp", "expert", "router"}), "mlp_norm"),
)
"""Key of the config, the modules that it drops in the layers it lists, and the norm that goes with them."""


def inactive_tensors(placement: Placement, config: Config | None) -> tuple[frozenset[str], list[Note]]:
    """Names of tensors that the config drops, and a note for each list: they count as stored, and are not active."""
    names: set[str] = set()
    notes = []
    for key, modules, norm in DROPPED:
        layers = dropped_layers(config, key)
        if not layers:
            continue
        found = [
            tensor
            for tensor in placement.placed
            if tensor.stack == placement.main_stack and tensor.layer_index in layers
            if tensor.module in modules or tensor.role == norm
        ]
        if found:
            held = sorted({tensor.layer_index for tensor in found if tensor.layer_index is not None})
            params = sum(tensor.params for tensor in found)
            shown = ", ".join(map(str, held))
            text = (
                f"{key} drops layer{'' if len(held) == 1 else 's'} {shown}, whose {params} parameters are stored and not used"
            )
            notes.append(note("inactive", text))
        names |= {tensor.ref.name for tensor in found}
    return frozenset(names), notes
