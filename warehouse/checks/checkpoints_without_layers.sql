-- A checkpoint that has layers has rows for them.
SELECT
    checkpoint_facts.checkpoint_id,
    checkpoint_facts.num_layers,
    count(layers.layer_index) AS num_rows
FROM checkpoint_facts
LEFT JOIN layers ON layers.checkpoint_id = checkpoint_facts.checkpoint_id
WHERE checkpoint_facts.num_layers > 0
GROUP BY ALL
HAVING count(layers.layer_index) = 0
ORDER BY ALL;
