-- The measures of each run of a model side by side: one row a model and variant. The columns of perplexities and tasks have the
-- measures of that column_name in measure_keys; every other measure is in a map: perplexities by dataset@context/stride,
-- other_scores, group_scores. The columns of speed and memory are of one hardware, the one on which most models ran (or which
-- no file states); all others are in the map speeds, by metric@batch size (setting) on hardware. Conflicts and values of
-- doubtful scale are left out; num_conflicts and num_doubtful count them. The CTE common_hardware is the view of that name, and
-- is left out where the row of that view is kept.
CREATE OR REPLACE VIEW model_measures AS
WITH settings AS MATERIALIZED (
    SELECT
        model_id,
        variant,
        is_shown,
        is_plain,
        kind,
        measure,
        column_name,
        hardware,
        CASE WHEN NOT is_doubtful THEN value END AS value,
        is_conflict,
        is_doubtful,
        speed_setting(kind, measure, hardware) AS setting,
        has_speed_column(setting) AS has_column
    FROM run_measures
),
common_hardware AS (
    SELECT hardware
    FROM settings
    WHERE has_column
    GROUP BY hardware
    ORDER BY count(DISTINCT model_id) DESC, hardware NULLS FIRST
    LIMIT 1
),
assigned_measures AS (
    SELECT
        settings.* EXCLUDE (hardware),
        common_hardware.hardware,
        CASE
            WHEN settings.has_column AND (settings.hardware IS NOT DISTINCT FROM common_hardware.hardware) THEN settings.setting
        END AS column_setting
    FROM settings
    LEFT JOIN common_hardware ON TRUE
)
SELECT
    model_id,
    variant,
    any_value(is_shown) AS is_shown,
    any_value(is_plain) AS is_plain,
    max(value) FILTER (WHERE column_name = 'ppl_wikitext2') AS ppl_wikitext2,
    max(value) FILTER (WHERE column_name = 'ppl_ptb') AS ppl_ptb,
    map_from_entries(
        list((measure, value) ORDER BY measure)
        FILTER (WHERE kind = 'perplexity' AND column_name IS NULL AND value IS NOT NULL)
    ) AS perplexities,
    max(value) FILTER (WHERE kind = 'task' AND measure = 'boolq') AS boolq,
    max(value) FILTER (WHERE kind = 'task' AND measure = 'piqa') AS piqa,
    max(value) FILTER (WHERE kind = 'task' AND measure = 'hellaswag') AS hellaswag,
    max(value) FILTER (WHERE kind = 'task' AND measure = 'winogrande') AS winogrande,
    max(value) FILTER (WHERE kind = 'task' AND measure = 'arc_easy') AS arc_easy,
    max(value) FILTER (WHERE kind = 'task' AND measure = 'arc_challenge') AS arc_challenge,
    max(value) FILTER (WHERE kind = 'task' AND measure = 'openbookqa') AS openbookqa,
    count(value) FILTER (WHERE kind = 'task') AS n_tasks,
    map_from_entries(
        list((measure, value) ORDER BY measure) FILTER (WHERE kind = 'score' AND value IS NOT NULL)
    ) AS other_scores,
    map_from_entries(
        list((measure, value) ORDER BY measure) FILTER (WHERE kind = 'group' AND value IS NOT NULL)
    ) AS group_scores,
    max(value) FILTER (WHERE column_setting = 'throughput_tokens_per_sec@bs1') AS throughput_bs1,
    max(value) FILTER (WHERE column_setting = 'latency_ms_per_token@bs1') AS latency_ms_bs1,
    max(value) FILTER (WHERE column_setting = 'throughput_tokens_per_sec@bs4') AS throughput_bs4,
    max(value) FILTER (WHERE column_setting = 'latency_ms_per_token@bs4') AS latency_ms_bs4,
    max(value) FILTER (WHERE column_setting = 'model_memory_mb') AS memory_mb,
    max(hardware) FILTER (WHERE column_setting IS NOT NULL) AS speed_hardware,
    map_from_entries(
        list((measure, value) ORDER BY measure)
        FILTER (WHERE kind IN ('speed', 'memory') AND column_setting IS NULL AND value IS NOT NULL)
    ) AS speeds,
    count(*) FILTER (WHERE is_conflict) AS num_conflicts,
    count(*) FILTER (WHERE is_doubtful) AS num_doubtful
FROM assigned_measures
GROUP BY model_id, variant;
