-- Result files for which no model was found. They stand alone, under the name that the file gives, until a later ingest finds
-- the model or layerhouse link names it. candidates are models whose names have the same last part.
WITH unlinked_files AS (
    SELECT
        result_links.source_uri,
        result_links.model_id,
        min(results.declared_model) AS declared_model,
        min(results.harness) AS harness,
        count(*) AS n_results
    FROM result_links
    JOIN results ON results.result_id = result_links.result_id
    WHERE result_links.rule = 'declared'
    GROUP BY result_links.source_uri, result_links.model_id
)
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
    AND lower(regexp_extract(models.model_id, '[^/]*$')) = lower(regexp_extract(unlinked_files.model_id, '[^/]*$'))
GROUP BY
    unlinked_files.source_uri,
    unlinked_files.model_id,
    unlinked_files.declared_model,
    unlinked_files.harness,
    unlinked_files.n_results
ORDER BY unlinked_files.source_uri, unlinked_files.model_id;
