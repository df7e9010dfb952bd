-- One row a model: quality, speed and memory beside structure, of its plain run; a model without a plain run has a row for each
-- variant. Accuracies are fractions; a mean is over all seven tasks, or null. kept_share is counted in parameters that are not
-- zero where these are known of every row that has a base, else in parameters; kept_by says which.
WITH measured AS (
    SELECT kept_measure(count(nonzero_retention), count(params_retention)) AS kept_by
    FROM performance
)
SELECT
    performance.model_id,
    performance.params_b,
    performance.size_gb,
    performance.reduction_ratio,
    measured.kept_by,
    by_measure(
        measured.kept_by,
        performance.params_retention,
        performance.nonzero_retention,
        performance.bytes_retention,
        performance.macs_retention
    ) AS kept_share,
    performance.ppl_wikitext2,
    performance.ppl_ptb,
    performance.perplexities,
    performance.boolq,
    performance.piqa,
    performance.hellaswag,
    performance.winogrande,
    performance.arc_easy,
    performance.arc_challenge,
    performance.openbookqa,
    performance.mean_accuracy,
    performance.n_tasks,
    performance.other_scores,
    performance.group_scores,
    performance.throughput_bs1,
    performance.latency_ms_bs1,
    performance.throughput_bs4,
    performance.latency_ms_bs4,
    performance.memory_mb,
    performance.speed_hardware,
    performance.speeds,
    performance.macs_per_token,
    performance.kv_cache_bytes_per_token,
    performance.retention_std,
    performance.retention_var,
    performance.stack,
    performance.layers_below_5pct,
    performance.layers_below_10pct,
    performance.layers_below_15pct,
    performance.layers_below_20pct,
    performance.variant
FROM performance
CROSS JOIN measured
ORDER BY performance.model_id, performance.variant NULLS FIRST;
