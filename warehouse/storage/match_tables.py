"""The stored tables of how a checkpoint compares with its base: by layer, by unit and by tensor."""

from __future__ import annotations

from layerhouse.vocabulary import LayerMatch, Relation, Stack, UnitKind, UnitMatch
from layerhouse.warehouse.storage.columns import COMMIT_COLUMNS, Column, Table

PAIR = ("checkpoint_id", "base_checkpoint_id")

LAYER_MATCHES = Table(
    "layer_matches",
    "Which block of the base each layer is: a row for every layer of the checkpoint and every removed block of the base.",
    PAIR,
    (
        Column("checkpoint_id", "VARCHAR", "The checkpoint.", required=True),
        Column("base_checkpoint_id", "VARCHAR", "The base that it is compared with.", required=True),
        Column("stack", "VARCHAR", "Part of the model that the layer is in: `text`, `vision`, ...", required=True, words=Stack),
        Column("layer_index", "INTEGER", "Layer of the checkpoint; null for a block of the base without a layer."),
        Column("base_layer_index", "INTEGER", "Block of the base; null if the layer is new or its origin unknown."),
        Column(
            "match",
            "VARCHAR",
            "Rule that says which block a layer is: `exact`, `similar`, `positional`, `declared`; `none` if nothing says it.",
            required=True,
            words=LayerMatch,
        ),
        Column("match_confidence", "DOUBLE", "Confidence of the rule.", "fraction"),
        *COMMIT_COLUMNS,
    ),
    is_newest_shown=True,
)

UNIT_MATCHES = Table(
    "unit_matches",
    "Which unit of the base each head, KV group, neuron and expert is; layers that are no block of the base have no rows.",
    PAIR,
    (
        Column("checkpoint_id", "VARCHAR", "The checkpoint.", required=True),
        Column("base_checkpoint_id", "VARCHAR", "The base that it is compared with.", required=True),
        Column("stack", "VARCHAR", "Part of the model that the layer is in: `text`, `vision`, ...", required=True, words=Stack),
        Column("layer_index", "INTEGER", "Layer of the checkpoint.", required=True),
        Column("base_layer_index", "INTEGER", "Block of the base that the layer is.", required=True),
        Column("kind", "VARCHAR", "`head`, `kv_group`, `neuron` or `expert`.", required=True, words=UnitKind),
        Column("unit_index", "INTEGER", "Number of the unit in its layer.", required=True),
        Column("base_unit_index", "INTEGER", "Number of the unit in the block of the base; null where not known."),
        Column(
            "match",
            "VARCHAR",
            "`exact` (all parts have equal hashes), `similar` (by signature), `inconsistent` (its parts are those of different "
            "units) or `none`.",
            required=True,
            words=UnitMatch,
        ),
        Column("confidence", "DOUBLE", "1 by hash; by signature the lead over the next best unit.", "fraction"),
        *COMMIT_COLUMNS,
    ),
    is_newest_shown=True,
)

TENSOR_MATCHES = Table(
    "tensor_matches",
    "What happened to each tensor of the base.",
    PAIR,
    (
        Column("checkpoint_id", "VARCHAR", "The checkpoint.", required=True),
        Column("base_checkpoint_id", "VARCHAR", "The base that it is compared with.", required=True),
        Column("name", "VARCHAR", "Tensor of the checkpoint; null if it was removed."),
        Column("base_name", "VARCHAR", "Tensor of the base; null if it was added."),
        Column(
            "relation",
            "VARCHAR",
            "`identical`, `cast`, `masked`, `refilled`, `changed`, `sliced`, `added` or `removed`.",
            words=Relation,
        ),
        Column("changed", "BIGINT", "Elements whose value differs.", "elements"),
        Column("relative_difference", "DOUBLE", "Norm of the difference over the norm of the base.", "fraction"),
        Column("cosine", "DOUBLE", "Cosine between the two."),
        *COMMIT_COLUMNS,
    ),
    is_newest_shown=True,
)
