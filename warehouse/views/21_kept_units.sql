-- One row for every layer of a model, or removed block of its base, and kind of unit: which units of the block the layer
-- kept. A list is null where the origin of a unit is not known. Only for models whose units were read (ingest --units), and
-- those of their base too.
CREATE OR REPLACE VIEW kept_units AS
WITH current_pairs AS MATERIALIZED (
    SELECT
        model_id,
        checkpoint_id,
        base_checkpoint_id
    FROM current_checkpoints
    WHERE base_checkpoint_id <> checkpoint_id
),
match_counts AS MATERIALIZED (
    SELECT
        checkpoint_id,
        base_checkpoint_id,
        stack,
        layer_index,
        kind,
        count(*) AS num_units,
        count(*) FILTER (WHERE match = 'exact') AS num_exact,
        count(*) FILTER (WHERE match = 'similar') AS num_similar,
        count(*) - count(base_unit_index) AS num_unknown,
        min(confidence) AS least_confidence,
        coalesce(list_sort(list(DISTINCT base_unit_index) FILTER (WHERE base_unit_index IS NOT NULL)), []) AS known_units
    FROM unit_matches
    SEMI JOIN current_pairs
        ON current_pairs.checkpoint_id = unit_matches.checkpoint_id
        AND current_pairs.base_checkpoint_id = unit_matches.base_checkpoint_id
    GROUP BY ALL
),
dead_counts AS (
    SELECT
        checkpoint_id,
        stack,
        layer_index,
        kind,
        count(*) FILTER (WHERE l2_norm = 0) AS num_dead
    FROM units
    SEMI JOIN current_pairs ON current_pairs.checkpoint_id = units.checkpoint_id
    GROUP BY ALL
),
base_units AS MATERIALIZED (
    SELECT
        checkpoint_id AS base_checkpoint_id,
        stack,
        layer_index AS base_layer_index,
        kind,
        list(unit_index ORDER BY unit_index) AS all_units
    FROM units
    SEMI JOIN current_pairs ON current_pairs.base_checkpoint_id = units.checkpoint_id
    GROUP BY ALL
),
blocks AS (
    SELECT
        current_pairs.model_id,
        layer_matches.checkpoint_id,
        layer_matches.base_checkpoint_id,
        layer_matches.stack,
        layer_matches.base_layer_index,
        layer_matches.layer_index,
        base_units.kind,
        base_units.all_units
    FROM current_pairs
    JOIN layer_matches
        ON layer_matches.checkpoint_id = current_pairs.checkpoint_id
        AND layer_matches.base_checkpoint_id = current_pairs.base_checkpoint_id
    JOIN base_units
        ON base_units.base_checkpoint_id = layer_matches.base_checkpoint_id
        AND base_units.stack = layer_matches.stack
        AND base_units.base_layer_index = layer_matches.base_layer_index
    SEMI JOIN match_counts
        ON match_counts.checkpoint_id = layer_matches.checkpoint_id
        AND match_counts.base_checkpoint_id = layer_matches.base_checkpoint_id
    WHERE layer_matches.layer_index IS NOT NULL OR layer_matches.match <> 'none'
),
described AS (
    SELECT
        blocks.*,
        match_counts.num_exact,
        match_counts.num_similar,
        match_counts.num_unknown,
        match_counts.least_confidence,
        dead_counts.num_dead,
        blocks.layer_index IS NULL
        OR coalesce(
            CASE blocks.kind
                WHEN 'head' THEN layers.num_heads
                WHEN 'kv_group' THEN layers.num_kv_heads
                WHEN 'neuron' THEN layers.intermediate_size
            END = 0,
            FALSE
        ) AS has_no_units,
        match_counts.num_units,
        CAST(
            CASE
                WHEN has_no_units THEN []
                WHEN match_counts.num_unknown = 0 THEN match_counts.known_units
            END AS INTEGER[]
        ) AS kept
    FROM blocks
    LEFT JOIN match_counts
        ON match_counts.checkpoint_id = blocks.checkpoint_id
        AND match_counts.base_checkpoint_id = blocks.base_checkpoint_id
        AND match_counts.stack = blocks.stack
        AND match_counts.layer_index = blocks.layer_index
        AND match_counts.kind = blocks.kind
    LEFT JOIN dead_counts
        ON dead_counts.checkpoint_id = blocks.checkpoint_id
        AND dead_counts.stack = blocks.stack
        AND dead_counts.layer_index = blocks.layer_index
        AND dead_counts.kind = blocks.kind
    LEFT JOIN layers
        ON layers.checkpoint_id = blocks.checkpoint_id
        AND layers.stack = blocks.stack
        AND layers.layer_index = blocks.layer_index
)
SELECT
    model_id,
    checkpoint_id,
    base_checkpoint_id,
    stack,
    base_layer_index,
    layer_index,
    kind,
    len(all_units) AS num_base_units,
    CASE WHEN has_no_units THEN 0 ELSE num_units END AS num_units,
    CASE WHEN has_no_units THEN 0 ELSE num_exact END AS num_exact,
    CASE WHEN has_no_units THEN 0 ELSE num_similar END AS num_similar,
    CASE WHEN has_no_units THEN 0 ELSE num_unknown END AS num_unknown,
    CASE WHEN has_no_units THEN 0 ELSE num_dead END AS num_dead,
    least_confidence,
    kept AS units_kept,
    CASE WHEN kept IS NOT NULL THEN [unit FOR unit IN all_units IF NOT list_contains(kept, unit)] END AS units_removed
FROM described;
