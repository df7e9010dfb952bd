"""How each output column is presented to people: title, kind and digits. The single source for all formats."""

from __future__ import annotations

import re
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from layerhouse.vocabulary import ZERO_SHOT_TASKS
from layerhouse.warehouse.render.headings import HEADINGS
from layerhouse.warehouse.render.kinds import (
    BILLIONS,
    BOOL,
    COUNT,
    FACTOR,
    GIB,
    ID,
    INDEX,
    LIST,
    MAP,
    MIB,
    MS,
    NUMBER,
    PPL,
    RANK,
    RATE,
    RATIO,
    TEXT,
    TIME,
    Column,
    Kind,
)
from layerhouse.warehouse.storage.schema import TABLES

if TYPE_CHECKING:
    import pyarrow as pa

_SUMMARY = {
    "model_id": Column("model", ID),
    "method": Column("method", TEXT),
    "declared_ratio": Column("declared", RATIO),
    "params": Column("params", COUNT),
    "base_params": Column("base params", COUNT),
    "reduction_ratio": Column("reduction", RATIO),
    "layer_reduction_ratio": Column("layer reduction", RATIO),
    "num_layers": Column("layers", COUNT),
    "base_num_layers": Column("base layers", COUNT),
    "zero_layers": Column("zero layers", COUNT),
    "removed_layers": Column("removed layers", LIST),
    "num_removed_layers": Column("removed count", COUNT),
    "heavy_layers": Column("heavy layers", COUNT),
    "light_layers": Column("light layers", COUNT),
    "retention_mean": Column("retention", RATIO),
    "cut_layer_retention": Column("cut layer retention", RATIO),
    "retention_std": Column("retention std", NUMBER),
    "retention_var": Column("retention var", NUMBER),
    "strategy": Column("strategy", TEXT),
    "sparsity": Column("sparsity", RATIO),
    "prunable_sparsity": Column("prunable sparsity", RATIO),
    "nonzero_params": Column("nonzero params", COUNT),
    "size_gb": Column("size", GIB),
    "compact_size_gb": Column("compact size", GIB),
    "status_note": Column("note", TEXT),
}

_PER_LAYER = {
    "base_layer_index": Column("base layer", INDEX),
    "layer_index": Column("layer", INDEX),
    "match": Column("match", TEXT),
    "attention_params": Column("attention params", COUNT),
    "base_attention_params": Column("base attention params", COUNT),
    "attention_reduction_ratio": Column("attention reduction", RATIO),
    "mlp_params": Column("MLP params", COUNT),
    "base_mlp_params": Column("base MLP params", COUNT),
    "mlp_reduction_ratio": Column("MLP reduction", RATIO),
    "num_heads": Column("heads", COUNT),
    "num_kv_heads": Column("KV heads", COUNT),
    "intermediate_size": Column("MLP width", COUNT),
    "is_zero_layer": Column("zero layer", BOOL),
    "level": Column("level", TEXT),
}

_KEPT = {
    "kept_by": Column("kept by", TEXT),
    "kept_share": Column("kept share", RATIO),
    "kept_level": Column("kept level", TEXT),
    "kept_layer_mean": Column("kept layer mean", RATIO),
    "kept_layer_std": Column("kept layer std", NUMBER),
    "gone": Column("gone", TEXT),
    "stack": Column("stack", TEXT),
}

_PERFORMANCE = {
    "params_b": Column("params", BILLIONS),
    "ppl_wikitext2": Column("ppl wikitext2", PPL, better="lower"),
    "ppl_ptb": Column("ppl ptb", PPL, better="lower"),
    "perplexities": Column("perplexities", MAP, PPL),
    **{task: Column(task.replace("_", " "), RATIO, better="higher") for task in ZERO_SHOT_TASKS},
    "mean_accuracy": Column("mean accuracy", RATIO, better="higher"),
    "n_tasks": Column("tasks", COUNT, total=len(ZERO_SHOT_TASKS)),
    "mean_rank": Column("mean rank", RANK, better="lower"),
    "n_ranked": Column("ranked in", COUNT),
    "other_scores": Column("other scores", MAP, NUMBER),
    "group_scores": Column("group scores", MAP, NUMBER),
    "throughput_bs1": Column("tok/s bs1", RATE, better="higher"),
    "latency_ms_bs1": Column("ms/tok bs1", MS, better="lower"),
    "throughput_bs4": Column("tok/s bs4", RATE, better="higher"),
    "latency_ms_bs4": Column("ms/tok bs4", MS, better="lower"),
    "memory_mb": Column("memory", MIB, better="lower"),
    "speed_hardware": Column("speeds on", TEXT),
    "speeds": Column("other speeds", MAP, NUMBER),
    "macs_per_token": Column("MACs/tok", COUNT),
    "kv_cache_bytes_per_token": Column("KV cache bytes/tok", COUNT),
    "layers_below_5pct": Column("layers below 5%", LIST),
    "layers_below_10pct": Column("layers below 10%", LIST),
    "layers_below_15pct": Column("layers below 15%", LIST),
    "layers_below_20pct": Column("layers below 20%", LIST),
}

_AGAINST_BASE = {
    "base_model_id": Column("base", ID),
    "base_model": Column("base", ID),
    "base_rule": Column("base rule", TEXT),
    "descent": Column("descent", TEXT),
    "parent_model": Column("parent", ID),
    "second_parent_model": Column("second parent", ID),
    "root_model": Column("root", ID),
    "generation": Column("generation", COUNT),
    "parent_rule": Column("parent rule", TEXT),
    "same_share": Column("unchanged", RATIO),
    "rounded_share": Column("rounded", RATIO),
    "masked_share": Column("masked", RATIO),
    "changed_share": Column("changed", RATIO),
    "second_parent_share": Column("share of second parent", RATIO),
    "descent_confidence": Column("confidence", RATIO),
    "runner_up_model": Column("runner-up", ID),
    "ppl_wikitext2_change": Column("ppl wikitext2 change", PPL),
    "ppl_wikitext2_factor": Column("ppl wikitext2 factor", FACTOR, better="lower"),
    "ppl_ptb_change": Column("ppl ptb change", PPL),
    "ppl_ptb_factor": Column("ppl ptb factor", FACTOR, better="lower"),
    "mean_accuracy_change": Column("accuracy change", RATIO),
    "kept_accuracy_share": Column("accuracy kept", RATIO),
    "speedup_bs1": Column("speed-up bs1", FACTOR, better="higher"),
    "speedup_bs4": Column("speed-up bs4", FACTOR, better="higher"),
    "speedup_hardware": Column("speed-ups on", TEXT),
    "speed_note": Column("speed note", TEXT),
}

_UNITS = {
    "least_confidence": Column("least confidence", RATIO),
    "units_kept": Column("units kept", LIST),
    "units_removed": Column("units removed", LIST),
    "jaccard": Column("overlap", RATIO),
}

COLUMNS = MappingProxyType(_SUMMARY | _PER_LAYER | _KEPT | _PERFORMANCE | _AGAINST_BASE | _UNITS)

_KINDS_IN_METADATA = {kind.name: kind for kind in (RATIO, NUMBER, COUNT, PPL)}

_FRACTIONS = frozenset(column.name for table in TABLES.values() for column in table.columns if column.unit == "fraction")

_CONVENTIONS = (
    (re.compile(r"\w*(std|var|variance)(_\w+)?"), NUMBER),
    (re.compile(r"\w*_(ratio|share|fraction|accuracy)(_(mean|median|min|max|best|worst))?"), RATIO),
    (re.compile(r"\w*sparsity\w*|\w*retention(_mean\w*)?"), RATIO),
    (re.compile(r"(ppl|perplexity)(_\w+)?"), PPL),
    (re.compile(r"throughput(_\w+)?"), RATE),
    (re.compile(r"latency_ms(_\w+)?"), MS),
)


def describe_field(field: pa.Field, language: str = "en") -> Column:
    """How a column is presented, in English or in a language of HEADINGS.

    Metadata that `annotate_field` put on the field takes precedence over what follows from the name.
    """
    column = describe(field.name, field.type)
    title = HEADINGS.get(language, {}).get(field.name, column.title)
    metadata = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
    kind = _KINDS_IN_METADATA.get(metadata.get("kind", ""), column.kind)
    if "signed" in metadata:
        kind = replace(kind, is_signed=True)
    total = int(metadata["total"]) if "total" in metadata else column.total
    return replace(column, title=title, kind=kind, better=metadata.get("better", column.better), total=total)


def annotate_field(
    field: pa.Field,
    *,
    kind: Kind | None = None,
    better: str | None = None,
    total: int | None = None,
    is_signed: bool = False,
) -> pa.Field:
    """The field with its presentation as metadata, for a column whose presentation does not follow from its name."""
    metadata = {"kind": kind.name if kind else None, "better": better, "total": None if total is None else str(total)}
    metadata["signed"] = "yes" if is_signed else None
    return field.with_metadata({key: value for key, value in metadata.items() if value is not None})


def describe(name: str, type_: pa.DataType) -> Column:
    """How a column of this name and Arrow type is presented.

    A known column whose type cannot hold its kind (text in a ratio column, for example) keeps its title, but its kind follows
    from the type. An unknown column has its own name as title, with underscores as spaces, and these kinds:

    - Integers are counts, except `*_index` and `*_id`, which are plain numbers.
    - Other numbers are ratios if the schema gives their unit as a fraction, or if the name is `*_ratio`, `*_share`,
      `*_fraction` or `*_accuracy` (also followed by `_mean`, `_median`, `_min`, `_max`, `_best`, `_worst`), contains
      `sparsity` or starts with `retention_mean`. The heading of a ratio ends with ` %`.
    - `ppl_*`, `perplexity_*`, `throughput_*` and `latency_ms_*` have the digits of their kind.
    - All other numbers, any `*std` or `*var`, and expressions such as `max(sparsity)` are plain numbers.
    """
    from pyarrow import types

    if types.is_dictionary(type_):
        type_ = type_.value_type
    family = _family(type_)
    known = COLUMNS.get(name)
    if known is not None and (known.kind.family == family or types.is_null(type_)):
        return known
    title = known.title if known else name.replace("_", " ")
    if family == "number":
        return Column(title, _number_kind(name, type_))
    if types.is_map(type_) and types.is_integer(type_.item_type):
        return Column(title, MAP, COUNT)
    if family == "text" and name.endswith(("_id", "_hash", "fingerprint")):
        return Column(title, ID)
    return Column(title, {"bool": BOOL, "time": TIME, "list": LIST, "map": MAP, "text": TEXT}[family])


def _family(type_: pa.DataType) -> str:
    from pyarrow import types

    tests = {
        "bool": (types.is_boolean,),
        "number": (types.is_integer, types.is_floating, types.is_decimal),
        "time": (types.is_temporal,),
        "list": (types.is_list, types.is_large_list, types.is_fixed_size_list),
        "map": (types.is_map, types.is_struct),
    }
    return next((family for family, holds in tests.items() if any(test(type_) for test in holds)), "text")


def _number_kind(name: str, type_: pa.DataType) -> Kind:
    from pyarrow import types

    if types.is_integer(type_) or (types.is_decimal(type_) and type_.scale == 0):
        return INDEX if name.endswith(("_index", "_id")) else COUNT
    if name in _FRACTIONS:
        return RATIO
    return next((kind for pattern, kind in _CONVENTIONS if pattern.fullmatch(name)), NUMBER)
