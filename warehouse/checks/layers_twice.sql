-- A checkpoint has each layer once.
SELECT
    checkpoint_id,
    stack,
    layer_index,
    count(*) AS num_rows
FROM layers
GROUP BY ALL
HAVING count(*) > 1
ORDER BY ALL;
