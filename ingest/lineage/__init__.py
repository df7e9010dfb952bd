"""Which checkpoint each one was made from, found by the stored rows of their tensors alone."""
