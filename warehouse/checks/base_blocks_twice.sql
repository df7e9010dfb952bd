-- A removed block of a base is named once a comparison.
SELECT checkpoint_id, base_checkpoint_id, stack, base_layer_index, count(*) AS num_rows
FROM layer_matches
WHERE layer_index IS NULL
GROUP BY ALL
HAVING count(*) > 1
ORDER BY ALL;
