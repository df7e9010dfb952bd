-- Every layer belongs to a checkpoint.
SELECT
    layers.checkpoint_id,
    layers.layer_index
FROM layers
ANTI JOIN checkpoints ON checkpoints.checkpoint_id = layers.checkpoint_id
ORDER BY layers.checkpoint_id, layers.layer_index;
