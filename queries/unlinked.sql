-- Result files for which no model was found, why, and what to type. They stand alone, under the name that the file gives, until
-- a later ingest finds the model or layerhouse link names it. candidates are models whose names have the same last part, or
-- which are snapshots of the repository of that name; command has MODEL where there is not just one.
WITH unlinked_files AS (
    SELECT
        result_links.source_uri,
        result_links.model_id,
        results.declared_model,
        min(results.harness) AS harness,
        count(*) AS n_results
    FROM result_links
    JOIN results ON results.result_id = result_links.result_id
    WHERE result_links.rule = 'declared'
    GROUP BY result_links.source_uri, result_links.model_id, results.declared_model
),
names_in_files AS (
    SELECT
        result_links.source_uri,
        count(DISTINCT coalesce(results.declared_model, '')) AS n_names
    FROM result_links
    JOIN results ON results.result_id = result_links.result_id
    WHERE result_links.source_uri IN (SELECT source_uri FROM unlinked_files)
    GROUP BY result_links.source_uri
),
with_candidates AS (
    SELECT
        unlinked_files.source_uri,
        unlinked_files.model_id,
        unlinked_files.declared_model,
        unlinked_files.harness,
        unlinked_files.n_results,
        list_sort(list(models.model_id) FILTER (WHERE models.model_id IS NOT NULL)) AS candidates
    FROM unlinked_files
    LEFT JOIN models
        ON models.source_kind <> 'results'
        AND lower(regexp_extract(regexp_replace(models.model_id, '@[0-9a-f]{8,40}', ''), '[^/]*$'))
        = lower(regexp_extract(rtrim(coalesce(unlinked_files.declared_model, unlinked_files.model_id), '/'), '[^/]*$'))
    GROUP BY
        unlinked_files.source_uri,
        unlinked_files.model_id,
        unlinked_files.declared_model,
        unlinked_files.harness,
        unlinked_files.n_results
)
SELECT
    with_candidates.source_uri,
    with_candidates.model_id,
    with_candidates.declared_model,
    with_candidates.harness,
    with_candidates.n_results,
    with_candidates.candidates,
    CASE
        WHEN trim(coalesce(with_candidates.declared_model, '')) = '' THEN 'names no model'
        WHEN len(with_candidates.candidates) > 1 THEN 'several candidates'
        ELSE 'no model of that name'
    END AS reason,
    concat(
        'layerhouse link ', shell_word(with_candidates.source_uri), ' ',
        CASE WHEN len(with_candidates.candidates) = 1 THEN shell_word(with_candidates.candidates[1]) ELSE 'MODEL' END,
        CASE WHEN names_in_files.n_names > 1 THEN concat(' --of ', shell_word(coalesce(with_candidates.declared_model, ''))) END
    ) AS command
FROM with_candidates
JOIN names_in_files ON names_in_files.source_uri = with_candidates.source_uri
ORDER BY with_candidates.source_uri, with_candidates.model_id, with_candidates.declared_model;
