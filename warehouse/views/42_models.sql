-- One row a model: what it shows now, against its base. A model with results alone has what they report.
CREATE OR REPLACE VIEW models AS
WITH shown AS MATERIALIZED (
    SELECT * FROM current_checkpoints
),
declared_names AS (
    SELECT
        model_id,
        arg_max(method, commit_id) AS method,
        arg_max(declared_ratio, commit_id) AS declared_ratio,
        arg_max(declared_removed_layers, commit_id) AS declared_removed_layers,
        arg_max(tags, commit_id) AS tags
    FROM result_links
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
)
SELECT
    status_notes.model_id,
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
    layer_summary.zero_layers,
    CASE
        WHEN shown.base_checkpoint_id IS NOT NULL AND layer_summary.is_map_unknown IS NOT TRUE
            THEN coalesce(layer_summary.removed_layers, [])
    END AS removed_layers,
    CASE
        WHEN shown.base_checkpoint_id IS NULL THEN NULL
        WHEN NOT layer_summary.is_map_unknown THEN layer_summary.num_removed_layers
        WHEN bases.num_layers >= shown.num_layers THEN bases.num_layers - shown.num_layers
    END AS num_removed_layers,
    layer_summary.heavy_layers,
    layer_summary.medium_layers,
    layer_summary.light_layers,
    layer_summary.untouched_layers,
    layer_summary.cut_layer_retention,
    layer_summary.retention_mean,
    layer_summary.retention_std,
    layer_summary.retention_var,
    layer_summary.layers_below_5pct,
    layer_summary.layers_below_10pct,
    layer_summary.layers_below_15pct,
    layer_summary.layers_below_20pct,
    CASE
        WHEN shown.base_checkpoint_id IS NOT NULL
            THEN pruning_strategy(
                coalesce(layer_summary.num_removed_layers, bases.num_layers - shown.num_layers),
                layer_summary.least_survivor_retention,
                layer_summary.is_hidden_size_changed,
                layer_summary.are_shapes_kept,
                shown.zeros / nullif(shown.params, 0) - bases.zeros / nullif(bases.params, 0),
                layer_summary.retention_std
            )
    END AS strategy,
    shown.zeros / nullif(shown.params, 0) AS sparsity,
    shown.prunable_zeros / nullif(shown.prunable_params, 0) AS prunable_sparsity,
    shown.nonzero_params,
    coalesce(gib(shown.logical_bytes), reported.size_gb) AS size_gb,
    gib(shown.logical_bytes) * (shown.nonzero_params / nullif(shown.params, 0)) AS compact_size_gb,
    shown.macs_per_token,
    shown.kv_cache_bytes_per_token,
    status_notes.status_note,
    shown.ingested_at
FROM status_notes
LEFT JOIN shown ON shown.model_id = status_notes.model_id
LEFT JOIN checkpoint_facts AS bases ON bases.checkpoint_id = shown.base_checkpoint_id
LEFT JOIN layer_summary ON layer_summary.model_id = status_notes.model_id
LEFT JOIN declared_names ON declared_names.model_id = status_notes.model_id
LEFT JOIN reported ON reported.model_id = status_notes.model_id;
