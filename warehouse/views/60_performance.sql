-- Quality, speed and memory beside structure: one row a model, one column a measure. A perplexity whose context the file does
-- not state stands in ppl_wikitext2 or ppl_ptb; every other one in the map perplexities, by dataset@context/stride.
CREATE OR REPLACE VIEW performance AS
WITH wide AS (
    SELECT
        model_id,
        max(value) FILTER (WHERE kind = 'task' AND measure = 'boolq') AS boolq,
        max(value) FILTER (WHERE kind = 'task' AND measure = 'piqa') AS piqa,
        max(value) FILTER (WHERE kind = 'task' AND measure = 'hellaswag') AS hellaswag,
        max(value) FILTER (WHERE kind = 'task' AND measure = 'winogrande') AS winogrande,
        max(value) FILTER (WHERE kind = 'task' AND measure = 'arc_easy') AS arc_easy,
        max(value) FILTER (WHERE kind = 'task' AND measure = 'arc_challenge') AS arc_challenge,
        max(value) FILTER (WHERE kind = 'task' AND measure = 'openbookqa') AS openbookqa,
        count(*) FILTER (WHERE kind = 'task') AS n_tasks,
        map_from_entries(list((measure, value) ORDER BY measure) FILTER (WHERE kind = 'score')) AS other_scores,
        max(value) FILTER (WHERE kind = 'perplexity' AND measure = 'wikitext2@?') AS ppl_wikitext2,
        max(value) FILTER (WHERE kind = 'perplexity' AND measure = 'ptb@?') AS ppl_ptb,
        map_from_entries(
            list((measure, value) ORDER BY measure)
            FILTER (WHERE kind = 'perplexity' AND measure NOT IN ('wikitext2@?', 'ptb@?'))
        ) AS perplexities,
        max(value) FILTER (WHERE kind = 'speed' AND measure = 'throughput_tokens_per_sec@bs1') AS throughput_bs1,
        max(value) FILTER (WHERE kind = 'speed' AND measure = 'latency_ms_per_token@bs1') AS latency_ms_bs1,
        max(value) FILTER (WHERE kind = 'speed' AND measure = 'throughput_tokens_per_sec@bs4') AS throughput_bs4,
        max(value) FILTER (WHERE kind = 'speed' AND measure = 'latency_ms_per_token@bs4') AS latency_ms_bs4,
        max(value) FILTER (WHERE kind = 'memory' AND measure = 'model_memory_mb') AS memory_mb
    FROM measures
    GROUP BY model_id
)
SELECT
    models.model_id,
    models.params / 1e9 AS params_b,
    models.size_gb,
    models.reduction_ratio,
    wide.ppl_wikitext2,
    wide.ppl_ptb,
    wide.perplexities,
    wide.boolq,
    wide.piqa,
    wide.hellaswag,
    wide.winogrande,
    wide.arc_easy,
    wide.arc_challenge,
    wide.openbookqa,
    (
        wide.boolq + wide.piqa + wide.hellaswag + wide.winogrande + wide.arc_easy + wide.arc_challenge + wide.openbookqa
    ) / 7 AS mean_accuracy,
    coalesce(wide.n_tasks, 0) AS n_tasks,
    wide.other_scores,
    wide.throughput_bs1,
    wide.latency_ms_bs1,
    wide.throughput_bs4,
    wide.latency_ms_bs4,
    wide.memory_mb,
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
LEFT JOIN wide ON wide.model_id = models.model_id;
