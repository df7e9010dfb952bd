"""The stored tables of how a checkpoint compares with its base: by layer, by unit and by tensor."""

from __future__ import annotations

from layerhouse.vocabulary import LayerMatch, Relation, Stack, UnitKind, UnitMatch, Unrelated
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
        Column(
            "name", "VARCHAR", "Tensor of the checkpoint; null if it was removed. A fused one has a row for each of its parts."
        ),
        Column("base_name", "VARCHAR", "Tensor of the base; null if it was added."),
        Column("stack", "VARCHAR", "Part of the model that the tensor is in: `text`, `vision`, ...", words=Stack),
        Column("layer_index", "INTEGER", "Layer of the checkpoint that has it."),
        Column("base_layer_index", "INTEGER", "Block of the base that has it."),
        Column(
            "relation",
            "VARCHAR",
            "`identical`, `cast` (rounded to another type), `masked` (values set to zero), `refilled` (zeros filled), "
            "`changed` (other values), `sliced` (fewer rows or columns), `grown` (more), `factorised` (a factor of it), "
            "`quantised` (packed, or codes of fewer bits), `added` or `removed`.",
            words=Relation,
        ),
        Column(
            "reason",
            "VARCHAR",
            "Why the relation is not known: `block not known`, `values not compared`, `base known by its config`, "
            "`packed on both sides`, `packed in the base`, `packed, unlike the base`, `fused on one side, other sizes`, "
            "`fused on one side, other order` or `factors in the base`.",
            words=Unrelated,
        ),
        Column(
            "changed",
            "BIGINT",
            "Elements whose value differs; of a grown tensor, those in the rows and columns that the base has.",
            "elements",
        ),
        Column("zeroed", "BIGINT", "Of those, elements that became zero.", "elements"),
        Column("filled", "BIGINT", "Of those, elements that were zero in the base.", "elements"),
        Column("altered", "BIGINT", "Of those, other elements that differ by more than rounding to the type.", "elements"),
        Column("is_relaid", "BOOLEAN", "True if one side stores it fused with others, and the other side by itself."),
        Column("rank", "BIGINT", "Of a factor of a factorised weight, the inner size of the product."),
        Column("nm_pattern", "VARCHAR", "Of a masked tensor, its N:M pattern along the inputs, such as 2:4."),
        Column("added_params", "BIGINT", "Parameters of an added tensor, and those by which a tensor grew.", "parameters"),
        Column("rules_version", "INTEGER", "Version of the rules that made the row; null: the first two."),
        Column("relative_difference", "DOUBLE", "Norm of the difference over the norm of the base.", "fraction"),
        Column("cosine", "DOUBLE", "Cosine between the two."),
        *COMMIT_COLUMNS,
    ),
    is_newest_shown=True,
)
