-- Every tensor belongs to a checkpoint.
SELECT
    tensors.checkpoint_id,
    tensors.name
FROM tensors
ANTI JOIN checkpoints ON checkpoints.checkpoint_id = tensors.checkpoint_id
ORDER BY tensors.checkpoint_id, tensors.name;
