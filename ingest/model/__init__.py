"""What each tensor of a checkpoint is, and what its layers consist of."""
