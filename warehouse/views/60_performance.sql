-- Quality, speed and memory beside structure: one row a model, one column a measure.
CREATE OR REPLACE VIEW performance AS
WITH accuracies AS (
    SELECT
        model_id,
        max(accuracy) FILTER (WHERE task = 'boolq') AS boolq,
        max(accuracy) FILTER (WHERE task = 'piqa') AS piqa,
        max(accuracy) FILTER (WHERE task = 'hellaswag') AS hellaswag,
        max(accuracy) FILTER (WHERE task = 'winogrande') AS winogrande,
        max(accuracy) FILTER (WHERE task = 'arc_easy') AS arc_easy,
        max(accuracy) FILTER (WHERE task = 'arc_challenge') AS arc_challenge,
        max(accuracy) FILTER (WHERE task = 'openbookqa') AS openbookqa,
        count(*) AS n_tasks
    FROM task_scores
    GROUP BY model_id
),
scores_elsewhere AS (
    SELECT model_id, map_from_entries(list((score_key, value) ORDER BY score_key)) AS other_scores
    FROM other_scores
    GROUP BY model_id
),
unstated_contexts AS (
    SELECT
        model_id,
        max(perplexity) FILTER (WHERE perplexity_key = 'wikitext2@?') AS ppl_wikitext2,
        max(perplexity) FILTER (WHERE perplexity_key = 'ptb@?') AS ppl_ptb
    FROM perplexities
    GROUP BY model_id
),
stated_contexts AS (
    SELECT model_id, map_from_entries(list((perplexity_key, perplexity) ORDER BY perplexity_key)) AS perplexities
    FROM (
        SELECT model_id, perplexity_key, max(perplexity) AS perplexity
        FROM perplexities
        WHERE perplexity_key NOT IN ('wikitext2@?', 'ptb@?')
        GROUP BY model_id, perplexity_key
    )
    GROUP BY model_id
),
speeds AS (
    SELECT
        model_id,
        arg_max(value, (run_at, commit_id)) FILTER (WHERE metric = 'throughput_tokens_per_sec' AND batch_size = 1) AS throughput_bs1,
        arg_max(value, (run_at, commit_id)) FILTER (WHERE metric = 'latency_ms_per_token' AND batch_size = 1) AS latency_ms_bs1,
        arg_max(value, (run_at, commit_id)) FILTER (WHERE metric = 'throughput_tokens_per_sec' AND batch_size = 4) AS throughput_bs4,
        arg_max(value, (run_at, commit_id)) FILTER (WHERE metric = 'latency_ms_per_token' AND batch_size = 4) AS latency_ms_bs4,
        arg_max(value, (run_at, commit_id)) FILTER (WHERE metric = 'model_memory_mb') AS memory_mb
    FROM model_results
    WHERE suite IN ('speed', 'memory') AND status = 'ok'
    GROUP BY model_id
)
SELECT
    models.model_id,
    models.params / 1e9 AS params_b,
    models.size_gb,
    models.reduction_ratio,
    unstated_contexts.ppl_wikitext2,
    unstated_contexts.ppl_ptb,
    stated_contexts.perplexities,
    accuracies.boolq,
    accuracies.piqa,
    accuracies.hellaswag,
    accuracies.winogrande,
    accuracies.arc_easy,
    accuracies.arc_challenge,
    accuracies.openbookqa,
    (
        accuracies.boolq + accuracies.piqa + accuracies.hellaswag + accuracies.winogrande + accuracies.arc_easy
        + accuracies.arc_challenge + accuracies.openbookqa
    ) / 7 AS mean_accuracy,
    accuracies.n_tasks,
    scores_elsewhere.other_scores,
    speeds.throughput_bs1,
    speeds.latency_ms_bs1,
    speeds.throughput_bs4,
    speeds.latency_ms_bs4,
    speeds.memory_mb,
    models.macs_per_token,
    models.kv_cache_bytes_per_token,
    models.retention_std,
    models.retention_var,
    models.layers_below_5pct,
    models.layers_below_10pct,
    models.layers_below_15pct,
    models.layers_below_20pct
FROM models
LEFT JOIN accuracies ON accuracies.model_id = models.model_id
LEFT JOIN scores_elsewhere ON scores_elsewhere.model_id = models.model_id
LEFT JOIN unstated_contexts ON unstated_contexts.model_id = models.model_id
LEFT JOIN stated_contexts ON stated_contexts.model_id = models.model_id
LEFT JOIN speeds ON speeds.model_id = models.model_id;
