"""What a model's name declares: method, ratio, removed layers, tags."""
