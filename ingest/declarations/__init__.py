"""What a model's name declares: pruning method, ratio, removed layers, tags."""
