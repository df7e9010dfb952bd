-- Every unit belongs to a checkpoint.
SELECT
    units.checkpoint_id,
    count(*) AS num_rows
FROM units
ANTI JOIN checkpoints ON checkpoints.checkpoint_id = units.checkpoint_id
GROUP BY ALL
ORDER BY ALL;
