-- What makes two values comparable, in one place: each stored measure under the text that heads its values. Kinds: task (one
-- of seven zero-shot tasks by its usual metric), score (everything else about tasks), group (a score over several tasks),
-- perplexity (per token), speed, memory. Shots, cap and filter are always part of the text; dataset, subset, split, language,
-- chat template and whether shots are stated only where two measures of one text differ in them (of a subset that is a list of
-- settings, those that differ; of a dataset the name behind the owner, and the owner where two are stated), with a mark such as
-- #6d9c93 where that gives two of them one text. The harness is told only where two harnesses disagree on a run: that of most
-- runs keeps the text, the others stand behind it in brackets. column_name is the column of `performance` for it, if any: a
-- perplexity with no context stated, or with the only one that any file states; a task with 0 shots, or else in the form
-- of most runs. condition says what that column's values share. Rows of one measure_key are one measure.
CREATE OR REPLACE VIEW measure_keys AS
WITH linked_files AS MATERIALIZED (
    SELECT
        model_id,
        result_id
    FROM result_links
),
definitions AS (
    SELECT
        measure_id,
        coalesce(is_group, FALSE) AS is_group,
        any_value(harness) AS harness,
        coalesce(min(harness_version), '') AS harness_version,
        any_value(suite) AS suite,
        any_value(task) AS task,
        any_value(subset) AS subset,
        any_value(metric) AS metric,
        nullif(any_value(filter), 'none') AS filter,
        any_value(unit) AS unit,
        any_value(n_shot) AS n_shot,
        any_value(dataset) AS dataset,
        any_value(split) AS split,
        any_value(language) AS language,
        any_value(chat_template) AS chat_template,
        any_value(seq_len) AS seq_len,
        any_value(stride) AS stride,
        any_value(batch_size) AS batch_size,
        CASE WHEN any_value(suite) IN ('speed', 'memory') THEN any_value(hardware) END AS hardware,
        any_value(sample_limit) AS sample_limit,
        CASE
            WHEN bool_and(higher_is_better) = bool_or(higher_is_better) THEN bool_and(higher_is_better)
        END AS higher_is_better,
        count(*) AS num_rows
    FROM results
    JOIN linked_files ON linked_files.result_id = results.result_id
    WHERE coalesce(suite, '') NOT IN ('model_info', 'efficiency')
    GROUP BY measure_id, coalesce(is_group, FALSE)
),
named AS (
    SELECT
        *,
        lower(regexp_extract(dataset, '[^/]*$')) AS dataset_name,
        nullif(regexp_extract(dataset, '^(.*)/', 1), '') AS dataset_owner,
        coalesce(hardware, '') AS place,
        CASE
            WHEN suite IN ('speed', 'memory') THEN suite
            WHEN metric = 'perplexity' AND unit = 'per_token' AND NOT is_group THEN 'perplexity'
            WHEN is_group THEN 'group'
            ELSE 'score'
        END AS kind,
        CASE
            WHEN suite IN ('speed', 'memory') THEN speed_key(metric, subset, batch_size, NULL)
            WHEN metric = 'perplexity' AND unit = 'per_token' AND NOT is_group
                THEN perplexity_key(dataset, subset, split, seq_len, stride)
            WHEN suite = 'perplexity'
                THEN concat(perplexity_key(coalesce(dataset, task), subset, split, seq_len, stride), '/', metric)
            ELSE score_key(task, metric, filter, n_shot, sample_limit)
        END AS name
    FROM definitions
),
compared AS MATERIALIZED (
    SELECT
        *,
        kind IN ('score', 'group') AND suite <> 'perplexity' AS is_of_task,
        kind = 'score'
        AND task_metric(task) IS NOT NULL
        AND sample_limit IS NULL
        AND coalesce(n_shot, 0) = 0 AS is_plain_task,
        min(dataset_name) OVER alike <> max(dataset_name) OVER alike
        OR min(dataset_owner) OVER alike <> max(dataset_owner) OVER alike
        OR count(dataset_name) OVER here BETWEEN 1 AND count(*) OVER here - 1 AS is_dataset_told,
        min(subset) OVER alike <> max(subset) OVER alike
        OR count(subset) OVER here BETWEEN 1 AND count(*) OVER here - 1 AS is_subset_told,
        min(split) OVER alike <> max(split) OVER alike
        OR count(split) OVER here BETWEEN 1 AND count(*) OVER here - 1 AS is_split_told,
        min(language) OVER alike <> max(language) OVER alike
        OR count(language) OVER here BETWEEN 1 AND count(*) OVER here - 1 AS is_language_told,
        min(coalesce(chat_template, '')) OVER alike <> max(coalesce(chat_template, '')) OVER alike AS is_chat_told,
        min(chat_template) OVER alike <> max(chat_template) OVER alike AS is_template_told,
        count(n_shot) OVER alike BETWEEN 1 AND count(*) OVER alike - 1 AS is_shot_told,
        min(coalesce(suite, '')) OVER alike <> max(coalesce(suite, '')) OVER alike AS is_suite_told,
        min(coalesce(unit, '')) OVER here <> max(coalesce(unit, '')) OVER here AS is_unit_told,
        min(coalesce(seq_len, -1)) OVER alike <> max(coalesce(seq_len, -1)) OVER alike AS is_length_told,
        count(*) OVER alike AS num_alike
    FROM named
    WINDOW
        alike AS (PARTITION BY kind, name, place),
        here AS (PARTITION BY kind, name, place, harness, harness_version)
),
settings AS (
    SELECT
        kind,
        name,
        place,
        num_alike,
        unnest(list_distinct(string_split(subset, ','))) AS setting
    FROM compared
    WHERE is_subset_told AND is_of_task
),
shared_settings AS (
    SELECT
        kind,
        name,
        place,
        setting
    FROM settings
    GROUP BY kind, name, place, setting
    HAVING count(*) = any_value(num_alike)
),
shared_parts AS (
    SELECT
        kind,
        name,
        place,
        list(setting) AS parts
    FROM shared_settings
    GROUP BY kind, name, place
),
parted AS (
    SELECT
        compared.*,
        nullif(
            array_to_string(
                [
                    part FOR part IN string_split(compared.subset, ',')
                    IF shared_parts.parts IS NULL OR NOT list_contains(shared_parts.parts, part)
                ],
                ','
            ),
            ''
        ) AS told_subset
    FROM compared
    LEFT JOIN shared_parts
        ON shared_parts.kind = compared.kind
        AND shared_parts.name = compared.name
        AND shared_parts.place = compared.place
),
qualified AS (
    SELECT
        *,
        nullif(
            concat_ws(
                ', ',
                CASE
                    WHEN is_suite_told AND is_of_task AND suite <> 'zeroshot' AND (n_shot IS NULL OR suite <> 'fewshot')
                        THEN suite
                END,
                CASE WHEN is_dataset_told AND kind <> 'perplexity' THEN dataset END,
                CASE WHEN is_subset_told AND is_of_task THEN told_subset END,
                CASE WHEN is_split_told AND kind <> 'perplexity' THEN split END,
                CASE WHEN is_language_told AND language IS DISTINCT FROM subset THEN language END,
                CASE WHEN is_length_told AND is_of_task THEN concat(seq_len, ' tokens') END,
                CASE WHEN is_unit_told AND unit <> 'fraction' THEN unit END
            ),
            ''
        ) AS qualifier,
        concat_ws(
            chr(31),
            CASE WHEN is_dataset_told AND kind <> 'perplexity' THEN 'dataset=' || dataset END,
            CASE WHEN is_subset_told AND is_of_task THEN 'subset=' || subset END,
            CASE WHEN is_split_told AND kind <> 'perplexity' THEN 'split=' || split END,
            CASE WHEN is_language_told THEN 'language=' || language END
        ) AS told_parts
    FROM parted
),
spelled AS (
    SELECT
        *,
        concat(
            CASE WHEN is_of_task AND n_shot IS NULL AND is_shot_told THEN '@?shot' END,
            CASE
                WHEN chat_template IS NOT NULL AND is_template_told THEN concat('@chat(', chat_template, ')')
                WHEN chat_template IS NOT NULL AND is_chat_told THEN '@chat'
            END,
            ' (' || qualifier || ')'
        ) AS suffix
    FROM qualified
),
suffixed AS (
    SELECT
        * EXCLUDE (suffix),
        CASE
            WHEN min(told_parts) OVER spelled_alike <> max(told_parts) OVER spelled_alike
                THEN concat(suffix, ' #', substr(md5(told_parts), 1, 6))
            ELSE suffix
        END AS suffix
    FROM spelled
    WINDOW spelled_alike AS (PARTITION BY kind, name, suffix, place)
),
worded AS MATERIALIZED (
    SELECT
        *,
        min(harness) OVER worded_alike <> max(harness) OVER worded_alike AS has_harnesses
    FROM suffixed
    WINDOW worded_alike AS (PARTITION BY kind, name, suffix, place)
),
compared_harnesses AS (
    SELECT
        worded.kind,
        worded.name,
        worded.suffix,
        worded.place,
        worded.harness,
        linked_files.model_id,
        run_key(results.run_id, results.revision, results.adapter) AS run_key,
        arg_max(results.value, (results.run_at, results.value)) AS value
    FROM results
    JOIN linked_files ON linked_files.result_id = results.result_id
    JOIN worded
        ON worded.measure_id = results.measure_id
        AND worded.is_group = coalesce(results.is_group, FALSE)
        AND worded.has_harnesses
    GROUP BY ALL
),
judged_harnesses AS (
    SELECT
        *,
        min(value) OVER one_run <> max(value) OVER one_run AS is_other
    FROM compared_harnesses
    WINDOW one_run AS (PARTITION BY kind, name, suffix, place, model_id, run_key)
),
counted_harnesses AS (
    SELECT
        kind,
        name,
        suffix,
        place,
        harness,
        count(*) AS num_runs,
        bool_or(is_other) AS is_other
    FROM judged_harnesses
    GROUP BY kind, name, suffix, place, harness
),
main_harnesses AS (
    SELECT
        kind,
        name,
        suffix,
        place,
        first(harness ORDER BY num_runs DESC, harness) AS harness
    FROM counted_harnesses
    GROUP BY kind, name, suffix, place
    HAVING bool_or(is_other)
),
keyed AS (
    SELECT
        worded.*,
        concat(
            worded.name,
            worded.suffix,
            CASE WHEN worded.harness <> main_harnesses.harness THEN concat(' [', worded.harness, ']') END,
            ' on ' || worded.hardware
        ) AS measure,
        CASE
            WHEN
                worded.is_plain_task
                AND worded.filter IS NULL
                AND worded.metric IN (task_metric(worded.task), 'accuracy')
                THEN worded.metric
        END AS task_form,
        concat_ws(
            ', ',
            CASE WHEN worded.is_of_task AND worded.n_shot IS NULL THEN 'shots not stated' END,
            CASE WHEN worded.chat_template IS NOT NULL THEN concat('chat: ', worded.chat_template) END,
            CASE WHEN worded.seq_len IS NOT NULL THEN concat('context ', worded.seq_len) END,
            CASE WHEN worded.stride IS NOT NULL THEN concat('stride ', worded.stride) END,
            worded.qualifier,
            'by ' || main_harnesses.harness
        ) AS condition
    FROM worded
    LEFT JOIN main_harnesses
        ON main_harnesses.kind = worded.kind
        AND main_harnesses.name = worded.name
        AND main_harnesses.suffix = worded.suffix
        AND main_harnesses.place = worded.place
),
sized AS (
    SELECT
        *,
        sum(num_rows) OVER (PARTITION BY kind, measure) AS size,
        CASE
            WHEN
                kind = 'perplexity'
                AND dataset IN ('wikitext2', 'ptb')
                AND regexp_full_match(measure, concat(dataset, '@(\?|[0-9]+)(/[0-9]+)?'))
                THEN dataset
        END AS text_form
    FROM keyed
),
chosen AS (
    SELECT
        *,
        task_form IS NOT NULL
        AND measure = first_value(measure) OVER (
            PARTITION BY task, task_form
            ORDER BY measure <> name, size DESC, measure
        ) AS is_task_column,
        text_form IS NOT NULL
        AND measure = CASE
            WHEN bool_or(measure = concat(text_form, '@?')) OVER texts THEN concat(text_form, '@?')
            WHEN min(measure) OVER texts = max(measure) OVER texts THEN measure
        END AS is_text_column
    FROM sized
    WINDOW texts AS (PARTITION BY text_form)
)
SELECT
    measure_id,
    is_group,
    min(measure_id) OVER (PARTITION BY kind, measure) AS measure_key,
    CASE WHEN is_task_column AND task_form <> 'accuracy' THEN 'task' ELSE kind END AS kind,
    CASE WHEN is_task_column AND task_form <> 'accuracy' THEN task ELSE measure END AS measure,
    CASE
        WHEN is_task_column THEN task
        WHEN is_text_column THEN concat('ppl_', dataset)
    END AS column_name,
    CASE WHEN is_task_column OR is_text_column THEN nullif(condition, '') END AS condition,
    CASE WHEN is_plain_task THEN task END AS plain_task,
    task,
    concat(metric, ',' || filter) AS metric,
    hardware,
    unit,
    higher_is_better,
    n_shot,
    sample_limit
FROM chosen;
