-- The runs behind each model's results: how the model was loaded for them, one row for each result file and run. variant is
-- null for the plain model; where runs of one variant differ in what the tool found out while loading (commit, dtype), that is
-- part of the variant. is_shown marks the plain run, or all runs of a model that has no plain one. is_plain marks the runs that
-- stand for the model's weights as they are stored: the plain run, or the only one if it differs in precision and engine alone.
-- is_stale marks those of which rows were read by rules of an earlier version.
CREATE OR REPLACE VIEW model_runs AS
WITH loadings AS (
    SELECT
        result_id,
        run_key(run_id, revision, adapter) AS run_key,
        any_value(stated_variant(run_id, variant, revision, adapter)) AS stated_variant,
        any_value(loaded_as) AS loaded_as,
        bool_or(rules_version IS NULL OR rules_version < current_result_rules()) AS is_stale
    FROM results
    GROUP BY ALL
),
linked AS (
    SELECT
        result_links.model_id,
        result_links.rule,
        loadings.result_id,
        loadings.run_key,
        loadings.is_stale,
        CASE
            WHEN result_links.is_adapter
                THEN nullif(regexp_replace(loadings.stated_variant, '(^|, )adapter=[^,]*(, |$)', '\1'), '')
            ELSE loadings.stated_variant
        END AS stated_variant,
        loaded_fact(loadings.loaded_as, 'sha') AS sha,
        loaded_fact(loadings.loaded_as, 'dtype') AS dtype,
        loaded_fact(loadings.loaded_as, 'quantization') AS quantization
    FROM loadings
    JOIN result_links ON result_links.result_id = loadings.result_id
),
told_apart AS (
    SELECT
        model_id,
        rule,
        result_id,
        run_key,
        is_stale,
        nullif(
            concat_ws(
                ', ',
                stated_variant,
                CASE WHEN min(sha) OVER alike <> max(sha) OVER alike THEN 'sha=' || substr(sha, 1, 12) END,
                CASE WHEN min(dtype) OVER alike <> max(dtype) OVER alike THEN 'dtype=' || dtype END,
                CASE
                    WHEN min(quantization) OVER alike <> max(quantization) OVER alike THEN 'quantization=' || quantization
                END
            ),
            ''
        ) AS variant
    FROM linked
    WINDOW alike AS (PARTITION BY model_id, stated_variant)
)
SELECT
    model_id,
    rule,
    result_id,
    run_key,
    variant,
    variant IS NULL OR NOT bool_or(variant IS NULL) OVER model AS is_shown,
    variant IS NULL
    OR (
        min(coalesce(variant, '')) OVER model = max(coalesce(variant, '')) OVER model AND keeps_weights(variant)
    ) AS is_plain,
    is_stale
FROM told_apart
WINDOW model AS (PARTITION BY model_id);
