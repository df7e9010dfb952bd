"""Compares a checkpoint with its base: matches layers, tensors and units from stored rows, and reads values if rows do not tell."""
