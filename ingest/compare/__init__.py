"""Compares a checkpoint with its base: layers, tensors and units, by stored rows, and by values if rows do not tell."""
