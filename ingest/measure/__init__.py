"""Exact numbers from the bytes of tensors."""
