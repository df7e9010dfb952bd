-- Quality, speed and memory beside structure: one row a model, one column a measure. A perplexity whose context the file does
-- not state stands in ppl_wikitext2 or ppl_ptb; every other one in the map perplexities, by dataset@context/stride. Speeds and
-- memory of one hardware stand in the columns, that on which most models ran (or that no file states); every other in the map
-- speeds, by metric@batch size (setting) on hardware.
CREATE OR REPLACE VIEW performance AS
WITH quality AS (
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
        map_from_entries(list((measure, value) ORDER BY measure) FILTER (WHERE kind = 'group')) AS group_scores,
        max(value) FILTER (WHERE kind = 'perplexity' AND measure = 'wikitext2@?') AS ppl_wikitext2,
        max(value) FILTER (WHERE kind = 'perplexity' AND measure = 'ptb@?') AS ppl_ptb,
        map_from_entries(
            list((measure, value) ORDER BY measure)
            FILTER (WHERE kind = 'perplexity' AND measure NOT IN ('wikitext2@?', 'ptb@?'))
        ) AS perplexities
    FROM measures
    WHERE kind IN ('task', 'score', 'group', 'perplexity')
    GROUP BY model_id
),
costs AS (
    SELECT
        model_id,
        measure,
        hardware,
        value,
        measure[1:length(measure) - coalesce(length(' on ' || hardware), 0)] AS setting
    FROM measures
    WHERE kind IN ('speed', 'memory')
),
common_hardware AS (
    SELECT hardware
    FROM costs
    WHERE
        setting IN (
                'throughput_tokens_per_sec@bs1',
                'latency_ms_per_token@bs1',
                'throughput_tokens_per_sec@bs4',
                'latency_ms_per_token@bs4',
                'model_memory_mb'
        )
    GROUP BY hardware
    ORDER BY count(DISTINCT model_id) DESC, hardware NULLS FIRST
    LIMIT 1
),
shown_costs AS (
    SELECT
        costs.model_id,
        costs.measure,
        costs.value,
        common_hardware.hardware,
        CASE
            WHEN
                costs.hardware IS NOT DISTINCT FROM common_hardware.hardware
                AND costs.setting IN (
                'throughput_tokens_per_sec@bs1',
                'latency_ms_per_token@bs1',
                'throughput_tokens_per_sec@bs4',
                'latency_ms_per_token@bs4',
                'model_memory_mb'
                )
                THEN costs.setting
        END AS shown_as
    FROM costs
    LEFT JOIN common_hardware ON TRUE
),
speed AS (
    SELECT
        model_id,
        max(hardware) FILTER (WHERE shown_as IS NOT NULL) AS speed_hardware,
        max(value) FILTER (WHERE shown_as = 'throughput_tokens_per_sec@bs1') AS throughput_bs1,
        max(value) FILTER (WHERE shown_as = 'latency_ms_per_token@bs1') AS latency_ms_bs1,
        max(value) FILTER (WHERE shown_as = 'throughput_tokens_per_sec@bs4') AS throughput_bs4,
        max(value) FILTER (WHERE shown_as = 'latency_ms_per_token@bs4') AS latency_ms_bs4,
        max(value) FILTER (WHERE shown_as = 'model_memory_mb') AS memory_mb,
        map_from_entries(list((measure, value) ORDER BY measure) FILTER (WHERE shown_as IS NULL)) AS speeds
    FROM shown_costs
    GROUP BY model_id
)
SELECT
    models.model_id,
    models.params / 1e9 AS params_b,
    models.size_gb,
    models.reduction_ratio,
    quality.ppl_wikitext2,
    quality.ppl_ptb,
    quality.perplexities,
    quality.boolq,
    quality.piqa,
    quality.hellaswag,
    quality.winogrande,
    quality.arc_easy,
    quality.arc_challenge,
    quality.openbookqa,
    (
        quality.boolq + quality.piqa + quality.hellaswag + quality.winogrande
        + quality.arc_easy + quality.arc_challenge + quality.openbookqa
    ) / 7 AS mean_accuracy,
    coalesce(quality.n_tasks, 0) AS n_tasks,
    quality.other_scores,
    quality.group_scores,
    speed.throughput_bs1,
    speed.latency_ms_bs1,
    speed.throughput_bs4,
    speed.latency_ms_bs4,
    speed.memory_mb,
    speed.speed_hardware,
    speed.speeds,
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
LEFT JOIN quality ON quality.model_id = models.model_id
LEFT JOIN speed ON speed.model_id = models.model_id;
