-- Both checkpoints of a comparison are in the warehouse.
SELECT
    layer_matches.checkpoint_id,
    layer_matches.base_checkpoint_id
FROM layer_matches
WHERE
    layer_matches.checkpoint_id NOT IN (SELECT checkpoint_id FROM checkpoints)
    OR layer_matches.base_checkpoint_id NOT IN (SELECT checkpoint_id FROM checkpoints)
GROUP BY ALL
ORDER BY ALL;
