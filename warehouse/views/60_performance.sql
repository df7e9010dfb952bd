-- Quality, speed and memory beside structure: one row a model, one column a measure. A mean is over all seven tasks, or null.
CREATE OR REPLACE VIEW performance AS
SELECT
    models.model_id,
    models.params / 1e9 AS params_b,
    models.size_gb,
    models.reduction_ratio,
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
    models.layers_below_5pct,
    models.layers_below_10pct,
    models.layers_below_15pct,
    models.layers_below_20pct,
    models.method,
    models.declared_ratio,
    models.declared_removed_layers
FROM models
LEFT JOIN model_measures AS measured ON measured.model_id = models.model_id;
