-- A comparison lists each removed block of its base once.
SELECT
    checkpoint_id,
    base_checkpoint_id,
    stack,
    base_layer_index,
    count(*) AS num_rows
FROM layer_matches
WHERE layer_index IS NULL
GROUP BY ALL
HAVING count(*) > 1
ORDER BY ALL;
