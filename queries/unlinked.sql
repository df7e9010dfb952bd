-- Result files that no model was found for: they stand alone, under the name that the file gives, until a later ingest finds
-- the model or layerhouse link names it. candidates are models whose names end alike.
WITH alone AS (
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
    alone.source_uri,
    alone.model_id,
    alone.declared_model,
    alone.harness,
    alone.n_results,
    list_sort(list(models.model_id) FILTER (WHERE models.model_id IS NOT NULL)) AS candidates
FROM alone
LEFT JOIN models
    ON models.source_kind <> 'results'
    AND lower(regexp_extract(models.model_id, '[^/]*$')) = lower(regexp_extract(alone.model_id, '[^/]*$'))
GROUP BY
    alone.source_uri,
    alone.model_id,
    alone.declared_model,
    alone.harness,
    alone.n_results
ORDER BY alone.source_uri, alone.model_id;
