-- The measures of a model side by side, one row a model that has some. A perplexity whose context the file does not state
-- stands in ppl_wikitext2 or ppl_ptb; every other one in the map perplexities, by dataset@context/stride. Speeds and memory of
-- one hardware stand in the columns, that on which most models ran (or that no file states); every other in the map speeds, by
-- metric@batch size (setting) on hardware.
CREATE OR REPLACE VIEW model_measures AS
WITH placed AS NOT MATERIALIZED (
    SELECT
        model_id,
        kind,
        measure,
        hardware,
        value,
        CASE
            WHEN kind IN ('speed', 'memory')
                THEN measure[1:length(measure) - coalesce(length(' on ' || hardware), 0)]
        END AS setting
    FROM measures
),
common_hardware AS (
    SELECT hardware
    FROM placed
    WHERE
        kind IN ('speed', 'memory')
        AND setting IN (
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
shown AS (
    SELECT
        placed.model_id,
        placed.kind,
        placed.measure,
        placed.value,
        common_hardware.hardware,
        CASE
            WHEN
                placed.hardware IS NOT DISTINCT FROM common_hardware.hardware
                AND placed.setting IN (
                    'throughput_tokens_per_sec@bs1',
                    'latency_ms_per_token@bs1',
                    'throughput_tokens_per_sec@bs4',
                    'latency_ms_per_token@bs4',
                    'model_memory_mb'
                )
                THEN placed.setting
        END AS column_name
    FROM placed
    LEFT JOIN common_hardware ON TRUE
)
SELECT
    model_id,
    max(value) FILTER (WHERE kind = 'perplexity' AND measure = 'wikitext2@?') AS ppl_wikitext2,
    max(value) FILTER (WHERE kind = 'perplexity' AND measure = 'ptb@?') AS ppl_ptb,
    map_from_entries(
        list((measure, value) ORDER BY measure)
        FILTER (WHERE kind = 'perplexity' AND measure NOT IN ('wikitext2@?', 'ptb@?'))
    ) AS perplexities,
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
    max(value) FILTER (WHERE column_name = 'throughput_tokens_per_sec@bs1') AS throughput_bs1,
    max(value) FILTER (WHERE column_name = 'latency_ms_per_token@bs1') AS latency_ms_bs1,
    max(value) FILTER (WHERE column_name = 'throughput_tokens_per_sec@bs4') AS throughput_bs4,
    max(value) FILTER (WHERE column_name = 'latency_ms_per_token@bs4') AS latency_ms_bs4,
    max(value) FILTER (WHERE column_name = 'model_memory_mb') AS memory_mb,
    max(hardware) FILTER (WHERE column_name IS NOT NULL) AS speed_hardware,
    map_from_entries(
        list((measure, value) ORDER BY measure)
        FILTER (WHERE kind IN ('speed', 'memory') AND column_name IS NULL)
    ) AS speeds
FROM shown
GROUP BY model_id;
