-- Every link is for a result file of the warehouse.
SELECT
    links.result_id,
    links.model_id
FROM links
ANTI JOIN results ON results.result_id = links.result_id
ORDER BY links.result_id, links.model_id;
