"""A checkpoint beside its base: layers, tensors and units, matched from stored rows."""
