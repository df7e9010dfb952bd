-- Units are matched only between checkpoints whose layers are matched.
SELECT
    unit_matches.checkpoint_id,
    unit_matches.base_checkpoint_id,
    count(*) AS num_rows
FROM unit_matches
ANTI JOIN layer_matches
    ON layer_matches.checkpoint_id = unit_matches.checkpoint_id
    AND layer_matches.base_checkpoint_id = unit_matches.base_checkpoint_id
GROUP BY ALL
ORDER BY ALL;
