-- One row a model: what it is now, compared with its base. A model with results alone has the numbers that they report.
CREATE OR REPLACE VIEW models AS
WITH own_checkpoints AS MATERIALIZED (
    SELECT * FROM current_checkpoints
),
declared_names AS (
    SELECT
        model_id,
        arg_max(method, (commit_id, result_id)) AS method,
        arg_max(declared_ratio, (commit_id, result_id)) AS declared_ratio,
        arg_max(declared_removed_layers, (commit_id, result_id)) AS declared_removed_layers,
        arg_max(tags, (commit_id, result_id)) AS tags
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
    CASE WHEN own.checkpoint_id IS NULL THEN declared_names.method ELSE own.method END AS method,
    CASE WHEN own.checkpoint_id IS NULL THEN declared_names.declared_ratio ELSE own.declared_ratio END AS declared_ratio,
    CASE
        WHEN own.checkpoint_id IS NULL THEN declared_names.declared_removed_layers
        ELSE own.declared_removed_layers
    END AS declared_removed_layers,
    CASE WHEN own.checkpoint_id IS NULL THEN declared_names.tags ELSE own.tags END AS tags,
    own.checkpoint_id,
    own.base_checkpoint_id,
    base_names.base_model,
    own.base_rule,
    CASE WHEN own.checkpoint_id IS NULL THEN 'results' ELSE own.source_kind END AS source_kind,
    own.source_uri,
    own.container,
    own.family,
    own.architecture,
    own.declared_base,
    coalesce(own.params, reported.params) AS params,
    CASE
        WHEN own.params IS NOT NULL THEN own.source_kind
        WHEN reported.params IS NOT NULL THEN 'results'
    END AS params_source,
    bases.params AS base_params,
    reduction(bases.params, own.params) AS reduction_ratio,
    CASE WHEN own.checkpoint_id IS NULL THEN reported.embedding_params ELSE own.embedding_params END AS embedding_params,
    CASE WHEN own.checkpoint_id IS NULL THEN reported.lm_head_params ELSE own.lm_head_params END AS lm_head_params,
    own.layer_params,
    bases.layer_params AS base_layer_params,
    reduction(bases.layer_params, own.layer_params) AS layer_reduction_ratio,
    coalesce(own.num_layers, TRY_CAST(reported.num_layers AS INTEGER)) AS num_layers,
    bases.num_layers AS base_num_layers,
    layer_summary.stack,
    layer_summary.zero_layers,
    CASE
        WHEN own.base_checkpoint_id IS NOT NULL AND layer_summary.is_map_unknown IS NOT TRUE
            THEN coalesce(layer_summary.removed_layers, [])
    END AS removed_layers,
    CASE
        WHEN own.base_checkpoint_id IS NULL THEN NULL
        WHEN NOT layer_summary.is_map_unknown THEN layer_summary.num_removed_layers
        WHEN bases.num_layers >= own.num_layers THEN bases.num_layers - own.num_layers
    END AS num_removed_layers,
    layer_summary.heavy_layers,
    layer_summary.medium_layers,
    layer_summary.light_layers,
    layer_summary.untouched_layers,
    layer_summary.cut_layer_retention,
    layer_summary.retention_mean,
    layer_summary.retention_std,
    layer_summary.retention_var,
    layer_summary.nonzero_retention_mean,
    layer_summary.nonzero_retention_std,
    layer_summary.bytes_retention_mean,
    layer_summary.bytes_retention_std,
    layer_summary.macs_retention_mean,
    layer_summary.macs_retention_std,
    layer_summary.layers_below_5pct,
    layer_summary.layers_below_10pct,
    layer_summary.layers_below_15pct,
    layer_summary.layers_below_20pct,
    pruning_strategy(
        coalesce(layer_summary.num_removed_layers, bases.num_layers - own.num_layers),
        layer_summary.least_survivor_retention,
        layer_summary.are_blocks_repeated,
        layer_summary.are_blocks_moved,
        layer_summary.is_hidden_size_changed,
        layer_summary.are_shapes_kept,
        added_sparsity(
            own.zeros / nullif(own.params, 0), bases.zeros / nullif(bases.params, 0), [note.code FOR note IN own.notes]
        ),
        layer_summary.retention_std
    ) AS strategy,
    own.zeros / nullif(own.params, 0) AS sparsity,
    own.prunable_zeros / nullif(own.prunable_params, 0) AS prunable_sparsity,
    own.nonzero_params,
    bases.nonzero_params AS base_nonzero_params,
    own.params / nullif(bases.params, 0) AS params_retention,
    own.nonzero_params / nullif(bases.nonzero_params, 0) AS nonzero_retention,
    coalesce(gib(own.logical_bytes), reported.size_gb) AS size_gb,
    gib(own.logical_bytes) * (own.nonzero_params / nullif(own.params, 0)) AS compact_size_gb,
    own.macs_per_token,
    own.macs_per_token / nullif(bases.macs_per_token, 0) AS macs_retention,
    bases.macs_per_token AS base_macs_per_token,
    own.logical_bytes,
    bases.logical_bytes AS base_logical_bytes,
    own.logical_bytes / nullif(bases.logical_bytes, 0) AS bytes_retention,
    own.kv_cache_bytes_per_token,
    status_notes.status_note,
    own.ingested_at
FROM status_notes
LEFT JOIN own_checkpoints AS own ON own.model_id = status_notes.model_id
LEFT JOIN checkpoint_facts AS bases ON bases.checkpoint_id = own.base_checkpoint_id
LEFT JOIN base_names ON base_names.checkpoint_id = own.base_checkpoint_id
LEFT JOIN layer_summary ON layer_summary.model_id = status_notes.model_id
LEFT JOIN declared_names ON declared_names.model_id = status_notes.model_id
LEFT JOIN reported ON reported.model_id = status_notes.model_id;
