-- Quality, speed and memory beside structure: one row a model and run, one column a measure. variant says how the run loaded
-- the model, null for the plain model; run_note says where the structure beside it is not that of what was evaluated. is_shown
-- marks the rows of the view performance. A mean is over all seven tasks, or null.
CREATE OR REPLACE VIEW performance_variants AS
SELECT
    models.model_id,
    measured.variant,
    measured.is_shown,
    measured.is_plain,
    models.params / 1e9 AS params_b,
    models.size_gb,
    models.reduction_ratio,
    models.params_retention,
    models.nonzero_retention,
    models.bytes_retention,
    models.macs_retention,
    measured.ppl_wikitext2,
    measured.ppl_ptb,
    measured.perplexities,
    measured.boolq,
    measured.piqa,
    measured.hellaswag,
    measured.winogrande,
    measured.arc_easy,
    measured.arc_challenge,
    measured.openbookqa,
    (
        measured.boolq + measured.piqa + measured.hellaswag + measured.winogrande
        + measured.arc_easy + measured.arc_challenge + measured.openbookqa
    ) / 7 AS mean_accuracy,
    coalesce(measured.n_tasks, 0) AS n_tasks,
    measured.other_scores,
    measured.group_scores,
    measured.throughput_bs1,
    measured.latency_ms_bs1,
    measured.throughput_bs4,
    measured.latency_ms_bs4,
    measured.memory_mb,
    measured.speed_hardware,
    measured.speeds,
    models.macs_per_token,
    models.kv_cache_bytes_per_token,
    models.retention_std,
    models.retention_var,
    models.stack,
    models.layers_below_5pct,
    models.layers_below_10pct,
    models.layers_below_15pct,
    models.layers_below_20pct,
    models.method,
    models.declared_ratio,
    models.declared_removed_layers,
    coalesce(measured.num_conflicts, 0) AS num_conflicts,
    coalesce(measured.num_doubtful, 0) AS num_doubtful,
    CASE
        WHEN measured.variant IS NOT NULL AND NOT keeps_weights(measured.variant)
            THEN concat('evaluated with ', measured.variant, '; the structure beside it is of the weights as they are stored')
        WHEN measured.variant IS NOT NULL THEN concat('evaluated with ', measured.variant)
    END AS run_note
FROM models
LEFT JOIN model_measures AS measured ON measured.model_id = models.model_id;
