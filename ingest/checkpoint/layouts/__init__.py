"""Packed, masked, sparse and adapter weights, one module a layout: stored tensors into the weights that they stand for."""
