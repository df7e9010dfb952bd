-- One row a model: what it shows now, against its base. A model with results alone has what they report.
CREATE OR REPLACE VIEW models AS
WITH shown_checkpoints AS MATERIALIZED (
    SELECT * FROM current_checkpoints
),
linked AS MATERIALIZED (
    SELECT model_id, method, declared_ratio, declared_removed_layers, tags, commit_id FROM result_links
),
model_names AS (
    SELECT model_id FROM shown_checkpoints
    UNION
    SELECT model_id FROM linked
),
unpruned AS (
    SELECT checkpoint_id, base_checkpoint_id, verdict
    FROM checkpoint_changes
    WHERE n_identical + n_cast = n_tensors
),
twins AS (
    SELECT checkpoint_id, list(model_id ORDER BY model_id) AS model_ids
    FROM shown_checkpoints
    WHERE source_kind = 'weights'
    GROUP BY checkpoint_id
),
declared_names AS (
    SELECT
        model_id,
        arg_max(method, commit_id) AS method,
        arg_max(declared_ratio, commit_id) AS declared_ratio,
        arg_max(declared_removed_layers, commit_id) AS declared_removed_layers,
        arg_max(tags, commit_id) AS tags
    FROM linked
    GROUP BY model_id
),
reported AS (
    SELECT
        model_id,
        max(value_integer) FILTER (WHERE metric = 'total_params' AND subset IS NULL) AS params,
        max(value_integer) FILTER (WHERE metric = 'num_layers' AND subset IS NULL) AS num_layers,
        max(value_integer) FILTER (WHERE metric = 'embedding' AND subset = 'module_params') AS embedding_params,
        max(value_integer) FILTER (WHERE metric = 'lm_head' AND subset = 'module_params') AS lm_head_params,
        max(value) FILTER (WHERE metric = 'model_size_gb' AND subset IS NULL) AS size_gb
    FROM model_results
    WHERE suite = 'model_info'
    GROUP BY model_id
),
main_layers AS (
    SELECT *
    FROM layer_pruning
    QUALIFY stack_rank(stack) = min(stack_rank(stack)) OVER (PARTITION BY model_id)
),
layer_counts AS (
    SELECT
        model_id,
        count(layer_index) AS num_layer_rows,
        count(is_zero_layer) AS num_known_zero_flags,
        bool_or(match = 'none') AS is_map_unknown,
        count(*) FILTER (WHERE level = 'zero') AS zero_layers,
        count(*) FILTER (WHERE level = 'heavy') AS heavy_layers,
        count(*) FILTER (WHERE level = 'medium') AS medium_layers,
        count(*) FILTER (WHERE level = 'light') AS light_layers,
        count(*) FILTER (WHERE level = 'untouched') AS untouched_layers,
        count(*) FILTER (WHERE level = 'removed') AS num_removed_layers,
        count(*) FILTER (WHERE level IS NULL) AS unknown_levels,
        list_sort(list(base_layer_index) FILTER (WHERE is_removed)) AS removed_layers,
        count(retention) = count(*) AS is_retention_known,
        list_sort(list(base_layer_index) FILTER (WHERE retention < 0.05)) AS layers_below_5pct,
        list_sort(list(base_layer_index) FILTER (WHERE retention < 0.10)) AS layers_below_10pct,
        list_sort(list(base_layer_index) FILTER (WHERE retention < 0.15)) AS layers_below_15pct,
        list_sort(list(base_layer_index) FILTER (WHERE retention < 0.20)) AS layers_below_20pct,
        CASE
            WHEN count(retention) = count(*)
                THEN
                    sum(coalesce(params, 0)) FILTER (WHERE reduction_ratio > 0)
                    / sum(base_params) FILTER (WHERE reduction_ratio > 0)
        END AS cut_layer_retention,
        CASE WHEN count(retention) = count(*) THEN avg(retention) END AS retention_mean,
        CASE WHEN count(retention) = count(*) THEN stddev_samp(retention) END AS retention_std,
        CASE WHEN count(retention) = count(*) THEN var_samp(retention) END AS retention_var,
        CASE WHEN count(retention) = count(*) THEN min(retention) FILTER (WHERE NOT is_removed) END AS least_survivor_retention,
        bool_or(hidden_size <> base_hidden_size) AS is_hidden_size_changed,
        CASE
            WHEN count(reduction_ratio) = count(*)
                THEN bool_and(
                    reduction_ratio = 0
                    AND coalesce(num_heads = base_num_heads, TRUE)
                    AND coalesce(intermediate_size = base_intermediate_size, TRUE)
                )
        END AS are_shapes_kept
    FROM main_layers
    GROUP BY model_id
)
SELECT
    model_names.model_id,
    CASE WHEN shown.checkpoint_id IS NULL THEN declared_names.method ELSE shown.method END AS method,
    CASE WHEN shown.checkpoint_id IS NULL THEN declared_names.declared_ratio ELSE shown.declared_ratio END AS declared_ratio,
    CASE
        WHEN shown.checkpoint_id IS NULL THEN declared_names.declared_removed_layers
        ELSE shown.declared_removed_layers
    END AS declared_removed_layers,
    CASE WHEN shown.checkpoint_id IS NULL THEN declared_names.tags ELSE shown.tags END AS tags,
    shown.checkpoint_id,
    shown.base_checkpoint_id,
    CASE WHEN shown.checkpoint_id IS NULL THEN 'results' ELSE shown.source_kind END AS source_kind,
    shown.source_uri,
    shown.container,
    shown.family,
    shown.architecture,
    shown.declared_base,
    coalesce(shown.params, reported.params) AS params,
    CASE
        WHEN shown.params IS NOT NULL THEN shown.source_kind
        WHEN reported.params IS NOT NULL THEN 'results'
    END AS params_source,
    bases.params AS base_params,
    reduction(bases.params, shown.params) AS reduction_ratio,
    CASE WHEN shown.checkpoint_id IS NULL THEN reported.embedding_params ELSE shown.embedding_params END AS embedding_params,
    CASE WHEN shown.checkpoint_id IS NULL THEN reported.lm_head_params ELSE shown.lm_head_params END AS lm_head_params,
    shown.layer_params,
    bases.layer_params AS base_layer_params,
    reduction(bases.layer_params, shown.layer_params) AS layer_reduction_ratio,
    coalesce(shown.num_layers, TRY_CAST(reported.num_layers AS INTEGER)) AS num_layers,
    bases.num_layers AS base_num_layers,
    CASE WHEN layer_counts.num_known_zero_flags = layer_counts.num_layer_rows THEN layer_counts.zero_layers END AS zero_layers,
    CASE
        WHEN shown.base_checkpoint_id IS NULL OR layer_counts.is_map_unknown THEN NULL
        ELSE CAST(coalesce(layer_counts.removed_layers, []) AS INTEGER[])
    END AS removed_layers,
    CASE
        WHEN shown.base_checkpoint_id IS NULL THEN NULL
        WHEN NOT layer_counts.is_map_unknown THEN layer_counts.num_removed_layers
        WHEN bases.num_layers >= shown.num_layers THEN bases.num_layers - shown.num_layers
    END AS num_removed_layers,
    CASE WHEN layer_counts.unknown_levels = 0 THEN layer_counts.heavy_layers END AS heavy_layers,
    CASE WHEN layer_counts.unknown_levels = 0 THEN layer_counts.medium_layers END AS medium_layers,
    CASE WHEN layer_counts.unknown_levels = 0 THEN layer_counts.light_layers END AS light_layers,
    CASE WHEN layer_counts.unknown_levels = 0 THEN layer_counts.untouched_layers END AS untouched_layers,
    layer_counts.cut_layer_retention,
    layer_counts.retention_mean,
    layer_counts.retention_std,
    layer_counts.retention_var,
    CASE
        WHEN shown.base_checkpoint_id IS NOT NULL AND NOT layer_counts.is_map_unknown AND layer_counts.is_retention_known
            THEN CAST(coalesce(layer_counts.layers_below_5pct, []) AS INTEGER[])
    END AS layers_below_5pct,
    CASE
        WHEN shown.base_checkpoint_id IS NOT NULL AND NOT layer_counts.is_map_unknown AND layer_counts.is_retention_known
            THEN CAST(coalesce(layer_counts.layers_below_10pct, []) AS INTEGER[])
    END AS layers_below_10pct,
    CASE
        WHEN shown.base_checkpoint_id IS NOT NULL AND NOT layer_counts.is_map_unknown AND layer_counts.is_retention_known
            THEN CAST(coalesce(layer_counts.layers_below_15pct, []) AS INTEGER[])
    END AS layers_below_15pct,
    CASE
        WHEN shown.base_checkpoint_id IS NOT NULL AND NOT layer_counts.is_map_unknown AND layer_counts.is_retention_known
            THEN CAST(coalesce(layer_counts.layers_below_20pct, []) AS INTEGER[])
    END AS layers_below_20pct,
    CASE
        WHEN shown.base_checkpoint_id IS NOT NULL
            THEN pruning_strategy(
                CASE
                    WHEN NOT layer_counts.is_map_unknown THEN layer_counts.num_removed_layers
                    ELSE bases.num_layers - shown.num_layers
                END,
                layer_counts.least_survivor_retention,
                layer_counts.is_hidden_size_changed,
                layer_counts.are_shapes_kept,
                shown.zeros / nullif(shown.params, 0) - bases.zeros / nullif(bases.params, 0),
                layer_counts.retention_std
            )
    END AS strategy,
    shown.zeros / nullif(shown.params, 0) AS sparsity,
    shown.prunable_zeros / nullif(shown.prunable_params, 0) AS prunable_sparsity,
    shown.nonzero_params,
    coalesce(gib(shown.logical_bytes), reported.size_gb) AS size_gb,
    gib(shown.logical_bytes) * (shown.nonzero_params / nullif(shown.params, 0)) AS compact_size_gb,
    shown.macs_per_token,
    shown.kv_cache_bytes_per_token,
    nullif(
        concat_ws(
            '; ',
            CASE
                WHEN shown.checkpoint_id IS NULL
                    THEN 'results alone, no structure: size and parameters as they report them'
            END,
            CASE
                WHEN layer_counts.is_map_unknown AND bases.num_layers > shown.num_layers
                    THEN concat(
                        bases.num_layers - shown.num_layers, ' of ', bases.num_layers,
                        ' blocks removed, no file says which'
                    )
                WHEN layer_counts.is_map_unknown THEN 'no file says which block of the base each layer is'
            END,
            CASE
                WHEN shown.checkpoint_id IS NOT NULL AND shown.base_checkpoint_id IS NULL THEN 'no base to compare with'
            END,
            CASE WHEN shown.status = 'partial' THEN 'not all of it could be read' END,
            CASE
                WHEN
                    shown.zeros = 0
                    AND claims_zeros(
                        model_names.model_id,
                        shown.method,
                        shown.declared_ratio,
                        reduction(bases.params, shown.params)
                    )
                    THEN 'the name declares a cut; no zeros stored, no mask found'
            END,
            unpruned.verdict,
            CASE
                WHEN len(twins.model_ids) > 1
                    THEN concat(
                        'identical to ',
                        array_to_string(list_filter(twins.model_ids, LAMBDA twin: twin <> model_names.model_id)[:3], ', ')
                    )
            END,
            nullif(array_to_string(list_transform(shown.notes, LAMBDA note: note.text), '; '), '')
        ),
        ''
    ) AS status_note,
    shown.ingested_at
FROM model_names
LEFT JOIN shown_checkpoints AS shown ON shown.model_id = model_names.model_id
LEFT JOIN checkpoint_facts AS bases ON bases.checkpoint_id = shown.base_checkpoint_id
LEFT JOIN layer_counts ON layer_counts.model_id = model_names.model_id
LEFT JOIN unpruned
    ON unpruned.checkpoint_id = shown.checkpoint_id
    AND unpruned.base_checkpoint_id = shown.base_checkpoint_id
LEFT JOIN twins ON twins.checkpoint_id = shown.checkpoint_id
LEFT JOIN declared_names ON declared_names.model_id = model_names.model_id
LEFT JOIN reported ON reported.model_id = model_names.model_id;
